"""The class that users subclass.

Rules that must stay true:
- a subclass is plain Python: `run()` is wrapped once, when the class is made, and whatever else it declares stays as
  it is;
- the constructor takes what the class declares and nothing else;
- one object runs one run at a time; a call of `run()` from inside of its own run is a plain call.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn
from weakref import WeakKeyDictionary, ref

from msgspec.structs import replace

from holdfast import clock, codec
from holdfast.agent import Agent, is_pydantic_agent
from holdfast.conflicts import unbound, valid_policy
from holdfast.declared import Types, hints_of
from holdfast.errors import InvalidInput, RunInProgress, RunNotFound, RunNotResumable, UnstorableValue
from holdfast.frames import require_no_step, require_state
from holdfast.heartbeat import heartbeat
from holdfast.ids import check_id
from holdfast.leases import Lease, Transaction
from holdfast.records import Run, RunStatus
from holdfast.run_function import RunFunction
from holdfast.running import ActiveRun, current
from holdfast.session import Beside, Session
from holdfast.standing import Problems
from holdfast.stepping import Stepping
from holdfast.storage.base import STALE_AFTER, Storage
from holdfast.threads import importing

_RESERVED = frozenset({"session_id", "storage", "user_id", "workflow_id", "name", "session_state"})


class Workflow(Stepping):
    """A workflow whose `session_state` is kept under a session id.

    Subclass it and write `run()`: a plain function, a generator, a coroutine function or an async generator. What
    `run()` leaves in `self.session_state`, changed in whatever way, is committed when it ends.

    Args:
        session_id: 1 to 255 characters; a random id when absent.
        storage: where sessions are kept, such as `SqlWorkflowStorage(db_file="workflows.db")`; in the memory of
            this object when absent.
        user_id: whose session it is; sessions of other users cannot be reached.
        workflow_id: recorded with each run; the class name when absent.
        name: recorded with each session and run; the class name when absent.
        session_state: what a session that is not stored yet starts with; copied.
        attributes: any public, non-callable name that the class declares.

    What the class body declares of these, `storage` or `name` say, is used where the constructor is given nothing.

    Attributes:
        run_id: of the current run, or else of the last one; None before the first.
        description: what the workflow is for.
        on_conflict: what happens when this run and another changed one place of the session: `"raise"`, `"last_write"`,
            a function `f(path, base, ours, theirs)` that returns the value to be stored, or a dict from top-level
            keys to one of these.
        concurrency: `"merge"` lets runs of one session run at the same time, and brings their changes together;
            `"queue"` runs one at a time, in the order in which they came, and `"reject"` raises `SessionBusy` while
            another one runs. Only runs that say "queue" or "reject" keep each other out.
        on_error: `"commit"` keeps what a failed run changed; `"rollback"` keeps only what it committed with
            `write_to_storage()`.
        state_types: pydantic models, dataclasses, named tuples and enums that the session state may hold. Those in
            the annotations of `run()` and in the `output_type` of the class's agents are declared already.

    Raises:
        InvalidInput: an unknown keyword, or an id that cannot be used.

    >>> class Counter(Workflow):
    ...     def run(self) -> int:
    ...         self.session_state["n"] = self.session_state.get("n", 0) + 1
    ...         return self.session_state["n"]
    >>> counter = Counter()
    >>> counter.run().content, counter.run().content
    (1, 2)
    """

    description: str | None = None
    on_conflict: Any = "raise"
    concurrency: Literal["merge", "queue", "reject"] = "merge"
    on_error: Literal["commit", "rollback"] = "commit"
    state_types: Iterable[Any] = ()

    _default_state: ClassVar[Mapping[Any, Any]] = {}

    def __init__(
        self,
        *,
        session_id: str | None = None,
        storage: Storage | None = None,
        user_id: str | None = None,
        workflow_id: str | None = None,
        name: str | None = None,
        session_state: Mapping[Any, Any] | None = None,
        **attributes: Any,
    ) -> None:
        _wrap_run(type(self))  # it may have been assigned after the class was made
        self._set_declared(attributes)
        if self.on_error not in ("commit", "rollback"):
            raise InvalidInput('on_error is "commit" or "rollback"')
        if self.concurrency not in ("merge", "queue", "reject"):
            raise InvalidInput('concurrency is "merge", "queue" or "reject"')
        session_id, user_id = self._or_declared("session_id", session_id), self._or_declared("user_id", user_id)
        storage = self._or_declared("storage", storage)
        self.session_id = check_id("session_id", session_id) if session_id is not None else clock.new_id()
        self.user_id = check_id("user_id", user_id) if user_id is not None else None
        self.name = self._or_declared("name", name) or type(self).__name__
        self.workflow_id = self._or_declared("workflow_id", workflow_id) or type(self).__name__
        self.storage: Storage = _check_storage(storage) if storage is not None else _memory()
        self.run_id: str | None = None
        self._types = _declared_types(type(self))
        self._session = Session(
            self.storage,
            self.user_id or "",
            self.session_id,
            workflow=self.name,
            types=self._types,
            defaults=copy.deepcopy(_check_state(session_state)) if session_state is not None else self._default_state,
        )
        self._session.on_conflict = valid_policy(unbound(self.on_conflict))
        self._active: ActiveRun | None = None
        # Re-entrant: the garbage collector may end an abandoned run of this object while the lock is held.
        self._claiming = threading.RLock()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _wrap_run(cls)
        state = inspect.getattr_static(cls, "session_state")
        if state is not vars(Workflow)["session_state"]:
            cls._default_state = _check_state(state)
            # The name stays the property of the base class.
            setattr(cls, "session_state", vars(Workflow)["session_state"])  # noqa: B010  # a type checker sees a value
        for attribute, value in list(vars(cls).items()):
            if is_pydantic_agent(value):
                agent = Agent(value)
                setattr(cls, attribute, agent)
                agent.__set_name__(cls, attribute)

    def run(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002  # each subclass chooses its own
        """What the workflow does; written by the subclass."""
        raise InvalidInput(f"{type(self).__name__} has no run() method; write one: def run(self, ...)")

    @property
    def session_state(self) -> dict[Any, Any]:
        """The state of the session: a dict that is loaded on first access and saved when a run ends.

        Raises:
            StorageError: it could not be loaded.
            StepStateError: a step that must leave it alone asks for it.
        """
        require_state("self.session_state", self._session)
        known = current.get()
        run = known if known is not None and known.session is self._session else self._active
        if run is not None:
            run.steps.at_work.state_is_used(is_known=known is not None)
        return self._session.state

    @session_state.setter
    def session_state(self, state: Mapping[Any, Any]) -> None:
        new = dict(_check_state(state))
        current_state = self.session_state
        current_state.clear()
        current_state.update(new)

    def resume(self, run_id: str, *, stream_events: bool = False) -> Any:
        """Go on with a run of this session that failed, was cancelled, or whose process died.

        It runs again with the same arguments, from the session without its own earlier changes. Steps that it had
        finished are answered from its record, together with what they changed in the session state.

        Args:
            run_id: of the run.
            stream_events: hand out the framework's own events as well.

        Returns:
            what `run()` would; for a run that has completed, its recorded result.

        Raises:
            RunNotFound: the session has no such run.
            RunNotResumable: it is one of another workflow; it is still going on; others have changed what it had
                changed; or what was recorded of it does not suffice.
            RunTakenOver: somebody else has just resumed it.

        >>> class Counter(Workflow):
        ...     def run(self, fails: bool) -> str:
        ...         self.session_state["n"] = self.session_state.get("n", 0) + 1
        ...         return self.step("divide", lambda: 1 // 0 if Counter.is_broken else "done")
        ...     is_broken = True
        >>> counter = Counter()
        >>> counter.run(fails=True)
        Traceback (most recent call last):
        ZeroDivisionError: integer division or modulo by zero
        >>> Counter.is_broken = False
        >>> counter.resume(counter.run_id).content, counter.session_state
        ('done', {'n': 1})
        """
        run_id = check_id("run_id", run_id)
        owner = self.user_id or ""
        found = self.storage.find_runs(owner, session_id=self.session_id, run_id=run_id)
        if not found:
            raise RunNotFound(run_id=run_id, where=f"session {self.session_id!r}")
        (record,) = found
        if record.workflow != self.name:
            raise RunNotResumable(
                run_id=run_id,
                session_id=self.session_id,
                reason=f"it is one of workflow {record.workflow!r}, and this is {self.name!r}; a class that was "
                f"renamed says name = {record.workflow!r}",
            )
        if record.status in (RunStatus.running, RunStatus.waiting):
            raise RunNotResumable(
                run_id=run_id,
                session_id=self.session_id,
                reason=f"it is still {record.status}; if its process was killed, it counts as interrupted once that "
                f"was not heard of for {STALE_AFTER:.0f} s",
            )
        return _wrapped_runs[type(self).run].resumed(self, record, events=stream_events)

    def write_to_storage(self) -> int:
        """Commit the session state now.

        Returns:
            The version of the session, which a commit without changes does not raise.

        Raises:
            UnstorableValue: values that cannot be kept, each with its path; everything else was committed.
            StateConflict: another run has changed, since this one began, what this one changed; see `on_conflict`.
            StorageError: it could not be written.
        """
        if self._session.is_exclusive:
            raise InvalidInput("A transaction is committed when its block is left; leave it first, or do without this.")
        if self._active is not None:
            return self._active.save_now()
        saved = self._session.save()
        if saved.problems:
            raise UnstorableValue(saved.problems)
        return self._session.version

    def refresh(self) -> int:
        """Bring what other runs have committed into the session state now, in place; what is not committed here stays.

        Without it, others' changes come in when a run begins and ends, and in a transaction.

        Returns:
            The newest version of the session.

        Raises:
            StateConflict: others have changed what was changed here; nothing came in.
            StorageError: it could not be read.

        >>> class Counter(Workflow):
        ...     def run(self) -> None:
        ...         self.session_state["n"] = 1
        >>> from holdfast.storage.memory import MemoryStorage
        >>> storage = MemoryStorage()
        >>> watching, counter = (Counter(session_id="s", storage=storage) for _ in range(2))
        >>> watching.session_state
        {}
        >>> _ = counter.run()
        >>> watching.refresh(), watching.session_state
        (1, {'n': 1})
        """
        require_no_step("self.refresh()", self._session)
        if self._session.is_exclusive:
            return self._session.version  # nobody else can have changed anything
        self._session.refresh()
        return self._session.version

    def transaction(self) -> Transaction:
        """A block that has the session to itself: `with self.transaction() as state:`, or `async with`.

        It waits until nobody else is in such a block, commits what is pending, starts from what is stored now, and
        is committed as a whole at its end. An exception in it restores the state. Other runs' commits wait
        meanwhile, so keep it short; a process that dies in it delays them by 10 s at most.

        Raises:
            SessionBusy: others were ahead for longer than the storage's `lock_timeout`.
            LeaseLost: the block took so long, without this process being heard of, that it was given to another.
            InvalidInput: the code is in a transaction of this session already.

        >>> class Counter(Workflow):
        ...     def run(self) -> int:
        ...         with self.transaction() as state:
        ...             state["n"] = state.get("n", 0) + 1
        ...         return state["n"]
        >>> Counter().run().content
        1
        """
        require_no_step("self.transaction()", self._session)
        active = self._active

        def save(releases: bool) -> Problems:
            if active is not None and self._active is active:
                return active.save_in_transaction(releases)
            return self._session.save(beside=Beside(releases=releases)).problems

        return Transaction(self._session, active.lease if active is not None else None, save)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(session_id={self.session_id!r})"

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute in ("_session", "_active", "_types"):
                raise InvalidInput(
                    f"{type(self).__name__}.__init__ did not call super().__init__(); pass its keyword arguments on: "
                    "def __init__(self, **options): super().__init__(**options)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")

    def _or_declared(self, keyword: str, given: Any) -> Any:
        return getattr(type(self), keyword, None) if given is None else given

    def _set_declared(self, attributes: Mapping[str, Any]) -> None:
        if not attributes:
            return
        known = _declared_names(type(self))
        if unknown := attributes.keys() - known:
            raise InvalidInput(
                f"{type(self).__name__}() got unknown keyword(s) {', '.join(sorted(unknown))}; "
                f"it knows {', '.join(sorted(known | _RESERVED))}. Declare others in the class body."
            )
        for attribute, value in attributes.items():
            setattr(self, attribute, value)

    def _new_run(self, given: dict[str, Any]) -> ActiveRun:
        record = Run(
            run_id=clock.new_id(),
            owner=self.user_id or "",
            session_id=self.session_id,
            workflow_id=self.workflow_id,
            workflow=self.name,
            status=RunStatus.running,
            started_at=clock.now(),
            process_id=heartbeat().process_id,
            input=codec.encode_or_mark(given, self._types),
        )
        return self._active_run(record)

    def _active_run(self, record: Run, *, resumed: Run | None = None) -> ActiveRun:
        return ActiveRun(
            self._session,
            record,
            resumed=resumed,
            workflow=ref(self),
            types=self._types,
            rollback=self.on_error == "rollback",
            lease=None if self.concurrency == "merge" else Lease(self._session, waits=self.concurrency == "queue"),
            claim=self._claim,
            release=self._let_go,
        )

    def _next_attempt(self, record: Run) -> ActiveRun:
        """A run that goes on with one that was recorded."""
        again = replace(
            record,
            status=RunStatus.running,
            process_id=heartbeat().process_id,
            ended_at=None,
            output=None,
            error=None,
            refused_patch=None,
            refused_version=None,
            attempt=record.attempt + 1,
        )
        return self._active_run(again, resumed=record)

    def _claim(self, run: ActiveRun) -> None:
        with self._claiming:
            if self._active is not None:
                raise RunInProgress(
                    workflow=type(self).__name__, run_id=self._active.run_id, session_id=self.session_id
                )
            self._active = run
            self.run_id = run.run_id

    def _let_go(self) -> None:
        self._active = None


# Kept apart: a mark on the function would be copied by `functools.wraps` to functions that are not wrapped.
_wrapped_runs: WeakKeyDictionary[Callable[..., Any], RunFunction] = WeakKeyDictionary()


def _wrap_run(cls: type[Workflow]) -> None:
    """See to it that the `run()` of a class, wherever it comes from, is run as a run.

    Raises:
        InvalidInput: it is not a function.
    """
    if cls.run in _wrapped_runs:
        return
    function = inspect.getattr_static(cls, "run")
    if function is vars(Workflow)["run"]:
        return
    if not inspect.isfunction(function):  # a cache would skip the run, and a static method has no state
        raise InvalidInput(
            f"{cls.__name__}.run is a {type(function).__name__}, so that its runs could not be saved; "
            "make it a method: def run(self, ...)"
        )
    cls.run = _wrapped(function)  # type: ignore[method-assign]


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The user's `run()`, run as a run."""
    run_function = RunFunction(function)

    @functools.wraps(function)
    def run(self: Workflow, *args: Any, **kwargs: Any) -> Any:
        return run_function.called(self, args, kwargs)

    _wrapped_runs[run] = run_function
    return run


def _check_storage(storage: Any) -> Any:
    if isinstance(storage, type) or not callable(getattr(storage, "commit", None)):
        kind = storage.__name__ if isinstance(storage, type) else type(storage).__name__
        raise InvalidInput(
            f'storage must be an object such as SqlWorkflowStorage(db_file="workflows.db"), not {kind}'
            + (" itself" if isinstance(storage, type) else "")
        )
    return storage


def _memory() -> Storage:
    with importing:
        from holdfast.storage.memory import MemoryStorage
    return MemoryStorage()


def _check_state(state: Any) -> Mapping[Any, Any]:
    if not isinstance(state, Mapping):
        raise InvalidInput(f"session_state must be a dict, not {type(state).__name__}; to empty it: {{}}")
    return state


def _declared_names(cls: type) -> set[str]:
    """The names that the constructor takes beside its own: public, not callable, declared by the class."""
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        names |= {
            name for name, value in vars(base).copy().items() if not callable(value) and not isinstance(value, property)
        }
        names |= set(inspect.get_annotations(base))
    return {name for name in names if not name.startswith("_")} - _RESERVED


def _declared_types(cls: type[Workflow]) -> Types:
    """The types that the state of this class may hold; found once for each class."""
    if "_declared" not in vars(cls):
        cls._declared = Types(_annotations(cls))  # type: ignore[attr-defined]
    return cls._declared  # type: ignore[attr-defined,no-any-return]


def _annotations(cls: type[Workflow]) -> Iterable[Any]:
    yield from cls.state_types
    for base in cls.__mro__:  # of each a copy, for another thread may set an attribute of the class at this moment
        for value in vars(base).copy().values():
            if isinstance(value, Agent):
                yield value.output_type
        for name, value in vars(base).copy().items():
            if inspect.isfunction(value) and (name == "run" or hasattr(value, "__holdfast_step__")):
                yield from hints_of(value)
