"""Values come back exactly as they went in, or are refused with the path of everything that cannot be kept."""

from __future__ import annotations

import datetime as dt
import io
import json
import struct
import subprocess
import sys
import threading
import time
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.codec
from catalogue import (
    CATALOGUE,
    DECLARED,
    TYPES,
    Article,
    Colour,
    Hostile,
    Kind,
    Level,
    Loose,
    Permission,
    Point,
    Source,
    Undeclared,
    UndeclaredColour,
    UndeclaredPoint,
    UndeclaredRecord,
    Version,
    article,
    hostile_id,
    nested,
    same,
)
from holdfast import codec
from holdfast.errors import HoldfastError, MalformedData, StateError, UndeclaredType, UnstorableValue
from holdfast.records import Usage
from holdfast.response import RunResponse

TEXT = st.text(st.characters(), max_size=5).filter(lambda text: not codec_refuses(text))
ZONES = st.none() | st.timezones() | st.builds(dt.timezone, st.timedeltas(dt.timedelta(-1) / 2, dt.timedelta(1) / 2))
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**65)
    | st.floats()
    | TEXT
    | st.sampled_from(
        ["$hf", "$hf:1", '"$hf', Colour.RED, Level.LOW, Kind.NEWS, Permission(3), Version(1), Point(2, "x")]
    )
    | st.binary(max_size=4)
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | st.times(timezones=st.just(dt.UTC) | st.none())
    | st.timedeltas()
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.uuids()
)
KEYS = HASHABLE | st.tuples(HASHABLE) | st.frozensets(HASHABLE, max_size=2)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(KEYS, max_size=3)
        | st.builds(Point, st.integers(), inner)
        | st.builds(lambda inner: Loose(name="n", more=inner), inner)
        | st.builds(lambda url, seen: Source(url, Kind.NEWS, [Version(seen)]), TEXT, st.integers())
    ),
    max_leaves=12,
)


def codec_refuses(value: Any) -> bool:
    try:
        codec.encode(value, TYPES)
    except UnstorableValue:
        return True
    return False


def problems(value: Any, types: Any = TYPES) -> list[tuple[str, str]]:
    with pytest.raises(UnstorableValue) as refused:
        codec.encode(value, types)
    return list(refused.value.problems)


# -- the catalogue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", CATALOGUE, ids=hostile_id)
def test_a_hostile_value_comes_back_exactly_or_is_refused_with_its_path(entry: Hostile) -> None:
    value = entry.make()
    if entry.verdict == "E":
        with pytest.raises(UnstorableValue) as refused:
            codec.encode(value, TYPES)
        assert entry.said in "".join(": ".join(problem) for problem in refused.value.problems)
        assert "secret-canary" not in str(refused.value)
        return
    data = codec.encode(value, TYPES)
    back = codec.decode(data, TYPES)
    assert same(back, value)
    assert codec.encode(back, TYPES) == data


def test_the_oracle_tells_apart_what_equality_does_not() -> None:
    values = [1, True, 1.0, "1", Level.LOW, 0.0, -0.0, (1,), [1], {1}, frozenset({1}), Point(1), (1, None)]
    values += [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {1: 1}, {True: 1}, Decimal(1), Decimal("1.0"), [[1]], [[True]]]
    values += [dt.datetime(2026, 1, 1, fold=fold) for fold in (0, 1)]
    for place, one in enumerate(values):
        assert [at for at, other in enumerate(values) if same(one, other)] == [place]


@settings(max_examples=600)
@given(VALUES)
def test_every_value_that_is_taken_comes_back_exactly(value: Any) -> None:
    try:
        data = codec.encode(value, TYPES)
    except UnstorableValue as refused:
        # Two NaNs among the keys of one dict; everything else that is generated must be taken.
        assert "stored alike" in str(refused)  # noqa: PT017
        return
    back = codec.decode(data, TYPES)
    assert same(back, value)
    assert codec.encode(back, TYPES) == data
    codec.display(data)
    json.loads(data)


@settings(max_examples=200)
@given(KEYS)
def test_every_key_comes_back_from_its_name(key: Any) -> None:
    name = codec.name_of(key, TYPES)
    assert same(codec.key_of(name, TYPES), key)
    assert list(codec.parse_json(codec.encode({key: 1}, TYPES))) == [name]


@settings(max_examples=200)
@given(st.lists(KEYS, max_size=6, unique_by=repr), st.randoms())
def test_equal_sets_are_encoded_equally(members: list[Any], random: Any) -> None:
    shuffled = random.sample(members, len(members))
    assert codec.encode(frozenset(members), TYPES) == codec.encode(frozenset(dict.fromkeys(shuffled)), TYPES) or len(
        frozenset(members)
    ) < len(members)


# -- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, True, "é\0", 2**64 - 1, -(2**63), 1e22, -0.0, [1, {"a": [{}]}], {"b": 1, "a": 2}]
)
def test_plain_values_are_plain_json(value: Any) -> None:
    assert codec.encode(value) == msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64, '{"$hf":["int","0x10000000000000000"]}'),
        (float("-inf"), '{"$hf":["float","-inf"]}'),
        ("a\ud800b", '{"$hf":["str",["a",55296,"b"]]}'),
        (b"hi", '{"$hf":["bytes","aGk="]}'),
        ((1, [2]), '{"$hf":["tuple",[1,[2]]]}'),
        ({"b", "a"}, '{"$hf":["set",["a","b"]]}'),
        (dt.datetime(2026, 1, 31, tzinfo=dt.UTC), '{"$hf":["datetime","2026-01-31T00:00:00+00:00"]}'),
        (Decimal("1.10"), '{"$hf":["decimal","1.10"]}'),
        (uuid.UUID(int=1), '{"$hf":["uuid","00000000-0000-0000-0000-000000000001"]}'),
        (Colour.CRIMSON, '{"$hf":["enum","Colour","RED"]}'),
        (Permission(3), '{"$hf":["flag","Permission",3]}'),
        (Version(1), '{"$hf":["dataclass","Version",{"major":1,"tags":{"$hf":["tuple",[]]}}]}'),
        (Loose(name="n"), '{"$hf":["model","Loose",{"name":"n"},{"private":{"_seen":0}}]}'),
        ({1: "a", "$hf": "b"}, '{"$hf:1":"a","$hf:\\"$hf\\"":"b"}'),
        ({(1, 2): None}, '{"$hf:{\\"$hf\\":[\\"tuple\\",[1,2]]}":null}'),
    ],
)
def test_what_json_cannot_say_is_one_tag(value: Any, text: str) -> None:
    assert codec.encode(value, TYPES).decode() == text


def test_a_text_without_the_mark_is_plain_json() -> None:
    for entry in CATALOGUE:
        if entry.verdict == "R":
            data = codec.encode(entry.make(), TYPES)
            if b'"$hf' not in data:
                assert same(msgspec.json.decode(data), entry.make())


def test_encoding_leaves_the_value_as_it_is() -> None:
    inner = [1, (2,), {"s": {3}}]
    value = {"a": inner, 5: "x"}
    codec.encode(value)
    assert value["a"] is inner
    assert inner == [1, (2,), {"s": {3}}]


def test_the_decimal_context_changes_nothing() -> None:
    import decimal

    with decimal.localcontext(prec=2, capitals=0):
        assert codec.decode(codec.encode(Decimal("1.2345E+10"))) == Decimal("1.2345E+10")
        assert b"E+10" in codec.encode(Decimal("1.2345E+10"))


def test_the_limit_of_int_digits_changes_nothing() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert codec.decode(codec.encode([10**999])) == [10**999]
    finally:
        sys.set_int_max_str_digits(before)


# -- refusals -----------------------------------------------------------------------------------------------------


def test_every_offending_path_is_named_with_its_fix() -> None:
    value = {
        "posts": [{"at": 1j}, {}, {}, {"at": PurePosixPath("x")}],
        "d": {object: 1, (1, object()): 2, "k" * 2000: 3},
        "set": {1, nested},
        "article": Loose(name="n", client=object()),
        7: [lambda: None],
    }
    found = dict(problems(value))
    assert set(found) == {
        "session_state['posts'][0]['at']",
        "session_state['posts'][3]['at']",
        "session_state['d']",
        "session_state['set']{<function>}",
        "session_state['article'].extra['client']",
        "session_state[7][0]",
    }
    assert found["session_state['posts'][3]['at']"] == "PurePosixPath cannot be stored: store str(path)"
    assert len(problems(value)) == 8


def test_problems_hidden_behind_odd_text_are_named_as_well() -> None:
    assert [path for path, _ in problems(["\ud800", object(), "\ud83d\ude00"])] == [
        "session_state[1]",
        "session_state[2]",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (RunResponse(content="x"), "RunResponse cannot be stored: store its content"),
        (range(3), "range cannot be stored: convert it with list(...)"),
        ({}.keys(), "dict_keys cannot be stored"),
        (dt.UTC, "timezone cannot be stored: store its name"),
        (type("Stamp", (dt.datetime,), {})(2026, 1, 1), "Stamp cannot be stored: convert it to the plain type"),
        (type("Array", (), {"tolist": list})(), "Array cannot be stored: convert it with .tolist()"),
        (sys, "module is code, not data"),
        (type("N" * 100, (), {})(), "NNN... cannot be stored"),
    ],
)
def test_a_reason_names_what_to_do_instead(value: Any, said: str) -> None:
    (problem,) = problems([value])
    assert said in problem[1]
    assert "\n" not in problem[1]


def test_an_undeclared_class_is_refused_with_the_declaration_that_helps() -> None:
    (problem,) = problems({"a": article()}, holdfast.codec.NO_TYPES)
    assert problem == (
        "session_state['a']",
        "Article is a model that is not declared: add the class to `state_types = [Article]` of the workflow",
    )


def test_a_path_is_shortened_and_shows_other_keys_by_type_only() -> None:
    value: Any = object()
    for _ in range(40):
        value = [value]
    ((path, _),) = problems({("secret", 1): {"k" * 100: {10**30: value}}})
    assert path.startswith("session_state[<tuple>]['kkkkk")
    assert "[... 23 more ...]" in path
    assert len(path) < 250


def test_a_value_that_multiplies_itself_is_refused_as_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.encoding.MAX_BYTES", 10_000)
    monkeypatch.setattr("holdfast.codec.MAX_BYTES", 10_000)
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    ((path, reason),) = problems({"x": value})
    assert path == "session_state"
    assert "larger than 10,000 bytes" in reason
    with pytest.raises(UnstorableValue, match="larger than"):
        codec.name_of((value_of_tuples(20),))
    assert codec.encode_or_mark(value) == b'{"$hf":["omitted","list"]}'


def value_of_tuples(depth: int) -> Any:
    value: Any = (1,)
    for _ in range(depth):
        value = (value, value)
    return value


def test_a_branching_cycle_ends() -> None:
    value: list[Any] = []
    value += [value, [value], value]
    assert [path for path, _ in problems(value)] == ["session_state[0]", "session_state[1][0]", "session_state[2]"]


@pytest.mark.parametrize("wrap", [list, tuple, dict, Point, frozenset])
def test_depth_counts_every_kind_of_container(wrap: Callable[..., Any]) -> None:
    value: Any = () if wrap is frozenset else []
    for _ in range(99):
        value = {"k": value} if wrap is dict else Point(1, value) if wrap is Point else wrap([value])
    assert same(codec.decode(codec.encode(value, TYPES), TYPES), value)
    assert "deeper than 100" in problems([value])[0][1]


def test_a_deep_stack_of_the_caller_loses_nothing() -> None:
    value = [nested(90), (1,), {"d": dt.date(2026, 1, 1)}]

    def deeper(levels: int) -> Any:
        return deeper(levels - 1) if levels else codec.decode(codec.encode(value))

    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    assert deeper(sys.getrecursionlimit() - depth - 60) == value


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_that_cannot_be_kept_is_refused_by_name_of() -> None:
    for key in (object(), (1, object()), "k" * 1025, "$hf" + "k" * 1020, b"x" * 2000):
        with pytest.raises(UnstorableValue) as refused:
            codec.name_of(key, TYPES, "session_state[...]")
        assert refused.value.problems[0][0] == "session_state[...]"
    assert codec.name_of("k" * 1024) == "k" * 1024


@pytest.mark.parametrize("name", ["$hf:", "$hf:{", "$hf:[1]x", '$hf:{"$hf":[]}', '$hf:{"$hf":["nonsense",1]}'])
def test_a_name_that_no_key_has_is_malformed(name: str) -> None:
    with pytest.raises(MalformedData):
        codec.key_of(name)


def test_path_of_renders_a_top_level_key() -> None:
    shown = [codec.path_of(key) for key in ("posts", "it's", "\x1b", 3, 10**30, (1,), None)]
    assert shown == [
        "session_state['posts']",
        'session_state["it\'s"]',
        "session_state['\\x1b']",
        "session_state[3]",
        "session_state[<int>]",
        "session_state[<tuple>]",
        "session_state[<NoneType>]",
    ]


# -- stored data that is not ours ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]x",
        b'"\xff"',
        b"1e400",
        b"[" * 100_000,
        b"[" * 200_000 + b"]" * 200_000,
        b"[" * 900 + b'{"$hf":["tuple",[]]}' + b"]" * 900,
        b'{"$hf":1}',
        b'{"$hf":[]}',
        b'{"$hf":[1]}',
        b'{"$hf":["tuple",[1]],"x":1}',
        b'{"$hf":["nonsense",1]}',
        b'{"$hf":["tuple"]}',
        b'{"$hf":["tuple",1]}',
        b'{"$hf":["set",[[1]]]}',
        b'{"$hf":["set",[1,1]]}',
        b'{"$hf":["int","zz"]}',
        b'{"$hf":["int",5]}',
        b'{"$hf":["int"]}',
        b'{"$hf":["float","3ff0000000000000"]}',
        b'{"$hf":["float","x"]}',
        b'{"$hf":["str",[1114112]]}',
        b'{"$hf":["str",[null]]}',
        b'{"$hf":["bytes","a"]}',
        b'{"$hf":["bytes",[]]}',
        b'{"$hf":["bytes",null]}',
        b'{"$hf":["datetime","yesterday"]}',
        b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"../../etc/passwd"}]}',
        b'{"$hf":["datetime","2026-01-31T00:00:00",{"name":"X"}]}',
        b'{"$hf":["datetime","2026-01-31T00:00:00",{"other":1}]}',
        b'{"$hf":["datetime","2026-01-31T00:00:00",{"fold":2}]}',
        b'{"$hf":["datetime","2026-01-31T00:00:00",5]}',
        b'{"$hf":["time","26:00"]}',
        b'{"$hf":["date",1]}',
        b'{"$hf":["timedelta","1"]}',
        b'{"$hf":["decimal","x"]}',
        b'{"$hf":["uuid","x"]}',
        b'{"$hf":["uuid","00000000-0000-0000-0000-000000000001","certain"]}',
        b'{"$hf":["model"]}',
        b'{"$hf":["model",1,{}]}',
        b'{"$hf":["model","Article"]}',
        b'{"$hfx":1}',
        b'{"$hf:[1]":1}',
        b'{"$hf:1":1,"$hf:true":2}',
        b'{"a":{"$hf:":1}}',
    ],
)
def test_malformed_data_is_named_and_never_shown(data: bytes) -> None:
    with pytest.raises(MalformedData) as failure:
        codec.decode(data, TYPES, "session_state['x']")
    assert str(failure.value).startswith("session_state['x']")
    assert "yesterday" not in str(failure.value)


def test_an_undeclared_stored_class_is_named_with_its_path() -> None:
    data = codec.encode({"a": [article()]}, TYPES)
    with pytest.raises(UndeclaredType) as failure:
        codec.decode(data)
    assert failure.value.facts["path"] == "session_state['a'][0]"
    assert "`state_types = [Article]`" in str(failure.value)


def test_a_time_zone_that_is_not_known_here_is_said() -> None:
    with pytest.raises(StateError, match="time zone that this machine does not know") as failure:
        codec.decode(b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"Mars/Olympus"}]}')
    assert not isinstance(failure.value, MalformedData)


def test_a_time_zone_that_its_key_does_not_stand_for_is_refused() -> None:
    zone = zoneinfo.ZoneInfo.no_cache("Europe/Berlin")
    compiled = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", 3600, 0, 0) + b"ONE\0"
    foreign = zoneinfo.ZoneInfo.from_file(io.BytesIO(compiled), key="Nowhere/Here")
    named = dt.timezone(dt.timedelta(0), "\ud800")
    found = problems([dt.time(1, tzinfo=zone), dt.time(1, tzinfo=foreign), dt.time(1, tzinfo=named)])
    assert "make the zone with ZoneInfo(key)" in found[0][1]
    assert "make the zone with ZoneInfo(key)" in found[1][1]
    assert "give the zone another name" in found[2][1]


def test_planted_content_imports_and_executes_nothing() -> None:
    program = """
import sys
from holdfast import codec
from holdfast.errors import HoldfastError
from holdfast.edits import Document, edits_of
from holdfast.patch import decode_patch

class Canary:
    pass

planted = [
    b'{"lc":1,"type":"constructor","id":["subprocess","Popen"],"kwargs":{"args":["true"]}}',
    b'{"$hf":["pickle","gASVHQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"]}',
    b'{"$hf":["model","subprocess.Popen",{"args":["true"]}]}',
    b'{"$hf":["model","Canary",{}]}',
    b'{"$hf":["dataclass","holdfast.records:Usage",{}]}',
    b'{"$hf":["enum","http.HTTPStatus","OK"]}',
    b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"antigravity"}]}',
    b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"..antigravity"}]}',
    b'{"$hf:{\\\\"$hf\\\\":[\\\\"model\\\\",\\\\"Canary\\\\",{}]}":1}',
    b'{"py/object":"subprocess.Popen","__class__":"Canary","$type":"x","__reduce__":["os.system",["true"]]}',
    b'gASVHQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu',
    b'\\x80\\x04\\x95\\x1d\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x8c\\x05posix\\x94\\x8c\\x06system\\x94\\x93\\x94.',
]

def run(data):
    for work in (codec.decode, codec.display, lambda data: edits_of(decode_patch(data), Document({}.__getitem__))):
        try:
            work(data)
        except HoldfastError:
            pass

run(b'{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"Nowhere/Warm"}]}')  # what the first look-up loads
seen = []
sys.addaudithook(lambda event, given: seen.append((event, given)))
for data in planted:
    run(data)
allowed = {"tzdata", "tzdata.zoneinfo", "importlib.resources"}
bad = [
    (event, given[:1])
    for event, given in seen
    if event in ("exec", "compile", "subprocess.Popen", "os.system", "pickle.find_class")
    or (event == "import" and given[0] not in allowed and not given[0].startswith("tzdata."))
]
print(bad)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_importing_the_codec_does_not_import_pydantic() -> None:
    program = "import sys, holdfast.codec, holdfast.patch; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def another_thread() -> Any:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield thread
    done.set()
    thread.join()


def test_a_value_at_rest_is_encoded_the_same_beside_other_threads(another_thread: threading.Thread) -> None:
    for value in ([1, {"a": 2}], [(1,), {2}]):
        assert codec.stable_encode(value) == codec.encode(value)
    with pytest.raises(UnstorableValue):
        codec.stable_encode([object()])


def test_a_value_that_keeps_changing_is_refused(
    another_thread: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"n": 0}

    def encode_and_change(*given: Any) -> bytes:
        value["n"] += 1
        return json.dumps(value).encode()

    monkeypatch.setattr(holdfast.codec, "encode", encode_and_change)
    with pytest.raises(UnstorableValue, match="was being changed by another thread") as refused:
        codec.stable_encode(value, path="session_state['v']")
    assert refused.value.problems[0][0] == "session_state['v']"


def test_a_value_that_comes_to_rest_is_encoded(
    another_thread: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [b"1", RuntimeError("dictionary changed size during iteration"), b"2", b"3", b"3"]

    def encode(*given: Any) -> bytes:
        text = texts.pop(0)
        if isinstance(text, RuntimeError):
            raise text
        return text

    monkeypatch.setattr(holdfast.codec, "encode", encode)
    assert codec.stable_encode([]) == b"3"
    texts[:] = [RuntimeError("of the user's own code")]
    with pytest.raises(RuntimeError, match="own code"):
        codec.stable_encode([])


def test_a_value_changed_by_a_thread_is_a_whole_snapshot_or_an_error() -> None:
    value: dict[str, Any] = {"pairs": [(n, n) for n in range(50)], "total": 0}
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # One step for the reader: the pair is replaced whole, and the sum with the next statement.
            value["pairs"] = [(number, number)] * 50
            value["total"] = number
            time.sleep(0.0005)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            try:
                seen = codec.decode(codec.stable_encode(value))
            except UnstorableValue as refused:
                assert "another thread" in str(refused)  # noqa: PT017
            else:
                assert len(set(seen["pairs"])) in (1, 50)
                assert seen["pairs"][0][0] - seen["total"] in (0, 1)
    finally:
        stop.set()
        thread.join()


# -- content that is recorded -------------------------------------------------------------------------------------


def test_undeclared_instances_are_recorded_as_plain_data_with_their_class() -> None:
    value = {"a": Undeclared(name="x"), "b": UndeclaredRecord("y"), "c": [UndeclaredColour.RED, UndeclaredPoint(1)]}
    value["d"] = Article()
    value["u"] = Usage(requests=2)
    back = codec.decode(codec.encode_loosely(value, TYPES), TYPES)
    assert same(back["d"], Article())
    assert back["a"] == {"$class": "Undeclared", "name": "x"}
    assert back["b"] == {"$class": "UndeclaredRecord", "name": "y"}
    assert back["c"] == [
        {"$class": "UndeclaredColour", "name": "RED", "value": 1},
        {"$class": "UndeclaredPoint", "x": 1},
    ]
    assert back["u"]["requests"] == 2
    assert codec.parse_json(codec.encode_loosely(Loose(name="n", more=[1]))) == {
        "$class": "Loose",
        "name": "n",
        "more": [1],
    }
    with pytest.raises(UnstorableValue) as refused:
        codec.encode_loosely([object()], TYPES, "content")
    assert refused.value.problems[0][0] == "content[0]"


def test_a_mark_stands_for_what_cannot_be_recorded() -> None:
    data = codec.encode_or_mark({"topic": "x", "client": object(), "odd": "\ud800", "model": Undeclared()}, TYPES)
    assert codec.display(data) == {
        "topic": "x",
        "client": "<object, not recorded>",
        "odd": "\\ud800",
        "model": {"$class": "Undeclared", "name": "secret-canary"},
    }
    with pytest.raises(StateError, match=r"session_state\['client'\] was left out"):
        codec.decode(data, TYPES)


def test_nothing_but_errors_of_ours_comes_out_of_the_catalogue() -> None:
    for entry in CATALOGUE:
        if entry.number not in (53, 75):
            try:
                codec.decode(codec.encode_or_mark(entry.make()), holdfast.codec.NO_TYPES)
            except HoldfastError as error:
                assert "secret-canary" not in str(error)  # noqa: PT017


def test_the_declared_classes_of_the_catalogue_cover_their_fields() -> None:
    assert set(TYPES.by_name) >= {"Article", "Source", "Version", "Kind", "Colour", "Loose", "Point"}
    assert len(DECLARED) < len(TYPES.classes)
