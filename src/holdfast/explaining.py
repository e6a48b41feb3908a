"""Why a step was computed: what differs from the nearest result that there was.

Rules that must stay true:
- the nearest result is the one from which the fewest arguments differ, then the fewest other parts, and of several the
  newest;
- parts are compared by their digests, so that no value is known here, and none can be said;
- how far is looked back is bounded, so that "no earlier result" may mean one of long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from holdfast.records import CODE_LABELS, INPUT_LABELS, Entry, Run, StepRecord
from holdfast.storage.base import Storage

__all__ = ["Earlier", "Reason", "ago", "earlier_of", "in_order", "reason", "reasons_of_run", "recorded_parts"]

MOST_ENTRIES: Final = 1_000
"""Entries of a step that are compared: the newest."""

MOST_RUNS: Final = 50
"""Earlier runs whose records of steps are compared as well, for results that are not kept any more."""

MOST_SAID: Final = 4
"""Differing parts that are named."""

_NAMES: Final = {"key": "what `key=` returned", "depends": "what `depends=` returned", "version": "the version"}

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


@dataclass(frozen=True, slots=True)
class Earlier:
    """A result of the same step that there is, or was."""

    parts: Mapping[str, str]
    """As of `recorded_parts`."""
    created_at: float
    expires_at: float | None = None
    run_id: str = ""
    """Of the run that asked for it."""
    is_kept: bool = True
    """Whether it was found in the step cache, and not only in the record of a run."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a step is computed."""

    text: str
    differing: tuple[str, ...] = ()
    """The labels of the parts that differ from the nearest result."""
    run_id: str = ""
    """Of the run that computed the nearest result, or asked for it; empty if there is none."""


def recorded_parts(parts: bytes, *, scope: str, session_id: str) -> dict[str, str]:
    """What a key is made of, as it is compared here: the recorded parts, and where the result is kept.

    Args:
        parts: of a `StepRecord` or an `Entry`.
        scope: of the same.
        session_id: of the session that asked; counts in scope `"session"` only.

    >>> recorded_parts(b'{"argument topic":"6f"}', scope="workflow", session_id="s")
    {'argument topic': '6f', 'scope': 'workflow'}
    """
    told = msgspec.json.decode(parts, type=dict[str, str])
    return {**told, "scope": scope} | ({"session": session_id} if scope == "session" else {})


def earlier_of(entry: Entry) -> Earlier:
    """An entry of the step cache, to be compared."""
    parts = recorded_parts(entry.parts, scope=entry.scope, session_id=entry.place.session_id)
    return Earlier(parts, entry.created_at, entry.expires_at, entry.run_id)


def reason(parts: Mapping[str, str], earlier: Iterable[Earlier], *, now: float) -> Reason:
    """Why a step with these parts is not answered by one of these results.

    Args:
        parts: as of `recorded_parts`.
        earlier: other results of the step.
        now: the time when it was, or would be, asked for; seconds since 1970.

    >>> kept = Earlier({"argument topic": "6f", "code of `write`": "01"}, created_at=0.0, expires_at=60.0)
    >>> reason({"argument topic": "9c", "code of `write`": "01"}, [kept], now=10.0).text
    'argument `topic` differs'
    >>> reason(kept.parts, [kept], now=7_260.0).text
    'expired 2 h ago'
    >>> reason(kept.parts, [], now=10.0).text
    'no earlier result'
    """
    compared = [(_differing(parts, each.parts), each) for each in earlier]
    if not compared:
        return Reason("no earlier result")
    labels, nearest = min(compared, key=_distance)
    if labels:
        phrases = [_phrase(label, nearest.parts.get(label), parts.get(label)) for label in labels[:MOST_SAID]]
        if len(labels) > MOST_SAID:
            phrases.append(f"and {len(labels) - MOST_SAID} more")
        return Reason(", ".join(phrases), labels, nearest.run_id)
    return Reason(_unused(nearest, now), (), nearest.run_id)


def _distance(compared: tuple[tuple[str, ...], Earlier]) -> tuple[int, int, bool, float]:
    """How far a result is: of another code for the same arguments is nearer than of the same code for others."""
    labels, earlier = compared
    inputs = sum(label.startswith(INPUT_LABELS) for label in labels)
    return inputs, len(labels), not earlier.is_kept, -earlier.created_at


def _unused(nearest: Earlier, now: float) -> str:
    """Why a result of the same key was of no use."""
    if not nearest.is_kept:
        return "an earlier result was gone (expired, evicted or deleted), or was not to be used"
    if nearest.expires_at is not None and nearest.expires_at <= now:
        return f"expired {ago(now - nearest.expires_at)}"
    return "an earlier result was there, and was not to be used, or could not be read"


def _differing(parts: Mapping[str, str], others: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of the parts that differ."""
    labels = [label for label in {**others, **parts} if parts.get(label) != others.get(label)]
    if ("version" in parts) != ("version" in others):  # it stands for the code, which is compared no more
        labels = [label for label in labels if not label.startswith(CODE_LABELS)]
    if "scope" in labels:  # then it is not told of sessions either
        labels = [label for label in labels if label != "session"]
    return in_order(labels)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels of parts as they are listed: what the result depends on first, then the code.

    >>> in_order(["code of `write`", "argument topic"])
    ('argument topic', 'code of `write`')
    """
    return tuple(sorted(labels, key=lambda label: (not label.startswith(INPUT_LABELS), label)))


def _phrase(label: str, before: str | None, after: str | None) -> str:
    """How one part differs.

    >>> _phrase("version", "01", "02"), _phrase("scope", "session", "workflow"), _phrase("argument style", None, "01")
    ('other version', 'kept in scope `session` until then', 'argument `style` is new')
    """
    if label == "scope":
        return f"kept in scope `{before}` until then"
    if label == "session":
        return "kept for another session only"
    name = f"argument `{label[9:]}`" if label.startswith("argument ") else _NAMES.get(label, label)
    if before is None:
        return f"{name} is new"
    if after is None:
        return f"{name} is gone"
    if label == "version":
        return "other version"
    return f"{name} {'differs' if label.startswith(INPUT_LABELS) else 'changed'}"


def ago(seconds: float) -> str:
    """How long ago something was.

    >>> ago(30), ago(7_300), ago(200_000)
    ('30 s ago', '2 h ago', '2 d ago')
    """
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def reasons_of_run(storage: Storage, run: Run) -> list[tuple[StepRecord, Reason]]:
    """Why the steps of a run were computed, of those that are kept for others; in their order.

    Args:
        storage: where the run is recorded, and its step cache.
        run: any run.

    Raises:
        StorageError: something could not be read.
    """
    steps = storage.find_steps(run.owner, run.session_id, run.run_id, with_results=False)
    computed = [step for step in steps if step.scope != "run" and not step.is_hit]
    recorded = list(_recorded_before(storage, run)) if computed else []
    known: dict[str, list[Entry]] = {}
    found = []
    for step in computed:
        if step.name not in known:
            known[step.name] = _entries(storage, run.owner, step.name)
        earlier = [
            earlier_of(entry)
            for entry in known[step.name]
            if entry.created_at <= step.started_at and not (entry.run_id == run.run_id and entry.key == step.key)
        ]
        earlier += [each for name, each in recorded if name == step.name]
        earlier += _asked_before(step, computed, run)
        parts = recorded_parts(step.parts, scope=step.scope, session_id=run.session_id)
        found.append((step, reason(parts, earlier, now=step.started_at)))
    return found


def _entries(storage: Storage, owner: str, step: str) -> list[Entry]:
    found = list(storage.step_cache.find(owner, step=step, limit=MOST_ENTRIES))
    if owner:
        found += [entry for entry in storage.step_cache.find("", step=step, limit=MOST_ENTRIES) if entry.is_shared]
    return found


def _recorded_before(storage: Storage, run: Run) -> Iterator[tuple[str, Earlier]]:
    """What earlier runs of the workflow asked for, each with the name of the step."""
    runs = [
        other
        for other in storage.find_runs(run.owner, limit=MOST_ENTRIES)
        if other.workflow == run.workflow and other.started_at < run.started_at and other.run_id != run.run_id
    ]
    for other in runs[:MOST_RUNS]:
        for step in storage.find_steps(other.owner, other.session_id, other.run_id, with_results=False):
            if step.scope != "run":
                yield step.name, _recorded(step, other)


def _asked_before(step: StepRecord, computed: Iterable[StepRecord], run: Run) -> Iterator[Earlier]:
    """What the run itself had computed before, as another attempt or the same one."""
    for other in computed:
        if other.name == step.name and other.started_at < step.started_at and other.number != step.number:
            yield _recorded(other, run)


def _recorded(step: StepRecord, run: Run) -> Earlier:
    parts = recorded_parts(step.parts, scope=step.scope, session_id=run.session_id)
    return Earlier(parts, step.started_at, None, run.run_id, is_kept=False)
