"""Declared classes: which are found, and how their instances are kept exactly, also when the class has changed."""

from __future__ import annotations

import enum
import functools
import typing
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field, make_dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel, computed_field, create_model, field_validator

from catalogue import TYPES, Article, Colour, Kind, Loose, Permission, Point, Source, Version, same
from holdfast import codec
from holdfast.declared import Types
from holdfast.errors import InvalidInput, StateError, UnstorableValue
from holdfast.response import RunEvent, RunResponse

Item = TypeVar("Item")


class Leaf(BaseModel):
    n: int


class Tree(BaseModel):
    children: list[Tree] = []
    leaf: Leaf | None = None


@dataclass
class Box(Generic[Item]):
    inner: Item


class Page(BaseModel, Generic[Item]):
    items: list[Item]


class Row(TypedDict):
    leaf: Leaf
    colour: Colour


LeafId = NewType("LeafId", Leaf)


def there_and_back(value: Any, *declared: Any) -> Any:
    types = Types(declared)
    data = codec.encode(value, types)
    back = codec.decode(data, types)
    assert codec.encode(back, types) == data
    assert type(back) is type(value)
    return back


def reason(value: Any, *declared: Any) -> str:
    with pytest.raises(UnstorableValue) as refused:
        codec.encode(value, Types(declared))
    return refused.value.problems[0][1]


# -- what is declared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "classes"),
    [
        (int, set()),
        (None, set()),
        (Any, set()),
        (Path, set()),
        (object(), set()),
        (BaseModel, set()),
        (Iterator[RunResponse], set()),
        (RunResponse | None, set()),
        (ValueError, set()),
        (Leaf, {Leaf}),
        (list[Leaf] | None, {Leaf}),
        (dict[str, tuple[Leaf, ...]], {Leaf}),
        (typing.Optional[Leaf], {Leaf}),  # noqa: UP045
        (Annotated[Leaf, "text", Colour], {Leaf}),
        (Literal[Colour.RED, "x"], {Colour}),
        (Callable[[Leaf], Colour], {Leaf, Colour}),
        (LeafId, {Leaf}),
        (Row, {Leaf, Colour}),
        (Tree, {Tree, Leaf}),
        (Box[Leaf], {Box, Leaf}),
        (Page[Leaf], {Page[Leaf], Leaf}),
        (HTTPStatus, {HTTPStatus}),
        (Source, {Source, Kind, Version}),
        ("Leaf", set()),
        (RunEvent, {RunEvent}),
    ],
)
def test_the_classes_in_an_annotation_are_declared_and_the_rest_is_ignored(annotation: Any, classes: set[type]) -> None:
    assert set(Types([annotation]).classes) == classes


def test_text_annotations_of_local_classes_are_explained_by_what_stands_beside_them() -> None:
    class Inner(BaseModel):
        n: int

    Outer = make_dataclass("Outer", [("inner", "list[Inner | None]"), ("other", "Nowhere")])
    assert set(Types([Outer, Inner]).classes) == {Outer, Inner}
    assert Types([Outer]).classes == (Outer,)
    assert Types([typing.List["Inner"], Inner]).classes == (Inner,)  # noqa: UP006
    assert list(Types([Inner]).by_name) == ["Inner"]


def test_a_model_that_waits_for_another_is_completed() -> None:
    class Waiting(BaseModel):
        later: Later | None = None

    class Later(BaseModel):
        n: int

    assert Waiting in Types([Waiting, Later]).classes


def test_two_classes_of_one_name_are_refused() -> None:
    def make() -> type:
        class Leaf(BaseModel):
            n: int

        return Leaf

    with pytest.raises(InvalidInput, match="Two classes named 'Leaf' are declared"):
        Types([Leaf, make()])
    assert Types([Leaf, Leaf, list[Leaf]]).classes == (Leaf,)


def test_a_generic_model_is_named_by_its_parameters() -> None:
    class Local(BaseModel):
        n: int

    assert list(Types([Page[Local]]).by_name) == ["Page[Local]", "Local"]
    assert there_and_back(Page[Local](items=[Local(n=1)]), Page[Local]).items == [Local(n=1)]


# -- exactness ----------------------------------------------------------------------------------------------------


def test_no_validator_runs_either_way() -> None:
    class Shouting(BaseModel):
        model_config = ConfigDict(validate_assignment=True)
        text: str

        @field_validator("text")
        @classmethod
        def shout(cls, text: str) -> str:
            return text + "!"

    value = Shouting(text="a")
    assert there_and_back(value, Shouting).text == "a!"
    odd = Shouting.model_construct(text=5)
    assert there_and_back(odd, Shouting).text == 5


def test_no_post_init_runs_when_an_instance_comes_back() -> None:
    made = Source("u", Kind.NEWS)
    made.seen = 7
    assert codec.decode(codec.encode(made, TYPES), TYPES).seen == 7


def test_what_was_set_what_is_extra_and_what_is_private_comes_back() -> None:
    one = Loose(name="n", more=(1, {"x": {2}}), **{"$hf": 5})
    one._seen = 4
    back = codec.decode(codec.encode(one, TYPES), TYPES)
    assert same(back, one)
    assert back.model_extra == {"more": (1, {"x": {2}}), "$hf": 5}
    assert (
        Article(headline="x").model_fields_set
        == codec.decode(codec.encode(Article(headline="x"), TYPES), TYPES).model_fields_set
    )
    assert codec.decode(codec.encode(Article(), TYPES), TYPES).model_fields_set == set()


def test_root_models_come_back() -> None:
    class Titles(RootModel[list[str]]):
        pass

    back = there_and_back(Titles(["a", "b"]), Titles)
    assert back == Titles(["a", "b"])
    assert back.model_dump() == ["a", "b"]


def test_cached_properties_are_derived_again() -> None:
    class Circle(BaseModel):
        r: int

        @computed_field  # type: ignore[prop-decorator]
        @functools.cached_property
        def area(self) -> int:
            return self.r * self.r * 3

    circle = Circle(r=2)
    assert circle.area == 12
    back = there_and_back(circle, Circle)
    assert "area" not in vars(back)
    assert back.area == 12


def test_frozen_and_slotted_dataclasses_come_back() -> None:
    @dataclass(frozen=True, slots=True)
    class Key:
        a: int
        b: InitVar[int] = 0
        kind: ClassVar[str] = "k"
        c: list[int] = field(default_factory=list, init=False, repr=False)

    assert there_and_back(Key(1, 2), Key) == Key(1)
    assert there_and_back({Version(1): "x"}, Version) == {Version(1): "x"}


def test_named_tuples_of_both_sorts_come_back() -> None:
    Old = namedtuple("Old", ["a", "b"])
    assert there_and_back(Old(1, [2]), Old) == Old(1, [2])
    assert there_and_back(Point(1), Point) == Point(1)


def test_enum_members_come_back_as_the_same_objects() -> None:
    class Odd(enum.Enum):
        A = object()
        B = (1, 2)

    assert there_and_back([Odd.A, Odd.B], Odd)[0] is Odd.A
    assert there_and_back(HTTPStatus.OK, HTTPStatus) is HTTPStatus.OK
    assert there_and_back(Permission(3), Permission) is Permission(3)


# -- what is refused ----------------------------------------------------------------------------------------------


def test_what_is_not_a_field_is_refused() -> None:
    class Slotted:
        __slots__ = ("hidden",)

    @dataclass(slots=True)
    class Child(Slotted):
        a: int = 1

    child = Child()
    assert there_and_back(child, Child) == child
    child.hidden = 1
    assert reason(child, Child).startswith("Child with an attribute 'hidden'")

    class Pair(NamedTuple):
        a: int

    class Marked(Pair):
        pass

    marked = Marked(1)
    assert there_and_back(marked, Marked) == marked
    marked.mark = 1
    assert reason(marked, Marked).startswith("Marked with an attribute 'mark'")

    leaf = Leaf(n=1)
    object.__setattr__(leaf, "mark", 1)
    assert reason(leaf, Leaf) == "Leaf with an attribute 'mark' that is not a field: declare the field in the class"


def test_a_field_without_a_value_is_refused() -> None:
    assert "without a value of its field 'n'" in reason(Leaf.model_construct(), Leaf)

    @dataclass(slots=True)
    class Late:
        a: int = field(init=False)

    assert "without a value of its field 'a'" in reason(Late(), Late)


def test_a_dataclass_that_is_a_container_as_well_is_refused() -> None:
    @dataclass
    class Both(dict[str, int]):
        a: int = 1

    assert reason(Both(), Both).startswith("Both is a subclass of dict")


def test_an_enum_member_that_is_none_of_the_members_is_refused() -> None:
    class Open(enum.Enum):
        A = 1

    stray = object.__new__(Open)
    stray._name_, stray._value_ = "B", 2
    assert reason(stray, Open).startswith("a Open that is not one of its members")


def test_an_instance_of_an_undeclared_subclass_is_refused() -> None:
    class Special(Leaf):
        pass

    assert reason(Special(n=1), Leaf).startswith("Special is a model that is not declared")


# -- classes that have changed ------------------------------------------------------------------------------------


def moved(value: Any, before: Any, after: Any) -> Any:
    return codec.decode(codec.encode(value, Types([before])), Types([after]), "session_state['x']")


def test_a_model_with_other_fields_is_validated() -> None:
    Old = create_model("Post", title=(str, ...), gone=(int, 1))
    New = create_model("Post", title=(str, ...), words=(int, 5))
    back = moved(Old(title="t"), Old, New)
    assert (type(back), back.title, back.words) == (New, "t", 5)


def test_private_attributes_survive_a_change_and_new_ones_get_their_defaults() -> None:
    class Old(BaseModel):
        n: int
        _seen: int = PrivateAttr(default=0)

    class New(BaseModel):
        n: int
        _seen: int = PrivateAttr(default=0)
        _more: list[int] = PrivateAttr(default_factory=list)
        _late: int = PrivateAttr()

    class Newer(New):
        m: int = 2

    class Bare(BaseModel):
        n: int

    for cls in (New, Newer, Bare):
        cls.__qualname__ = "Old"
    old = Old(n=1)
    old._seen = 5
    back = moved(old, Old, New)
    assert (back.n, back._seen, back._more) == (1, 5, [])
    back = moved(old, Old, Newer)
    assert (back.n, back.m, back._seen, back._more) == (1, 2, 5, [])
    assert moved(Bare(n=3), Bare, New)._seen == 0


def test_a_dataclass_with_new_defaults_is_constructed() -> None:
    Old = make_dataclass("Row", [("a", int), ("made", int, field(default=1, init=False))])
    New = make_dataclass("Row", [("a", int), ("made", int, field(default=1, init=False)), ("b", int, field(default=9))])
    old = Old(1)
    old.made = 4
    back = moved(old, Old, New)
    assert (type(back), back.a, back.made, back.b) == (New, 1, 4, 9)


def test_a_dataclass_that_became_a_model_is_validated() -> None:
    Old = make_dataclass("Row", [("n", int)])
    New = create_model("Row", n=(int, ...))
    assert moved(Old(1), Old, New) == New(n=1)


def test_a_named_tuple_with_a_new_default_is_constructed() -> None:
    Old = namedtuple("Row", ["a"])
    New = namedtuple("Row", ["a", "b"], defaults=[2])
    assert moved(Old(1), Old, New) == New(1, 2)


def rows() -> dict[str, Any]:
    return {
        "more": create_model("Row", n=(int, ...), required=(int, ...)),
        "fewer": make_dataclass("Row", []),
        "enum": enum.Enum("Row", "A"),
        "flag": enum.Flag("Row", "A"),
        "tuple": namedtuple("Row", ["a"]),
        "other_enum": enum.Enum("Row", "B"),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("more", "fewer"),
        ("more", "tuple"),
        ("tuple", "more"),
        ("more", "enum"),
        ("tuple", "flag"),
        ("enum", "more"),
        ("enum", "flag"),
        ("flag", "enum"),
        ("enum", "other_enum"),
    ],
)
def test_a_class_that_cannot_take_what_was_stored_is_named(before: str, after: str) -> None:
    classes = rows()
    made = {"more": lambda cls: cls(n=1, required=77), "tuple": lambda cls: cls(77)}
    value = made.get(before, lambda cls: cls["A"])(classes[before])
    with pytest.raises(StateError) as failure:
        moved([value], classes[before], classes[after])
    assert str(failure.value).startswith("session_state['x'][0] holds a stored ")
    assert "Row" in str(failure.value)
    assert "77" not in str(failure.value)
    assert failure.value.__cause__ is None
