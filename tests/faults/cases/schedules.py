"""All schedules: writers, crashes and lost messages in one process, in an order that a seed decides.

The writers are those of `worker.py`. Each has a thread, of which one runs at a time: a writer hands over whenever a
request to the storage, or its answer, is under way. Time is a clock of the simulation, and identifiers come from its
dice, so that a seed repeats a schedule exactly.
"""

from __future__ import annotations

import os
import random
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any
from unittest import mock

from faults import worker
from faults.case import Amounts, Case, Round, Workshop
from faults.history import Event, anomalies
from faults.places import acknowledged, final
from faults.plants import EARLY, TAKEN, UNRECOGNISED, planted
from faults.worker import MODES, Orders, Writer
from holdfast import clock
from holdfast.errors import OutcomeUnknown, StateConflict
from holdfast.records import Commit
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage

STEPS = 200
WRITERS = 4
SESSIONS = ["a", "b"]
SCHEDULES = 20
"""In one round."""

FORGETTING = "an unknown outcome taken for a failure"


class Crashed(BaseException):
    """The process of a simulated writer is dead; nothing that it does any more has an effect."""


class SimulatedClock(clock.Clock):
    """Time goes on when the simulation says so."""

    def __init__(self, dice: random.Random) -> None:
        self.time = 1_800_000_000.0
        self._dice = dice

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def new_id(self) -> str:
        return f"{self._dice.getrandbits(128):032x}"


class Simulated(Writer):
    """A writer on a thread that runs only when it is its turn."""

    def __init__(self, world: World, orders: Orders) -> None:
        self.orders = orders
        self.dice = random.Random(orders.seed)
        self.made = 0
        self.history: list[Event] = []
        self.log = self.history.append
        self.is_crashed = False
        self.failure: BaseException | None = None
        self.storage = Wire(self, world)
        self._go, self._back = allocate_lock(), allocate_lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        self.hand_over()

    def tokens(self) -> Iterator[tuple[str, str]]:
        while True:
            self.made += 1
            yield self.dice.choice(self.orders.sessions), f"{self.orders.name}-{self.made}"

    def hand_over(self) -> None:
        """Let others run until it is this writer's turn again."""
        if not self.is_crashed:
            self._back.release()
            self._go.acquire()
        if self.is_crashed:
            raise Crashed

    def step(self) -> None:
        """Let this writer run until it hands over."""
        self._go.release()
        self._back.acquire()
        if self.failure is not None:
            raise self.failure

    def crash(self) -> None:
        """Let it die where it stands."""
        self.is_crashed = True
        self.step()
        self._thread.join()

    def _live(self) -> None:
        self._go.acquire()
        try:
            if not self.is_crashed:
                MODES[self.orders.mode](self)
        except Crashed:
            pass
        except BaseException as error:
            self.failure = error
        self._back.release()


class Wire:
    """A storage as seen through a network: requests and answers take time, and those of commits get lost."""

    def __init__(self, writer: Simulated, world: World) -> None:
        self._writer = writer
        self._world = world
        self._early: list[Commit] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._world.storage, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._writer.hand_over()
        while self._early:
            with suppress(StateConflict):
                self._world.storage.commit(self._early.pop())
        return operation(*args, **options)

    def commit(self, commit: Commit, **options: Any) -> int:
        """A commit whose request or answer may be lost."""
        storage, dice = self._world.storage, self._world.dice
        self._writer.hand_over()
        if dice.random() < 0.1:
            raise OutcomeUnknown(where="the simulation", reason="the request was lost")
        if self._world.plant == EARLY and self._is_next(commit):
            self._early.append(commit)
            version = commit.base + 1
        else:
            version = storage.commit(commit, **options)
        self._writer.hand_over()
        if dice.random() < 0.1:
            raise OutcomeUnknown(where="the simulation", reason="the answer was lost")
        return version

    def _is_next(self, commit: Commit) -> bool:
        stored = self._world.storage.load(commit.owner, commit.session_id)
        return not self._early and stored is not None and stored.info.version == commit.base


class World:
    """One schedule from its beginning to its end."""

    def __init__(self, storage: Storage, mode: str, seed: str, plant: str | None) -> None:
        self.storage = storage
        self.dice = random.Random(seed)
        self.clock = SimulatedClock(self.dice)
        self.plant = plant
        self._mode = mode
        self._born = 0
        self._dead: list[Simulated] = []

    def run(self) -> tuple[list[str], int]:
        """What went wrong, and how many commits were acknowledged."""
        with mock.patch.object(clock, "current", self.clock), _without_heartbeat(), _on_one_core():
            writers = [self._new() for _ in range(WRITERS)]
            try:
                for _ in range(STEPS):
                    self.clock.time += self.dice.random()
                    place = self.dice.randrange(WRITERS)
                    if self.dice.random() < 0.02:
                        self._crash(writers[place])
                        writers[place] = self._new()
                    else:
                        writers[place].step()
            finally:
                for writer in writers:
                    self._crash(writer)
            finals = {session: final(self.storage, session) for session in SESSIONS}
        histories = [writer.history for writer in self._dead]
        found = [f"damage: {finding.what}" for finding in self.storage.check()]
        return found + anomalies(histories, finals), acknowledged(histories)

    def _new(self) -> Simulated:
        self._born += 1
        orders = Orders("", "", "", f"w{self._born}", self.dice.getrandbits(32), SESSIONS, self._mode, repeats=0.1)
        return Simulated(self, orders)

    def _crash(self, writer: Simulated) -> None:
        if writer.failure is None:
            writer.crash()
        self._dead.append(writer)


@contextmanager
def _without_heartbeat() -> Iterator[None]:
    """Runs are not looked after by a thread of their own, which would be outside of the schedule."""
    silent = mock.Mock()
    silent.process_id = "simulated"
    with (
        mock.patch("holdfast.running.heartbeat", return_value=silent),
        mock.patch("holdfast.workflow.heartbeat", return_value=silent),
    ):
        yield


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Threads that take turns do so five times faster on one core than on two."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _forgetting(plant: str | None) -> Iterator[None]:
    """A client that makes a new commit of the same token after an unknown outcome."""

    def outcome(client: worker.ByHand, commit: Commit) -> int:
        while True:
            try:
                return client.writer.storage.commit(commit)
            except OutcomeUnknown:
                client.load()
                commit = client.commit_of(client.sent)

    with mock.patch.object(worker.ByHand, "outcome", outcome) if plant == FORGETTING else planted(_in_product(plant)):
        yield


def _in_product(plant: str | None) -> str | None:
    return None if plant == EARLY else plant


class _Schedules(Case):
    promise = "the same holds in every order of steps, crashes and lost messages"
    mode: str

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        found: list[str] = []
        count = 0
        for schedule in range(number * SCHEDULES, (number + 1) * SCHEDULES):
            with closing(new_storage(workshop.backend.name)) as storage, _forgetting(plant):
                wrong, made = World(storage, self.mode, f"{self.name} {schedule}", plant).run()
            found += [f"schedule {schedule}: {each}" for each in wrong]
            count += made
        return Round(SCHEDULES, found, {"acknowledged": count})


def new_storage(backend: str) -> Storage:
    """An empty storage in memory."""
    return MemoryStorage() if backend == "memory" else SqlWorkflowStorage(db_url="sqlite://", table_name="t")


class ByHand(_Schedules):
    """Commits against the storage interface."""

    name = "schedules"
    backends = ("memory",)
    amounts = Amounts(sample=100, full=3_000, soak=5_000_000)
    plants = {EARLY: 5, TAKEN: 5, UNRECOGNISED: 5, FORGETTING: 5}
    unit = f"schedules of {STEPS} steps of commits by hand"
    mode = "storage"


class ByHandInSQLite(ByHand):
    """The same with the SQL of a database in memory, which takes longer."""

    name = "schedules-in-sqlite"
    backends = ("SQLite in memory",)
    amounts = Amounts(sample=20, full=400, soak=500_000)


class Runs(_Schedules):
    """Runs of a workflow."""

    name = "schedules-of-runs"
    backends = ("memory",)
    amounts = Amounts(sample=40, full=200, soak=1_000_000)
    plants = {TAKEN: 5, UNRECOGNISED: 5}
    unit = f"schedules of {STEPS} steps of runs"
    mode = "append"
