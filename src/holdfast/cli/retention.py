"""How much history, and how much of the step cache, is to be kept, as the command line says it, and how much is.

Rules that must stay true:
- what is said to stay can be shown; the storage may keep more than it was asked to, and never less.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from holdfast.caching import UNITS
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


_BYTES: Final = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def age(text: str) -> float:
    """The seconds that `--older-than` says.

    Raises:
        InvalidInput: it is no age.

    >>> age("90s"), age("12h"), age("30d")
    (90.0, 43200.0, 2592000.0)
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if match is None:
        raise InvalidInput(f"--older-than is an age such as 90s, 15m, 12h, 30d or 8w; not {text!r}")
    return int(match[1]) * UNITS[match[2]]


def max_size(text: str) -> int:
    """The bytes that `--max-size` says.

    Raises:
        InvalidInput: it is no size.

    >>> max_size("100MB"), max_size("1.5 GiB"), max_size("0")
    (100000000, 1610612736, 0)
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([a-z]*)", text.strip(), flags=re.IGNORECASE)
    if match is None or match[2].upper() not in _BYTES:
        raise InvalidInput(f"--max-size is a number of bytes such as 100MB, 1.5GB or 512KiB; not {text!r}")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def staying(located: Located) -> dict[str, Any]:
    """Which versions of a session can be shown, as JSON."""
    owner, session_id = located.info.owner, located.info.session_id
    oldest, newest = located.storage.changes(owner, session_id, limit=1), located.info.version
    # The first change that is kept leads on from a version that can be rebuilt too; version 0 is the empty session.
    first = max(1, oldest[0].version - 1) if oldest else newest
    return {"session_id": session_id, "user_id": owner or None, "oldest": first, "newest": newest}
