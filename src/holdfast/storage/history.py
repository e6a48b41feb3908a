"""Which part of a session's history is kept.

Rules that must stay true:
- version v is rebuilt from the newest kept snapshot at or below v (0 is the empty session) and the changes after
  it; nothing here may drop a snapshot or a change that a kept version needs;
- of n versions, some 2 log2(n) snapshots are kept, so that a rebuild replays no more changes than lie
  between the version and the newest one, plus one snapshot's distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise

from holdfast import clock
from holdfast.errors import InvalidInput
from holdfast.records import SessionInfo
from holdfast.storage.base import KeepHistory


def valid_keep_history(keep: KeepHistory) -> KeepHistory:
    """Check how much history is to be kept and return it.

    Raises:
        InvalidInput: it is neither None, nor a number of versions from 1, nor a positive timedelta.

    >>> valid_keep_history(30)
    30
    """
    if keep is None or (isinstance(keep, timedelta) and keep > timedelta(0)):
        return keep
    if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1:
        return keep
    raise InvalidInput("keep_history must be a number of versions from 1, a positive timedelta, or None for all.")


def require_beginning(info: SessionInfo) -> None:
    """Refuse a head that no history can begin with.

    Raises:
        InvalidInput: its version is not above 0.
    """
    if info.version < 1:
        raise InvalidInput("A session that begins without its first changes begins at a version above 0.")


def superfluous(snapshots: Sequence[int], first: int) -> list[int]:
    """Of all kept snapshot versions, oldest first, those to drop so that distances widen with age.

    Args:
        snapshots: versions with a snapshot, ascending.
        first: the version that history begins at, which is never dropped (0: the empty session).

    >>> superfluous([2, 3, 4, 5, 6, 7, 8], first=0)
    [2, 3, 5]
    """
    if not snapshots:
        return []
    newest = snapshots[-1]
    kept = [first]
    dropped = []
    rest = [version for version in snapshots if version > first]
    for version, following in pairwise(rest):
        if following - kept[-1] <= newest - following:
            dropped.append(version)
        else:
            kept.append(version)
    return dropped


def oldest_wanted(keep: KeepHistory, newest: int, version_at: Callable[[float], int]) -> int:
    """The oldest version that must stay readable.

    Args:
        keep: how much to keep.
        newest: the session's version.
        version_at: tells the version that was current at a time: the one before the first that was made later, so that
            one whose time is wrong keeps more, and never less; 0 when all were.
    """
    if keep is None:
        return 0
    if isinstance(keep, timedelta):
        return version_at(clock.now() - keep.total_seconds())
    return max(newest - keep + 1, 0)
