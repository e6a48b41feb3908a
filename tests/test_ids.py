"""Ids are 128 bits of the operating system's randomness: nobody can guess one, and no two are alike.

They are no credentials all the same: who may use an id is decided by its owner alone, see `test_owners.py`.
"""

from __future__ import annotations

import ast
import itertools
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast import clock
from holdfast.storage.memory import MemoryStorage
from holdfast.workflow import Workflow

SOURCE = Path(holdfast.__file__).parent
MANY = 100_000


def flaws(new_id: Callable[[], str], count: int = MANY) -> list[str]:
    """What is wrong with a source of ids."""
    ids = [new_id() for _ in range(count)]
    found = []
    if any(len(each) != 32 or set(each) - set("0123456789abcdef") for each in ids):
        return ["not 128 bits as hexadecimal digits"]
    if len(set(ids)) < count:
        found.append("repeated")
    numbers = [int(each, 16) for each in ids[:20_000]]
    shares = [sum(number >> bit & 1 for number in numbers) / len(numbers) for bit in range(128)]
    # Of 20,000 fair bits, a share outside of these bounds is 14 standard deviations away.
    if not all(0.45 < share < 0.55 for share in shares):
        found.append("bits that say something")
    same = sum((a ^ b).bit_count() for a, b in itertools.pairwise(numbers)) / len(numbers)
    if not 62 < same < 66:
        found.append("neighbours that resemble each other")
    return found


def test_ids_are_random_in_every_bit_and_never_repeat() -> None:
    assert flaws(clock.new_id) == []


@pytest.mark.parametrize(
    "careless",
    [
        lambda: uuid.uuid1().hex,
        lambda: uuid.uuid4().hex,  # six of its bits are always the same
        lambda: f"{time.time_ns():032x}",
        lambda: f"{os.getpid():016x}{random.getrandbits(64):016x}",
        lambda: f"{random.randrange(50_000):032x}",
        lambda: random.randbytes(8).hex(),
    ],
    ids=["uuid1", "uuid4", "time", "process", "few", "short"],
)
def test_ids_that_could_be_guessed_are_noticed(careless: Callable[[], str]) -> None:
    assert flaws(careless)


def test_ids_do_not_follow_from_time_process_or_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    seen = set()
    for _ in range(100):
        random.seed(7)
        seen.add(clock.new_id())
    assert len(seen) == 100


def test_ids_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return b"\x07" * size

    monkeypatch.setattr(os, "urandom", urandom)
    assert clock.new_id() == "07" * 16
    assert asked == [16]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_makes_other_ids() -> None:
    code = """
import os
from holdfast import clock
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, clock.new_id().encode())
    os._exit(0)
os.wait()
print(os.read(read, 100).decode(), clock.new_id())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    child, parent = done.stdout.split()
    assert child != parent


class Counting(Workflow):
    def run(self) -> None:
        self.session_state["n"] = 1


def test_every_id_of_a_run_is_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)
    made = clock.Clock()
    monkeypatch.setattr(made, "new_id", lambda: f"id {next(numbers)}")
    monkeypatch.setattr(clock, "current", made)
    storage = MemoryStorage()
    workflow = Counting(storage=storage)
    workflow.run()
    (info,) = storage.find_sessions(None)
    (change,) = storage.changes("", workflow.session_id)
    (run,) = storage.find_runs("")
    ids = [info.session_id, info.incarnation, change.commit_id, run.run_id]
    assert all(each.startswith("id ") for each in ids)
    assert len(set(ids)) == len(ids)


def sources_of_randomness(source: str) -> Iterator[str]:
    """The names by which a program gets at randomness."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = getattr(node, "module", None)
            yield from {"random", "secrets"} & ({module} if module else names)
            yield from {name for name in names if name.startswith(("uuid1", "uuid4", "urandom"))}
        elif isinstance(node, ast.Attribute) and node.attr in ("urandom", "uuid1", "uuid4", "getrandom"):
            yield node.attr


def test_nothing_else_in_the_package_makes_anything_random() -> None:
    found = {
        file.relative_to(SOURCE).as_posix(): sorted(set(sources_of_randomness(file.read_text(encoding="utf-8"))))
        for file in SOURCE.rglob("*.py")
    }
    # The second one is for tests of backends; the third waits for a while that no two processes have in common.
    assert {file: names for file, names in found.items() if names} == {
        "clock.py": ["urandom"],
        "testing.py": ["random", "secrets"],
        "storage/server.py": ["random"],
    }
    assert list(sources_of_randomness("import uuid\nuuid.uuid4()")) == ["uuid4"]
