"""Large values, of which originals are kept: what runs do to them, at whatever moment, is saved and stays theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast import originals, plain
from holdfast.encoding import MAX_DEPTH
from holdfast.errors import UnstorableValue
from holdfast.heartbeat import heartbeat
from holdfast.records import Commit
from holdfast.session import Session
from holdfast.storage.memory import MemoryStorage
from holdfast.workflow import Workflow


class Late(MemoryStorage):
    """A storage in which something happens while a commit is being written."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def commit(self, commit: Commit, *, rebase: Any = None) -> int:
        version = super().commit(commit, rebase=rebase)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return version


class Doing(Workflow):
    def run(self, action: Callable[[Any], Any] = lambda state: None) -> Any:
        return action(self.session_state)


@pytest.fixture
def storage() -> Iterator[Late]:
    kept = Late()
    posts = [{"n": n, "text": "text " * 100, "tags": [n]} for n in range(50)]
    Doing(session_id="s", storage=kept).run(lambda state: state.update(posts=posts, other=0))
    yield kept
    kept.close()


def stored(storage: MemoryStorage) -> Any:
    """The posts as they are stored, decoded by a run of their own."""
    return Doing(session_id="s", storage=storage).session_state["posts"]


def test_what_is_done_to_kept_parts_reaches_no_other_run(storage: Late) -> None:
    kept: list[Any] = []
    for _ in range(3):
        Doing(session_id="s", storage=storage).run(lambda state: kept.append(state["posts"][7]["tags"]))
    for tags in kept:
        tags.append("of an earlier run")
    assert stored(storage)[7]["tags"] == [7]
    assert len({id(tags) for tags in kept}) == 3


def test_a_change_while_the_commit_is_written_is_saved_by_the_next_run_and_seen_by_nobody_before(storage: Late) -> None:
    workflow = Doing(session_id="s", storage=storage)

    def act(state: Any) -> None:
        state["posts"][0]["n"] = "at first"
        storage.meanwhile = lambda: state["posts"].append("late")

    workflow.run(act)
    assert stored(storage)[-1] != "late"
    assert workflow.session_state["posts"][-1] == "late"
    workflow.run()
    assert stored(storage)[-1] == "late"
    assert stored(storage)[0]["n"] == "at first"


def test_a_change_that_a_resolver_makes_is_saved_by_the_next_run(storage: Late) -> None:
    class Resolving(Doing):
        def on_conflict(self, _path: str, _base: Any, ours: Any, _theirs: Any) -> Any:
            self.session_state["posts"].append("of the resolver")
            return ours

    def act(state: Any) -> None:
        assert state["posts"]
        state["other"] = 1
        Doing(session_id="s", storage=storage).run(lambda theirs: theirs.update(other=2))

    workflow = Resolving(session_id="s", storage=storage)
    workflow.run(act)
    assert stored(storage)[-1] != "of the resolver"
    workflow.run()
    assert stored(storage)[-1] == "of the resolver"


def test_the_attributes_of_an_object_are_told_from_others_in_another_order(storage: Late) -> None:
    class Author:
        pass

    first, author = Author(), Author()
    first.a, first.b = 1, 2  # type: ignore[attr-defined]  # from now on all authors share these names in this order
    author.b, author.a = "Y" * 100, "X" * 100  # type: ignore[attr-defined]
    authors = [{"b": "X" * 100, "a": "Y" * 100} for _ in range(50)]
    Doing(session_id="s", storage=storage).run(lambda state: state.update(authors=authors))
    Doing(session_id="s", storage=storage).run(lambda state: state["authors"].__setitem__(7, vars(author)))
    found = Doing(session_id="s", storage=storage).session_state["authors"]
    assert found[7] == {"b": "Y" * 100, "a": "X" * 100}


@pytest.mark.parametrize("place", ["in the value", "in a member", "in a large member"])
def test_a_key_with_half_a_character_is_saved(storage: Late, place: str) -> None:
    key, value = "\ud800", {"text": "x" * 5_000, "inner": {}, "large": {str(n): "y" * 50 for n in range(100)}}
    Doing(session_id="s", storage=storage).run(lambda state: state.update(v=value))

    def act(state: Any) -> None:
        inside = {"in the value": state["v"], "in a member": state["v"]["inner"]}
        inside.get(place, state["v"]["large"])[key] = 1

    workflow = Doing(session_id="s", storage=storage)
    workflow.run(act)
    assert Doing(session_id="s", storage=storage).session_state["v"] == workflow.session_state["v"]


def test_a_key_beyond_the_limit_is_refused_and_the_rest_is_saved(storage: Late) -> None:
    Doing(session_id="s", storage=storage).run(lambda state: state.update(v={str(n): "y" * 90 for n in range(90)}))

    def act(state: Any) -> None:
        state["v"]["k" * 2_000] = 1
        state["other"] = "saved"

    with pytest.raises(UnstorableValue, match="key"):
        Doing(session_id="s", storage=storage).run(act)
    found = Doing(session_id="s", storage=storage).session_state
    assert found["other"] == "saved"
    assert len(found["v"]) == 90


def test_a_value_that_comes_to_hold_more_than_is_looked_at_is_compared_by_its_text(
    storage: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    Doing(session_id="s", storage=storage).run(lambda state: state.update(v=["text " * 1_000] * 3))
    assert len(Doing(session_id="s", storage=storage).session_state["v"]) == 3
    monkeypatch.setattr(plain.Values.__init__, "__defaults__", (MAX_DEPTH, 100))
    for number in range(10):
        Doing(session_id="s", storage=storage).run(lambda state, number=number: state["v"].append([number] * 20))
    assert Doing(session_id="s", storage=storage).session_state["v"][3:] == [[number] * 20 for number in range(10)]


def containers(value: Any) -> Iterator[int]:
    if type(value) in (list, dict):
        yield id(value)
    for member in value.values() if type(value) is dict else value if type(value) is list else ():
        yield from containers(member)


def test_a_copy_is_whole_and_its_own_while_another_thread_changes_what_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live: list[Any] = [{"n": n, "tags": [n], "by": {"name": "a"}} for n in range(4)]
    real = plain.require_names

    def meanwhile(keys: Any) -> None:
        live[-1]["more"] = [1]
        live[0].pop("tags", None)
        real(keys)

    monkeypatch.setattr(plain, "require_names", meanwhile)
    copies = originals._plain(live.copy(), ())
    assert copies == [{"n": n, "tags": [n], "by": {"name": "a"}} for n in range(4)]
    assert set(containers(copies)).isdisjoint(containers(live))


def test_an_interrupt_between_a_commit_and_what_is_noted_of_it_leaves_a_session_that_goes_on(
    storage: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = Doing(session_id="s", storage=storage)
    real = Session._adopt

    def interrupted(*_: Any) -> None:
        monkeypatch.setattr(Session, "_adopt", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "_adopt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workflow.run(lambda state: state["posts"].append("before the interrupt"))
    workflow.run(lambda state: state["posts"].append("after it"))
    assert stored(storage)[50:] == ["before the interrupt", "after it"]


def test_an_interrupt_as_a_run_ends_lets_go_of_the_object(storage: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = Doing(session_id="s", storage=storage)
    real = heartbeat().unwatch

    def interrupted(run: Any) -> None:
        monkeypatch.setattr(heartbeat(), "unwatch", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(heartbeat(), "unwatch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workflow.run(lambda state: state["posts"].append("before the interrupt"))
    workflow.run(lambda state: state["posts"].append("after it"))
    assert stored(storage)[50:] == ["before the interrupt", "after it"]
