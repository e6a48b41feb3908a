"""One value, one digest, in every process; what has no identity is refused with its path."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import math
import pathlib
import re
import sys
import time
import types
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass, replace
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, create_model
from pydantic_ai.messages import (
    ImageUrl,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage

from conftest import printed
from holdfast import canonical, pieces
from holdfast.canonical import combine, digest_or_none
from holdfast.errors import StepKeyError
from holdfast.response import RunResponse


def digest(value: Any) -> bytes:
    return canonical.digest(value, "argument topic", "write")


class M(BaseModel):
    a: int = 1
    b: dict[str, int] = {}


class M2(BaseModel):
    a: int = 1
    b: dict[str, int] = {}


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1
    seen: float = Field(0.0, exclude=True)


class Private(BaseModel):
    _told: int = PrivateAttr()

    def __init__(self, told: int = 1) -> None:
        super().__init__()
        self._told = told


class Names(RootModel[list[str]]):
    pass


@dataclass
class Point:
    x: int = 0
    y: int = 0
    label: str = field(default="", compare=False)


@dataclass
class Other:
    x: int = 0
    y: int = 0


class Pair(NamedTuple):
    x: int = 0
    y: int = 0


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Paint(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class MyStr(str):
    pass


class MyInt(int):
    pass


class MyList(list[Any]):
    __slots__ = ("note",)


class Keyed:
    def __init__(self, key: Any, client: Any = None) -> None:
        self.key = key
        self.client = client

    def __cache_key__(self) -> Any:
        return self.key


DISTINCT: list[Any] = [
    *(1, True, 1.0, "1", b"1", [1], {1: 1}, {"1": 1}, None, "None", False, 0, 0.0, -0.0, "", b"", [], {}, set()),
    *(math.inf, -math.inf, math.nan, 1j, complex(0, -0.0), complex(-0.0, 0), ..., 2**64, -(2**63) - 1, 2**200),
    *(M(), M2(), M(a=2), M(b={"x": 1}), Loose(), Loose(a=1, c=2), Loose(a=1, c=3), Names(["a"]), Names(["b"])),
    *(Loose(seen=1.0), Loose(seen=2.0), Private(), Private(2), Loose.model_validate({"_told": 1})),
    *(Point(), Point(1), Other(), Pair(), Pair(1), Colour.RED, Colour.GREEN, Paint.RED, Level.LOW),
    *(Access.READ, Access.WRITE, Access.READ | Access.WRITE, Access(0)),
    *(MyStr("1"), MyInt(1), MyList([1]), collections.Counter("a"), collections.defaultdict(int, {"a": 1}), {"a": 1}),
    *(collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), {"a": 1, "b": 2}),
    *(
        {1},
        {1, 2},
        {"a"},
        [["a", "b"], "c"],
        ["a", ["b", "c"]],
        [["a"], ["b", "c"]],
        ["ab", "c"],
        [["a"], "b"],
        [["a", "b"]],
        [[], []],
        [[[]]],
        ["a", "bc"],
    ),
    *(Decimal("1.0"), Decimal("1.00"), Decimal("NaN"), Decimal("1E+2"), uuid.UUID(int=1), dt.timedelta(1)),
    *(dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, fold=1), dt.time(1), dt.time(1, fold=1)),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2020, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    *(pathlib.PurePosixPath("a/b"), "a/b", range(3), range(0, 6, 2), range(0), range(5, 6), range(10**30)),
    *(re.compile("a"), re.compile("a", re.I), re.compile(b"a"), int, str, M, Colour),
    *(
        RunResponse(content="x"),
        RunResponse(content="y"),
        "x",
        Keyed(1),
        Keyed("1"),
        "\ud800",
        "\udc00",
        "\ud83d\ude00",
    ),
    *("\U0001f600", "x" * 300, "x" * 301, b"x" * 300, ["x" * 300], [["x" * 300]], [1] * 300, [1] * 301),
]


def test_values_that_differ_have_digests_that_differ() -> None:
    found: dict[bytes, Any] = {}
    for value in DISTINCT:
        other = found.setdefault(digest(value), value)
        assert other is value, f"{other!r} and {value!r}"


def test_values_that_differ_still_do_inside_of_others() -> None:
    wraps: tuple[Callable[[Any], Any], ...] = (
        lambda value: [value],
        lambda value: {"key": value},
        lambda value: [{"key": [value, set()]}],
    )
    for wrap in wraps:
        assert len({digest(wrap(value)) for value in DISTINCT}) == len(DISTINCT)


BEFORE_UTC = dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))


class Timed(BaseModel):
    at: dt.datetime


EQUAL: list[tuple[Any, Any]] = [
    ([1, (2, [3])], (1, [2, (3,)])),
    ([1, (2, {4})], (1, [2, frozenset({4})])),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "a", "b": b""}, {"b": b"", 1: "a"}),
    (M(), M(a=1)),
    (M(), M.model_construct(a=1, b={})),
    (Private(), Private(1)),
    (Loose(a=1, c=2, d=3), Loose(d=3, c=2)),
    (Point(1, 2, "here"), Point(1, 2, "there")),
    (b"ab", bytearray(b"ab")),
    (math.nan, -math.nan),
    (range(0, 3, 2), range(0, 4, 2)),
    (range(0), range(3, 1)),
    (range(5, 6), range(5, 7, 4)),
    (uuid.UUID(int=5), uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe)),
    (pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a\\b")),
    (RunResponse(content={"a": 1}, run_id="1"), RunResponse(content={"a": 1}, created_at=0.0, messages=[object()])),
    (Keyed([1], client=object()), Keyed((1,))),
    (Timed(at=BEFORE_UTC), Timed.model_validate_json('{"at": "2020-01-01T00:00:00+01:00"}')),
    (collections.OrderedDict(a=1, b=2), collections.OrderedDict([("a", 1), ("b", 2)])),
    ({math.nan: 1, float("nan"): 2}, {float("nan"): 2, math.nan: 1}),
    ("x" * 1000, "".join(["x"] * 1000)),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=lambda value: type(value).__name__)
def test_values_that_are_the_same_have_the_same_digest(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)
    assert digest([one, {"key": one}]) == digest([other, {"key": other}])


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=4),
    st.decimals(allow_nan=False),
    st.dates(),
    st.sampled_from([Colour.RED, Paint.RED, M(), M2(), Point(), Pair()]),
)
KEYS = st.one_of(st.text(max_size=3), st.integers(-2, 2), st.booleans(), st.none(), st.tuples(st.integers(0, 2)))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.sets(KEYS, max_size=4),
    ),
    max_leaves=12,
)
EXACT_SCALARS = (type(None), bool, int, float, str, bytes, Decimal, dt.date, enum.Enum, BaseModel)


def exact(value: Any) -> Any:
    """What makes a value the one that it is, as something that can be compared with `==` and hashed: an oracle."""
    if isinstance(value, (Pair, Point)):
        return type(value).__name__, value.x, value.y
    if isinstance(value, (list, tuple)):
        return "list", tuple(map(exact, value))
    if isinstance(value, dict):
        return "dict", frozenset((exact(key), exact(item)) for key, item in value.items())
    if isinstance(value, set):
        return "set", frozenset(map(exact, value))
    assert isinstance(value, EXACT_SCALARS)
    return type(value), repr(value)


def shuffled(value: Any) -> Any:
    """An equal value: other dict and set order, lists for tuples, and no object of the first."""
    if type(value) in (list, tuple):
        return [shuffled(item) for item in value] if type(value) is tuple else tuple(map(shuffled, value))
    if type(value) is dict:
        return {key: shuffled(item) for key, item in reversed(value.items())}
    if type(value) is set:
        return dict.fromkeys(reversed(list(value))).keys() | set[Any]()
    return value


@given(VALUES)
def test_order_and_the_kind_of_a_sequence_do_not_matter(value: Any) -> None:
    assert digest(value) == digest(shuffled(value))


@given(VALUES, VALUES)
def test_digests_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (exact(one) == exact(other))


@settings(max_examples=50)
@given(st.lists(VALUES, min_size=12, max_size=30))
def test_no_two_of_many_small_values_share_a_digest(values: list[Any]) -> None:
    distinct = {exact(value): value for value in values}
    assert len({digest(value) for value in distinct.values()}) == len(distinct)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=3), inner)),
        max_leaves=8,
    )
)
def test_what_a_value_is_made_of_decides_its_way_and_not_which_objects(value: Any) -> None:
    """The same object in many places, or as many equal ones: the codec may take two ways, a key must not."""
    copied = json.loads(json.dumps(value))
    assert digest([value] * 100) == digest([json.loads(json.dumps(value)) for _ in range(100)])
    assert digest(value) == digest(copied)


SCRIPT = """
import collections, datetime, decimal, enum, json, pathlib, sys
from dataclasses import dataclass
from holdfast.canonical import digest

class Colour(enum.Enum):
    RED = 1

@dataclass(frozen=True)
class Point:
    x: frozenset

names = ["alpha", "beta", "gamma", "delta", "epsilon"]
if sys.argv[1] == "reversed":
    names.reverse()
values = [
    set(names), frozenset(names), {name: {name} for name in names}, {Colour.RED, Point(frozenset(names))},
    [Point(frozenset(names))], {name: 1 for name in names}, {frozenset(names): 1, 2: decimal.Decimal("1.50")},
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), pathlib.Path("a"), {1, "1", None, 1.5}, Colour,
]
print(json.dumps([digest(value, "argument x", "s").hex() for value in values]))
"""


def test_another_process_with_another_hash_seed_and_order_finds_the_same_digests() -> None:
    found = set()
    for seed, order in (("0", "given"), ("1", "reversed"), ("random", "given")):
        found.add(printed("-c", SCRIPT, order, seed=seed))
    assert len(found) == 1
    assert len(set(json.loads(found.pop()))) == 10  # a set and a frozenset of the same are one


MODELS = """
import dataclasses, enum, functools
from typing import Annotated, Callable, Literal
from pydantic import BaseModel, Field
from holdfast import Agent
from holdfast.agent_identity import agent_parts
from holdfast.canonical import digest
from holdfast.fingerprint import code_parts

class Colour(enum.Enum):
    RED = 1

class Item(BaseModel):
    url: str

@dataclasses.dataclass
class Point:
    x: int

class Child(Item):
    size: int = 3

def made():
    @dataclasses.dataclass
    class Local:
        a: Annotated[str, frozenset({"x", "y", "z", "w"})]
        b: list[Item] | None
        c: Annotated[Item, {"x", "y", "z", print}]
        d: Callable[[Item, Literal["r"]], int]
        e: Annotated[int, Field(json_schema_extra={"a": {"x", "y", "z", "w", print}})]
    return Local

def step():
    return Child

def show():
    values = [Colour.RED, Item(url="x"), Point(1), Item, made()("1", None, Item(url="x"), None, 1)]
    agent = Agent("offline", output_type=Item | Child)
    parts = code_parts(step) | agent_parts(agent, "agent")
    print([digest(value, "x", "s").hex()[:8] for value in values], {key: parts[key].hex()[:8] for key in sorted(parts)})

if __name__ == "__main__":
    show()
"""


def test_a_class_of_a_script_is_the_same_when_it_is_imported_and_with_every_hash_seed(tmp_path: pathlib.Path) -> None:
    for folder in (tmp_path, package := tmp_path / "pack"):
        folder.mkdir(exist_ok=True)
        (folder / "models.py").write_text(MODELS)
    (package / "__init__.py").touch()

    def shown(seed: int, *words: str) -> str:
        return printed(*words, seed=str(seed), cwd=tmp_path)

    ways = [("models.py",), ("-m", "models"), ("-c", "import models; models.show()"), ("models.py",)]
    assert len({shown(seed, *words) for seed, words in enumerate(ways)}) == 1
    ways = [("-m", "pack.models"), ("-c", "import pack.models; pack.models.show()")]
    assert len({shown(seed, *words) for seed, words in enumerate(ways)}) == 1


def test_a_class_of_a_script_is_the_same_in_the_processes_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str) -> bytes:
        module = types.ModuleType(name)
        module.__file__ = "/somewhere/script.py"
        monkeypatch.setitem(sys.modules, name, module)
        exec("class Item: ...", vars(module))
        found = digest(vars(module)["Item"])
        monkeypatch.undo()
        return found

    assert told("__main__") == told("__mp_main__") == told("script") != told("other")


def test_a_digest_stays_what_it_is_from_release_to_release() -> None:
    """A change of these makes every stored result unfindable: raise the version in the prefixes, and say so."""
    plain = {"topic": "tides", "numbers": [1, 2.5, None, True], "é": (1e16, -0.0)}
    walked = {"topic": {"tides"}, 1: [b"x", Decimal("1.0"), math.inf, dt.date(2020, 1, 1), "y" * 300]}
    assert digest(plain).hex()[:16] == "14007043d1c8f8cf"
    assert digest(walked).hex()[:16] == "6c326219345b933c"


CASES: list[tuple[Any, str]] = [
    (object(), "argument topic "),
    ([0, 1, 2, {"client": object()}], "argument topic[3]['client'] "),
    ({"q": [lambda: 0]}, "argument topic['q'][0] "),
    ({1: len}, "argument topic[1] "),
    ({(1, 2): object()}, "argument topic[<tuple>] "),
    ({object(): 1}, "argument topic{<object>} "),
    ({print}, "argument topic{<builtin_function_or_method>} "),
    (Point(x=object()), "argument topic.x "),  # type: ignore[arg-type]
    (M.model_construct(b={"c": json}), "argument topic.b['c'] "),
    (Loose(seen=1.0).model_copy(update={"seen": object()}), "argument topic.seen "),
    (Private(object()), "argument topic._told "),  # type: ignore[arg-type]
    (Pair(x=iter([])), "argument topic.x "),  # type: ignore[arg-type]
    (RunResponse(content=[object()]), "argument topic.content[0] "),
    (Keyed({"k": object()}), "argument topic.__cache_key__()['k'] "),
    ((item for item in []), "argument topic "),
    (test_values_that_differ_still_do_inside_of_others, "argument topic "),
    (json, "argument topic "),
    (ValueError("x"), "argument topic "),
    ([dt.datetime(2020, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})())], "argument topic[0] "),
    (type("Sub", (dt.datetime,), {})(2020, 1, 1), "argument topic "),
]


@pytest.mark.parametrize(("value", "path"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_argument_without_identity_raises_and_names_its_path(value: Any, path: str) -> None:
    with pytest.raises(StepKeyError) as caught:
        digest(value)
    assert str(caught.value).startswith(f"{path}of step 'write' is ")
    assert caught.value.facts["path"] == path.strip()
    assert caught.value.facts["advice"].endswith(".")
    assert digest_or_none(value) is None


def test_an_open_file_has_no_identity(tmp_path: pathlib.Path) -> None:
    with (
        (tmp_path / "x").open("w") as file,
        pytest.raises(StepKeyError, match="of type TextIOWrapper, which has no identity"),
    ):
        digest([file])


def test_no_error_shows_a_value() -> None:
    for secret in (["s3cret", object()], {"a": Keyed(object(), "s3cret")}, Keyed(print, "s3cret")):
        with pytest.raises(StepKeyError) as caught:
            digest(secret)
        assert "s3cret" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    a_list: list[Any] = [1]
    a_list.append({"inner": (a_list,)})
    a_dict: dict[str, Any] = {}
    a_dict["self"] = a_dict
    point = Point()
    point.x = [point]  # type: ignore[assignment]
    own = MyList()
    own.append(own)
    own.note = 1  # type: ignore[attr-defined]
    branching: list[Any] = []
    branching += [branching, branching, branching]
    keyed = Keyed(None)
    keyed.key = keyed
    for value in (a_list, a_dict, point, own, branching, keyed):
        began = time.monotonic()
        with pytest.raises(StepKeyError, match="holds itself"):
            digest(value)
        assert time.monotonic() - began < 30


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(None) if wrap is not set else {1}
    for _ in range(levels - 1):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: [inner, b""], lambda inner: (inner, 1.5)]
)
def test_a_value_may_be_nested_a_hundred_containers_deep_and_no_deeper(wrap: Callable[[Any], Any]) -> None:
    assert digest(nested(100, wrap)) == digest(nested(100, wrap))
    for levels in (101, 100_000):
        with pytest.raises(StepKeyError, match="nested deeper than 100 containers"):
            digest(nested(levels, wrap))


def test_an_empty_container_below_the_deepest_level_is_one_too_many() -> None:
    with pytest.raises(StepKeyError, match="nested deeper"):
        digest(nested(100, lambda inner: [inner if inner is not None else []]))


def test_a_long_text_is_no_container() -> None:
    assert digest(nested(99, lambda inner: [inner or {"x" * 300}]))


def test_a_class_that_makes_its_key_without_end_is_refused() -> None:
    class Endless:
        def __cache_key__(self) -> Any:
            return Endless()

    with pytest.raises(StepKeyError, match="nested deeper than 100"):
        digest(Endless())


def test_a_caller_deep_in_recursion_finds_the_same_digest() -> None:
    values = [nested(90, lambda inner: [inner]), nested(90, lambda inner: [inner, b"x"])]
    expected = [digest(value) for value in values]

    def deep(left: int) -> list[bytes]:
        return deep(left - 1) if left else [digest(value) for value in values]

    for left in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 7):
        try:
            found = deep(left)
        except RecursionError:
            break
        assert found == expected


@pytest.mark.parametrize("leaf", [1, b"x", "x" * 10_000], ids=["plain", "walked", "text"])
def test_one_object_over_and_over_costs_what_it_costs_once(leaf: Any) -> None:
    value = [leaf]
    for _ in range(90):
        value = [value] * 10
    began = time.monotonic()
    first = digest(value)
    assert first == digest(value)
    assert first != digest([value] * 2)
    assert time.monotonic() - began < 60  # of 10 ** 90 places


def test_a_large_text_in_many_places_is_read_once() -> None:
    text = "x" * 1_000_000
    many = [text] * 20_000
    assert digest(many) == digest([text] * 20_000) != digest([text] * 20_001)
    assert digest({"a": many, "b": {1}}) != digest({"a": many, "b": {2}})
    assert digest([{text: 1}] * 20_000) != digest([{text: 1}] * 20_001)


def test_beyond_the_bound_of_the_fast_way_order_still_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "MANY", 500)
    for count in (300, 499, 500, 501, 600):
        shared = {"b": 1, "a": 2}
        assert digest([shared] * count) == digest(tuple({"a": 2, "b": 1} for _ in range(count)))
        assert digest([[]] * count) == digest([[] for _ in range(count)])


def test_the_two_ways_never_meet() -> None:
    """Text that looks like the other way's encoding is still text."""
    walked = pieces.Walk().node([1, 2], ("x",), 0)
    assert digest(walked.decode()) != digest([1, 2])
    assert digest(walked) != digest([1, 2])


def test_a_subclass_of_a_builtin_counts_with_its_attributes() -> None:
    one, other = MyStr("a"), MyStr("a")
    assert digest(one) == digest(other)
    other.lang = "en"  # type: ignore[attr-defined]
    assert digest(one) != digest(other)
    listed = MyList([1])
    before = digest(listed)
    listed.note = 2  # type: ignore[attr-defined]
    assert digest(listed) != before
    assert digest(collections.Counter("ab")) == digest(collections.Counter("ba"))


def test_a_flag_with_a_bit_that_has_no_name_counts_by_its_value() -> None:
    class Bits(enum.Flag, boundary=enum.KEEP):
        ONE = 1

    unnamed = object.__new__(Bits)
    unnamed._name_, unnamed._value_ = None, 8
    assert digest(unnamed) != digest(Bits.ONE)
    assert digest(Bits(9)) != digest(Bits(5))


def test_an_enum_counts_by_name_and_value_and_by_its_name_where_the_value_has_no_identity() -> None:
    def member(value: Any, name: str = "RED") -> bytes:
        return digest(enum.Enum("Paint", {name: value}, module=__name__).__members__[name])

    assert member(1) == member(1)
    assert len({member(value) for value in (1, 2, "1", True, object())}) == 5
    assert member(1, "BLUE") != member(1)
    shared = [1]
    assert member([shared, object(), shared]) == member(object()), "what was looked at in vain is forgotten"


def test_what_a_dataclass_does_not_compare_may_have_no_identity() -> None:
    assert digest(Point(label=object())) == digest(Point())  # type: ignore[arg-type]


def test_two_classes_of_one_name_are_told_apart_by_their_fields() -> None:
    def classes() -> list[Any]:
        return [
            create_model("Answer", text=(str, ...)),
            create_model("Answer", text=(str | None, ...)),
            create_model("Answer", text=(Annotated[str, Field(max_length=9)], ...)),
            create_model("Answer", __base__=M, text=(str, ...)),
            make_dataclass("Answer", [("text", str)]),
            make_dataclass("Answer", [("text", Any)]),
        ]

    digests = [digest(cls(text="x")) for cls in classes()]
    assert len(set(digests)) == len(digests)
    assert digests == [digest(cls(text="x")) for cls in classes()]
    named = [digest(cls) for cls in classes()]
    assert len(set(named)) == len(named)


def test_the_class_of_a_generic_model_counts_the_same_wherever_it_was_made(run_python: Callable[[str], str]) -> None:
    made = (
        "from typing import Generic, TypeVar\nfrom pydantic import BaseModel\nfrom holdfast.canonical import digest\n"
        "T = TypeVar('T')\nclass Box(BaseModel, Generic[T]):\n    inside: T\n"
        "def inside():\n    return Box[int](inside=1)\n"
    )
    tell = "print(digest({}, 'x', 'y').hex())"
    assert run_python(made + tell.format("Box[int](inside=1)")) == run_python(made + tell.format("inside()"))


def test_a_class_is_known_by_its_module_and_name() -> None:
    local = make_dataclass("Point", ["x"])
    assert digest(local) != digest(Point)
    assert digest(Point) == digest(Point)


def test_a_dataclass_without_a_value_of_a_field_is_not_one_with_it() -> None:
    bare = Point()
    del bare.__dict__["x"]
    del Point.x
    try:
        assert digest(bare) != digest(Point(0, 0))
    finally:
        Point.x = 0


def test_arrays_count_by_type_shape_and_bytes() -> None:
    np = pytest.importorskip("numpy")
    ones = np.ones((2, 3))
    assert digest(ones) == digest(np.asfortranarray(ones)) == digest(np.ones((4, 6))[::2, ::2])
    values = [
        *(ones, ones.reshape(3, 2), ones.astype("f4"), ones.astype(">f8"), np.zeros((2, 3)), np.ones(6), ones.tolist()),
        *(np.float64(1), np.float32(1), np.int64(1), np.array(1.0), np.bool_(True), np.str_("a"), 1.0, "a"),
        *(np.datetime64("2020-01-01"), np.datetime64("2020-01-01", "s"), np.array(["a"]), np.array([])),
        *(np.zeros(1, [("a", "i4"), ("b", "i4")]), np.zeros(1, [("a", "i4"), ("c", "i4")])),
    ]
    assert len({digest(value) for value in values}) == len(values)
    for refused in (np.array([object()]), np.random.default_rng(), np.ma.masked_array([1], [True])):
        with pytest.raises(StepKeyError):
            digest([refused])


def conversation(call: str = "call_1", **more: Any) -> list[Any]:
    return [
        ModelRequest([UserPromptPart("Hello", timestamp=dt.datetime.now(dt.UTC))], run_id=str(uuid.uuid4())),
        ModelResponse(
            [ThinkingPart("hm", id="rs_1", signature="sig"), ToolCallPart("search", {"q": "x"}, call, id="fc_1")],
            usage=RequestUsage(input_tokens=7),
            model_name="gpt-5-2026",
            provider_response_id=str(uuid.uuid4()),
            timestamp=dt.datetime.now(dt.UTC),
        ),
        ModelRequest([ToolReturnPart("search", more.get("found", "y"), call)], instructions=more.get("told")),
        ModelResponse([TextPart("done")]),
    ]


def test_a_history_counts_by_what_the_model_is_told_of_it() -> None:
    first = conversation()
    again = conversation("call_2")
    assert first != again
    assert digest(first) == digest(again) == digest(tuple(first))
    assert digest(first) != digest(conversation(found="z"))
    assert digest(first) != digest(conversation(told="Be brief."))
    assert digest(first) != digest(first[:3])
    assert digest(first[1]) == digest(again[1]) != digest(first[3])
    assert digest({"a": first, "b": again}) == digest({"b": first, "a": again})


def test_what_a_call_returned_is_tied_to_the_call() -> None:
    def answered(first: str, second: str) -> list[Any]:
        calls = ModelResponse([ToolCallPart("f", "{}", "1"), ToolCallPart("f", "{}", "2")])
        return [calls, ModelRequest([ToolReturnPart("f", "x", first), ToolReturnPart("f", "y", second)])]

    assert digest(answered("1", "2")) != digest(answered("2", "1"))


def test_every_field_of_a_message_that_the_model_is_told_counts() -> None:
    message = ModelResponse([ThinkingPart("hm", signature="a", provider_name="openai")], finish_reason="stop")
    for changed in (
        replace(message, parts=[]),
        replace(message, finish_reason="length"),
        replace(message, parts=[ThinkingPart("hm", signature="b", provider_name="openai")]),
        replace(message, parts=[ThinkingPart("hm", signature="a", provider_name="anthropic")]),
        replace(message, parts=["hm"]),
    ):
        assert digest(changed) != digest(message)
    pictures = [ImageUrl("https://a.example/1"), ImageUrl("https://a.example/2"), ImageUrl("u", media_type="image/png")]
    assert len({digest([UserPromptPart(["Look:", picture])]) for picture in pictures}) == 3


def test_messages_may_stand_beside_other_values() -> None:
    first, again = conversation(), conversation("call_9")
    assert digest(["note", *first]) == digest(["note", *again]) != digest(first)


def test_what_is_combined_keeps_its_bounds() -> None:
    assert len({combine(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"a", b"b", b"c"], [])}) == 5
