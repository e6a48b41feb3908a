"""Environment variables that are looked for often, and are mostly not there.

Rules that must stay true:
- what is assigned to `os.environ` at any time is seen by the next look;
- what Python keeps underneath is used only where it is there: looking for what `os.environ` does not have raises and
  catches an exception, which takes longer than all else of finding a result again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

_kept: Final[Mapping[Any, Any]] = getattr(os.environ, "_data", os.environ)


class Variable:
    """One environment variable.

    >>> Variable("HOLDFAST_NOT_SET").value is None
    True
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._kept_name = name if _kept is os.environ else os.environ.encodekey(name)

    @property
    def value(self) -> str | None:
        """What it is set to now."""
        return os.environ.get(self.name) if self._kept_name in _kept else None


def environment() -> dict[Any, Any]:
    """All variables as they are now, to be compared with what they are later.

    >>> environment() == environment()
    True
    """
    return dict(_kept)
