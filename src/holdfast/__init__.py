"""Session state for AI workflows that is never lost.

Rules that must stay true:
- `import holdfast` stays cheap: each name is loaded from its module when it is first used;
- the names below are the whole public face; everything else is imported from its module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.agent import Agent
    from holdfast.caching import Cache
    from holdfast.errors import HoldfastError
    from holdfast.printing import pprint_run_response
    from holdfast.response import RunEvent, RunResponse
    from holdfast.steps import step
    from holdfast.storage.sql import SqlWorkflowStorage
    from holdfast.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Cache",
    "HoldfastError",
    "RunEvent",
    "RunResponse",
    "SqlWorkflowStorage",
    "Workflow",
    "pprint_run_response",
    "step",
]

_MODULES = {
    "Agent": "holdfast.agent",
    "Cache": "holdfast.caching",
    "HoldfastError": "holdfast.errors",
    "RunEvent": "holdfast.response",
    "RunResponse": "holdfast.response",
    "SqlWorkflowStorage": "holdfast.storage.sql",
    "Workflow": "holdfast.workflow",
    "pprint_run_response": "holdfast.printing",
    "step": "holdfast.steps",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
