"""What a run would find and what it would compute, told without running anything.

Rules that must stay true:
- nothing of the user's workflow is executed but what its key is made of: `depends=` and the constructor;
- it goes by the last recorded run of the same input: what that was given for each step is taken from its record,
  everything else that counts is looked at as it is now;
- what follows from something that would be computed anew is unknown, and so said.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from holdfast import clock, codec, recorded
from holdfast.agent import Agent
from holdfast.arguments import Parameters
from holdfast.caching import allowed, cache_of
from holdfast.canonical import digest_or_none
from holdfast.declared_steps import Options, Step
from holdfast.decoding import parse_json
from holdfast.errors import HoldfastError, InvalidInput, StepKeyError
from holdfast.explaining import MOST_ENTRIES, Earlier, ago, earlier_of, reason, recorded_parts
from holdfast.records import Entry, Place, Run, RunStatus, Savings, StepRecord
from holdfast.response import RunResponse
from holdfast.run_function import parted
from holdfast.step_keys import parts_for_others, shortened
from holdfast.storage.base import Storage
from holdfast.workflow import Workflow

__all__ = ["Plan", "Planned", "plan"]

MOST_RUNS: Final = 1_000
"""Runs that are looked through for one of the same input: the newest."""

Verdict = Literal["hit", "miss", "runs", "unknown"]

MOST_NAMED: Final = 3
"""Steps that a reason names of each kind."""

_WHY: Final[dict[Verdict, str]] = {
    "runs": "kept for its run only",
    "miss": "computed anew",
    "unknown": "unknown itself",
}

_GOING_ON: Final = (RunStatus.running, RunStatus.waiting)


@dataclass(frozen=True, slots=True)
class Planned:
    """What would become of one step."""

    record: StepRecord
    """Of the run that is gone by; it has what the step cost."""
    verdict: Verdict
    """`"hit"`: answered; `"miss"`: computed; `"runs"`: computed, as it is recorded for resuming only."""
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What would become of the steps of a run."""

    run: Run
    """The record that it goes by."""
    steps: tuple[Planned, ...]
    hiding: tuple[str, ...] = ()
    """The names of steps that could have a `cache=` beyond their run, and have none, so that what may depend on them is
    unknown."""

    def cost(self, *verdicts: Verdict) -> Savings:
        """What the steps of these verdicts cost last time, those inside of others left out; `hits` counts them."""
        found = [each.record for each in self.steps if each.verdict in verdicts and not each.record.within]
        total = Savings()
        for record in found:
            total += Savings(1, record.seconds, record.usage)
        return total


def plan(
    cls: type[Workflow],
    arguments: Mapping[str, Any],
    *,
    storage: Storage,
    user_id: str | None = None,
    session_id: str | None = None,
) -> Plan | None:
    """Say which steps of a run would be answered and which computed.

    Args:
        cls: the workflow.
        arguments: of its `run()`, by name.
        storage: where its runs are recorded.
        user_id: whose session it would be.
        session_id: of the session that it would run in; else that of the last run of this input.

    Returns:
        what the steps of the last run of this input would become; None if there was none.

    Raises:
        TypeError: the arguments do not fit.
        StorageError: something could not be read.

    >>> from holdfast import step
    >>> from holdfast.storage.memory import MemoryStorage
    >>> class Greeting(Workflow):
    ...     @step(cache="workflow")
    ...     def greet(self, name: str) -> str:
    ...         return f"Hello, {name}"
    ...     def run(self, name: str) -> str:
    ...         return self.greet(name)
    >>> storage = MemoryStorage()
    >>> _ = Greeting(storage=storage).run("Ada")
    >>> [(each.record.name, each.verdict) for each in plan(Greeting, {"name": "Ada"}, storage=storage).steps]
    [('greet', 'hit')]
    >>> plan(Greeting, {"name": "Bob"}, storage=storage) is None
    True
    """
    workflow = cls(session_id=session_id, user_id=user_id, storage=storage)
    declared = session_id if session_id is not None else getattr(cls, "session_id", None)
    run = _last_run(workflow, arguments, storage, declared)
    if run is None:
        return None
    if run.session_id != workflow.session_id:
        workflow = cls(session_id=run.session_id, user_id=user_id, storage=storage)
    steps = storage.find_steps(run.owner, run.session_id, run.run_id, with_results=False)
    planning = _Planning(workflow, storage, run)
    return Plan(run, tuple(planning.planned(steps)), tuple(planning.hiding()))


def _last_run(workflow: Workflow, arguments: Mapping[str, Any], storage: Storage, session_id: str | None) -> Run | None:
    """The last run of the same input that has completed, else the last one that has ended."""
    parameters = Parameters(inspect.unwrap(type(workflow).run), skipped=1)
    wanted = _identity(codec.encode_or_mark(parameters.given((), arguments), workflow._types), parameters)
    found = [
        run
        for run in storage.find_runs(workflow.user_id or "", session_id=session_id, limit=MOST_RUNS)
        if run.workflow == workflow.name and run.status not in _GOING_ON and _identity(run.input, parameters) == wanted
    ]
    return next((run for run in found if run.status is RunStatus.completed), found[0] if found else None)


def _identity(data: bytes | None, parameters: Parameters) -> bytes | None:
    """What an input is, whatever the order in which its arguments were given, and what it may do with kept results."""
    return None if data is None else digest_or_none(parted(parse_json(data), parameters)[0])


@dataclass(frozen=True, slots=True)
class _Found:
    """A step as it is declared now."""

    step: Step
    is_method: bool


@dataclass(slots=True)
class _Planning:
    """Goes through the steps of a run in their order."""

    workflow: Workflow
    storage: Storage
    run: Run
    known: set[str] = field(default_factory=set)
    """Digests of what the run is given, and of results that it would find."""
    computed: dict[str, Verdict] = field(default_factory=dict)
    """By name, the steps before that would not be answered."""
    named: dict[str, Verdict] = field(default_factory=dict)
    """Those on which something unknown may depend."""
    before: dict[int, Planned] = field(default_factory=dict)
    """By number."""
    keys: dict[bytes, Planned] = field(default_factory=dict)
    """The first step of wider scope with each key."""

    def __post_init__(self) -> None:
        try:
            given = codec.decode(self.run.input or b"{}", self.workflow._types, "input")
        except HoldfastError:
            return  # of a class that is not declared any more: then no argument is known to be one of the run's
        for value in given.values():
            self._know(value)
            for item in value if isinstance(value, list | tuple) else ():
                self._know(item)

    def _know(self, value: Any) -> None:
        if (told := digest_or_none(value)) is not None:
            self.known.add(shortened(told))

    def planned(self, steps: tuple[StepRecord, ...]) -> Iterator[Planned]:
        """What would become of each."""
        for record in steps:
            if self.run.attempt > 1 and record.key in self.keys:
                continue  # asked for again by a later attempt
            verdict, why = self._verdict(record)
            planned = Planned(record, verdict, why)
            self.before[record.number] = planned
            if record.scope != "run":
                self.keys.setdefault(record.key, planned)
            if verdict != "hit":
                self.computed.setdefault(record.name, verdict)
            yield planned

    def hiding(self) -> Iterator[str]:
        """See `Plan.hiding`."""
        for name, verdict in self.named.items():
            if verdict == "runs" and _declared(self.workflow, name):
                yield name

    def _verdict(self, record: StepRecord) -> tuple[Verdict, str]:
        outer = self.before.get(record.within)
        if outer is not None and outer.verdict in ("hit", "unknown"):
            told = ", which is answered" if outer.verdict == "hit" else ""
            return outer.verdict, f"inside of `{outer.record.name}`{told}"
        found = _declared(self.workflow, record.name)
        if len(found) > 1:
            return "unknown", "several steps have this name"
        if record.scope == "run" and (not found or found[0].step.options.cache is None):
            return "runs", "recorded for resuming only"
        if not found:
            return "unknown", "called inline, or not there any more"
        if self.computed and not self._has_known_arguments(record, found[0]):
            changed = self._changed_anyway(record, found[0])
            return ("miss", changed) if changed else ("unknown", self._dependence())
        return self._looked_up(record, found[0])

    def _dependence(self) -> str:
        """Why a step is unknown: nobody can tell which of the steps before it gave what it is given."""
        # What is unknown itself follows from the others, unless it is all that there is.
        of = {name: verdict for name, verdict in self.computed.items() if verdict != "unknown"} or self.computed
        self.named |= of
        told = []
        for verdict, why in _WHY.items():
            if names := [f"`{name}`" for name, each in of.items() if each == verdict]:
                more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                told.append(f"{', '.join(names[:MOST_NAMED])}{more} ({why})")
        return f"may depend on {', '.join(told)}"

    def _changed_anyway(self, record: StepRecord, found: _Found) -> str:
        """What has changed so that no result that is kept answers the step, whatever it is given; "" for nothing."""
        if found.step.options.cache is None or found.step.options.depends is not None:
            return ""
        try:
            code = parts_for_others(found.step, self.workflow, is_method=found.is_method)
        except (InvalidInput, StepKeyError):
            return ""
        now = {label: shortened(digest) for label, digest in code.items()}
        entries = self.storage.step_cache.find(self.run.owner, step=record.name, limit=MOST_ENTRIES)
        before = [_split(entry.parts)[1] for entry in entries]
        recorded_then = _split(record.parts)[1]
        if now in before or now == recorded_then:
            return ""
        return reason(now, [Earlier(recorded_then, record.started_at)], now=clock.now()).text

    def _looked_up(self, record: StepRecord, found: _Found) -> tuple[Verdict, str]:
        first = self.keys.get(record.key)
        if first is not None and first.verdict == "miss":
            return "hit", f"the same as step {first.record.number}, which is computed"
        cache = found.step.options.cache
        if cache is None:
            return "runs", "recorded for resuming only, since it has no `cache=` any more"
        try:
            code = parts_for_others(found.step, self.workflow, is_method=found.is_method)
        except (InvalidInput, StepKeyError) as error:
            return "unknown", f"it would fail: {error}"
        if not allowed().reads:
            return "miss", "the step cache is not to be read"
        told = _arguments(record, found) | {label: shortened(digest) for label, digest in code.items()}
        place = Place("" if cache.shared else self.run.owner, self.run.session_id if cache.scope == "session" else "")
        parts = told | recorded_parts(b"{}", scope=cache.scope, session_id=place.session_id)
        entries = self._entries(record, place, parts, is_global=cache.scope == "global")
        return self._answer(parts, entries, place)

    def _entries(self, record: StepRecord, place: Place, parts: Mapping[str, str], *, is_global: bool) -> list[Entry]:
        """Results of the step that are kept, the one of the recorded key among them, if there is one."""
        of = None if is_global else self.workflow.name
        cache = self.storage.step_cache
        found = list(cache.find(place.owner, step=record.name, workflow=of, limit=MOST_ENTRIES))
        same = recorded_parts(record.parts, scope=record.scope, session_id=self.run.session_id) == parts
        if same and len(found) == MOST_ENTRIES and (entry := cache.read(place, record.key)) is not None:
            found.append(replace(entry, result=None))  # it may be older than those that were found
        return found

    def _answer(self, parts: Mapping[str, str], entries: list[Entry], place: Place) -> tuple[Verdict, str]:
        now = clock.now()
        earlier = [(entry, earlier_of(entry)) for entry in entries]
        for entry, each in earlier:
            is_good = entry.expires_at is None or entry.expires_at > now
            if entry.place == place and each.parts == parts and is_good:
                self._know_result(entry)
                return "hit", f"computed {ago(now - entry.created_at)}"
        return "miss", reason(parts, [each for _, each in earlier], now=now).text

    def _know_result(self, entry: Entry) -> None:
        """Note what a step would give: it may be what another one is given."""
        found = self.storage.step_cache.read(entry.place, entry.key)
        if found is None or found.result is None:
            return
        try:
            value = recorded.decode(found.result, self.workflow._types).value
        except HoldfastError:
            return  # of a class that only the step declares: then nobody is known to be given it
        self._know(value)
        if isinstance(value, RunResponse):
            self._know(value.content)

    def _has_known_arguments(self, record: StepRecord, found: _Found) -> bool:
        """Whether all arguments are inputs of the run, results that it would find, or defaults of parameters."""
        defaults = {
            shortened(told)
            for parameter in inspect.signature(found.step.function).parameters.values()
            if parameter.default is not parameter.empty and (told := digest_or_none(parameter.default)) is not None
        }
        given = _split(record.parts)[0]
        return "key" not in given and all(told in self.known | defaults for told in given.values())


def _split(parts: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """The recorded parts of a step that are its arguments, and all others."""
    given: dict[str, str] = {}
    others: dict[str, str] = {}
    for label, told in msgspec.json.decode(parts, type=dict[str, str]).items():
        (given if label == "key" or label.startswith("argument ") else others)[label] = told
    return given, others


def _arguments(record: StepRecord, found: _Found) -> dict[str, str]:
    """The arguments that the step would be given: as they were, by the parameters that count now."""
    given = _split(record.parts)[0]
    if found.step.options.key is not None:
        return {"key": given.get("key", "")}
    names = Parameters(found.step.function, skipped=int(found.is_method)).names
    labels = [f"argument {name}" for name in names if name not in found.step.options.ignore]
    return {label: given.get(label, "") for label in labels}


def _declared(workflow: Workflow, name: str) -> list[_Found]:
    """The steps of this name that the class and its module declare, each once."""
    found: dict[int, _Found] = {}
    cls = type(workflow)
    for attribute in dir(cls):
        value = inspect.getattr_static(cls, attribute)
        if isinstance(value, Agent):
            step = _step_of(getattr(workflow, attribute))
            is_method = False
        else:
            is_method = not isinstance(value, staticmethod)
            step = getattr(value if is_method else value.__func__, "__holdfast_step__", None)
        if step is not None and step.options.name == name:
            found[id(step.function if step.agent is None else value)] = _Found(step, is_method)
    module = sys.modules.get(cls.__module__)
    for value in list(vars(module).values()) if module is not None else ():
        step = _step_of(value) if isinstance(value, Agent) else getattr(value, "__holdfast_step__", None)
        if isinstance(step, Step) and step.options.name == name:
            found[id(step.function if step.agent is None else value)] = _Found(step, is_method=False)
    return list(found.values())


def _step_of(agent: Agent) -> Step | None:
    """The step that an agent with a `cache` is."""
    if agent.cache is None:
        return None
    how = frozenset({"stream", "stream_events"})
    return Step(agent._run, Options(agent.name or "agent", cache_of(agent.cache), ignore=how))
