"""An edit of a step's code changes exactly the part that was edited, and taking it back brings the part back."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import printed
from holdfast import Agent, Workflow, sources
from holdfast.agent_identity import agents_in
from holdfast.errors import StepKeyError
from holdfast.fingerprint import code_parts, is_foreign
from holdfast.imports import imports_of
from holdfast.methods import SelfUse, method_parts, self_use
from holdfast.witness import Witness

HELPERS = '''
"""Helpers of the steps."""
GREETING = "Hello"

def slug(text):
    return text.lower()

def unused(text):
    return text
'''
STEPS = '''
import functools
import json
import re

import helpers
from helpers import slug as make_slug

MODEL = "gpt-5-mini"
LIMITS = [1, 2]
limits = [1, 2]
WORD = re.compile("[a-z]+")
LOCK = object()
count = 3
OTHER = "not named by anything"
empty = ()


class Shape:
    """A shape."""

    sides: int = 4

    def area(self, side):
        """The area."""
        return side * side


@functools.lru_cache
def cached(text):
    return text.title()


def bare(text):
    return json.dumps(text)


def loud(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args) * 1
    return inner


@loud
def wrapped(text):
    return text + "!"


def outline(topic, length=count, *, style="plain"):
    """Make an outline."""
    # The first line.
    lines = [bare(part) for part in WORD.findall(topic)]
    def inner():
        return helpers.slug(helpers.GREETING + make_slug(topic))
    return MODEL, LIMITS, limits, LOCK, empty, lines, inner(), Shape().area(1), cached(topic), wrapped(topic), outline
'''
LABELS = {
    *("code of `outline`", "code of helper `bare`", "code of helper `cached`", "code of helper `make_slug`"),
    *("code of helper `helpers.slug`", "code of helper `Shape`", "code of helper `wrapped`"),
    *("constant `MODEL`", "constant `LIMITS`", "constant `WORD`", "constant `helpers.GREETING`", "constant `empty`"),
    *("default of `length`", "default of `style`"),
}
SCRIPT = """
import json, steps
from holdfast.fingerprint import code_parts
print(json.dumps({label: digest.hex() for label, digest in code_parts(steps.outline).items()}))
"""


class Project:
    """A folder with two modules that are edited, and read by a new process each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts = {"steps": STEPS, "helpers": HELPERS}
        self.write()

    def write(self) -> None:
        for name, text in self.texts.items():
            (self.folder / f"{name}.py").write_text(text, encoding="utf-8")

    def parts(self) -> dict[str, str]:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "random"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def changed_by(self, old: str, new: str, before: dict[str, str], module: str = "steps") -> set[str]:
        """The labels of the parts that differ, appear or go when the text is edited; the edit is taken back."""
        kept = self.texts[module]
        assert kept.count(old) == 1, old
        self.texts[module] = kept.replace(old, new)
        self.write()
        after = self.parts()
        self.texts[module] = kept
        self.write()
        return {label for label in before.keys() | after.keys() if before.get(label) != after.get(label)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def before(project: Project) -> dict[str, str]:
    return project.parts()


def test_the_parts_are_what_the_code_names(before: dict[str, str]) -> None:
    assert set(before) == LABELS


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("    # The first line.\n", "    # Another comment.\n\n\n", set()),
        ('    """Make an outline."""\n', '    """Other words,\n    and more."""\n', set()),
        (
            "lines = [bare(part) for part in WORD.findall(topic)]",
            "lines = [\n bare( part )\n  for part in WORD.findall(topic)]",
            set(),
        ),
        (
            "    def inner():\n        return helpers",
            '    def inner():\n        """Inner."""\n        return helpers',
            set(),
        ),
        ("    return json.dumps(text)", "    # As JSON.\n    return (json.dumps(text))", set()),
        ("\n\ndef bare(text):", "\n\nimport os\n\n\ndef bare(text):", set()),
        ('    """A shape."""\n', "", set()),
        ('OTHER = "not named', 'OTHER = "still not named', set()),
        ("limits = [1, 2]\nWORD", "limits = [1, 3]\nWORD", set()),
        ("return MODEL, LIMITS", "return LIMITS, MODEL", {"code of `outline`"}),
        ('MODEL = "gpt-5-mini"', 'MODEL = "gpt-5"', {"constant `MODEL`"}),
        ("LIMITS = [1, 2]", "LIMITS = [1, 2.0]", {"constant `LIMITS`"}),
        ('WORD = re.compile("[a-z]+")', 'WORD = re.compile("[a-z]*")', {"constant `WORD`"}),
        ("count = 3", "count = 4", {"default of `length`"}),
        ('style="plain"', 'style="bold"', {"code of `outline`", "default of `style`"}),
        ("return json.dumps(text)", "return json.dumps([text])", {"code of helper `bare`"}),
        ("return text.title()", "return text.upper()", {"code of helper `cached`"}),
        ("return side * side", "return side + side", {"code of helper `Shape`"}),
        ("sides: int = 4", "sides: int = 5", {"code of helper `Shape`"}),
        ('return text + "!"', 'return text + "?"', {"code of helper `wrapped`"}),
        ("return function(*args) * 1", "return function(*args) * 2", {"code of helper `wrapped`"}),
    ],
)
def test_an_edit_changes_exactly_the_part_that_was_edited(
    project: Project, before: dict[str, str], old: str, new: str, changed: set[str]
) -> None:
    assert project.changed_by(old, new, before) == changed


def test_an_edit_of_another_module_of_the_user_changes_what_is_named_there(
    project: Project, before: dict[str, str]
) -> None:
    slugs = {"code of helper `helpers.slug`", "code of helper `make_slug`"}
    assert project.changed_by("text.lower()", "text.upper()", before, "helpers") == slugs
    assert project.changed_by('"Hello"', '"Hi"', before, "helpers") == {"constant `helpers.GREETING`"}
    assert project.changed_by("unused(text):\n    return", "unused(text):\n    yield", before, "helpers") == set()


def test_an_edit_that_is_taken_back_brings_every_part_back(project: Project, before: dict[str, str]) -> None:
    assert project.changed_by("return MODEL", "return 1, MODEL", before)
    assert project.parts() == before


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes a module of text, or the same module of other text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(text: str, name: str = "made") -> Any:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    yield make
    sys.modules.pop("made", None)


def test_a_file_that_was_edited_after_it_was_imported_says_nothing_about_the_code_that_runs(
    module: Callable[..., Any],
) -> None:
    old = module("def step(x):\n    return x + 1\n")
    Path(old.__file__).write_text("def step(x):\n    return x + 2\n", encoding="utf-8")
    stale = code_parts(old.step)
    new = module("def step(x):\n    return x + 2\n")
    assert stale != code_parts(new.step)
    Path(new.__file__).write_text("def step(x:\n", encoding="utf-8")
    broken = module("def step(x):\n    return x + 2\n\n# more\n")
    assert code_parts(broken.step) == code_parts(new.step)


def test_a_file_that_does_not_compile_any_more_leaves_the_bytecode(module: Callable[..., Any]) -> None:
    made = module("def step(x):\n    return x + 1\n")
    Path(made.__file__).write_text("def step(x:\n", encoding="utf-8")
    assert set(code_parts(made.step)) == {"code of `step`"}


def test_a_comment_above_that_was_added_since_changes_nothing(module: Callable[..., Any]) -> None:
    text = "def step(x):\n    return x + 1\n"
    expected = code_parts(module(text).step)
    made = module(text)
    Path(made.__file__).write_text(f"# more\n\n{text}", encoding="utf-8")
    assert code_parts(made.step) == expected


def test_what_is_assigned_in_the_process_is_seen_by_the_next_call(module: Callable[..., Any]) -> None:
    made = module("LIMIT = [1]\nname = 'x'\ndef help():\n    return 1\ndef step():\n    return LIMIT, help(), name\n")
    first = code_parts(made.step)
    made.LIMIT.append(2)
    second = code_parts(made.step)
    assert {label for label in first if first[label] != second[label]} == {"constant `LIMIT`"}
    made.LIMIT.pop()
    made.help = lambda: 2
    assert {label for label in first if first[label] != code_parts(made.step)[label]} == {"code of helper `help`"}
    made.name = object()
    assert "constant `name`" not in code_parts(made.step)


def test_asking_again_does_not_read_or_parse_again(module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = module("class Help:\n    def x(self):\n        return 1\ndef step():\n    return Help()\n")
    first = code_parts(made.step)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(linecache, "getlines", forbidden)
    monkeypatch.setattr(sources.ast, "unparse", forbidden)
    assert code_parts(made.step) == first


def test_what_is_known_of_a_code_object_goes_with_it(module: Callable[..., Any]) -> None:
    made = module("def step():\n    return 1\n")
    code_parts(made.step)
    code = made.step.__code__
    place = id(code)
    assert place in sources.code_digest._known
    del made.step, code
    made.__dict__.clear()
    assert place not in sources.code_digest._known


def from_text(text: str, /, **scope: Any) -> Any:
    """A function without source."""
    space: dict[str, Any] = {"__name__": "made_up", **scope}
    exec(textwrap.dedent(text), space)
    return space["step"]


def test_code_without_source_counts_by_its_bytecode_constants_and_names() -> None:
    texts = [
        *("def step(x): return x + 1", "def step(x): return x + 2", "def step(x): return x - 1"),
        *("def step(x): return x.a", "def step(x): return x.b", "def step(x): return [y + 1 for y in x]"),
        *("def step(x): return [y + 2 for y in x]", "def step(x): yield x", "async def step(x): return x"),
        *("def step(x): return 1", "def step(x): return True", "def step(x): return 1.0", "def step(*x): return 1"),
    ]
    found = [code_parts(from_text(text))["code of `step`"] for text in texts]
    assert len(set(found)) == len(texts)
    assert found == [code_parts(from_text(f"# a comment\n\n{text}"))["code of `step`"] for text in texts]
    names = code_parts(from_text("def step(): return LIMIT, slug(1)", LIMIT=1, slug=from_text("def step(x): return x")))
    assert set(names) == {"code of `step`", "constant `LIMIT`", "code of helper `slug`"}


def test_a_program_given_on_the_command_line_has_the_same_parts_with_every_hash_seed() -> None:
    code = (
        "from holdfast.fingerprint import code_parts\n"
        "def step(x): return x in {'a', 'b', 'c', 'd'}, [y for y in x]\n"
        "print(sorted(code_parts(step).items()))"
    )
    found = {printed("-c", code, seed=seed) for seed in ("0", "1", "2")}
    assert len(found) == 1


def test_a_lambda_counts_by_its_own_expression(module: Callable[..., Any]) -> None:
    made = module("def other(): pass\nstep = lambda x: x + 1\na, b = lambda x: x + 1, lambda x: x + 2\n")
    step, a, b = (code_parts(found) for found in (made.step, made.a, made.b))
    again = module("# moved\n\n\nstep = lambda x: (x +\n    1)  # and more\n")
    assert step == code_parts(again.step)
    assert a != b
    assert a != step, "one of two lambdas in a line counts by its bytecode"


def test_decorators_of_a_step_do_not_count(module: Callable[..., Any]) -> None:
    one = module("def keep(f):\n    return f\n@keep\ndef step(x):\n    return x\n")
    other = module("def keep(f):\n    return f\n@keep\n@keep\ndef step(x):\n    return x\n")
    assert code_parts(one.step) == code_parts(other.step)


def closing(value: Any) -> Callable[[], Any]:
    def step() -> Any:
        return value

    return step


def test_variables_of_the_closure_count_by_their_values() -> None:
    assert set(code_parts(closing(1))) == {"code of `step`", "variable `value`"}
    values = [1, 2, True, "1", [1], {"a": 1}, len, json.dumps, json.loads, int, closing(1), closing(2)]
    values += [lambda: 1, lambda: 2, functools.partial(pow, 2), functools.partial(pow, 3), "x".join, "y".join]
    assert len({code_parts(closing(value))["variable `value`"] for value in values}) == len(values)
    assert code_parts(closing([1])) == code_parts(closing([1]))


def test_what_the_closure_holds_and_nobody_can_identify_is_an_error() -> None:
    with pytest.raises(StepKeyError, match="variable `value` of step 'write' is of type lock, which has no identity"):
        code_parts(closing(threading.Lock()), step="write")
    with pytest.raises(StepKeyError, match=r"(?s)variable `value`\['x'\] of step 'step' .*\nPass it to the step as an"):
        code_parts(closing({"x": object()}))
    with pytest.raises(StepKeyError, match="variable `value`"):
        code_parts(closing(closing(object())))
    with pytest.raises(StepKeyError, match="variable `self`"):
        code_parts(threading.Lock().acquire)


class Notes(Workflow):
    topic = "tides"

    def run(self) -> Any:
        def step() -> Any:
            return self.topic

        return step

    def write(self, text: str) -> str:
        return text


def test_the_workflow_itself_is_no_variable() -> None:
    notes = Notes()
    step = Notes.run.__wrapped__(notes) if hasattr(Notes.run, "__wrapped__") else closing(notes)
    assert set(code_parts(step)) == {"code of `step`"}
    assert set(code_parts(closing(notes))) == {"code of `step`"}
    assert code_parts(notes.write) == code_parts(Notes.write)
    assert set(code_parts(closing(notes.write))) == {"code of `step`", "variable `value`"}


def test_a_variable_that_has_no_value_yet_and_a_module_are_no_variables() -> None:
    def outer() -> Any:
        def step() -> Any:
            return late, json.dumps, types

        if not closing:
            late = 1
        return step

    def with_module() -> Any:
        import sys as system

        def step() -> Any:
            return system.path

        return step

    assert set(code_parts(outer())) == {"code of `step`"}
    assert set(code_parts(with_module())) == {"code of `step`"}


def test_a_function_that_closes_over_itself_ends() -> None:
    def outer(limit: int) -> Any:
        def step(n: int) -> int:
            return step(n - 1) if n > limit else 0

        return step

    assert code_parts(outer(1)) != code_parts(outer(2))
    assert set(code_parts(outer(1))) == {"code of `step`", "variable `step`", "variable `limit`"}


class Adder:
    def __init__(self, key: int) -> None:
        self.key = key

    def __cache_key__(self) -> int:
        return self.key

    def __call__(self, x: int) -> int:
        return x + self.key

    def add(self, x: int) -> int:
        return x + self.key

    @classmethod
    def made(cls, x: int) -> int:
        return x


def test_callables_of_every_kind_have_parts() -> None:
    callables: list[Callable[..., Any]] = [
        *(Adder(1), Adder(2), Adder(1).add, Adder(2).add, Adder.made, Adder, len, json.dumps, "a".join, "b".join),
        *(functools.partial(Adder(1).add, 1), functools.partial(Adder(1).add, 2), functools.lru_cache(closing(1))),
        *(contextlib.contextmanager(closing(1)), contextlib.contextmanager(closing(2)), dict, int),
    ]
    found = [code_parts(value) for value in callables]
    assert all(found)
    assert len({tuple(sorted(parts.items())) for parts in found}) == len(callables)
    assert found == [code_parts(value) for value in callables]


def test_a_function_of_a_package_counts_by_its_name_alone() -> None:
    assert set(code_parts(json.dumps)) == {"code of `dumps`"}
    assert code_parts(json.dumps) != code_parts(json.dump)


def test_uses_brings_helpers_of_helpers_with_what_they_name(module: Callable[..., Any]) -> None:
    made = module(
        """
        DEEP = 1
        def deeper():
            return DEEP
        def deep():
            return deeper()
        def helper():
            return deep()
        def step():
            return helper()
        """
    )
    assert set(code_parts(made.step)) == {"code of `step`", "code of helper `helper`"}
    used = code_parts(made.step, [made.deep, int])
    assert used.keys() - code_parts(made.step).keys() == {
        "code of helper `deep`",
        "code of helper `deeper`",
        "code of helper `int`",
    }
    made.deeper = lambda: 2
    after = code_parts(made.step, [made.deep, int])
    assert {label for label in used if used[label] != after[label]} == {"code of helper `deeper`"}


def test_what_is_special_is_given_the_parts_that_the_caller_says() -> None:
    def special(name: str, value: Any) -> dict[str, bytes] | None:
        return {f"agent `{name}`": b"1"} if isinstance(value, Agent) else None

    step = from_text("def step(): return writer, other", writer=Agent("offline"), other=1)
    assert set(code_parts(step, special=special)) == {"code of `step`", "agent `writer`", "constant `other`"}
    assert set(code_parts(closing(Agent("offline")), special=special)) == {"code of `step`", "agent `value`"}


def test_helpers_that_are_bound_to_something_count_with_it() -> None:
    helpers = [
        *(Adder(1).add, Adder(2).add, functools.partial(pow, 2), functools.partial(pow, 3)),
        *(functools.partial(closing(1), x=1), functools.partial(closing(1), x=2), functools.partial(closing(2), x=2)),
        *(functools.lru_cache(closing(1)), functools.lru_cache(closing(2))),
    ]
    found = [code_parts(from_text("def step(): return helper()", helper=helper)) for helper in helpers]
    assert all(set(parts) == {"code of `step`", "code of helper `helper`"} for parts in found)
    assert len({parts["code of helper `helper`"] for parts in found}) == len(helpers)
    agent = Agent("offline", name="writer")
    found_special = code_parts(
        from_text("def step(): return ask('x')", ask=agent.run),
        special=lambda name, value: {f"agent behind `{name}`": b"1"} if value is agent else None,
    )
    assert set(found_special) == {"code of `step`", "agent behind `ask`"}


def test_what_constants_count() -> None:
    from dataclasses import dataclass

    from pydantic import BaseModel, ConfigDict

    @dataclass(frozen=True)
    class Frozen:
        x: int = 1

    @dataclass
    class Mutable:
        x: int = 1

    class Fixed(BaseModel):
        model_config = ConfigDict(frozen=True)
        x: int = 1

    scope = {
        "number": 1,
        "text": "x",
        "nested": (1, (2,)),
        "frozen": Frozen(),
        "fixed": Fixed(),
        "SET": {1},
        "MUTABLE": Mutable(),
        "mutable": Mutable(),
        "a_list": [],
        "mixed": ([],),
        "CLIENT": object(),
    }
    step = from_text(f"def step(): return {', '.join(scope)}, __name__, missing, len", **scope)
    counted = ("number", "text", "nested", "frozen", "fixed", "SET", "MUTABLE")
    assert set(code_parts(step)) == {"code of `step`", *(f"constant `{name}`" for name in counted)}


MIXED = """
    import dataclasses
    import types
    from holdfast import Agent
    def clean(text):
        return text
    def trim(text):
        return text[:1]
    @dataclasses.dataclass
    class Config:
        limit: int
        clean: object
    def step(text):
        return CONFIG, text
    writer = Agent("offline", instructions="Write.")
    CONFIG = """


@pytest.mark.parametrize(
    ("written", "edits"),
    [
        ('{"limit": 3, "clean": clean}', ["3", "clean}", '"limit"']),
        ('{"limit": 3, 1: clean, (1, 2): trim}', ["3", "clean,", "trim", "1, 2"]),
        ('{"a": [clean, {"b": (3, trim)}]}', ["clean", "3", "trim"]),
        ("{clean, trim, 3, frozenset({5, len})}", ["clean", "trim", "3", "5"]),
        ("{clean: 3, trim: 4}", ["clean", "3", "4"]),
        ("Config(3, clean)", ["3", "clean"]),
        ('types.MappingProxyType({"limit": 3, "clean": [clean]})', ["3", "[clean"]),
        ('[writer, 3, {"a": {writer}}]', ["3", "Write."]),
    ],
)
def test_a_constant_that_holds_code_counts_by_its_code_and_all_else_by_its_value(
    module: Callable[..., Any], written: str, edits: list[str]
) -> None:
    def told(text: str) -> dict[str, bytes]:
        return code_parts(module(text).step, special=agents_in("step"))

    text = MIXED + written
    parts = told(text)
    assert told(text) == parts
    for old in edits:
        start, _, end = text.rpartition(old)
        new = old.replace("3", "7").replace("4", "8").replace("clean", "print").replace("trim", "print")
        new = new.replace("1, 2", "1, 3").replace("limit", "size").replace("5", "6").replace("Write", "Draw")
        assert told(start + new + end) != parts, old
    edited = [text.replace(f"return text{end}\n", f"return text{end} + 1\n") for end in ("", "[:1]")]
    for name, other in zip(("clean", "trim"), edited, strict=True):
        assert (told(other) != parts) == (name in written)


def test_a_constant_that_holds_code_is_seen_to_change_and_its_order_is_none() -> None:
    def helper(text: str) -> str:
        return text

    def other(text: str) -> str:
        return text * 2

    config: dict[Any, Any] = {"limit": 3, "of": {helper, 1}, helper: 2, "lock": threading.Lock()}
    step = from_text("def step(): return CONFIG", CONFIG=config)
    witness = Witness()
    first = code_parts(step, witness=witness)
    assert witness.holds()
    again = dict(reversed(config.items()))
    assert code_parts(from_text("def step(): return CONFIG", CONFIG=again)) == first
    for change in (
        lambda: config.update(limit=4),
        lambda: config["of"].add(other),
        lambda: config.update({other: 2}),
        lambda: config.update({helper: 5}),
    ):
        change()
        assert not witness.holds()
        witness = Witness()
        assert first != (first := code_parts(step, witness=witness))
        assert witness.holds()
    holds_itself: list[Any] = [print]
    holds_itself.append(holds_itself)
    assert code_parts(from_text("def step(): return LOOP", LOOP=holds_itself)).keys() == {"code of `step`"}


def test_a_constant_that_holds_code_is_the_same_with_every_hash_seed(tmp_path: Path) -> None:
    text = textwrap.dedent(MIXED) + '{clean: "a", trim: {"b", "c", clean}, "d": {"e", writer}}\n'
    text += "from holdfast.agent_identity import agents_in\nfrom holdfast.fingerprint import code_parts\n"
    text += 'parts = code_parts(step, special=agents_in("x"))\nprint({k: parts[k].hex() for k in sorted(parts)})'
    (tmp_path / "mixed.py").write_text(text)
    found = {printed("mixed.py", seed=seed, cwd=tmp_path) for seed in ("1", "2", "3")}
    assert len(found) == 1


def test_a_class_without_source_counts_by_its_methods_and_values() -> None:
    texts = [
        *("x = 1", "x = 2", "x: int = 1", "x: float = 1", "y = 1", "def f(self): return 1", "def f(self): return 2"),
        *("f = property(lambda self: 1)", "f = property(lambda self: 2)", "f = staticmethod(lambda: 1)"),
    ]

    def parts(body: str) -> bytes:
        return code_parts(from_text(f"class Shape:\n    {body}\ndef step(): return Shape"))["code of helper `Shape`"]

    assert len({parts(text) for text in texts}) == len(texts)
    assert [parts(text) for text in texts] == [parts(text) for text in texts]


def test_enums_and_models_of_the_user_count_as_code(module: Callable[..., Any]) -> None:
    text = """
        import enum
        from pydantic import BaseModel
        class Kind(enum.Enum):
            A = 1
        class Outline(BaseModel):
            title: str
            size: int = 3
        def step():
            return Kind, Outline
        """
    first = code_parts(module(text).step)
    assert set(first) == {"code of `step`", "code of helper `Kind`", "code of helper `Outline`"}
    for old, new, label in (("A = 1", "A = 2", "Kind"), ("size: int = 3", "size: int = 4", "Outline")):
        after = code_parts(module(text.replace(old, new)).step)
        assert {name for name in first if first[name] != after[name]} == {f"code of helper `{label}`"}


INHERITING = """
    import enum
    class Deep:
        LIMIT = 3
    class Base(Deep):
        def cut(self, text):
            return text[:5]
    class Conf(Base):
        pass
    class Own(Base):
        LIMITS = [7]
        def named(self, text):
            return text[:Conf.LIMIT]
        def around(self, text):
            return __class__.LIMITS, __class__.cut, __class__.LIMIT
        def handed(self):
            return print(__class__)
        def above(self):
            return super().cut("x")
        def other(self):
            return 9
    """


@pytest.mark.parametrize(
    ("method", "edits", "others"),
    [
        ("named", ["LIMIT = 3", "[:5]"], ["[7]", "9"]),
        ("around", ["LIMIT = 3", "[:5]", "[7]"], ["9"]),
        ("handed", ["LIMIT = 3", "[:5]", "[7]", "9"], []),
        ("above", ["LIMIT = 3", "[:5]"], ["[7]", "9"]),
    ],
)
def test_what_a_class_inherits_from_classes_of_the_user_counts(
    module: Callable[..., Any], method: str, edits: list[str], others: list[str]
) -> None:
    def told(text: str) -> dict[str, bytes]:
        return code_parts(getattr(module(text).Own, method))

    parts = told(INHERITING)
    assert told(INHERITING) == parts
    for old in (*edits, *others):
        edited = INHERITING.replace(old, old.translate({ord(digit): "8" for digit in "3579"}))
        assert (told(edited) != parts) == (old in edits), old


def test_what_is_assigned_to_a_class_or_to_one_that_it_inherits_from_is_seen(module: Callable[..., Any]) -> None:
    made = module(INHERITING)
    for method in (made.Own.named, made.Own.around, made.Own.handed):
        witness = Witness()
        before = code_parts(method, witness=witness)
        assert witness.holds()
        made.Deep.LIMIT += 1
        assert not witness.holds()
        assert code_parts(method) != before


def test_what_is_not_the_users_own_is_foreign() -> None:
    assert is_foreign("pydantic", importlib.import_module("pydantic").__file__)
    assert is_foreign("json", json.__file__)
    assert is_foreign("made", "/usr/lib/python3/dist-packages/made.py")
    assert is_foreign("zipimport", "<frozen zipimport>")
    assert not is_foreign("test_fingerprint", __file__)
    assert not is_foreign("made_up", "<string>")
    assert not is_foreign("__main__", None)
    assert is_foreign("dataclasses", "<string>")
    assert is_foreign("json.decoder", "/usr/lib/python311.zip/json/decoder.py")


def test_a_module_of_the_user_may_be_called_as_one_of_the_standard_library_is(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("LIMIT = 3\ndef cut(text):\n    return text\n")
    (tmp_path / "show.py").write_text(
        "from holdfast.fingerprint import code_parts\ndef step():\n    import test\n    from code import cut\n"
        "def early():\n    return code.cut(code.LIMIT)\nlate = code_parts(step)\nimport code\n"
        "assert code_parts(step) == late\nprint(sorted(late), sorted(code_parts(early)))"
    )
    command = [sys.executable, "show.py"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    late = ["code of `step`", "code of module `code`"]
    assert shown == f"{sorted(late)} {['code of `early`', 'code of helper `code.cut`', 'constant `code.LIMIT`']}\n"


class Writer:
    tone = "plain"

    def __init__(self) -> None:
        self.model = "m"

    def plain(self, topic: str) -> Any:
        return self.writer.run(self.title(topic)), [self.limit for _ in topic], self.shape

    def title(self, topic: str) -> str:
        return self.helper(topic) + self.tone

    def helper(self, topic: str) -> str:
        return SUFFIX + topic + self.session_state["x"]  # type: ignore[attr-defined]

    @property
    def shape(self) -> Any:
        return self.deep

    @functools.cached_property
    def limit(self) -> int:
        return 1

    @staticmethod
    def fixed(text: str) -> str:
        return text.upper()

    def uses_static(self) -> str:
        return self.fixed("x")

    def stores(me) -> None:
        me.count = 1
        me.total += 1
        del me.old

    def passes(self) -> Any:
        return str(self)

    def assigns(self) -> Any:
        other = self
        return other.x

    def closes(self) -> Any:
        def inner() -> Any:
            return self.inner

        return inner, lambda: self.other, lambda self: self.not_ours

    def default(self) -> Any:
        def inner(self: Any = self, *, other: Any = None) -> Any:
            return self.hidden

        return inner

    def calls_super(self) -> Any:
        return super().__init__()

    def decorated(self) -> Any:
        @functools.wraps(self.wrap)
        def inner(self: Any) -> Any:
            return self.hidden

        return inner

    def nothing(self) -> None:
        pass

    def rest(*args: Any) -> Any:
        return args[0]

    def looks_around(self) -> Any:
        return locals()["self"]

    def looks_at_variables(self) -> Any:
        return vars()

    def looks_at_variables_of_another(self, other: Any) -> Any:
        return vars(other)

    def evaluates(self) -> Any:
        return eval("self.hidden")

    def names_eval(self, eval: Any) -> Any:  # noqa: A002
        return eval(self.writer)

    def loop(self) -> Any:
        return self.loop_back()

    def loop_back(self) -> Any:
        return self.loop()

    writer: Any
    deep: Any
    wrap: Any


SUFFIX = "!"


@pytest.mark.parametrize(
    ("method", "use"),
    [
        (Writer.plain, SelfUse(frozenset({"writer", "title", "limit", "shape"}), frozenset({"title"}))),
        (Writer.stores, SelfUse(frozenset({"total"}), frozenset(), frozenset({"count", "total", "old"}))),
        (Writer.passes, SelfUse(escapes=True)),
        (Writer.assigns, SelfUse(escapes=True)),
        (Writer.closes, SelfUse(frozenset({"inner", "other"}))),
        (Writer.default, SelfUse(escapes=True)),
        (Writer.calls_super, SelfUse(escapes=True)),
        (Writer.decorated, SelfUse(frozenset({"wrap"}))),
        (Writer.nothing, SelfUse()),
        (Writer.looks_around, SelfUse(escapes=True)),
        (Writer.looks_at_variables, SelfUse(escapes=True)),
        (Writer.looks_at_variables_of_another, SelfUse()),
        (Writer.evaluates, SelfUse(escapes=True)),
        (Writer.names_eval, SelfUse(frozenset({"writer"}))),
        (Writer.rest, SelfUse(escapes=True)),
        (lambda: 1, SelfUse()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_how_a_method_uses_its_object_is_read_off_its_text(method: types.FunctionType, use: SelfUse) -> None:
    assert self_use(method) == use


def test_a_method_without_source_uses_its_object_in_a_way_that_nobody_can_tell() -> None:
    assert self_use(from_text("def step(self): return self.x")) == SelfUse(escapes=True)
    assert self_use(from_text("def step(self): return lambda: self")) == SelfUse(escapes=True)
    assert self_use(from_text("def step(self, x): return x, lambda: x")) == SelfUse()
    assert self_use(from_text("def step(self, x): return eval(x)")) == SelfUse(escapes=True)
    assert self_use(from_text("def step(self, x): return x.eval()")) == SelfUse()


def test_methods_that_a_method_calls_count_as_code_and_their_attributes_too() -> None:
    found = method_parts(Writer, Writer.plain)
    assert set(found.parts) == {
        "code of `plain`",
        *(f"code of `self.{name}`" for name in ("title", "helper", "shape", "limit")),
        "constant `SUFFIX`",
    }
    assert found.reads == {"writer", "tone", "session_state", "deep"}
    assert (found.writes, found.escapes) == (frozenset(), False)


def test_static_methods_are_followed_but_have_no_object() -> None:
    found = method_parts(Writer, Writer.uses_static)
    assert set(found.parts) == {"code of `uses_static`", "code of `self.fixed`"}
    assert (found.reads, found.escapes) == (frozenset(), False)


def test_methods_that_call_each_other_end() -> None:
    assert set(method_parts(Writer, Writer.loop).parts) >= {"code of `loop`", "code of `self.loop_back`"}


def test_methods_of_holdfast_are_told_by_name() -> None:
    def step(self: Any) -> Any:
        return self.write_to_storage(), self.session_state, self.write("x")

    found = method_parts(Notes, step)
    assert found.reads == {"write_to_storage", "session_state"}
    assert set(found.parts) == {"code of `step`", "code of `self.write`"}


def test_a_subclass_that_overrides_a_method_has_its_code() -> None:
    class Sub(Writer):
        def title(self, topic: str) -> str:
            return topic

    base, sub = method_parts(Writer, Writer.plain), method_parts(Sub, Sub.plain)
    assert base.parts["code of `self.title`"] != sub.parts["code of `self.title`"]
    assert sub.reads == {"writer", "deep"}


def test_constants_of_two_modules_that_are_named_alike_both_count(module: Callable[..., Any]) -> None:
    text = "SUFFIX = {}\nclass Base:\n    def base(self):\n        return SUFFIX\n"

    def parts(value: int) -> bytes:
        base = module(text.format(value)).Base

        class Both(base):  # type: ignore[misc, valid-type]
            def step(self) -> Any:
                return SUFFIX, self.base()

        return method_parts(Both, Both.step).parts["constant `SUFFIX`"]

    assert parts(1) != parts(2)
    assert parts(1) == parts(1)


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs), args[1:], len(args), args[1]

    return inner


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(self: Any, *args: Any) -> Any:
        return [function(self, *args) for _ in args]

    return inner


def telling(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(self: Any, *args: Any) -> Any:
        self.calls = 1
        return self.secret, function(self, *args)

    return inner


def indexing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return args[0].secret, function(*args)

    return inner


def logging(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        print(args)
        return function(*args)

    return inner


def swapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function("first", *args)

    return inner


def deciding(function: Callable[..., Any]) -> Callable[..., Any]:
    chosen = function

    @functools.wraps(function)
    def inner(self: Any) -> Any:
        nonlocal chosen
        chosen = print
        return chosen(self)

    return inner


def handing(function: Callable[..., Any]) -> Callable[..., Any]:
    send = print

    @functools.wraps(function)
    def inner(self: Any) -> Any:
        send(self)
        return function(self)

    return inner


class Around:
    """A decorator that is an object."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, wf: Any, *args: Any) -> Any:
        return self.function(wf, *args)


class Through(Around):
    def __call__(self, *args: Any) -> Any:
        return self.inner(*args)

    def inner(self, wf: Any, *args: Any) -> Any:
        return self.__wrapped__(wf, *args)  # type: ignore[attr-defined]


class Telling(Around):
    def __call__(self, wf: Any, *args: Any) -> Any:
        wf.calls = 1
        return wf.secret, self.function(wf, *args)


class Indexing(Around):
    def __call__(self, *args: Any) -> Any:
        return args[0].secret, self.function(*args)


class Handing(Around):
    send = print

    def __call__(self, wf: Any, *args: Any) -> Any:
        return self.send(wf), self.function(wf, *args)


class Renaming(Around):
    def __call__(self, wf: Any, *args: Any) -> Any:
        self = args[0]  # noqa: PLW0642
        return self.function(wf, *args)


class Replacing(Around):
    def __call__(self, wf: Any, *args: Any) -> Any:
        self.function = print
        return self.function(wf, *args)


class Without(Around):
    def __call__(*args: Any) -> Any:
        return args[0].function(*args[1:])


def step_of(self: Any, *args: Any) -> Any:
    return self.writer.run(args)


PLAIN = (frozenset({"writer"}), frozenset(), False)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (passing(step_of), PLAIN),
        (bare(step_of), PLAIN),
        (passing(bare(passing(step_of))), PLAIN),
        (functools.lru_cache(passing(step_of)), PLAIN),
        (contextlib.contextmanager(step_of), PLAIN),
        (telling(step_of), (frozenset({"writer", "secret"}), frozenset({"calls"}), False)),
        (passing(telling(passing(step_of))), (frozenset({"writer", "secret"}), frozenset({"calls"}), False)),
        (indexing(step_of), (frozenset({"writer", "secret"}), frozenset(), False)),
        (logging(step_of), (frozenset({"writer"}), frozenset(), True)),
        (swapping(step_of), (frozenset({"writer"}), frozenset(), True)),
        (deciding(step_of), (frozenset({"writer"}), frozenset(), True)),
        (handing(step_of), (frozenset({"writer"}), frozenset(), True)),
        (Around(step_of), PLAIN),
        (Through(Around(passing(step_of))), PLAIN),
        (Telling(step_of), (frozenset({"writer", "secret"}), frozenset({"calls"}), False)),
        (passing(Around(Indexing(step_of))), (frozenset({"writer", "secret"}), frozenset(), False)),
        (Handing(step_of), (frozenset({"writer"}), frozenset(), True)),
        (Renaming(step_of), (frozenset({"writer"}), frozenset(), True)),
        (Replacing(step_of), (frozenset({"writer"}), frozenset(), True)),
        (Without(step_of), (frozenset({"writer"}), frozenset(), True)),
    ],
)
def test_what_decorators_of_a_method_take_from_its_object_counts_as_well(
    method: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    cls = type("Decorated", (), {"step": method, "outer": lambda self: self.step()})
    for function in (method, cls.outer):  # type: ignore[attr-defined]
        found = method_parts(cls, function)
        assert (found.reads, found.writes, found.escapes) == expected


def test_a_decorator_that_is_an_object_counts_as_code_with_what_it_holds(module: Callable[..., Any]) -> None:
    text = """
        import functools
        SUFFIX = "!"
        class Styled:
            def __init__(self, function, tone="plain", lock=None):
                self.function, self.tone, self.calls, self.unused = function, tone, 0, object()
                functools.update_wrapper(self, function)
            def __call__(self, *args):
                self.calls += 1
                return self.function(*args) + self.end() + SUFFIX
            def end(self):
                return self.tone + ""
        def bare(self, text):
            return text
        styled = Styled(bare)
        def step(self, text):
            return styled(self, text)
        """
    made = module(text)
    styled, named = code_parts(made.styled), code_parts(made.step)
    labels = {"code of `bare`", "code of decorator `Styled`", "constant `SUFFIX`", "variable `tone`"}
    assert set(styled) == {*labels, "variable `function`"}
    made.styled.calls += 1
    assert code_parts(made.styled) == styled
    cls = type("Decorated", (), {"step": lambda self: self.styled("x"), "styled": made.styled})
    called = method_parts(cls, cls.step)  # type: ignore[attr-defined]
    for old, new in (("self.tone +", ""), ("(*args) +", "(*args) * 2 +"), ('tone="plain"', 'tone="x"')):
        edited = module(text.replace(old, new))
        assert code_parts(edited.styled) != styled
        assert code_parts(edited.step) != named
        cls.styled = edited.styled  # type: ignore[attr-defined]
        assert method_parts(cls, cls.step) != called  # type: ignore[attr-defined]
    held = made.styled
    held.tone = "other"
    assert code_parts(held) != styled
    held.tone = object()
    with pytest.raises(StepKeyError, match="variable `tone`"):
        code_parts(held)


def test_the_arguments_of_a_partial_method_count_as_its_code() -> None:
    def cls(*args: Any, **kwargs: Any) -> Any:
        return type("Partial", (), {"helper": functools.partialmethod(step_of, *args, **kwargs), "step": calls_helper})

    found = [method_parts(made, made.step) for made in (cls(1), cls(2), cls(2), cls(2, x=1))]
    assert [each.reads for each in found] == [{"writer"}] * 4
    told = [each.parts["code of `self.helper`"] for each in found]
    assert told[1] == told[2]
    assert len(set(told)) == 3
    used = [code_parts(from_text("def step(): return Helper", Helper=made)) for made in (cls(1), cls(2), cls(2))]
    assert used[0] != used[1] == used[2]
    for told in (object(), 1):
        foreign = type("Partial", (), {"helper": functools.partialmethod(textwrap.fill, told), "step": calls_helper})
        assert method_parts(foreign, foreign.step).reads == {"helper"}  # type: ignore[attr-defined]
    unknown = cls(object())
    assert method_parts(unknown, unknown.step).reads == {"helper", "writer"}


def test_two_partial_methods_of_one_function_both_count() -> None:
    def calls_both(self: Any) -> Any:
        return self.helper(), self.other()

    def told(*args: int) -> dict[str, bytes]:
        helper, other = (functools.partialmethod(step_of, arg) for arg in args)
        cls = type("Partial", (), {"helper": helper, "other": other, "step": calls_both})
        return method_parts(cls, cls.step).parts  # type: ignore[attr-defined]

    assert told(1, 2) == told(1, 2)
    assert len({tuple(sorted(told(*args).items())) for args in ((1, 2), (1, 3), (2, 2))}) == 3


def calls_helper(self: Any) -> Any:
    return self.helper()


LATE = """
import time
LIMIT = 3

def own():
    return 1

def step():
    import json, tools
    from pack import more
    from pack.inner import deep as deeper
    from tools import helper
    from late import own
    return helper(), more.x(), deeper(), json, tools, own()
"""
TELL = """
import json, sys
sys.path.insert(0, ".")
import late
from holdfast.fingerprint import code_parts
def told():
    return {label: digest.hex() for label, digest in code_parts(late.step).items()}
before = told()
loaded = sorted({"tools", "pack", "pack.more", "pack.inner"} & set(sys.modules))
late.step()
print(json.dumps([before, told(), loaded]))
"""


def test_what_a_function_imports_when_it_is_called_counts_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    texts = {
        "late.py": LATE,
        "tools.py": "LIMIT = 1\ndef helper():\n    return LIMIT\n",
        "pack/__init__.py": "",
        "pack/more.py": "def x():\n    return 1\n",
        "pack/inner.py": "def deep():\n    return 1\n",
    }

    def told(**edits: str) -> dict[str, str]:
        for name, text in texts.items():
            (tmp_path / name).write_text(edits.get(Path(name).stem, text), encoding="utf-8")
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", TELL], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        before, after, loaded = json.loads(done.stdout)
        assert loaded == [], "nothing is loaded to find out"
        assert before == after
        found: dict[str, str] = before
        return found

    first = told()
    modules = {f"code of module `{name}`" for name in ("tools", "pack", "pack.more", "pack.inner")}
    assert set(first) == {"code of `step`", "code of helper `own`", *modules}
    edits = [
        ({"tools": "LIMIT = 2\ndef helper():\n    return LIMIT\n"}, {"tools"}),
        ({"tools": '"""Tools."""\nLIMIT = 1  # a comment\ndef helper():\n    return LIMIT\n'}, set()),
        ({"more": "def x():\n    return 2\n"}, {"pack.more"}),
        ({"inner": "def deep():\n    return 2\n"}, {"pack.inner"}),
        ({}, set()),
    ]
    for edit, changed in edits:
        after = told(**edit)
        assert {label for label in first if first[label] != after[label]} == {f"code of module `{n}`" for n in changed}


def test_a_module_whose_file_was_edited_since_it_was_loaded_counts_by_what_it_holds(
    module: Callable[..., Any],
) -> None:
    late = module("def step():\n    import made\n    return made.x()\n", "late")
    text = "LIMIT = {}\nclass Shape:\n    def area(self):\n        return 1\ndef x():\n    return LIMIT\n"
    made = module(text.format(1))
    file = Path(made.__file__)
    os.utime(file, (1, 1))

    def told() -> bytes:
        return code_parts(late.step)["code of module `made`"]

    first = told()
    file.write_text(text.format(2), encoding="utf-8")
    edited = told()
    made.LIMIT = 2
    assert edited != first
    sys.modules.pop("made")
    unloaded = told()
    assert edited not in (first, unloaded)
    importlib.invalidate_caches()
    importlib.import_module("made")
    assert told() == unloaded
    file.write_text("def x(:\n", encoding="utf-8")
    broken = told()
    assert broken not in (first, unloaded, edited)
    file.unlink()
    assert told() == broken
    sys.modules.pop("late")


def test_what_is_imported_and_is_not_there_or_not_the_users_own_does_not_count() -> None:
    def step() -> Any:
        import json.decoder
        import sys as system

        import pydantic.main
        from missing.inner import thing  # type: ignore[import-not-found]

        return json, pydantic, system, thing

    assert set(code_parts(step)) == {"code of `step`"}


def test_relative_imports_are_those_of_the_package() -> None:
    text = """
        def step():
            from . import more
            def inner():
                from .inner import deep
            return inner
        """
    assert list(imports_of(from_text(text, __package__="pack"))) == [("pack", ("more",)), ("pack.inner", ("deep",))]
    assert list(imports_of(from_text(text))) == []
