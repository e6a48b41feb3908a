"""A writer: a process that appends tokens to sessions for as long as it lives, and notes what it is told.

It can do so in three ways: with commits made by hand against the storage interface, which repeat what a careful
client does; with runs of a workflow; and with transactions of a workflow. The nursery (`nursery.py`) makes it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from faults.answers import dropped_answers
from faults.history import Event, Log, chain
from faults.moments import dying
from faults.places import LOG, tokens_of
from faults.plants import planted
from faults.steps import with_steps
from holdfast import clock, errors
from holdfast.records import Commit, Known, Snapshot, StoredSession, StoredValue
from holdfast.storage import registry
from holdfast.storage.base import Storage
from holdfast.storage.gate import Gate
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow

LEASE = 0.15
"""Seconds for which a transaction holds its session: shorter than a pause, or than a writer is stopped."""

SNAPSHOT_EVERY = 50
"""Versions between two snapshots of a session."""


class Orders(msgspec.Struct):
    """What a writer is to do."""

    url: str
    table: str
    notes: str
    """Path of the file for its notes."""
    name: str
    """Unlike that of any other writer: its tokens begin with it."""
    seed: int
    sessions: list[str]
    mode: str = "storage"
    """"storage", "append" or "transaction"; or another that `MODES` knows."""
    plant: str | None = None
    repeats: float = 0.0
    """How often a commit is repeated as if its acknowledgement had been lost."""
    pauses: float = 0.0
    """How often it waits for some 0.2 s between reading and writing."""
    padding: int = 0
    """Up to so many bytes beside each token."""
    drops: float = 0.0
    """How often a COMMIT is made, or not made, and then fails, so that its outcome is not known."""
    count: int | None = None
    """After so many tokens it ends; None is never."""
    dies_at: int | None = None
    """The moment at which it kills itself; see `faults.moments`."""


class Writer:
    """One writer at work."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.dice = random.Random(orders.seed)
        self.storage: Storage = SqlWorkflowStorage(db_url=orders.url, table_name=orders.table)
        self.log = Log(Path(orders.notes)).note
        self.made = 0

    def note(self, kind: str, session: str, token: str = "", **facts: Any) -> None:
        """Note something that happened just now."""
        self.log(Event(kind, facts.pop("at", clock.monotonic()), session, token, **facts))

    def tokens(self) -> Iterator[tuple[str, str]]:
        """A session and a new token for it, again and again, while the process that started the writers lives."""
        parent = os.getppid()
        while os.getppid() == parent and self.made != self.orders.count:
            self.made += 1
            yield self.dice.choice(self.orders.sessions), f"{self.orders.name}-{self.made}"

    def read(self, session: str, tokens: Reading, began: float, version: int | None = None) -> None:
        """Note what was read."""
        self.note("read", session, at=began, version=version, length=tokens.length, chain=tokens.chain)

    def pause(self) -> None:
        """Wait now and then, as a process does that is put to sleep."""
        if self.dice.random() < self.orders.pauses:
            self.wait(0.2 + self.dice.random() * 0.1)

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        time.sleep(seconds)

    def run(self) -> None:
        """Work until the end."""
        MODES[self.orders.mode](self)
        self.storage.close()


class Reading:
    """What is known of a list of tokens that only grows; what was read once is not read again."""

    def __init__(self) -> None:
        self.length = 0
        self.chain = 0

    def add(self, tokens: Any) -> None:
        """Take more tokens into account."""
        self.length += len(tokens)
        self.chain = chain(tokens, self.chain)


class ByHand:
    """A session as seen by a client of the storage interface."""

    def __init__(self, writer: Writer, session: str) -> None:
        self.writer = writer
        self.session = session
        self.sent = ""
        self.start_over()

    def start_over(self) -> None:
        self.known: Known | None = None
        self.tokens: list[str] = []
        self.reading = Reading()

    def load(self) -> None:
        """Learn what is stored, mostly only what is new."""
        if self.writer.dice.random() < 0.05:
            self.start_over()
        began = clock.monotonic()
        stored = self.writer.storage.load("", self.session, known=self.known)
        if stored is None:
            return
        new = self.new_tokens(stored)
        self.tokens += new
        self.reading.add(new)
        self.known = Known(stored.info.incarnation, stored.info.version)
        self.writer.read(self.session, self.reading, began, stored.info.version)

    def new_tokens(self, stored: StoredSession) -> list[str]:
        new: list[str] = []
        if stored.values is not None:
            self.start_over()
            new += self.whole(stored)
        for change in stored.changes:
            new += tokens_of(change.patch)
        return new

    def whole(self, stored: StoredSession) -> list[str]:
        for value in stored.values or ():
            if value.name == LOG:
                data = value.data
                if data is None:
                    at = {"incarnation": stored.info.incarnation, "at": stored.info.snapshot_version}
                    data = self.writer.storage.read_values("", self.session, [LOG], **at)[LOG]  # type: ignore[arg-type]
                return list(json.loads(data))
        return []

    def commit_of(self, token: str) -> Commit:
        """The commit that appends a token to what is known."""
        base = self.known.version if self.known else 0
        dice, padding = self.writer.dice, self.writer.orders.padding
        operations = [{"op": "add", "path": f"/{LOG}/-", "value": token} if base else self.first(token)]
        if padding:
            operations.append({"op": "add", "path": "/padding", "value": "x" * dice.randrange(padding)})
        values = {LOG: [*self.tokens, token], **{op["path"][1:]: op["value"] for op in operations[1:]}}
        encoded = [(name, json.dumps(value, separators=(",", ":")).encode()) for name, value in values.items()]
        snapshot = Snapshot(tuple(values), tuple(StoredValue(name, len(data), data) for name, data in encoded))
        return Commit(
            owner="",
            session_id=self.session,
            commit_id=clock.new_id(),
            base=base,
            incarnation=self.known.incarnation if self.known else clock.new_id(),
            workflow="Faults",
            patch=json.dumps(operations, separators=(",", ":")).encode(),
            snapshot=snapshot if base % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1 else None,
        )

    @staticmethod
    def first(token: str) -> dict[str, Any]:
        return {"op": "add", "path": f"/{LOG}", "value": [token]}

    def append(self, token: str) -> None:
        """Append a token, as often as others are faster: a conflict is certain, an unknown outcome is repeated."""
        writer = self.writer
        writer.note("send", self.session, token)
        self.sent = token
        while True:
            self.load()
            writer.pause()
            commit = self.commit_of(token)
            try:
                version = self.outcome(commit)
                if writer.dice.random() < writer.orders.repeats:
                    version = self.outcome(commit)
            except (errors.StateConflict, errors.StorageBusy, errors.SessionBusy):
                continue
            writer.note("ok", self.session, token, version=version)
            return

    def outcome(self, commit: Commit) -> int:
        """What becomes of a commit, asked until it is known."""
        while True:
            try:
                return self.writer.storage.commit(commit)
            except errors.OutcomeUnknown:
                self.writer.wait(0.01)


def by_hand(writer: Writer) -> None:
    """Append with commits made by hand."""
    sessions = {session: ByHand(writer, session) for session in writer.orders.sessions}
    for session, token in writer.tokens():
        sessions[session].append(token)


class Appending(Workflow):
    """Appends what it is given."""

    def run(self, token: str, look: Callable[[list[str]], None]) -> None:
        tokens = self.session_state.setdefault(LOG, [])
        look(tokens)
        tokens.append(token)


def with_runs(writer: Writer) -> None:
    """Append with runs of a workflow."""
    workflows = {session: Appending(session_id=session, storage=writer.storage) for session in writer.orders.sessions}
    for session, token in writer.tokens():
        began = clock.monotonic()

        def look(tokens: list[str], session: str = session, began: float = began) -> None:
            reading = Reading()
            reading.add(tokens)
            writer.read(session, reading, began)
            writer.pause()

        writer.note("send", session, token)
        settle(writer, session, token, workflows[session], partial(workflows[session].run, token, look))


def settle(
    writer: Writer,
    session: str,
    token: str,
    workflow: Workflow,
    append: Callable[[], Any],
    facts: dict[str, int] | None = None,
) -> None:
    """Append a token and note the outcome, asking for it until it is known; the facts may come with the appending."""
    while True:
        try:
            append()
        except (errors.StateConflict, errors.LeaseLost):
            writer.note("refused", session, token)
        except (errors.StorageBusy, errors.SessionBusy):
            return  # perhaps before the token was appended, perhaps after
        except errors.OutcomeUnknown:
            writer.wait(0.01)
            append = workflow.write_to_storage
            continue
        else:
            writer.note("ok", session, token, **(facts or {}))
        return


def with_transactions(writer: Writer) -> None:
    """Append with transactions of a workflow."""
    workflows: dict[str, Any] = {
        session: Appending(session_id=session, storage=writer.storage) for session in writer.orders.sessions
    }
    for session, token in writer.tokens():
        facts: dict[str, int] = {}

        def append(session: str = session, token: str = token, facts: dict[str, int] = facts) -> None:
            began = clock.monotonic()
            with workflows[session].transaction() as state:
                reading = Reading()
                reading.add(state.get(LOG, ()))
                writer.read(session, reading, began)
                writer.pause()
                facts["length"] = reading.length + 1
                state.setdefault(LOG, []).append(token)

        writer.note("send", session, token)
        with mock.patch("holdfast.leases.LEASE_SECONDS", LEASE):
            settle(writer, session, token, workflows[session], append, facts)


def interrupted(writer: Writer) -> None:
    """Append while interrupts come at any moment, and see after each that nothing is left half done."""
    storage = writer.storage
    assert isinstance(storage, SqlWorkflowStorage)
    (session,) = writer.orders.sessions
    clients = [ByHand(writer, session).append, interruptible_run(writer, session)]
    clients[0](f"{writer.orders.name}-0")
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    usual = [0.002, 0.002]
    for number, (_, token) in enumerate(writer.tokens()):
        kind = number // 10 % 2
        is_interrupted = False
        began = time.monotonic()
        try:
            # Anywhere in what an append takes on this machine at present, and a little beyond.
            signal.setitimer(signal.ITIMER_REAL, 0.00005 + writer.dice.random() * 1.3 * usual[kind])
            clients[kind](token)
            signal.setitimer(signal.ITIMER_REAL, 0)
            usual[kind] = (usual[kind] + time.monotonic() - began) / 2
        except KeyboardInterrupt:
            is_interrupted = True
            usual[kind] = max(usual[kind], (time.monotonic() - began) / 2)
        if is_interrupted:
            writer.note("fault", session, token)
            clients = [ByHand(writer, session).append, interruptible_run(writer, session)]
        require_quiet(storage, session)


def interruptible_run(writer: Writer, session: str) -> Callable[[str], None]:
    """Appends a token with a run of a new workflow object."""
    workflow = Appending(session_id=session, storage=writer.storage)

    def append(token: str) -> None:
        writer.note("send", session, token)
        workflow.run(token, lambda _: None)
        writer.note("ok", session, token)

    return append


def require_quiet(storage: SqlWorkflowStorage, session: str) -> None:
    """Nothing is under way any more, no transaction is open, and others may write."""
    versions = {(stored := storage.load("", session)) and stored.info.version for _ in range(2)}
    assert len(versions) == 1, "a commit was made after its caller had been interrupted"
    with closing(SqlWorkflowStorage(db_url=storage.url, table_name="other", lock_timeout=10)) as other:
        other.beat("another")
    if storage.url.startswith("sqlite"):
        require_nothing_held(storage)


def require_nothing_held(storage: SqlWorkflowStorage) -> None:
    """No lock, gate or transaction was left behind in this process."""
    engine = registry._engines[storage._key]
    connection = engine._writer.connection
    assert connection is None or not connection.in_transaction, "a transaction is open"
    gate = Gate(storage.where)
    assert gate.acquire(10), "the gate is held"
    gate.close()


def limited(writer: Writer) -> None:
    """Append while the size of files is limited to a little more than they have, so that one write after the other
    fails; each time the limit is lifted, writes resume."""
    import resource

    (session,) = writer.orders.sessions
    log = Path(f"{writer.storage.where}-wal")  # type: ignore[attr-defined]
    client = ByHand(writer, session)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number, (_, token) in enumerate(writer.tokens()):
        room = log.stat().st_size + writer.dice.randrange(12_000) if log.exists() else most
        resource.setrlimit(resource.RLIMIT_FSIZE, (room if number % 2 else most, most))
        try:
            client.append(token)
        except errors.StorageFull:
            writer.note("refused", session, token)
            writer.note("fault", session, token)
            client.start_over()


def filling(writer: Writer) -> None:
    """Append to a disk that gets full, or cannot be written at all, until that has been met five times."""
    (session,) = writer.orders.sessions
    client = ByHand(writer, session)
    met = 0
    for _, token in writer.tokens():
        try:
            client.append(token)
        except (errors.StorageFull, errors.StorageReadOnly) as error:
            writer.note("refused", session, token)
            writer.note("fault", session, type(error).__name__)
            client.start_over()
            met += 1
            if met == 5:
                return


MODES: dict[str, Callable[[Writer], None]] = {
    "storage": by_hand,
    "append": with_runs,
    "transaction": with_transactions,
    "interrupted": interrupted,
    "limited": limited,
    "filling": filling,
    "steps": with_steps,
}


def work(orders: Orders) -> None:
    """Do what is ordered; what goes wrong is noted."""
    try:
        with planted(orders.plant):
            writer = Writer(orders)
            drops = dropped_answers(writer.dice, orders.drops, partial(writer.note, "fault", ""))
            with drops, dying(orders.dies_at, url=orders.url):
                writer.run()
    except Exception as error:
        Log(Path(orders.notes)).note(Event("trouble", clock.monotonic(), "", f"{type(error).__name__}: {error}"))
        raise
