"""The ids that users give: of sessions, workflows and themselves.

Rules that must stay true:
- every id is checked before it is stored or looked for.
"""

from __future__ import annotations

from typing import Any

from holdfast.errors import InvalidInput

MAX_ID_LENGTH = 255
"""Characters of a session id or user id."""


def check_id(what: str, value: Any) -> str:
    """An id as it is, if it can be used as one.

    Raises:
        InvalidInput: it is not a str of 1 to 255 characters without NUL and lone surrogates.

    >>> check_id("session_id", "my-session-id")
    'my-session-id'
    """
    if type(value) is not str:
        raise InvalidInput(f"{what} must be a str, not {type(value).__name__}; convert it with str()")
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidInput(f"{what} must have 1 to {MAX_ID_LENGTH} characters, not {len(value)}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(f"{what} must not contain NUL or lone surrogates")
    return value
