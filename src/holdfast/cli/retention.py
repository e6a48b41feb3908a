"""How much history is to be kept, as the command line says it, and how much is.

Rules that must stay true:
- what is said to stay can be shown; the storage may keep more than it was asked to, and never less.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from holdfast.cli.database import Located
from holdfast.errors import InvalidInput
from holdfast.storage.base import KeepHistory

_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


def keep_history(text: str) -> KeepHistory:
    """How much history `--keep` says.

    Raises:
        InvalidInput: neither a number of versions nor an age.

    >>> keep_history("100"), keep_history("2d")
    (100, datetime.timedelta(days=2))
    """
    match = re.fullmatch(r"([1-9]\d{0,8})([hdw]?)", text)
    if match is None:
        raise InvalidInput(
            f"--keep is a number of versions such as 100, or an age such as 12h, 30d or 8w; not {text!r}"
        )
    number, unit = int(match[1]), match[2]
    return timedelta(**{_UNITS[unit]: number}) if unit else number


def staying(located: Located) -> dict[str, Any]:
    """Which versions of a session can be shown, as JSON."""
    owner, session_id = located.info.owner, located.info.session_id
    oldest, newest = located.storage.changes(owner, session_id, limit=1), located.info.version
    # The first change that is kept leads on from a version that can be rebuilt too; version 0 is the empty session.
    first = max(1, oldest[0].version - 1) if oldest else newest
    return {"session_id": session_id, "user_id": owner or None, "oldest": first, "newest": newest}
