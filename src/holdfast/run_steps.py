"""The steps of one run: numbered, found again when the run is resumed, and added up.

Rules that must stay true:
- a step is found by what it is and was given, and by how many such steps came before it in the run or, inside of
  another step, in the same call of that; never by its place;
- each record answers one call only;
- what is noted of steps of wider scope is bounded, whatever the run does; that they were found is told to the cache
  when the run ends, once for all.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable

from holdfast.errors import StorageError
from holdfast.frames import AtWork
from holdfast.records import Entry, Place, Savings, StepRecord, Usage
from holdfast.storage.base import Storage

MOST_NOTED = 1_000
"""How many steps of wider scope are noted with a run: they tell what it did, and nothing depends on them."""


class StepWarning(UserWarning):
    """Something that did not stop a step, and that its user should know."""


class RunSteps:
    """What is known of the steps of one run; may be used from several threads."""

    def __init__(self) -> None:
        self.at_work = AtWork()
        """Those that may be changing the session state."""
        self._answers = 0
        self._saved_seconds = 0.0
        self._saved_usage = Usage()
        self.has_results = False
        """Whether results are stored with the run."""
        self._lock = threading.Lock()
        self._last = 0
        self._occurrences: dict[bytes, int] = {}
        self._recorded: dict[tuple[bytes, int], StepRecord] = {}
        self._noted: list[Callable[[], StepRecord]] = []
        self._hits: dict[int, tuple[Storage, Counter[tuple[Place, bytes]]]] = {}

    def recorded(self, records: Iterable[StepRecord]) -> None:
        """Take over what an earlier attempt of the run has recorded."""
        with self._lock:
            for record in records:
                self._last = max(self._last, record.number)
                if record.result is not None:
                    self._recorded[record.key, record.occurrence] = record
            self.has_results = bool(self._recorded)

    def begin(self, key: bytes) -> tuple[int, int, StepRecord | None]:
        """A step of the run's own scope begins.

        Args:
            key: as `key_here` says it.

        Returns:
            its number, how many with the same key began before it, and its record from an earlier attempt.
        """
        with self._lock:
            occurrence = self._count(key)
            record = self._recorded.pop((key, occurrence), None)
            if record is not None:
                return record.number, occurrence, record
            self._last += 1
            return self._last, occurrence, None

    def begin_wider(self, key: bytes) -> tuple[int, int]:
        """A step of wider scope is computed: its number, and how many with the same key were computed before it."""
        with self._lock:
            self._last += 1
            return self._last, self._count(key)

    def _count(self, key: bytes) -> int:
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        return occurrence

    def next_number(self) -> int:
        """The number of a step that has none yet."""
        with self._lock:
            self._last += 1
            return self._last

    def is_noted_whole(self) -> bool:
        """Whether no more steps of wider scope are noted."""
        return len(self._noted) >= MOST_NOTED

    def note(self, record: Callable[[], StepRecord]) -> None:
        """Remember a step of wider scope, of which a record is to be made when the run ends."""
        with self._lock:
            if len(self._noted) < MOST_NOTED:
                self._noted.append(record)

    @property
    def savings(self) -> Savings:
        """What the steps that were answered have saved."""
        with self._lock:
            return Savings(self._answers, self._saved_seconds, self._saved_usage)

    def save(self, seconds: float, usage: Usage) -> None:
        """Add what a step that was answered had cost when it was computed."""
        with self._lock:
            self._answers += 1
            self._saved_seconds += seconds
            if usage.requests or usage.cost != 0:
                self._saved_usage += usage

    def found(self, storage: Storage, entry: Entry) -> None:
        """An entry of the step cache of a storage has answered a step."""
        self.save(entry.seconds, entry.usage)
        with self._lock:
            hits = self._hits.get(id(storage))
            if hits is None:
                hits = self._hits[id(storage)] = storage, Counter()
            hits[1][entry.place, entry.key] += 1

    def conclude(self, run_id: str, *, is_complete: bool) -> None:
        """The run has ended: tell the cache what was used, and warn of what was recorded for nothing."""
        with self._lock:
            hits, self._hits = self._hits, {}
        for storage, counted in hits.values():
            try:
                storage.step_cache.count_hits(counted)
            except StorageError as error:
                warnings.warn(f"How often results of steps were used could not be recorded: {error}", StepWarning, 2)
        unasked = self.unasked() if is_complete else ()
        if unasked:
            names = ", ".join(dict.fromkeys(record.name for record in unasked))
            warnings.warn(
                f"Run {run_id!r} was resumed and did not ask for {len(unasked)} of its recorded steps ({names}): its "
                "code or what it depends on has changed since.",
                StepWarning,
                2,
            )

    def to_note(self) -> tuple[StepRecord, ...]:
        """What is to be recorded of steps of wider scope."""
        with self._lock:
            noted = list(self._noted)
        return tuple(record() for record in noted)

    def unasked(self) -> tuple[StepRecord, ...]:
        """Records of an earlier attempt that the run did not ask for, but for those inside of other steps: these are
        not asked for either where the step around them is answered."""
        with self._lock:
            left = [record for record in self._recorded.values() if not record.within]
        return tuple(sorted(left, key=lambda record: record.number))
