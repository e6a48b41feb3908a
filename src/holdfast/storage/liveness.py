"""Which runs were interrupted: waiting or running ones whose process is no longer heard of. It is shown,
and never stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from holdfast.records import Run, RunStatus
from holdfast.storage.base import STALE_AFTER


def with_interruptions(runs: Iterable[Run], beats: Mapping[str, float], now: float) -> tuple[Run, ...]:
    """Mark the waiting and running runs of dead processes as interrupted.

    Args:
        runs: as they are stored.
        beats: when each process was last heard of; one that stopped in order is not in it.
        now: the time, by the clock of the beats.
    """
    oldest = now - STALE_AFTER

    def is_dead(run: Run) -> bool:
        return run.status in (RunStatus.running, RunStatus.waiting) and beats.get(run.process_id, oldest - 1) < oldest

    return tuple(replace(run, status=RunStatus.interrupted) if is_dead(run) else run for run in runs)


def is_as_read(stored: Run, read: Run) -> bool:
    """Whether a run is still in the hands that it was in when its record was read.

    Args:
        stored: its record as it is stored now.
        read: as `Storage.find_runs` told it.
    """
    open_statuses = (RunStatus.running, RunStatus.waiting)
    is_same = stored.status in open_statuses if read.status is RunStatus.interrupted else stored.status is read.status
    hands = (stored.attempt, stored.process_id, stored.ended_at)
    return is_same and hands == (read.attempt, read.process_id, read.ended_at)
