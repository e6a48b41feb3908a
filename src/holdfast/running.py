"""The life of one run, from its start to its last commit.

Rules that must stay true:
- a run begins when its code first executes and ends exactly once, however it ends;
- everything that the run left in the session state is committed when it ends, before its exception, if any, goes on
  (with `on_error="rollback"`: only if it ends well);
- no storage transaction is open while the user's code executes or a response is handed out;
- a storage failure is raised; when the run had failed too, that failure is its context.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import ReferenceType

from msgspec.structs import replace

from holdfast import clock, codec
from holdfast.caching import ALL, controlled
from holdfast.declared import Types
from holdfast.effects import Abandoned, Advance, Call, Close, Emit, Ended, Flow, Handover, Store, awaiting, kind_of
from holdfast.errors import (
    InvalidInput,
    LeaseLost,
    SessionBusy,
    StateConflict,
    StorageBusy,
    UnstorableValue,
    VersionConflict,
)
from holdfast.frames import in_a_run
from holdfast.heartbeat import heartbeat
from holdfast.leases import Lease, acquiring
from holdfast.metering import Meter, metering
from holdfast.records import Failure, Run, RunStatus, StepRecord
from holdfast.response import RunEvent, RunResponse
from holdfast.run_steps import RunSteps
from holdfast.session import Beside, Collected, Session
from holdfast.standing import Pending, Problems
from holdfast.threads import importing, process_number, thread_and_task

COMMIT_EVERY = 1.0
"""Seconds after which changes are committed between two responses: what a kill can lose at most."""

current: ContextVar[ActiveRun | None] = ContextVar("holdfast_current_run", default=None)
"""The run whose code is executing in this context."""


class ActiveRun:
    """One run while it lasts.

    Args:
        session: the session it works on.
        record: how the run is recorded at its start.
        types: the types that the workflow declares, for its output.
        rollback: whether only a run that ends well keeps its changes.
        lease: by which the run is to have the session to itself, if it is.
        resumed: the record that it was read from, of a run that goes on.
        workflow: whose run it is.
        claim: called when the run begins; raises `RunInProgress` while another run of the object lasts.
        release: called when the run has ended.
    """

    def __init__(  # noqa: PLR0913  # what one run is made of
        self,
        session: Session,
        record: Run,
        *,
        types: Types,
        rollback: bool,
        lease: Lease | None = None,
        resumed: Run | None = None,
        workflow: ReferenceType[Any],
        claim: Callable[[ActiveRun], None],
        release: Callable[[], None],
    ) -> None:
        self.session = session
        self.storage = session.storage
        self.opened = clock.monotonic()
        self.recorded = False
        self.begun = False
        self.ended = False
        self.result: Any = None
        self.outer = current.get()
        self.control = ALL
        """What the run may do with results of steps that are kept for other runs."""
        self.generator: ReferenceType[Any] | None = None
        self.iterator: Any = None
        self._record = record
        self._changed: dict[str, Any] = {}
        self._types = types
        self._rollback = rollback
        self.lease = lease
        self._resumed = resumed
        self._is_ours = resumed is None
        """Whether its record is this attempt's to write: not before an earlier one has been taken up."""
        self.workflow = workflow
        self.steps = RunSteps()
        self.tells = False
        """Whether the framework's own events are handed out."""
        self.told: list[RunResponse] = []
        """Events of steps that were not handed out yet."""
        self._claim = claim
        self._release = release
        self._driver: tuple[int, int] | None = None
        self._started = False
        self._meter = Meter()
        self._metered = self._meter.usage
        """What it had used when that was recorded last."""
        self._output = Output()
        self._sequence = 0
        self._saved_at = self.opened
        self._deferred: Exception | None = None
        self._process = process_number()
        self._patches: list[bytes] = []
        # Guards the record: the heartbeat may write its start while the run writes its end.
        self._lock = threading.RLock()

    @property
    def run_id(self) -> str:
        return self._record.run_id

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on with what an earlier attempt has done."""
        return self._resumed is not None

    @property
    def first_started_at(self) -> float:
        """When the first attempt began."""
        return (self._resumed or self._record).started_at

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Around the user's code: this run is the current one, and its meter counts what agents use."""
        before = current.get()
        current.set(self)
        self._driver = thread_and_task()
        try:
            with metering(self._meter), controlled(self.control), in_a_run():
                yield
        finally:
            # Not by a token: whoever closes a coroutine may do it in another context, where nothing is to be undone.
            if current.get() is self:
                current.set(before)

    @property
    def is_apart(self) -> bool:
        """Whether the code is in another thread or task than that in which `run()` goes on."""
        return self._driver != thread_and_task()

    def encloses(self, inner: ActiveRun | None) -> bool:
        """Whether `inner`, the run current in the caller's context, is this one or was called from it."""
        while inner is not None:
            if inner is self:
                return True
            inner = inner.outer
        return False

    def enter(self) -> None:
        """Take the workflow object, for one run at a time.

        Raises:
            InvalidInput: the run would wait for one that it was called from.
        """
        outer = self.outer if self.lease is not None else None
        while outer is not None:
            if outer.lease is not None and not outer.ended and outer.session.is_same(self.session):
                raise InvalidInput(
                    f"This run of session {self.session.session_id!r} was called from another one of it, for which it "
                    "would wait for ever: only one of them can have the session to itself."
                )
            outer = outer.outer
        self._claim(self)
        self.begun = True

    def waiting(self, events: bool, ahead: int) -> Flow:
        """Show, while others are ahead, that the run waits; or end it, if it is not to wait."""
        assert self.lease is not None
        if not self.lease.waits:
            raise SessionBusy(session_id=self.session.session_id, holder="another run", seconds=0)
        self._changed["status"] = RunStatus.waiting
        heartbeat().watch(self)
        if events:
            yield Emit(self.stamp(RunResponse(event=RunEvent.run_paused, data={"ahead": ahead})))

    def begin(self) -> None:
        """Commit what was changed outside of runs, and start from what is stored now."""
        if self._resumed is None:
            self._changed["started_at"] = clock.now()
        if self.lease is not None:
            self.session.lease_id = self.lease.lease_id
            with self._lock:  # a record that says that it waits is out of date
                self._changed["status"], self.recorded = RunStatus.running, False
        try:
            self.session.start()
        except (StateConflict, LeaseLost) as refusal:
            self._note_refused(refusal)
            raise
        if self._resumed is not None:
            self._take_up(self._resumed)
        self._changed["base_version"] = self.session.version
        self._started = True
        heartbeat().watch(self)

    def _take_up(self, resumed: Run) -> None:
        """Undo what the run has committed before, and let nobody else go on with it, in one transaction."""
        from holdfast.retracing import Undoing

        steps = functools.partial(self.storage.find_steps, resumed.owner, resumed.session_id, resumed.run_id)
        records = steps(with_results=True)  # what cannot be read leaves the run as it was
        while True:
            undoing = Undoing(self.storage, resumed)
            # The version that it begins from is the one that this commit makes.
            version = undoing.version + bool(undoing.operations)
            self._changed["base_version"] = version
            try:
                self.session.undo(undoing, self._current_record(), resumed)
                break
            except VersionConflict:
                continue  # others have committed meanwhile
        self._is_ours = self.recorded = True
        # Up to that commit a process that was only thought to be dead could still finish a step.
        if len(steps(with_results=False)) != len(records):
            records = steps(with_results=True)
        self.steps.recorded(records)
        self.session.load()

    def stamp(self, item: Any) -> RunResponse:
        """Make the response to hand out of what `run()` yielded or returned."""
        response = item if isinstance(item, RunResponse) else RunResponse(content=item)
        self._output.add(response)
        if response.agent_run_id is not None or response.sequence is not None:
            response = response.copied()  # it is the agent's own, or was handed out before
        self._sequence += 1
        response.run_id = self.run_id
        response.session_id = self.session.session_id
        response.workflow_id = self._record.workflow_id
        response.user_id = self._record.owner or None
        response.sequence = self._sequence
        return response

    @property
    def due(self) -> bool:
        """Whether it is time for a commit between two responses."""
        if self._rollback or self.session.is_exclusive:  # a transaction is committed at its end, and as a whole
            return False
        return clock.monotonic() - self._saved_at >= COMMIT_EVERY

    def save_between(self) -> None:
        """Commit what is pending; a value that cannot be stored now may be mended before the run ends."""
        self._save(is_last=False)

    def save_now(self) -> int:
        """Commit what is pending and return the session's version.

        Raises:
            UnstorableValue: after everything else was committed.
        """
        problems = self._save(is_last=False)
        if problems:
            raise UnstorableValue(problems)
        return self.session.version

    def finish(self, error: BaseException | None = None) -> None:
        """Commit, record how the run ended, and let the workflow object go."""
        is_ending = False
        try:  # from the first step on, for an interrupt can come at any
            with self._lock:
                if self.ended:
                    return
                self.ended = is_ending = True
            heartbeat().unwatch(self)
            if process_number() != self._process:
                return  # the run is the parent's, which goes on with it after the fork
            if self._started and self._rollback and error is None:
                error = self._unstorable()
            if not self._started or (self._rollback and error is not None):
                self._end_without_saving(error)
            else:
                self._end_saving(error)
            self.steps.conclude(self.run_id, is_complete=error is None)
        finally:
            if is_ending:
                self._release()
                self._give_up_lease()

    def _give_up_lease(self) -> None:
        self.session.lease_id = ""
        if self.lease is not None and process_number() == self._process:
            self.lease.release()

    def _unstorable(self) -> UnstorableValue | None:
        problems = self.session.collect().problems
        return UnstorableValue(problems) if problems else None

    def _end_without_saving(self, error: BaseException | None) -> None:
        if not self._is_ours:
            return
        if self._started:
            self.session.restore()
        elif isinstance(error, StorageBusy | SessionBusy):
            return  # whoever waited for the storage once must not wait again for a record
        self._end_record(error)
        with self._lock:
            beside = Beside(self.run_id, self._record.attempt, self.steps.to_note())
            self.session.write_run(self._current_record(), beside)
        if isinstance(error, UnstorableValue):
            raise error

    def _end_saving(self, error: BaseException | None) -> None:
        try:
            problems = self._save(is_last=True, error=error)
        except StateConflict:
            if self._rollback:
                self.session.restore()
            raise
        self.session.settle()
        if problems:
            raise UnstorableValue(problems)

    def saved_patches(self) -> list[bytes]:
        """The patches committed since the last call, oldest first."""
        patches, self._patches = self._patches, []
        return patches

    def record_start(self) -> bool:
        """Record the run as running, unless it has been recorded or has ended meanwhile.

        Returns:
            Whether that could be found out: not while a commit of the run is under way, which may wait for others.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._is_ours and not self.recorded and not self.ended:
                self.session.write_run(self._current_record())
                self.recorded = True
            return True
        finally:
            self._lock.release()

    def fail_later(self, error: Exception) -> None:
        """Keep a failure of the heartbeat, to be raised after the next commit."""
        self._deferred = error

    def abandon(self) -> None:
        """End the run because the process ends."""
        generator = self.generator() if self.generator is not None else None
        if generator is not None and not generator.gi_running:
            generator.close()
        self.finish(GeneratorExit())

    def end_undriven(self) -> None:
        """End the run in plain code, because the driver that would perform its effects is gone."""
        try:
            if inspect.isgenerator(self.iterator):
                self.iterator.close()
        finally:
            if self.begun:
                self.finish(GeneratorExit())

    def save_in_transaction(self, releases: bool) -> Problems:
        """Commit what is pending before a transaction, or what was changed in it; returns what cannot be stored."""
        return self._save(is_last=False, releases=releases)

    def save_step(self, step: StepRecord, collected: Collected) -> None:
        """Commit what was found pending when a step had ended well, with its record.

        Raises:
            StateConflict: what is pending is refused; the record of the step is kept all the same.
        """
        self._save(is_last=False, steps=(step,), collected=collected)
        self.steps.has_results = True

    def _save(
        self,
        *,
        is_last: bool,
        error: BaseException | None = None,
        releases: bool = False,
        steps: tuple[StepRecord, ...] = (),
        collected: Collected | None = None,
    ) -> Problems:
        """Commit what is pending with the record, if that is to be written now; returns what cannot be stored."""
        self._saved_at = clock.monotonic()

        def record(pending: Pending) -> Run | None:
            if is_last:
                self._end_record(UnstorableValue(pending.problems) if pending.problems and error is None else error)
            is_due = bool(pending.operations or steps) and not self.recorded
            if steps and not is_last:  # so that a run which is killed can say what it has spent
                is_due = is_due or self._meter.usage != self._metered
                self._changed["usage"] = self._record.usage + self._meter.usage
                self._metered = self._meter.usage
            return self._current_record() if is_last or is_due else None

        with self._lock:
            if is_last:
                steps = self.steps.to_note()
            beside = Beside(
                run_id=self.run_id,
                attempt=self._record.attempt,
                steps=steps,
                forgets_results=is_last and error is None and self.steps.has_results,
                releases=releases,
            )
            try:
                saved = self.session.save(record, beside, collected)
            except (StateConflict, LeaseLost) as refusal:
                self._keep_refused(refusal, steps)
                raise
            self.recorded = self.recorded or is_last or saved.patch is not None or bool(steps)
            if saved.patch is not None:
                self._patches.append(saved.patch)
        deferred, self._deferred = self._deferred, None
        if deferred is not None:
            raise deferred
        return saved.problems

    def _keep_refused(self, refusal: StateConflict | LeaseLost, steps: tuple[StepRecord, ...]) -> None:
        self._note_refused(refusal)
        if self.ended:
            self._end_record(refusal)
        beside = Beside(self.run_id, self._record.attempt, steps)
        self.session.write_run(self._current_record(), beside)
        self.recorded = True

    def _note_refused(self, refusal: StateConflict | LeaseLost) -> None:
        self._changed["refused_patch"] = refusal.patch
        self._changed["refused_version"] = refusal.base_version

    def _end_record(self, error: BaseException | None) -> None:
        self._changed.update(
            status=status_after(error),
            ended_at=clock.now(),
            output=codec.encode_or_mark(self._output.value, self._types),
            error=failure_of(error),
            usage=self._record.usage + self._meter.usage,
            savings=self._record.savings + self.steps.savings,
        )

    def _current_record(self) -> Run:
        return replace(self._record, **self._changed)


class Output:
    """The content of a run as a whole, made of the responses it hands out.

    That of the response which says that the workflow (or the agent) completed; else the joined pieces, if all are
    text; else the last content.

    >>> output = Output()
    >>> for piece in ("Hold", "fast"):
    ...     output.add(RunResponse(content=piece))
    >>> output.value
    'Holdfast'
    """

    def __init__(self) -> None:
        self._pieces: list[str] | None = []
        self._last: Any = None
        self._final = False

    def add(self, response: RunResponse) -> None:
        """Take one more response into account."""
        if response.content is None or self._final:
            return
        self._final = response.event in (RunEvent.workflow_completed, RunEvent.run_completed)
        self._last = response.content
        if self._final or not isinstance(response.content, str):
            self._pieces = None
        elif self._pieces is not None:
            self._pieces.append(response.content)

    @property
    def value(self) -> Any:
        return "".join(self._pieces) if self._pieces else self._last


_CANCELLING = (Abandoned, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What ends a run from outside, beside the cancellation of a task; all else is a failure of its own."""


def status_after(error: BaseException | None) -> RunStatus:
    """How a run that ended with this exception stands.

    >>> str(status_after(None)), str(status_after(ValueError())), str(status_after(GeneratorExit()))
    ('completed', 'failed', 'cancelled')
    """
    if error is None:
        return RunStatus.completed
    # No task is cancelled where asyncio was not imported.
    cancelled_task = getattr(sys.modules.get("asyncio"), "CancelledError", Abandoned)
    if isinstance(error, (*_CANCELLING, cancelled_task)):
        return RunStatus.cancelled
    return RunStatus.failed


def failure_of(error: BaseException | None) -> Failure | None:
    """What is recorded of the exception that ended a run."""
    if error is None or status_after(error) is RunStatus.cancelled:
        return None
    with importing:
        import traceback
    kind = type(error)
    # Its own guard makes a message also of an exception whose `__str__` fails.
    told = traceback.TracebackException(kind, error, error.__traceback__, limit=-20)
    return Failure(f"{kind.__module__}.{kind.__qualname__}", str(told), "".join(told.format()))


def flow(run: ActiveRun, function: Callable[[], Any], *, events: bool, plain: bool = False) -> Flow:
    """What a run does, as effects for a driver to perform (see `drivers.py`).

    Args:
        run: the run, not begun.
        function: calls the user's `run()`.
        events: whether the framework's own events are handed out as well.
        plain: whether `function` is neither a generator nor a coroutine function, but may return what they do; the
            flow then emits a `Handover` and goes on in whichever driver that needs.
    """
    try:
        run.tells = events
        run.enter()
        if run.lease is not None:
            waiting = functools.partial(run.waiting, events)
            yield from acquiring(run.lease, is_exclusive=False, timeout=None, waiting=waiting)
        yield Store(run.begin)
        if events:
            yield Emit(run.stamp(RunResponse(event=RunEvent.workflow_started)))
        yield from _body(run, function, events, plain)
    except GeneratorExit:
        run.end_undriven()
        raise
    except BaseException as error:
        yield from _ending(run, error, events)
        raise
    yield Store(run.finish)
    if events:
        yield from _saved(run)
        yield Emit(run.stamp(RunResponse(event=RunEvent.workflow_completed)))


def _body(run: ActiveRun, function: Callable[[], Any], events: bool, plain: bool) -> Flow:
    result = yield Call(function, run.scope)
    kind = kind_of(result)
    run.iterator = result if kind in ("stream", "astream") else None
    if plain and kind != "value":
        yield Emit(Handover(kind))
        if run.iterator is None:
            result = yield awaiting(result, run.scope)
    if run.iterator is None:
        run.result = run.stamp(result)
        if events:
            yield Emit(run.result)
        return
    advance = Advance(run.iterator, run.scope)
    while not isinstance(item := (yield advance), Ended):
        response = run.stamp(item)
        if run.due:
            yield Store(run.save_between)
        if events:
            yield from _saved(run)
        try:
            advance = Advance(run.iterator, run.scope, (yield Emit(response)))
        except (Abandoned, GeneratorExit):
            raise
        except BaseException as thrown:  # noqa: BLE001  # the consumer's, for the user's code to handle
            advance = Advance(run.iterator, run.scope, thrown, throws=True)
    run.result = item.value


def _ending(run: ActiveRun, error: BaseException, events: bool) -> Flow:
    """Close what the user left open, commit, and raise what came up meanwhile in place of the error."""
    failure = error
    if run.iterator is not None:
        try:
            yield Close(run.iterator, run.scope)
        except GeneratorExit:
            run.end_undriven()
            raise
        except BaseException as closing:  # noqa: BLE001  # raised below, once the commit is made
            failure = closing
    if run.begun:
        yield Store(functools.partial(run.finish, failure))
    if events and status_after(failure) is RunStatus.failed:
        yield from _saved(run)
        yield Emit(run.stamp(RunResponse(event=RunEvent.run_failed, data={"error": type(failure).__name__})))
    if failure is not error:
        raise failure


def _saved(run: ActiveRun) -> Flow:
    told, run.told = run.told, []
    for response in told:
        yield Emit(run.stamp(response))
    for patch in run.saved_patches():
        data = {"patch": codec.parse_json(patch), "version": run.session.version}
        yield Emit(run.stamp(RunResponse(event=RunEvent.state_saved, data=data)))
