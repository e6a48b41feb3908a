"""What is beyond a limit is refused with its path, costs only its own key, and never more than the limit allows.

The values here are small to make and endless to write. Each is refused in a process of its own, with little memory and
a time in which only a walk that never ends does not end; how long each takes is a figure of `make bench`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidInput, UnstorableValue
from holdfast.storage.base import Storage
from holdfast.stored import recent
from holdfast.workflow import Workflow


class Keeping(Workflow):
    def run(self, value: Any) -> None:
        self.session_state["beside"] = 1
        self.session_state["value"] = value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


WITHIN: dict[str, Callable[[], Any]] = {
    "depth": lambda: nested(100),
    "a key": lambda: {"k" * 1_024: 1},
    "digits": lambda: 10**1_000 - 1,
    "digits below nought": lambda: 1 - 10**1_000,
}

BEYOND: dict[str, tuple[Callable[[], Any], str]] = {
    "depth": (lambda: nested(101), "nested deeper than 100 containers"),
    "a key": (lambda: {"k" * 1_025: 1}, "a key of 1,025 characters, more than 1,024"),
    "a key of another kind": (lambda: {("k" * 1_025,): 1}, "characters, more than 1,024"),
    "digits": (lambda: 10**1_000, "int of more than 1,000 digits"),
    "digits below nought": (lambda: -(10**1_000), "int of more than 1,000 digits"),
    "digits of a key": (lambda: {10**1_000: 1}, "int of more than 1,000 digits"),
    "text": (lambda: "x" * 64_000_001, "larger than 64,000,000 bytes"),
}


@pytest.mark.parametrize("name", WITHIN)
def test_what_is_just_within_a_limit_is_kept(name: str, storage: Storage) -> None:
    Keeping(session_id="s", storage=storage).run(WITHIN[name]())
    recent.forget(storage)
    assert Keeping(session_id="s", storage=storage).session_state["value"] == WITHIN[name]()


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_just_beyond_a_limit_is_refused_by_path_and_the_earlier_value_stays(
    name: str, storage: Storage
) -> None:
    Keeping(session_id="s", storage=storage).run("earlier")
    make, said = BEYOND[name]
    with pytest.raises(UnstorableValue) as caught:
        Keeping(session_id="s", storage=storage).run(make())
    ((path, reason),) = caught.value.problems
    assert path.startswith("session_state['value']")
    assert said in reason
    assert len(str(caught.value)) < 2_000
    recent.forget(storage)
    assert Keeping(session_id="s", storage=storage).session_state == {"beside": 1, "value": "earlier"}


@pytest.mark.parametrize("keyword", ["session_id", "user_id"])
@pytest.mark.parametrize("value", ["", "x" * 256, "a\0", "\ud800", b"a", 5, ["a"]], ids=lambda v: repr(v)[:9])
def test_an_id_beyond_its_limit_is_refused_before_anything_is_stored(
    keyword: str, value: Any, storage: Storage
) -> None:
    with pytest.raises(InvalidInput, match=f"{keyword} must"):
        Keeping(**{"storage": storage, keyword: value})
    assert storage.find_sessions(None) == ()


ENDLESS = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
from holdfast import SqlWorkflowStorage, Workflow
from holdfast.errors import UnstorableValue

class Keeping(Workflow):
    def run(self, value):
        self.session_state["beside"] = 1
        self.session_state["value"] = value

{control}
def times(value, width, depth, make=list):
    for _ in range(depth):
        value = make([value] * width)
    return value

storage = SqlWorkflowStorage(db_file="endless.db")
Keeping(session_id="s", storage=storage).run("earlier")
try:
    Keeping(session_id="s", storage=storage).run({value})
except UnstorableValue as error:
    reasons = [reason for path, reason in error.problems if path.startswith("session_state['value']")]
    assert len(reasons) == len(error.problems)
    assert len(str(error)) < 9000
    print(reasons[0])
assert Keeping(session_id="s", storage=storage).session_state == {{"beside": 1, "value": "earlier"}}
"""


def chained(step: str) -> str:
    """An expression for a value to which a step was applied 90 times."""
    return f"__import__('functools').reduce(lambda value, _: {step}, range(90), 'x')"


@pytest.mark.skipif(sys.platform == "win32", reason="limits the memory of a process")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("times('x', 10, 90)", "larger than"),
        ("times('x', 10, 90, tuple)", "larger than"),
        ("times((1,), 2, 99)", "larger than"),
        (chained("{'a': value, 'b': value, 'c': [value]}"), "larger than"),
        (chained("frozenset({value, (value,)})"), "larger than"),
        ("[set(), " + chained("[value] * 9") + "]", "larger than"),
        ("[[0] * 1000] * 40_000", "larger than"),
        ("['x' * 10**6] * 10**6", "larger than"),
        ("[('x' * 10**6,)] * 10**6", "larger than"),
        ("[b'x' * 10**6] * 10**6", "larger than"),
        ("[{'k' * 1000: 1}] * 10**6", "larger than"),
        ("[{'k' * 1000: (1,)}] * 10**6", "larger than"),
        ("times('x', 1, 100_000)", "nested deeper"),
        ("10**1_000_000", "digits"),
        ("{'k' * 10**7: 1}", "a key of 10,000,000 characters"),
    ],
    ids=lambda text: text[:40],
)
def test_a_value_that_is_small_to_make_and_endless_to_write_is_refused(
    value: str, said: str, run_python: Callable[[str], str]
) -> None:
    assert said in run_python(ENDLESS.format(value=value, control=""))


@pytest.mark.skipif(sys.platform == "win32", reason="limits the memory of a process")
def test_a_walk_without_that_look_is_noticed(run_python: Callable[[str], str]) -> None:
    control = "from holdfast.encoding import Encoding; Encoding._spend = Encoding._look = lambda *_: None"
    with pytest.raises(AssertionError, match=r"MemoryError|-11"):
        run_python(ENDLESS.format(value="[('x' * 10**6,)] * 10**5", control=control))


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    from holdfast.comparing import MAX_STATE_SIZE
    from holdfast.encoding import MAX_BYTES, MAX_DEPTH, MAX_KEY
    from holdfast.ids import MAX_ID_LENGTH
    from holdfast.scalars import MAX_DIGITS

    page = (Path(__file__).parent.parent / "docs" / "state.md").read_text(encoding="utf-8")
    table = page.partition("## Limits")[2].partition("##")[0]
    for limit in (MAX_BYTES, MAX_STATE_SIZE, MAX_DEPTH, MAX_KEY, MAX_DIGITS, MAX_ID_LENGTH):
        assert f"{limit:,}" in table, limit


def test_many_problems_make_no_long_message(storage: Storage) -> None:
    with pytest.raises(UnstorableValue) as caught:
        Keeping(session_id="s", storage=storage).run([object() for _ in range(5_000)])
    assert len(caught.value.problems) == 5_000
    assert len(str(caught.value)) < 5_000
    assert json.dumps(str(caught.value))
