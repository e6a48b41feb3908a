"""Who is compared in one run of `comparison.py`: each contestant with its data and the process that works on them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from comparison_report import Row
from contention import Contestant, Places, Process
from measure import folder_size
from peers import setup

SQLITE, POSTGRES = "SQLite FULL", "PostgreSQL"
BOTH, ALONE = (SQLITE, POSTGRES), (SQLITE,)


class Refused(Exception):
    """Why a contestant did not do what it was asked."""


class Server:
    """What a PostgreSQL server tells about itself."""

    def __init__(self, url: str) -> None:
        import psycopg

        self.connection = psycopg.connect(url, autocommit=True)

    def written(self) -> int:
        """Bytes of its write-ahead log, until now."""
        return self._number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

    def size(self, schema: str) -> int:
        """Of all tables in a schema, in bytes."""
        return self._number(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class"
            f" WHERE relkind = 'r' AND relnamespace = '{schema}'::regnamespace"
        )

    def close(self) -> None:
        self.connection.close()

    def _number(self, query: str) -> int:
        ((number,),) = self.connection.execute(query).fetchall()
        return int(number)


@cache
def _environment(name: str) -> Path | str:
    try:
        return setup.environment(name)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"the environment cannot be made: {error}"


def python_of(contestant: Contestant) -> Path:
    """The Python of its environment, which is made if need be, and tried once; raises `Refused`."""
    python = _environment(contestant.environment)
    if isinstance(python, str):
        raise Refused(python)
    return python


@dataclass
class Player:
    """A contestant on one database in one workload: its data, the process that works on them, and what it did."""

    contestant: Contestant
    database: str
    target: list[str]
    log: Any
    server: Server | None
    row: Row
    process: Process | None = None
    spent: float = 0.0
    """Seconds."""

    def start(self) -> dict[str, float]:
        """Begin a process; what the import and the opening took, and the milliseconds from its start on, as "whole"."""
        began = time.perf_counter()
        self.process = Process(python_of(self.contestant), self.log, script="comparison_worker.py")
        of = {"module": self.contestant.module, "kind": self.contestant.kind, "target": self.target}
        return {**self.ask("begin", **of), "began": began}

    def ask(self, method: str, **arguments: Any) -> Any:
        """Let the process do something; raises `Refused`."""
        assert self.process is not None
        try:
            self.process.ask("attempt", work=method, arguments=arguments)
            told = self.process.answer()
        except (RuntimeError, OSError) as error:
            raise Refused(str(error)) from error
        if "refusal" in told:
            raise Refused(told["refusal"])
        return told["answer"]

    def block(self, work: str, start: int, count: int, seconds: float = 1e9) -> dict[str, Any]:
        """So many runs."""
        before = self.server.written() if self.server else 0
        figures: dict[str, Any] = self.ask("block", work=work, start=start, count=count, seconds=seconds)
        if self.server:
            figures["written"] = self.server.written() - before
            figures["database"] = self.size()
        self.spent += sum(figures["wall"]) / 1e3
        return figures

    def size(self) -> int:
        """Of the database, in bytes."""
        return self.server.size(self.target[2]) if self.server else folder_size(Path(self.target[1]).parent)

    def first(self, work: str, number: int, *, behind: str = "") -> None:
        """The first run of a new process, or the one behind a run of another kind, noted in the row."""
        times = self.start()
        if behind:
            self.ask("block", work=behind, start=number, count=1)
        figures = self.ask("first", work=work, number=number)
        self.row.add(
            cold=figures["wall"],
            cold_cpu=figures["cpu"],
            whole=(time.perf_counter() - times["began"]) * 1e3,
            process=figures["process"],
            imports=times["import"],
            opens=times["open"],
        )
        self.stop()

    def stop(self) -> None:
        """Let the process close what it has open, and end it."""
        if self.process is not None:
            with suppress(Refused):
                self.ask("close")
            self.process.close()
            self.process = None


@dataclass
class Field:
    """All contestants, and where they play."""

    contestants: Sequence[Contestant]
    stricter: Sequence[Contestant]
    caches: Sequence[Contestant]
    places: Places
    log: Any
    server: Server | None

    @contextmanager
    def players(self, databases: Sequence[str], contestants: Sequence[Contestant] = ()) -> Iterator[list[Player]]:
        """Everybody, with an empty database each."""
        with ExitStack() as stack:
            players = []
            for database in databases:
                if database == POSTGRES and self.server is None:
                    continue
                for one in contestants or self.contestants:
                    if database in one.databases:
                        target = stack.enter_context(self.places.empty(database))
                        server = self.server if database == POSTGRES else None
                        players.append(Player(one, database, target, self.log, server, Row(one.name, database)))
                        stack.callback(players[-1].stop)
            yield players


def each(players: Sequence[Player], work: Callable[[Player], Any], turn: int = 0) -> None:
    """Let each do something, beginning with another one each turn; who cannot is left out from then on."""
    turn %= max(len(players), 1)
    for player in (*players[turn:], *players[:turn]):
        if player.row.refusal is None:
            try:
                work(player)
            except Refused as refusal:
                player.row.refusal = str(refusal)
                player.stop()
