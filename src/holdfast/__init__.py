"""Session state for AI workflows that is never lost."""

__version__ = "0.1.0"
