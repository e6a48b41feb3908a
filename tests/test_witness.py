"""What was found out about code and agents is found out again as soon as anything of it has changed.

Each test asks twice for what has not changed, so that the second answer comes from memory, changes one thing, and asks
again. They fail when `Witness.holds` always says yes; that the memory is used at all is tested as well.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from holdfast import Agent, Workflow, step_keys
from holdfast.agent_identity import agent_parts
from holdfast.caching import Cache
from holdfast.declared_steps import Step
from holdfast.fingerprint import code_parts
from holdfast.steps import step
from holdfast.storage.memory import MemoryStorage
from holdfast.witness import ABSENT, Witness, is_fixed

SOURCE = """
import functools
import helping
from holdfast import Workflow, step

LIMIT = 3
TOPICS = ["a"]
ANSWERS = {"a": 1}


class Settings:
    size = 1

    def grow(self):
        return self.size


def slug(text, width=5):
    return text[:width]


def made(width):
    def cut(text):
        return text[:width]
    return cut


cut = made(2)
bound = functools.partial(slug, width=2)


def wrapping(function):
    @functools.wraps(function)
    def wrapped(*args):
        return function(*args)
    return wrapped


@wrapping
def wrapped(text):
    return text


class Base(Workflow):
    def helper(self, text):
        return text

    @property
    def shown(self):
        return 1


class Writing(Base):
    @step(cache="workflow")
    def write(self, topic, size=3, *, loud=False):
        helping.shout(topic)
        return [slug(topic), LIMIT, TOPICS, ANSWERS, Settings.size, cut(topic), bound(topic), wrapped(topic),
                self.helper(topic), self.shown, len(topic), helping.LOUD]

    def run(self, topic):
        return self.write(topic)
"""

HELPING = """
LOUD = True


def shout(text):
    return text.upper()
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module above, as a file of the user."""
    (tmp_path / "writing.py").write_text(SOURCE)
    (tmp_path / "helping.py").write_text(HELPING)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("writing")
    for name in ("writing", "helping"):
        del sys.modules[name]


def other(text: str, width: int = 5) -> str:
    return text[width:]


def other_method(self: Any, text: str, size: int = 1, *, loud: bool = False) -> str:
    return text * 2


def _set(*path: str, to: Any) -> Callable[[Any], None]:
    def change(code: Any) -> None:
        *holders, name = path
        setattr(functools.reduce(getattr, holders, code), name, to)

    return change


CHANGES: dict[str, Callable[[Any], None]] = {
    "a helper is replaced": _set("slug", to=other),
    "a helper gets other code": _set("slug", "__code__", to=other.__code__),
    "a helper gets another default": _set("slug", "__defaults__", to=(6,)),
    "a helper of another module is replaced": _set("helping", "shout", to=other),
    "a constant of another module is assigned": _set("helping", "LOUD", to=False),
    "a module is replaced": _set("helping", to=types.SimpleNamespace(shout=other, LOUD=1)),
    "a constant is assigned": _set("LIMIT", to=4),
    "a constant is assigned what equals it": _set("LIMIT", to=3.0),
    "a list is changed": lambda code: code.TOPICS.append("b"),
    "a list is assigned": _set("TOPICS", to=["b"]),
    "a dict is changed": lambda code: code.ANSWERS.update(a=True),
    "a variable around a helper is assigned": lambda code: setattr(code.cut.__closure__[0], "cell_contents", 3),
    "a partial function brings something else": lambda code: code.bound.keywords.update(width=3),
    "what is wrapped is replaced": lambda code: setattr(code.wrapped.__closure__[0], "cell_contents", other),
    "an attribute of a class is assigned": _set("Settings", "size", to=2),
    "an attribute of a class is assigned what equals it": _set("Settings", "size", to=True),
    "a method of a class is replaced": _set("Settings", "grow", to=other),
    "a class gets an attribute": _set("Settings", "other", to=2),
    "a class is replaced": _set("Settings", to=type("Settings", (), {"size": 2})),
    "a builtin is hidden": _set("len", to=other),
    "a method is replaced": _set("Base", "helper", to=other_method),
    "a method gets other code": lambda code: setattr(code.Base.helper, "__code__", other_method.__code__),
    "a method is overridden": _set("Writing", "helper", to=other_method),
    "a property is replaced": _set("Base", "shown", to=property(lambda self: 2)),
    "the step gets other code": lambda code: setattr(code.Writing.write.__wrapped__, "__code__", other_method.__code__),
    "the step gets another default": lambda code: setattr(code.Writing.write.__wrapped__, "__defaults__", (4,)),
    "a default by name is changed": lambda code: code.Writing.write.__wrapped__.__kwdefaults__.update(loud=True),
}


def _parts(workflow: Workflow) -> dict[str, bytes]:
    of: Step = type(workflow).write.__holdfast_step__  # type: ignore[attr-defined]
    return step_keys.parts_for_others(of, workflow, is_method=True)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_step_has_another_identity_as_soon_as(change: Callable[[Any], None], code: Any) -> None:
    workflow = code.Writing()
    before = _parts(workflow)
    assert _parts(workflow) == before
    change(code)
    after = _parts(workflow)
    assert after != before
    code.Writing.write.__holdfast_step__.known.clear()
    assert _parts(workflow) == after  # as if it had been found out for the first time


def test_what_has_not_changed_is_not_found_out_again(code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = code.Writing()
    before = _parts(workflow)
    monkeypatch.setattr(step_keys, "method_parts", None)
    assert _parts(workflow) == before
    assert _parts(code.Writing()) == before


def test_a_change_that_is_taken_back_hits_again(code: Any) -> None:
    workflow = code.Writing()
    before = _parts(workflow)
    code.LIMIT = 4
    assert _parts(workflow) != before
    code.LIMIT = 3
    assert _parts(workflow) == before


def test_a_step_computes_again_when_a_list_that_it_names_was_changed(code: Any) -> None:
    workflow = code.Writing(storage=MemoryStorage())
    assert [list(workflow.run("topic").content[2]) for _ in range(2)] == [["a"]] * 2
    code.TOPICS.append("b")
    assert workflow.run("topic").content[2] == ["a", "b"]


class Mixin:
    @step(cache="workflow")
    def ask(self, topic: str) -> str:
        return self.asked(topic)  # type: ignore[attr-defined,no-any-return]


class Loud(Mixin, Workflow):
    def asked(self, topic: str) -> str:
        return topic.upper()

    def run(self, topic: str) -> str:
        return self.ask(topic)


class Quiet(Mixin, Workflow):
    def asked(self, topic: str) -> str:
        return topic.lower()

    def run(self, topic: str) -> str:
        return self.ask(topic)


def test_two_classes_that_share_a_step_share_no_result() -> None:
    storage = MemoryStorage()
    loud, quiet = Loud(storage=storage, name="w"), Quiet(storage=storage, name="w")
    for _ in range(2):
        assert (loud.run("Topic").content, quiet.run("Topic").content) == ("TOPIC", "topic")


def test_a_step_knows_its_code_in_few_classes_at_once() -> None:
    of: Step = Mixin.ask.__holdfast_step__  # type: ignore[attr-defined]
    for number in range(step_keys.MOST_CLASSES * 2):
        assert type(f"W{number}", (Loud,), {})().run("a").content == "A"
    assert len(of.known) <= step_keys.MOST_CLASSES


def test_a_class_that_gets_another_base_has_another_identity() -> None:
    class Early:
        def asked(self, topic: str) -> str:
            return "early"

    class Late:
        def asked(self, topic: str) -> str:
            return "late"

    class W(Mixin, Early, Workflow):
        def run(self, topic: str) -> str:
            return self.ask(topic)

    workflow = W(storage=MemoryStorage())
    assert [workflow.run("a").content, workflow.run("a").content] == ["early"] * 2
    W.__bases__ = (Mixin, Late, Workflow)
    assert workflow.run("a").content == "late"


def test_two_functions_of_one_text_are_told_apart_by_what_they_close_over() -> None:
    class W(Workflow):
        def run(self, limit: int) -> Any:
            def cut(text: str) -> str:
                return text[:limit]

            return self.step("cut", step(cut, cache="workflow"), "abcdef")

    workflow = W(storage=MemoryStorage())
    assert [workflow.run(limit).content for limit in (1, 2, 1)] == ["a", "ab", "a"]


def test_a_variable_that_is_assigned_between_two_calls_counts() -> None:
    limit = 1

    @step(cache="workflow")
    def cut(text: str) -> str:
        return text[:limit]

    class W(Workflow):
        def run(self) -> list[str]:
            nonlocal limit
            found = [cut("abc"), cut("abc")]
            limit = 2
            return [*found, cut("abc")]

    assert W().run().content == ["a", "a", "ab"]


# Agents


class Shape(Enum):
    ROUND = 1


@dataclass
class Answer:
    text: str


def look_up(query: str) -> str:
    """Look it up."""
    return query


def search(query: str) -> list[str]:
    """Look it up."""
    return [query]


CHANGES_OF_AGENTS: dict[str, Callable[[Agent], Any]] = {
    "model": lambda agent: setattr(agent, "model", "openai:gpt-5"),
    "a function as its model": lambda agent: setattr(agent, "model", other),
    "address": lambda agent: setattr(agent, "base_url", "http://localhost:1"),
    "instructions": lambda agent: setattr(agent, "instructions", "Be long."),
    "list of instructions": lambda agent: setattr(agent, "instructions", ["Be", "brief."]),
    "settings": lambda agent: setattr(agent, "model_settings", {"temperature": 1}),
    "a setting": lambda agent: agent.model_settings.update(temperature=0.5),  # type: ignore[union-attr]
    "a setting that equals it": lambda agent: agent.model_settings.update(temperature=False),  # type: ignore[union-attr]
    "tools": lambda agent: setattr(agent, "tools", [search]),
    "one more tool": lambda agent: agent.tools.append(search),
    "no tools": lambda agent: agent.tools.clear(),
    "output type": lambda agent: setattr(agent, "output_type", Answer),
}


@pytest.mark.parametrize("change", CHANGES_OF_AGENTS.values(), ids=CHANGES_OF_AGENTS)
def test_an_agent_has_another_identity_when_it_gets_another(change: Callable[[Agent], Any]) -> None:
    agent = Agent("offline", instructions="Be brief.", tools=[look_up], model_settings={"temperature": 0})
    before = agent_parts(agent, "writer")
    assert agent_parts(agent, "writer") == before
    change(agent)
    after = agent_parts(agent, "writer")
    assert after != before
    agent._known = None
    assert agent_parts(agent, "writer") == after


def test_settings_that_were_empty_are_seen_when_they_are_filled() -> None:
    agent = Agent("offline", model_settings={})
    before = agent_parts(agent, "writer")
    agent.model_settings["temperature"] = 1  # type: ignore[index]
    assert agent_parts(agent, "writer") != before


def test_instructions_in_a_list_are_seen_when_they_change() -> None:
    agent = Agent("offline", instructions=["Be brief."])
    before = agent_parts(agent, "writer")
    agent.instructions.append("Be kind.")  # type: ignore[union-attr]
    assert agent_parts(agent, "writer") != before


@pytest.mark.parametrize("attribute", ["__doc__", "__code__", "__annotations__", "__name__"])
def test_a_tool_that_is_changed_itself_is_seen(attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent("offline", tools=[look_up])
    before = agent_parts(agent, "writer")
    changed = {"__doc__": "Find it.", "__code__": search.__code__, "__annotations__": {}, "__name__": "find"}
    monkeypatch.setattr(look_up, attribute, changed[attribute])
    assert agent_parts(agent, "writer") != before


def test_an_object_whose_method_is_a_tool_is_looked_at_each_time() -> None:
    class Shelf:
        def __init__(self) -> None:
            self.books = ["a"]

        def __cache_key__(self) -> list[str]:
            return self.books

        def look(self, query: str) -> list[str]:
            """Look there."""
            return self.books

    shelf = Shelf()
    agent = Agent("offline", tools=[shelf.look])
    before = agent_parts(agent, "writer")
    assert agent_parts(agent, "writer") == before
    shelf.books.append("b")
    assert agent_parts(agent, "writer") != before


def test_the_environment_is_seen_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "HOLDFAST_MODEL"))]:
        monkeypatch.delenv(name)
    chosen, named = Agent(), Agent("openai:gpt-5")
    before = [agent_parts(agent, "writer") for agent in (chosen, named)]
    monkeypatch.setenv("HOLDFAST_MODEL", "openai:gpt-5-mini")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1")
    after = [agent_parts(agent, "writer") for agent in (chosen, named)]
    assert all(old != new for old, new in zip(before, after, strict=True))
    monkeypatch.delenv("HOLDFAST_MODEL")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert [agent_parts(agent, "writer") for agent in (chosen, named)] == before


def test_copies_of_an_agent_do_not_speak_for_each_other() -> None:
    agent = Agent("offline", instructions="Be brief.")
    before = agent_parts(agent, "writer")
    twin = agent._copied()
    assert agent_parts(twin, "writer") == before
    twin.instructions = "Be long."
    assert agent_parts(twin, "writer") != before
    assert agent_parts(agent, "writer") == before
    assert "model of `editor`" in agent_parts(agent, "editor")


def test_an_agent_in_a_module_is_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("user_code")
    monkeypatch.setitem(sys.modules, "user_code", module)
    exec("def write(topic): return writer.run(topic)", vars(module))
    vars(module)["writer"] = writer = Agent("offline", instructions="Be brief.")
    witness = Witness()
    code_parts(module.write, special=step_keys.agents_in("write"), witness=witness)
    assert witness.holds()
    writer.instructions = "Be long."
    assert not witness.holds()


class Asking(Workflow):
    writer = Agent(str.upper)

    @step(cache=Cache("workflow"))
    def write(self, topic: str) -> str:
        return self.writer.run(topic).content  # type: ignore[no-any-return]

    def run(self, topic: str) -> str:
        return self.write(topic)


def test_an_agent_that_is_reassigned_between_two_runs_is_asked() -> None:
    workflow = Asking(storage=MemoryStorage())
    assert [workflow.run("Topic").content for _ in range(2)] == ["TOPIC"] * 2
    workflow.writer.model = str.lower
    assert [workflow.run("Topic").content for _ in range(2)] == ["topic"] * 2
    workflow.writer = Agent(str.title)
    assert workflow.run("Topic two").content == "Topic Two"


# The witness itself


def test_only_what_cannot_change_inside_is_fixed() -> None:
    assert all(map(is_fixed, [1, "a", None, (1, ("a",)), frozenset({1}), Shape.ROUND, b"", 1.5]))
    assert not any(map(is_fixed, [[], {}, (1, []), Answer("a"), bytearray(), object(), ((((((1,),),),),),)]))


def test_what_appears_and_what_goes_is_a_change() -> None:
    space: dict[str, Any] = {"a": 1}
    thing = types.SimpleNamespace(a=1)
    witness = Witness()
    assert (witness.item(space, "b"), witness.attribute(thing, "b")) == (ABSENT, ABSENT)
    assert witness.holds()
    space["b"] = None
    assert not witness.holds()
    del space["b"]
    assert witness.holds()
    thing.b = None
    assert not witness.holds()


def test_a_witness_that_was_left_open_never_holds() -> None:
    witness = Witness()
    witness.leave_open()
    assert not witness.holds()


def test_a_variable_without_a_value_leaves_it_open() -> None:
    def outer() -> Callable[[], Any]:
        def inner() -> Any:
            return later

        if inner is None:
            later = 1
        return inner

    witness = Witness()
    code_parts(outer(), witness=witness)
    assert not witness.holds()
