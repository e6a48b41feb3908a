"""The step cache of SQL databases beyond the interface: processes that race, prefixes that share it, answers that are
lost, and what is remembered."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast import errors
from holdfast.records import Place
from holdfast.storage import readers, sweeping
from holdfast.storage.queries import Statements
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, adjustable_clock, run_in_threads
from holdfast.testing_steps import key_of, make_entry, put
from postgres import Proxy


@pytest.fixture
def open_storage(url: str) -> Iterator[Callable[..., SqlWorkflowStorage]]:
    with ExitStack() as stack:
        yield lambda table="t", **options: stack.enter_context(
            closing(SqlWorkflowStorage(table, db_url=url, **options))
        )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "workflows.db"


@pytest.fixture
def storage(file: Path) -> Iterator[SqlWorkflowStorage]:
    with closing(SqlWorkflowStorage("t", db_file=file)) as storage:
        yield storage


# Processes

RACER = """
import sys
from holdfast.records import Place
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing_steps import key_of, make_entry

url, name = sys.argv[1:]
storage = SqlWorkflowStorage("t", db_url=url)
cache = storage.step_cache
cache.find(None)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    if cache.claim(Place(""), key_of(str(number)), name, 60.0, unless=0.0):
        print(number, flush=True)
        if number % 2:  # the others are left to whoever waits for the lease
            assert cache.store(make_entry(str(number), result=name.encode()), name, ttl=None)
storage.close()
"""


def test_of_processes_that_claim_the_same_entries_exactly_one_computes_each(
    url: str, open_storage: Callable[..., SqlWorkflowStorage]
) -> None:
    cache = open_storage().step_cache
    cache.find(None)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "other", "third")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sorted(int(number) for won in said for number in won) == list(range(40))
    for name, won in zip(("one", "other", "third"), said, strict=True):
        stored = {entry.key for entry in cache.find(None) if _result(cache, entry.key) == name.encode()}
        assert stored == {key_of(number) for number in won if int(number) % 2}


def _result(cache: Any, key: bytes) -> bytes | None:
    entry = cache.read(Place(""), key)
    return entry and entry.result


class Paused:
    """Stops the writes of one storage in the middle of their transaction, until another has tried to write as well."""

    def __init__(self, storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_inside, self._may_end = threading.Event(), threading.Event()
        write = SqlWorkflowStorage._write

        def slow(called: SqlWorkflowStorage, work: Any, **options: Any) -> Any:
            def stopping(db: Statements) -> Any:
                done = work(db)
                if called is storage:
                    self._is_inside.set()
                    self._may_end.wait(10)
                return done

            return write(called, stopping, **options)

        monkeypatch.setattr(SqlWorkflowStorage, "_write", slow)

    def answers(self, leading: Callable[[], Any], following: Callable[[], Any]) -> tuple[Any, Any]:
        """What both answer, the second of which has to wait for the first."""
        said: dict[str, Any] = {}
        one = threading.Thread(target=lambda: said.update(leading=leading()))
        other = threading.Thread(target=lambda: said.update(following=following()))
        one.start()
        assert self._is_inside.wait(10)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        self._may_end.set()
        one.join()
        other.join()
        return said["leading"], said["following"]


def test_who_claims_an_entry_while_another_does_waits_and_is_refused(
    open_storage: Callable[..., SqlWorkflowStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server the row is locked, and looked at again."""
    ours, theirs = open_storage(), open_storage()
    place, key = Place(""), key_of("a")
    put(ours.step_cache, make_entry())
    paused = Paused(ours, monkeypatch)
    assert paused.answers(
        lambda: ours.step_cache.claim(place, key, "ours", 60.0, unless=None),
        lambda: theirs.step_cache.claim(place, key, "theirs", 60.0, unless=None),
    ) == (True, False)


@pytest.mark.parametrize("what", ["has expired", "is too much", "is a dead claim"])
def test_what_is_claimed_in_the_moment_of_a_sweep_stays(
    what: str, open_storage: Callable[..., SqlWorkflowStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = open_storage(), open_storage(max_cache_size=0 if what == "is too much" else 2**20)
    cache, place, key = ours.step_cache, Place(""), key_of("a")
    if what == "is a dead claim":
        assert cache.claim(place, key, "dead", -1.0, unless=None)
    else:
        put(cache, make_entry(), ttl=-1.0 if what == "has expired" else None)
    paused = Paused(ours, monkeypatch)
    assert paused.answers(
        lambda: ours.step_cache.claim(place, key, "x", 60.0, unless=None), theirs.step_cache.sweep
    ) == (True, 0)
    assert cache.store(make_entry(result=b"new"), "x", ttl=None)


def test_sweeping_at_the_same_time_as_claims_takes_nothing_that_somebody_computes(
    open_storage: Callable[..., SqlWorkflowStorage],
) -> None:
    storages = [open_storage(max_cache_size=0) for _ in range(3)]
    waiting = list(range(3))

    def work() -> None:
        number = waiting.pop()
        cache = storages[number].step_cache
        for turn in range(25):
            entry = make_entry(str(turn % 5), Place(str(number)))
            assert cache.claim(entry.place, entry.key, "x", 60.0, unless=None)
            cache.sweep()
            assert cache.store(entry, "x", ttl=None), "the claim is still there"

    run_in_threads(work, 3)
    assert storages[0].check() == ()


def test_a_claim_that_is_not_kept_from_the_sweep_is_noticed(
    open_storage: Callable[..., SqlWorkflowStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_storage().step_cache
    change = Statements.change

    def careless(db: Statements, query: str, **values: Any) -> int:
        return change(db, query, **(values | ({"now": 1e18} if query.startswith("delete_dead") else {})))

    for statements in (Statements, *Statements.__subclasses__()):
        if "change" in vars(statements):
            monkeypatch.setattr(statements, "change", careless)
    assert cache.claim(Place(""), key_of("a"), "x", 60.0, unless=None)
    cache.sweep()
    assert not cache.store(make_entry(), "x", ttl=None)


# Prefixes


def test_prefixes_share_the_cache_but_for_what_is_kept_for_one_session(
    open_storage: Callable[..., SqlWorkflowStorage],
) -> None:
    one, other = open_storage("one"), open_storage("other")
    for storage in (one, other):
        Writer(storage).commit({"a": 1})
        put(storage.step_cache, make_entry("own", Place("", "s"), result=storage.table_name.encode()))
    put(one.step_cache, make_entry("shared"))
    assert other.step_cache.read(Place(""), key_of("shared")) is not None
    for owner in (None, ""):
        assert [len(storage.step_cache.find(owner)) for storage in (one, other)] == [2, 2]
    assert _own(one) == b"one"
    one.delete_session("", "s")
    assert (_own(one), _own(other)) == (None, b"other")
    other.rename_session("", "s", "t")
    assert _own(other) is None
    assert len(one.step_cache.find(None)) == 1
    assert one.check() == ()


def _own(storage: SqlWorkflowStorage) -> bytes | None:
    entry = storage.step_cache.read(Place("", "s"), key_of("own"))
    return entry and entry.result


def test_a_sweep_is_of_all_prefixes_and_its_transactions_are_small(
    open_storage: Callable[..., SqlWorkflowStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_storage("one"), open_storage("other", max_cache_size=1000)
    monkeypatch.setattr(sweeping, "EVERY", 10**6)
    for number in range(250):
        put(
            one.step_cache,
            make_entry(str(number), Place("", "s"), result=b"x" * 10),
            ttl=-1.0 if number < 130 else None,
        )
    sizes: list[int] = []
    write = SqlWorkflowStorage._write

    def watched(storage: SqlWorkflowStorage, work: Any, **options: Any) -> Any:
        done = write(storage, work, **options)
        sizes.append(done[0] if isinstance(done, tuple) else done)
        return done

    monkeypatch.setattr(SqlWorkflowStorage, "_write", watched)
    assert other.step_cache.sweep() == 150
    assert len(one.step_cache.find(None)) == 100
    assert max(sizes) <= sweeping.BATCH


# What is remembered


def test_a_hit_that_is_remembered_is_as_new_as_the_database(storage: SqlWorkflowStorage, file: Path) -> None:
    cache, place, key = storage.step_cache, Place("ann", "s"), key_of("a")
    with closing(SqlWorkflowStorage("t", db_file=file)) as other:
        put(cache, make_entry("a", place, result=b"first"))
        assert [_read(storage), _read(other), _read(storage)] == [b"first"] * 3
        assert storage.step_cache.read(place, key) is storage.step_cache.read(place, key)
        put(other.step_cache, make_entry("a", place, result=b"second"))
        assert [_read(storage), _read(other)] == [b"second"] * 2
        other.step_cache.count_hits({(place, key): 2})
        found = cache.read(place, key)
        assert found is not None
        assert found.hits == 2
        other.step_cache.delete([(place, key)])
        assert [_read(storage), _read(other)] == [None] * 2


def test_what_anybody_commits_makes_a_remembered_hit_be_looked_at_again(
    storage: SqlWorkflowStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage.step_cache, make_entry("a", Place("ann", "s"), result=b"first"))
    asked: list[str] = []
    peek = SqlWorkflowStorage._peek

    def watched(storage: SqlWorkflowStorage, query: str, row: Any) -> Any:
        asked.append(query)
        return peek(storage, query, row)

    monkeypatch.setattr(SqlWorkflowStorage, "_peek", watched)
    assert [_read(storage) for _ in range(4)] == [b"first"] * 4
    assert asked == ["find_entry", "find_checksum"]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE something_else (a)")
    assert [_read(storage) for _ in range(2)] == [b"first"] * 2
    assert asked[2:] == ["find_checksum"]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM holdfast_step_entry")
    assert _read(storage) is None


def test_connections_of_one_address_give_different_marks(storage: SqlWorkflowStorage, file: Path) -> None:
    put(storage.step_cache, make_entry("a", Place("ann", "s")))
    _read(storage)
    seen = set()
    for _ in range(5):
        seen.add(storage._mark())
        storage._opened()._readers.close()  # type: ignore[attr-defined]
    assert len(seen) == 5
    assert None not in seen


def _read(storage: SqlWorkflowStorage) -> bytes | None:
    entry = storage.step_cache.read(Place("ann", "s"), key_of("a"))
    return entry and entry.result


def test_what_is_remembered_is_bounded(storage: SqlWorkflowStorage) -> None:
    cache = storage.step_cache
    for number in range(300):
        put(cache, make_entry(str(number), result=b"x" * (20_000 if number == 299 else 1)))
        cache.read(Place(""), key_of(str(number)))
    entries = storage._remembered.entries._values.values()
    assert len(entries) == 256
    assert max(entry.size for _, entry, _ in entries) == 1


@pytest.mark.parametrize("column", ["result", "step", "checksum", "result_digest", "created_at"])
def test_a_damaged_entry_is_an_error_for_who_reads_it_and_is_replaced_by_who_computes_it(
    column: str, storage: SqlWorkflowStorage, file: Path
) -> None:
    put(storage.step_cache, make_entry("a", Place("ann", "s")))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"UPDATE holdfast_step_entry SET {column} = X'00'")
    with pytest.raises(errors.CorruptData):
        _read(storage)
    assert len(storage.check()) == 1
    put(storage.step_cache, make_entry("a", Place("ann", "s")))
    assert _read(storage) == b"the result of a"


def test_a_file_that_is_replaced_is_noticed_by_who_reads_the_cache(
    storage: SqlWorkflowStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage.step_cache, make_entry("a", Place("ann", "s")))
    _read(storage)
    os.replace(file, file.with_name("moved.db"))
    time.sleep(readers._LOOK_EVERY * 2)
    with pytest.raises(errors.DatabaseReplaced):
        _read(storage)


def test_many_threads_read_while_others_store(storage: SqlWorkflowStorage) -> None:
    cache = storage.step_cache
    put(cache, make_entry("a", Place("ann", "s"), result=b"0"))
    turns = list(range(8))

    def work() -> None:
        number = turns.pop()
        for turn in range(60):
            if number:
                assert int(_read(storage) or b"x") >= 0
            else:
                put(cache, make_entry("a", Place("ann", "s"), result=b"%d" % turn))

    run_in_threads(work, 8)
    assert _read(storage) == b"59"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads_with_a_connection_of_its_own(storage: SqlWorkflowStorage) -> None:
    put(storage.step_cache, make_entry("a", Place("ann", "s")))
    assert _read(storage)
    child = os.fork()
    if not child:
        code = 1
        try:
            put(storage.step_cache, make_entry("b"))
            code = 0 if _read(storage) == b"the result of a" else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert _read(storage) == b"the result of a"
    assert storage.step_cache.read(Place(""), key_of("b")) is not None


# What cannot be stored, and answers that are lost


def test_records_that_no_database_can_hold_are_refused_without_their_values(
    open_storage: Callable[..., SqlWorkflowStorage],
) -> None:
    cache = open_storage().step_cache
    for changed in ({"step": "canary\ud800"}, {"workflow": "canary\ud800"}, {"run_id": "canary\ud800"}):
        assert cache.claim(Place(""), key_of("a"), "x", 10.0, unless=None)
        with pytest.raises(errors.InvalidInput) as caught:
            cache.store(replace(make_entry(), **changed), "x", ttl=None)
        assert "canary" not in str(caught.value)
    with pytest.raises(errors.InvalidInput):
        cache.claim(Place("canary\ud800"), key_of("a"), "x", 10.0, unless=None)
    assert cache.find(None) == ()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_result_is_stored_although_the_answer_is_lost(proxied: tuple[Proxy, str], when: Any) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        cache.find(None)
        proxy.drops = [when]
        assert cache.claim(place, key, "x", 60.0, unless=None)
        proxy.drops = [when]
        assert cache.store(make_entry(), "x", ttl=60.0)
        assert not proxy.drops
        assert cache.read(place, key) is not None
        proxy.drops = [when]
        assert cache.claim(place, key, "y", 60.0, unless=None)
        proxy.drops = [when]
        cache.release(place, key, "y")
        assert not cache.renew(place, key, "y", 60.0)
        assert not proxy.drops


def test_leases_are_measured_by_the_clock_of_the_server(open_storage: Callable[..., SqlWorkflowStorage]) -> None:
    cache = open_storage().step_cache
    with adjustable_clock() as hands:
        assert cache.claim(Place(""), key_of("a"), "x", 10.0, unless=None)
        hands.time += 9.9
        assert not cache.claim(Place(""), key_of("a"), "y", 10.0, unless=None)
        hands.time += 0.2
        assert cache.claim(Place(""), key_of("a"), "y", 10.0, unless=None)
