"""What `scale.py` measures of one database: each workload in a process of its own, which prints one line of JSON.

A database is given as the path of a file or as a URL. Times are milliseconds, sizes bytes. `first` is the first load of
a process, which opens the database; the pages of the file may still be in the memory of the system.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import scale_fill
from measure import bytes_written
from posts import text
from scale_fill import owner_of, session_of

from holdfast import SqlWorkflowStorage, Workflow, clock
from holdfast.records import Commit, Known
from holdfast.storage import sqlite
from holdfast.storage.gate import Gate

LONG = "long"
"""The id of the session with a long history."""
PAGE = 50
FAR = 10_000

_chance = random.Random()


class Setting(Workflow):
    def run(self, key: str, value: Any) -> str:
        self.session_state[key] = value
        return "set"


class Replacing(Workflow):
    """Changes one item of a large list."""

    def run(self, place: int, item: str) -> str:
        self.session_state["items"][place] = item
        return "replaced"


class Storing(Workflow):
    """Makes a large value itself, for what a run is given is recorded with it."""

    def run(self, size: int, seed: int) -> str:
        self.session_state["items"] = items(size, seed)
        return "stored"


class Reading(Workflow):
    def run(self) -> int:
        return len(self.session_state["items"])


def storage_at(database: str, *, kind: Any = SqlWorkflowStorage, **given: Any) -> Any:
    """The storage of a file or URL."""
    name = "db_url" if "://" in database else "db_file"
    return kind(**{name: database}, **given)


@contextmanager
def opened(database: str, **given: Any) -> Any:
    """A storage that has been used once, on what is not measured."""
    with closing(storage_at(database, **given)) as storage:
        Setting(session_id="warm-up", storage=storage).run("counter", 1)
        yield storage


def milliseconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def of_each(calls: list[Callable[[], Any]]) -> float:
    """The median of what the calls take."""
    return median(milliseconds(call) for call in calls)


class Written:
    """Bytes that were written since this was made: to files by this process, or by a server to its log."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._before = self._position()

    def _position(self) -> int:
        if "://" not in self._database:
            return bytes_written()
        import psycopg

        with psycopg.connect(self._database) as connection:
            (position,) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()  # type: ignore[misc]
        return int(position)

    def each(self, count: int) -> float:
        """Of each of so many calls."""
        return (self._position() - self._before) / count


def peak() -> int:
    """The most memory that this process has had, from `/proc`; `getrusage` counts that of its parent as well."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


# -- filling --------------------------------------------------------------------------------------------------------


def fill(database: str, first: int, last: int) -> dict[str, Any]:
    """Make the sessions of these numbers, the last one left out."""
    scale_fill.fill(Path(database), scale_fill.commits(range(first, last)))
    return {}


# -- many sessions --------------------------------------------------------------------------------------------------


def first(database: str, count: int) -> dict[str, Any]:
    """The first load of a process."""
    number = _chance.randrange(count)
    with closing(storage_at(database)) as storage:
        return {"first": milliseconds(lambda: storage.load(owner_of(number), session_of(number)))}


def sessions(database: str, count: int, calls: int) -> dict[str, Any]:
    """What is done with one of so many filled sessions, and with all of them."""
    with opened(database) as storage:
        numbers = [_chance.randrange(count) for _ in range(calls)]
        keys = [(owner_of(number), session_of(number)) for number in numbers]
        figures = {"load": of_each([partial(storage.load, *key) for key in keys])}
        figures["again"] = of_each([partial(_unchanged, storage, *key) for key in keys])
        written = Written(database)
        figures["run"] = of_each([partial(_set, storage, owner, session) for owner, session in keys])
        figures["written"] = written.each(calls)
        figures["new"] = of_each([partial(_set, storage, owner, clock.new_id()) for owner, _ in keys])
        figures |= pages(storage, keys)
        gone = [(f"user-{clock.new_id()}", clock.new_id()) for _ in range(calls)]
        for owner, session in gone:
            _set(storage, owner, session)
        figures["delete"] = of_each([partial(storage.delete_session, *key) for key in gone])
    return figures


def _set(storage: SqlWorkflowStorage, owner: str, session: str) -> None:
    Setting(session_id=session, user_id=owner or None, storage=storage).run("counter", _chance.randrange(1000))


def _unchanged(storage: SqlWorkflowStorage, owner: str, session: str) -> None:
    stored = storage.load(owner, session)
    assert stored is not None
    storage.load(owner, session, known=Known(stored.info.incarnation, stored.info.version))


def pages(storage: SqlWorkflowStorage, keys: list[tuple[str, str]]) -> dict[str, float]:
    """Lists of sessions and of runs, and one of each that is found by its id alone."""
    few = keys[:5]
    found = storage.find_runs(keys[0][0], session_id=keys[0][1], limit=1)
    return {
        "page_of_user": of_each([partial(storage.find_sessions, owner, limit=PAGE) for owner, _ in keys]),
        "page": of_each([partial(storage.find_sessions, None, limit=PAGE)] * 3),
        "far": of_each([partial(storage.find_sessions, None, limit=FAR)] * 3),
        "runs": of_each([partial(storage.find_runs, None, limit=PAGE)] * 3),
        "by_key": of_each([partial(storage.find_sessions, owner, session_id=session) for owner, session in few]),
        "by_id": of_each([partial(storage.find_sessions, None, session_id=session) for _, session in few]),
        "run_by_id": of_each([partial(storage.find_runs, None, run_id=found[0].run_id)] * 3),
    }


def check(database: str) -> dict[str, Any]:
    """Every row is verified."""
    with closing(storage_at(database)) as storage:
        before = peak()
        took = milliseconds(storage.check)
        assert storage.check() == ()
    return {"check": took, "memory": peak() - before}


# -- a large state --------------------------------------------------------------------------------------------------


def items(size: int, seed: int) -> list[str]:
    """Texts that have about so many bytes together, no two alike; another seed has none of them."""
    length = min(1000, size)
    return [f"{seed} {number} {text(number)}"[: length - 3] for number in range(size // length)]


def state(database: str, size: int, calls: int) -> dict[str, Any]:
    """A session with one value of so many bytes, and a small one beside it."""
    with opened(database) as storage:

        def made(kind: type[Workflow]) -> Workflow:
            return kind(session_id="large", storage=storage)

        count = len(items(size, 0))
        jobs: dict[str, list[Callable[[], Any]]] = {
            "store": [lambda: made(Storing).run(size, 0)],
            "small": [lambda: made(Setting).run("counter", _chance.random())] * calls,
            "item": [lambda: made(Replacing).run(_chance.randrange(count), text(_chance.randrange(count))[:900])]
            * calls,
            "whole": [lambda: made(Storing).run(size, 1), lambda: made(Storing).run(size, 2)],
        }
        figures = {}
        for name, jobs_of_name in jobs.items():
            written = Written(database)
            figures[name] = of_each(jobs_of_name)
            figures[f"{name}_written"] = written.each(len(jobs_of_name))
    return figures | {"memory": peak()}


def cold_state(database: str) -> dict[str, Any]:
    """The first run of a process that reads the large value, and one that only changes the small one."""
    with opened(database) as storage:
        small = milliseconds(lambda: Setting(session_id="large", storage=storage).run("counter", time.time()))
        return {"cold_small": small, "cold_read": milliseconds(Reading(session_id="large", storage=storage).run)}


# -- a long history -------------------------------------------------------------------------------------------------


def lengthen(database: str, versions: int) -> dict[str, Any]:
    """Go on with the long session until it has so many versions, each made by a run that sets one of 50 small keys."""
    with closing(storage_at(database, synchronous="NORMAL")) as storage:
        stored = storage.load("", LONG)
        done = stored.info.version if stored else 0
        for number in range(done, versions):
            Setting(session_id=LONG, storage=storage).run(f"k{number % 50}", number)
    return {}


def history(database: str, versions: int, calls: int) -> dict[str, Any]:
    """What is read of a session with so many versions."""
    with opened(database) as storage:
        load, changes = partial(storage.load, "", LONG), partial(storage.changes, "", LONG)
        places = sorted({max(1, versions * part // 16) for part in range(1, 17)})
        replayed = {place: len(load(at=place).changes) for place in places}
        slowest = max(places, key=lambda place: replayed[place])
        (run,) = storage.find_runs("", session_id=LONG, limit=1)
        figures = {
            "load": of_each([load] * calls),
            "replayed": len(load().changes),
            "old": of_each([partial(load, at=slowest)] * 3),
            "old_replayed": replayed[slowest],
            "newest_page": of_each([partial(changes, after=max(0, versions - PAGE))] * calls),
            "oldest_page": of_each([partial(changes, limit=PAGE)] * calls),
            "find_run": of_each([partial(storage.find_runs, "", session_id=LONG, run_id=run.run_id)] * 3),
        }
        written = Written(database)
        figures["run"] = of_each([partial(_set, storage, "", LONG)] * calls)
        return figures | {"run_written": written.each(calls)}


def prune(database: str, keep: int) -> dict[str, Any]:
    """Forget all but the newest versions, which holds the session (on SQLite, the database) as long as it takes."""
    with opened(database) as storage:
        forgotten: list[int] = []
        took = milliseconds(lambda: forgotten.append(storage.prune_session("", LONG, keep)))
        return {"prune": took, "forgotten": forgotten[0]}


def delete(database: str) -> dict[str, Any]:
    """Delete the long session."""
    with opened(database) as storage:
        return {"delete": milliseconds(lambda: storage.delete_session("", LONG))}


# -- many runs ------------------------------------------------------------------------------------------------------

SESSIONS = 100


class _Timed(SqlWorkflowStorage):
    """Knows how long its last commit took."""

    took = 0.0

    def commit(self, commit: Commit, **given: Any) -> int:
        began = time.perf_counter()
        try:
            return super().commit(commit, **given)
        finally:
            self.took = time.perf_counter() - began


class _TimedGate(Gate):
    """Knows how long any of its kind was held the last time."""

    took = 0.0
    _since = 0.0

    def acquire(self, timeout: float | None = None) -> bool:
        is_held = super().acquire(timeout)
        if is_held:
            _TimedGate._since = time.perf_counter()
        return is_held

    def release(self) -> None:
        super().release()
        if _TimedGate._since:
            _TimedGate.took = time.perf_counter() - _TimedGate._since
            _TimedGate._since = 0.0


def _ready() -> float:
    """Say that this process has prepared everything, and wait to be told when to begin, by `time.monotonic`."""
    print("ready", flush=True)
    start = float(input())
    time.sleep(max(0.0, start - time.monotonic()))
    return start


def _run(storage: SqlWorkflowStorage, chance: random.Random, seed: int) -> None:
    # Each process has a key of its own: whoever changes the same value as another at the same time is refused.
    session = f"session-{chance.randrange(SESSIONS)}"
    Setting(session_id=session, storage=storage).run(f"of process {seed}", chance.random())


def closed_loop(database: str, seconds: float, seed: int) -> dict[str, Any]:
    """Runs one after the other, while other processes do the same: seconds of each, and those of them in the commit
    and with the gate held."""
    chance = random.Random(seed)
    sqlite.Gate = _TimedGate
    stages = []
    with closing(storage_at(database, kind=_Timed)) as storage:
        for _ in range(SESSIONS):
            _run(storage, chance, seed)
        end = _ready() + seconds
        while (began := time.monotonic()) < end:
            _run(storage, chance, seed)
            stages.append((time.monotonic() - began, storage.took, _TimedGate.took))
    return {"stages": stages}


def arrivals(database: str, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Runs that arrive at random, as one of several processes gets them: seconds of each from its arrival on.

    Args:
        database: where to commit.
        rate: runs in a second, on average.
        seconds: how long they arrive.
        seed: of chance, and another one for each process.
    """
    chance = random.Random(seed)
    took = []
    with closing(storage_at(database)) as storage:
        for _ in range(SESSIONS):
            _run(storage, chance, seed)
        due = start = _ready()
        while (due := due + chance.expovariate(rate)) < start + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            _run(storage, chance, seed)
            took.append(time.monotonic() - due)
    return {"took": took}


WORKLOADS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (
        fill,
        first,
        sessions,
        check,
        state,
        cold_state,
        lengthen,
        history,
        prune,
        delete,
        closed_loop,
        arrivals,
    )
}

if __name__ == "__main__":
    print(json.dumps(WORKLOADS[sys.argv[1]](**json.loads(sys.argv[2]))))
