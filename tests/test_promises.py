"""One test, at least, for each promise of the README, through the whole of the library and real processes."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast import SqlWorkflowStorage, Workflow
from holdfast.errors import CorruptData, StateConflict, StorageError, UnstorableValue
from holdfast.stored import recent


class Posts(Workflow):
    def run(self, action: Callable[[Any], None]) -> None:
        action(self.session_state)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "workflows.db"


def test_promise_1_every_change_counts(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)
    kept: list[dict[str, Any]] = [{"tags": []}]
    tags = kept[0]["tags"]

    def change(state: Any) -> None:
        state["posts"] = kept
        tags.append("through an alias from before the assignment")
        state |= {"n": 1}
        kept[0:0] = [{"first": True}]
        kept.sort(key=len)

    Posts(session_id="s", storage=storage).run(change)
    storage.close()
    again = SqlWorkflowStorage(db_file=database)
    assert Posts(session_id="s", storage=again).session_state == {"posts": kept, "n": 1}
    again.close()


@pytest.mark.crash
def test_promise_2_nothing_acknowledged_is_lost_to_a_kill(tmp_path: Path, database: Path) -> None:
    program = """if True:
        import sys
        from holdfast import SqlWorkflowStorage, Workflow
        class Counting(Workflow):
            def run(self):
                items = self.session_state.setdefault("items", [])
                while True:
                    items.append({"number": len(items), "text": "x" * 500})
                    version = self.write_to_storage()
                    print(version, len(items), flush=True)
                    yield version
        for _ in Counting(session_id="s", storage=SqlWorkflowStorage(db_file="workflows.db")).run():
            pass
    """
    for kill in range(5):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(3 + 7 * kill):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = process.stdout.read().split("\n")
        process.wait()
        process.stdout.close()
        whole = [line for line in acknowledged[:-1] if line]
        storage = SqlWorkflowStorage(db_file=database)
        items = Posts(session_id="s", storage=storage).session_state["items"]
        assert [item["number"] for item in items] == list(range(len(items)))
        if whole:
            assert len(items) in (int(whole[-1].split()[1]), int(whole[-1].split()[1]) + 1)
        assert storage.check() == ()
        storage.close()


def test_promise_3_runs_of_one_session_merge_and_what_overlaps_is_told(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)

    def both(state: Any) -> None:
        Posts(session_id="s", storage=storage).run(lambda inner: inner.setdefault("items", []).append("theirs"))
        state.setdefault("items", []).append("mine")

    Posts(session_id="s", storage=storage).run(both)
    assert Posts(session_id="s", storage=storage).session_state == {"items": ["theirs", "mine"]}

    def overlapping(state: Any) -> None:
        Posts(session_id="s", storage=storage).run(lambda inner: inner.update(last="theirs"))
        state["last"] = "mine"

    with pytest.raises(StateConflict):
        Posts(session_id="s", storage=storage).run(overlapping)
    assert Posts(session_id="s", storage=storage).session_state == {"items": ["theirs", "mine"], "last": "theirs"}
    refused = [run.refused_patch for run in storage.find_runs("") if run.refused_patch]
    assert len(refused) == 1
    assert b"mine" in refused[0]
    storage.close()


def test_promise_4_values_come_back_exactly(database: Path) -> None:
    value = [
        True,
        1,
        1.0,
        -0.0,
        2**70,
        (1,),
        {2, 3},
        b"\xff",
        dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        {1: "a", "1": "b"},
    ]
    storage = SqlWorkflowStorage(db_file=database)
    Posts(session_id="s", storage=storage).run(lambda state: state.update(value=value))
    recent.forget(storage)
    assert repr(Posts(session_id="s", storage=storage).session_state["value"]) == repr(value)
    storage.close()


def test_promise_6_what_is_written_follows_the_change(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)
    Posts(session_id="s", storage=storage).run(lambda state: state.update(big="x" * 1_000_000, posts=[{"n": 0}]))
    Posts(session_id="s", storage=storage).run(lambda state: state["posts"].append({"n": 1}))
    change = storage.changes("", "s")[-1]
    assert change.patch == b'[{"op":"add","path":"/posts/-","value":{"n":1}}]'
    storage.close()


def test_promise_7_failures_are_loud(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)
    Posts(session_id="s", storage=storage).run(lambda state: state.update(n=1))
    with pytest.raises(UnstorableValue, match=r"session_state\['lock'\]"):
        Posts(session_id="s", storage=storage).run(lambda state: state.update(lock=object()))
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        Posts(session_id="s", storage=storage).run(lambda state: None)
    content = bytearray(database.read_bytes())
    place = content.index(b'"/n"')
    content[place + 1] ^= 1
    database.write_bytes(content)
    damaged = SqlWorkflowStorage(db_file=database)
    with pytest.raises(CorruptData):
        Posts(session_id="s", storage=damaged).run(lambda state: None)
    damaged.close()


def test_promise_8_another_user_s_session_does_not_exist(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)
    Posts(session_id="s", storage=storage, user_id="ada").run(lambda state: state.update(secret=1))
    assert Posts(session_id="s", storage=storage, user_id="bob").session_state == {}
    assert Posts(session_id="s", storage=storage).session_state == {}
    assert Posts(session_id="s", storage=storage, user_id="ada").session_state == {"secret": 1}
    storage.close()


def test_what_is_deleted_is_gone_from_the_files_as_well(database: Path) -> None:
    storage = SqlWorkflowStorage(db_file=database)
    for number in range(3):
        Posts(session_id="s", storage=storage).run(
            lambda state: state.update(secret=f"CANARY {number} " * 300)  # noqa: B023
        )
    Posts(session_id="other", storage=storage).run(lambda state: state.update(n=1))
    storage.delete_session("", "s")
    storage.close()
    for file in database.parent.iterdir():
        assert b"CANARY" not in file.read_bytes(), file.name
