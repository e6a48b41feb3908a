"""Steps: what is recorded, what is answered, and what is refused before anything is spent."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial, update_wrapper, wraps
from pathlib import Path
from typing import Any

import pytest

from conftest import FakeClock
from holdfast import Agent, Cache, RunResponse, step
from holdfast.caching import cache_control
from holdfast.errors import (
    CacheMiss,
    InvalidInput,
    StepKeyError,
    StepPersistError,
    StepStateError,
    StorageUnavailable,
)
from holdfast.records import Entry, RunStatus, StepRecord
from holdfast.response import RunEvent
from holdfast.run_steps import StepWarning
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow


@dataclass
class Outline:
    title: str
    at: datetime


# In lower case: as a constant it would be a part of the code of the steps that name it.
computed: list[str] = []


@pytest.fixture(autouse=True)
def no_calls_yet() -> None:
    computed.clear()


def steps_of(workflow: Workflow) -> tuple[StepRecord, ...]:
    assert workflow.run_id is not None
    return workflow.storage.find_steps(workflow.user_id or "", workflow.session_id, workflow.run_id, with_results=False)


def entries(storage: Storage) -> tuple[Entry, ...]:
    return storage.step_cache.find(None)


# -- forms ------------------------------------------------------------------------------------------------------------


class Plain(Workflow):
    @step(cache="session")
    def outline(self, topic: str, depth: int = 2) -> Outline:
        computed.append(topic)
        return Outline(topic * depth, datetime(2026, 1, 2, tzinfo=UTC))

    def run(self, topic: str) -> Any:
        return self.outline(topic)


class Streaming(Workflow):
    @step(cache="session")
    def write(self, topic: str) -> Iterator[RunResponse]:
        computed.append(topic)
        for piece in ("Hold", "fast ", topic):
            yield RunResponse(content=piece)

    def run(self, topic: str) -> Iterator[Any]:
        whole = yield from self.write(topic)
        yield RunResponse(content=("whole", whole.content))


class Awaited(Workflow):
    @step(cache="session")
    async def outline(self, topic: str) -> Outline:
        computed.append(topic)
        await asyncio.sleep(0)
        return Outline(topic, datetime(2026, 1, 2, tzinfo=UTC))

    async def run(self, topic: str) -> Any:
        return await self.outline(topic)


class AsyncStreaming(Workflow):
    @step(cache="session")
    async def write(self, topic: str) -> AsyncIterator[str]:
        computed.append(topic)
        for piece in ("Hold", "fast ", topic):
            yield piece

    async def run(self, topic: str) -> AsyncIterator[str]:
        async for piece in self.write(topic):
            yield piece


async def collected(responses: AsyncIterator[Any]) -> list[Any]:
    return [response async for response in responses]


def test_a_plain_step_gives_the_same_value_from_the_cache(storage: Storage) -> None:
    results = [Plain(session_id="s", storage=storage).run("a").content for _ in range(3)]
    assert results == [Outline("aa", datetime(2026, 1, 2, tzinfo=UTC))] * 3
    assert results[0] is not results[1]
    assert computed == ["a"]


def test_a_call_says_the_same_however_its_arguments_are_written(storage: Storage) -> None:
    class Written(Plain):
        def run(self) -> Any:
            return [self.outline("a"), self.outline("a", 2), self.outline(depth=2, topic="a"), self.outline("a", 3)]

    Written(session_id="s", storage=storage).run()
    assert computed == ["a", "a"]


def test_a_streaming_step_hands_out_the_same_pieces_again_and_says_so(storage: Storage) -> None:
    first, second = (list(Streaming(session_id="s", storage=storage).run("away")) for _ in range(2))
    assert [response.content for response in first] == ["Hold", "fast ", "away", ("whole", "Holdfast away")]
    assert [response.content for response in second] == [response.content for response in first]
    assert [response.cached for response in first] == [False] * 4
    assert [response.cached for response in second] == [True] * 3 + [False]
    assert computed == ["away"]


def test_a_coroutine_step_is_awaited_and_answered(storage: Storage) -> None:
    results = [asyncio.run(Awaited(session_id="s", storage=storage).run("a")).content for _ in range(2)]
    assert results == [Outline("a", datetime(2026, 1, 2, tzinfo=UTC))] * 2
    assert computed == ["a"]


def test_an_async_streaming_step_hands_out_the_same_pieces_again(storage: Storage) -> None:
    runs = [asyncio.run(collected(AsyncStreaming(session_id="s", storage=storage).run("a"))) for _ in range(2)]
    assert [[response.content for response in run] for run in runs] == [["Hold", "fast ", "a"]] * 2
    assert computed == ["a"]


@pytest.mark.parametrize("result", [None, 0, "", [], False])
def test_a_result_that_counts_as_false_is_kept_as_any_other(storage: Storage, result: Any) -> None:
    class Falsy(Workflow):
        @step(cache="session", version=1, ignore=["result"])
        def look(self, result: Any) -> Any:
            computed.append("look")
            return result

        def run(self) -> Any:
            return [self.look(result), self.look(result)]

    assert Falsy(storage=storage).run().content == [result, result]
    assert computed == ["look"]


def test_a_returned_value_that_is_changed_does_not_change_the_record(storage: Storage) -> None:
    class Changing(Workflow):
        @step(cache="session")
        def find(self) -> list[int]:
            return [1]

        def run(self) -> list[int]:
            found = self.find()
            found.append(2)
            return found

    assert [Changing(session_id="s", storage=storage).run().content for _ in range(3)] == [[1, 2]] * 3


def test_steps_keep_their_names_and_signatures() -> None:
    assert Plain.outline.__name__ == "outline"
    assert list(Plain.outline.__annotations__) == ["topic", "depth", "return"]
    assert asyncio.iscoroutinefunction(Awaited.outline)


def test_outside_of_a_run_a_step_of_the_run_is_a_plain_call(storage: Storage) -> None:
    class Alone(Workflow):
        @step
        def double(self, n: int) -> int:
            return n * 2

    assert Alone(storage=storage).double(2) == 4


def test_outside_of_a_run_the_cache_is_used_all_the_same(storage: Storage) -> None:
    workflow = Plain(session_id="s", storage=storage)
    assert workflow.outline("a") == workflow.outline("a")
    assert computed == ["a"]


def test_an_inline_step_takes_any_callable(storage: Storage) -> None:
    async def fetch(url: str) -> str:
        return url.upper()

    def pieces() -> Iterator[str]:
        yield "x"
        return "value"

    class Inline(Workflow):
        async def run(self) -> Any:
            drained: list[Any] = []
            stream = self.step("pieces", pieces)
            while True:
                try:
                    drained.append(next(stream))
                except StopIteration as end:
                    drained.append(end.value)
                    break
            return [self.step("sort", sorted, "cab"), await self.step("fetch", fetch, "u"), drained]

    workflow = Inline(storage=storage)
    assert asyncio.run(workflow.run()).content == [["a", "b", "c"], "U", ["x", "value"]]
    assert [record.name for record in steps_of(workflow)] == ["pieces", "sort", "fetch"]


def test_a_function_that_returns_a_stream_or_an_awaitable_is_a_step_as_well(storage: Storage) -> None:
    def streamed() -> Any:
        computed.append("streamed")
        return (piece for piece in "ab")

    async def later() -> str:
        return "later"

    def awaited() -> Any:
        computed.append("awaited")
        return later()

    stored = step(cache="session", ignore=["later"])

    class Returned(Workflow):
        async def run(self) -> Any:
            return [list(self.step("s", step(streamed, cache="session"))), await self.step("a", stored(awaited))]

    for _ in range(2):
        assert asyncio.run(Returned(session_id="s", storage=storage).run()).content == [["a", "b"], "later"]
    assert computed == ["streamed", "awaited"]


def test_a_module_level_step_finds_the_run_that_it_is_called_in(storage: Storage) -> None:
    class Calling(Workflow):
        def run(self) -> str:
            return shouted("hello")

    workflow = Calling(storage=storage)
    assert workflow.run().content == "HELLO"
    assert [record.name for record in steps_of(workflow)] == ["shouted"]
    assert shouted("outside") == "OUTSIDE"


@step
def shouted(text: str) -> str:
    return text.upper()


# -- scopes -----------------------------------------------------------------------------------------------------------


def test_a_result_of_session_scope_is_for_its_session(storage: Storage) -> None:
    for session_id in ("one", "two", "one"):
        Plain(session_id=session_id, storage=storage).run("a")
    assert computed == ["a", "a"]


def scoped(scope: Any, shared: bool = False) -> type[Workflow]:
    class Scoped(Workflow):
        @step(cache=Cache(scope, shared=shared))
        def find(self, topic: str) -> str:
            computed.append(topic)
            return topic

        def run(self) -> str:
            return self.find("a")

    return Scoped


def test_a_result_of_workflow_scope_is_for_all_its_sessions_and_no_other_workflow(storage: Storage) -> None:
    cls = scoped("workflow")
    for session_id in ("one", "two"):
        cls(session_id=session_id, storage=storage).run()
    assert computed == ["a"]
    cls(session_id="one", storage=storage, name="Another").run()
    assert computed == ["a", "a"]


def test_a_result_of_global_scope_is_for_other_workflows_with_that_step(storage: Storage) -> None:
    cls = scoped("global")
    cls(storage=storage).run()
    cls(storage=storage, name="Another").run()
    assert computed == ["a"]


@pytest.mark.parametrize("scope", ["session", "workflow", "global"])
def test_another_user_never_finds_what_is_not_shared(storage: Storage, scope: Any) -> None:
    cls = scoped(scope)
    for user_id in ("ada", "bob", None, "ada"):
        cls(session_id="s", user_id=user_id, storage=storage).run()
    assert len(computed) == 3


@pytest.mark.parametrize("scope", ["workflow", "global"])
def test_what_is_shared_is_found_by_other_users(storage: Storage, scope: Any) -> None:
    cls = scoped(scope, shared=True)
    for user_id in ("ada", "bob", None):
        cls(user_id=user_id, storage=storage).run()
    assert computed == ["a"]


def test_what_is_shared_is_another_result_than_what_is_nobodys(storage: Storage) -> None:
    scoped("workflow", shared=True)(storage=storage).run()
    scoped("workflow")(storage=storage).run()
    assert len(computed) == 2


def test_a_deleted_session_takes_its_results_with_it(storage: Storage) -> None:
    workflow = Plain(session_id="s", storage=storage)
    workflow.session_state["n"] = 1
    workflow.run("a")
    assert len(entries(storage)) == 1
    storage.delete_session("", "s")
    assert entries(storage) == ()


def test_a_result_is_good_until_it_expires(storage: Storage, fake_clock: FakeClock) -> None:
    class Timed(Workflow):
        @step(cache=Cache("session", ttl="15m"))
        def find(self) -> int:
            computed.append("find")
            return len(computed)

        def run(self) -> int:
            return self.find()

    def found() -> Any:
        return Timed(session_id="s", storage=storage).run().content

    assert found() == 1
    fake_clock.seconds += 14 * 60
    assert found() == 1
    fake_clock.seconds += 2 * 60
    assert found() == 2


# -- keys -------------------------------------------------------------------------------------------------------------


def test_an_argument_without_identity_is_refused_before_anything_is_spent(storage: Storage) -> None:
    class Handing(Workflow):
        @step
        def use(self, options: dict[str, Any]) -> None:
            computed.append("use")

        def run(self) -> None:
            self.use({"clients": [object()]})

    with pytest.raises(StepKeyError, match=r"argument options\['clients'\]\[0\] of step 'use'"):
        Handing(storage=storage).run()
    assert computed == []


def test_key_ignore_and_depends_decide_what_counts(storage: Storage) -> None:
    class Keyed(Workflow):
        style = "formal"

        @step(cache="session", key=lambda client, topic: topic)
        def by_key(self, client: object, topic: str) -> None:
            computed.append("key")

        @step(cache="session", ignore=["client"])
        def ignoring(self, client: object, topic: str) -> None:
            computed.append("ignore")

        @step(cache="session", depends=lambda self: self.style)
        def depending(self) -> None:
            computed.append(self.style)

        def run(self) -> None:
            self.by_key(object(), "a")
            self.ignoring(object(), "a")
            self.depending()

    for style in ("formal", "formal", "easy"):
        Keyed(session_id="s", storage=storage, style=style).run()
    assert computed == ["key", "ignore", "formal", "easy"]


@pytest.mark.parametrize("name", ["session_state", "style", "run_id"])
def test_a_step_of_wider_scope_that_reads_what_is_not_in_its_key_is_refused(storage: Storage, name: str) -> None:
    class Reading(Workflow):
        style = "formal"

        @step(cache="session")
        def session_state_step(self) -> Any:
            computed.append("spent")
            return self.session_state.get("n")

        @step(cache="session")
        def style_step(self) -> Any:
            computed.append("spent")
            return self.style

        @step(cache="session")
        def run_id_step(self) -> Any:
            computed.append("spent")
            return self.helper()

        def helper(self) -> Any:
            return self.run_id

        def run(self) -> Any:
            return getattr(self, f"{name}_step")()

    with pytest.raises(StepKeyError, match=rf"self\.{name} of step"):
        Reading(storage=storage).run()
    assert computed == []


def labelled(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def labelled(self: Any, *args: Any) -> Any:
        return self.style, function(self, *args)

    return labelled


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return timed


class Styled:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, workflow: Any, text: str) -> str:
        return f"{self.function(workflow, text)} in {workflow.style}"


def test_what_a_decorator_that_is_an_object_reads_is_refused_and_what_depends_says_counts(storage: Storage) -> None:
    class Decorated(Workflow):
        style = "plain"

        @step(cache="workflow")
        @Styled
        def refused(self, text: str) -> str:
            return text

        @step(cache="workflow", depends=lambda self: self.style)
        @Styled
        def styled(self, text: str) -> str:
            return text

        def run(self, name: str) -> Any:
            return getattr(self, name)("x")

    with pytest.raises(StepKeyError, match=r"self\.style of step 'refused'"):
        Decorated(storage=storage).run("refused")
    found = [Decorated(storage=storage, style=style).run("styled").content for style in ("a", "b", "a")]
    assert found == ["x in a", "x in b", "x in a"]


def test_what_a_decorator_under_a_step_reads_is_refused_and_one_that_reads_nothing_is_not(storage: Storage) -> None:
    class Decorated(Workflow):
        style = "formal"

        @step(cache="session")
        @timed
        def plain(self, text: str) -> str:
            computed.append(text)
            return text

        @step(cache="session")
        @timed
        @labelled
        def styled(self, text: str) -> str:
            computed.append(text)
            return text

        def run(self, text: str) -> Any:
            return self.styled(text) if text == "styled" else self.plain(text)

    assert [Decorated(session_id="s", storage=storage).run("plain").content for _ in range(2)] == ["plain"] * 2
    with pytest.raises(StepKeyError, match=r"self\.style of step 'styled'"):
        Decorated(storage=storage).run("styled")
    assert computed == ["plain"]


def test_a_step_of_wider_scope_cannot_reach_the_state_in_another_way(storage: Storage) -> None:
    class Reaching(Workflow):
        @step(cache="session", ignore=["self"])
        def reach(self) -> Any:
            return state_of(self)

        def run(self) -> Any:
            return self.reach()

    with pytest.raises(StepStateError, match=r"Step 'reach' uses self\.session_state"):
        Reaching(storage=storage).run()


def state_of(workflow: Workflow) -> Any:
    return dict(workflow.session_state)


def test_a_step_of_wider_scope_that_changes_the_state_through_an_alias_is_refused(storage: Storage) -> None:
    class Changing(Workflow):
        @step(cache="session")
        def change(self, items: list[int]) -> int:
            items.append(1)
            return 1

        def run(self) -> int:
            return self.change(self.session_state.setdefault("items", []))

    with pytest.raises(StepStateError, match="changed the session state"):
        Changing(storage=storage).run()
    assert entries(storage) == ()


def test_a_step_of_wider_scope_cannot_assign_to_its_workflow(storage: Storage) -> None:
    class Assigning(Workflow):
        last = ""

        @step(cache="session")
        def assign(self) -> None:
            self.last = "x"

        def run(self) -> None:
            self.assign()

    with pytest.raises(StepKeyError, match=r"self\.last of step 'assign' is assigned"):
        Assigning(storage=storage).run()


def test_a_transaction_is_no_part_of_a_step_nor_a_step_of_a_transaction(storage: Storage) -> None:
    class Inside(Workflow):
        @step
        def transact(self) -> None:
            with self.transaction():
                pass

        @step
        def refreshed(self) -> None:
            self.refresh()

        @step
        def harmless(self) -> None:
            pass

        def run(self, which: str) -> None:
            if which == "around":
                with self.transaction():
                    self.harmless()
            getattr(self, which)()

    for which in ("transact", "refreshed", "around"):
        with pytest.raises(StepStateError):
            Inside(storage=storage).run(which)


class Child(Workflow):
    """A workflow that is run by a step of another one, and uses what is its own."""

    parent: Any = None

    @step
    def first(self) -> int:
        self.session_state["first"] = 1
        return 1

    @step
    def second(self) -> int:
        return 2

    def run(self, how: str = "") -> int:
        self.session_state["n"] = 1
        with self.transaction() as state:
            state["m"] = 2
        self.refresh()
        total = self.first() + sum(self.parallel(self.second, self.second))
        if how == "state":
            self.parent.session_state["n"] = 1
        if how == "transaction":
            self.parent.transaction()
        return total


class StreamingChild(Child):
    def run(self, how: str = "") -> Iterator[int]:  # type: ignore[override]
        self.session_state["n"] = 1
        yield self.first()
        with self.transaction() as state:
            state["m"] = 2
        yield 2 * self.second()


class AsyncChild(Child):
    async def run(self, how: str = "") -> int:  # type: ignore[override]
        await asyncio.sleep(0)
        return Child.run.__wrapped__(self, how)  # type: ignore[attr-defined,no-any-return]


class Parent(Workflow):
    children: Any = None

    def child(self, name: str) -> Any:
        storage, cls = self.children
        return cls(session_id=name, storage=storage, parent=self)

    def given(self, name: str, how: str) -> Any:
        run = self.child(name).run(how=how)
        if isinstance(run, Coroutine):
            run = asyncio.run(run)
        return run.content if isinstance(run, RunResponse) else sum(response.content for response in run)

    @step
    def of_the_run(self, name: str, how: str = "") -> Any:
        self.session_state["parent"] = 1
        total = self.given(name, how)
        self.session_state["parent"] += 1
        return total

    @step(cache="workflow", depends=lambda self: None, ignore=["child"])
    def wider(self, name: str, how: str = "") -> Any:
        return self.given(name, how)

    @step
    def at_once(self, name: str) -> Any:
        return self.given(name, "")

    def run(self, which: str, how: str = "") -> Any:
        if which == "parallel":
            return self.parallel(partial(self.at_once, "a"), partial(self.at_once, "b"), partial(self.given, "c", ""))
        return getattr(self, which)("a", how)


@pytest.mark.parametrize("cls", [Child, StreamingChild, AsyncChild])
@pytest.mark.parametrize("which", ["of_the_run", "wider", "parallel"])
def test_a_run_inside_of_a_step_has_a_session_and_steps_of_its_own(
    storage: Storage, cls: type[Child], which: str
) -> None:
    parent = Parent(session_id="parent", storage=storage, children=(storage, cls))
    assert parent.run(which).content == ([5] * 3 if which == "parallel" else 5)
    child = Workflow(session_id="a", storage=storage)
    assert child.session_state == {"n": 1, "m": 2, "first": 1}
    (run,) = storage.find_runs("", session_id="a")
    steps = storage.find_steps("", "a", run.run_id, with_results=False)
    assert {record.within for record in steps} == {0}
    assert parent.session_state == ({"parent": 2} if which == "of_the_run" else {})


@pytest.mark.parametrize("cls", [Child, AsyncChild])
def test_a_run_inside_of_a_step_does_no_more_with_the_session_around_it_than_the_step_may(
    storage: Storage, cls: type[Child]
) -> None:
    def parent() -> Parent:
        return Parent(session_id="parent", storage=storage, children=(storage, cls))

    for which, how in (("wider", "state"), ("wider", "transaction"), ("of_the_run", "transaction")):
        with pytest.raises(StepStateError, match=rf"Step '{which}' uses self\."):
            parent().run(which, how)
    assert parent().run("of_the_run", "state").content == 5
    assert parent().session_state == {"parent": 2, "n": 1}


# -- code -------------------------------------------------------------------------------------------------------------

SOURCE = '''
from holdfast import Agent, step
from holdfast.workflow import Workflow

STYLE = "formal"


def slug(text):
    return text.lower()


class Blog(Workflow):
    writer = Agent("offline", instructions="Write.")

    @step{options}
    def write(self, topic):
        """Write about a topic."""
        computed.append(slug(topic))
        return [self.writer.run(topic).content, STYLE]

    def run(self, topic):
        return self.write(topic)
'''


class Module:
    """A module of a user's that is edited between two runs."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        self.storage = storage
        self.number = 0

    def run(self, source: str, **attributes: Any) -> int:
        """Run the workflow of this source and return how many steps were computed."""
        import importlib.util
        import linecache

        path = self.folder / "blog.py"
        path.write_text(source)
        linecache.clearcache()
        spec = importlib.util.spec_from_file_location("blog", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        module.computed = computed  # type: ignore[attr-defined]
        exec(compile(source, str(path), "exec"), module.__dict__)
        before = len(computed)
        workflow = module.Blog(session_id="s", storage=self.storage)
        for name, value in attributes.items():
            setattr(workflow.writer, name, value)
        workflow.run("Topic")
        return len(computed) - before


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Module]:
    with closing(SqlWorkflowStorage(db_file=tmp_path / "workflows.db")) as storage:
        yield Module(tmp_path, storage)


WIDE = SOURCE.replace("{options}", '(cache="session")')


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("computed.append(slug(topic))", "computed.append(slug(topic)); assert topic"),
        ("text.lower()", "text.upper()"),
        ('"formal"', '"easy"'),
        ('"Write."', '"Write well."'),
    ],
    ids=["code", "helper", "constant", "instructions"],
)
def test_an_edit_of_what_a_step_of_wider_scope_uses_computes_it_again_and_reverting_finds_it(
    module: Module, old: str, new: str
) -> None:
    assert old in WIDE
    assert [module.run(source) for source in (WIDE, WIDE, WIDE.replace(old, new), WIDE)] == [1, 0, 1, 0]


def test_comments_formatting_and_docstrings_do_not_count(module: Module) -> None:
    edited = WIDE.replace('"""Write about a topic."""', '"""Other words."""\n        # a comment').replace(
        "return [self.writer.run(topic).content, STYLE]",
        "return [\n            self.writer.run(topic).content,\n            STYLE,\n        ]",
    )
    assert edited.count("\n") > WIDE.count("\n")
    assert [module.run(source) for source in (WIDE, edited)] == [1, 0]


def test_a_version_stands_for_the_code(module: Module) -> None:
    first = SOURCE.replace("{options}", '(cache="session", version="1")')
    edited = first.replace("computed.append(slug(topic))", "computed.append(slug(topic) + topic)")
    other = first.replace('version="1"', 'version="2"')
    assert [module.run(source) for source in (first, edited, other)] == [1, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"model": lambda message: "other"},
        {"instructions": "Write well."},
        {"output_type": list[str]},
        {"model_settings": {"temperature": 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_agent_is_another_result(module: Module, change: dict[str, Any]) -> None:
    if "output_type" in change:
        change = {"output_type": list[str], "model": None}
    assert module.run(WIDE) == 1
    if "model" in change and callable(change["model"]):
        change = {**change, "instructions": None}
    try:
        assert module.run(WIDE, **change) == 1
    except Exception as error:  # the offline model cannot fill every type: what counts is that it was asked
        assert len(computed) == 2, error  # noqa: PT017


FORMATS = {"short": lambda text: text[:1]}
critic = Agent(lambda message: "critic one", name="critic")


def test_two_agents_of_one_name_both_count(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reviewed(Workflow):
        critic = Agent(lambda message: "mine")

        @step(cache="session")
        def review(self) -> list[str]:
            computed.append("review")
            return [self.critic.run("x").content, critic.run("x").content, FORMATS["short"]("long")]

        def run(self) -> list[str]:
            return self.review()

    def run() -> Any:
        return Reviewed(session_id="s", storage=storage).run().content

    assert [run(), run()] == [["mine", "critic one", "l"]] * 2
    monkeypatch.setattr(critic, "model", lambda message: "critic two")
    assert run() == ["mine", "critic two", "l"]
    monkeypatch.setitem(FORMATS, "short", lambda text: text[:2])
    assert run() == ["mine", "critic two", "lo"]
    monkeypatch.setattr(Reviewed.critic, "model", lambda message: "other")
    assert run() == ["other", "critic two", "lo"]
    assert len(computed) == 4


def test_a_method_that_was_replaced_on_the_object_is_refused(storage: Storage) -> None:
    class Helped(Workflow):
        @step(cache="session")
        def work(self) -> str:
            return self.helper()

        def helper(self) -> str:
            return "class"

        def run(self) -> str:
            return self.work()

    Helped(session_id="s", storage=storage).run()
    replaced = Helped(session_id="s", storage=storage)
    replaced.helper = lambda: "object"  # type: ignore[method-assign]
    with pytest.raises(StepKeyError, match=r"self\.helper of step 'work' is a method that was replaced"):
        replaced.run()


def test_a_shorter_time_to_live_holds_for_what_is_kept_already(storage: Storage, fake_clock: FakeClock) -> None:
    def run(ttl: str) -> None:
        class Timed(Workflow):
            @step(cache=Cache("session", ttl=ttl), version=1)
            def find(self) -> None:
                computed.append("find")

            def run(self) -> None:
                self.find()

        Timed(session_id="s", storage=storage).run()

    run("30d")
    fake_clock.seconds += 60
    run("30d")
    assert len(computed) == 1
    run("30s")
    assert len(computed) == 2


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_is_not_kept(storage: Storage) -> None:
    class Failing(Workflow):
        @step(cache="session", ignore=["self"])
        def fetch(self) -> str:
            computed.append("fetch")
            if len(computed) == 1:
                raise ConnectionError("gone")
            return "fetched"

        def run(self) -> str:
            return self.fetch()

    with pytest.raises(ConnectionError):
        Failing(session_id="s", storage=storage).run()
    assert Failing(session_id="s", storage=storage).run().content == "fetched"


def test_retries_try_again_with_pauses(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)

    class Trying(Workflow):
        @step(retries=2)
        def fetch(self, fails: int) -> int:
            computed.append("fetch")
            if len(computed) <= fails:
                raise ConnectionError("gone")
            return len(computed)

        def run(self, fails: int) -> int:
            return self.fetch(fails)

    assert Trying(storage=storage).run(2).content == 3
    assert len(paused) == 2
    assert 0 < paused[0] < paused[1] + 1
    computed.clear()
    with pytest.raises(ConnectionError):
        Trying(storage=storage).run(3)
    assert len(computed) == 3


def test_what_handed_out_a_piece_or_changed_the_state_is_not_tried_again(storage: Storage) -> None:
    class Trying(Workflow):
        @step(retries=2)
        def stream(self) -> Iterator[int]:
            computed.append("stream")
            yield 1
            raise ConnectionError("gone")

        @step(retries=2)
        def change(self) -> None:
            computed.append("change")
            self.session_state["n"] = 1
            raise ConnectionError("gone")

        def run(self, which: str) -> Iterator[Any]:
            yield from self.stream() if which == "stream" else [self.change()]

    for which in ("stream", "change"):
        with pytest.raises(ConnectionError) as caught:
            list(Trying(storage=storage).run(which))
        assert "was not tried again" in caught.value.__notes__[0]
    assert computed == ["stream", "change"]


def test_store_if_can_refuse_a_result(storage: Storage) -> None:
    class Picky(Workflow):
        @step(cache="session", store_if=bool)
        def search(self, topic: str) -> list[str]:
            computed.append(topic)
            return [] if topic == "nothing" else [topic]

        def run(self, topic: str) -> list[str]:
            return self.search(topic)

    for topic in ("nothing", "nothing", "some", "some"):
        Picky(session_id="s", storage=storage).run(topic)
    assert computed == ["nothing", "nothing", "some"]


@pytest.mark.parametrize("cache", [None, "session"])
def test_a_result_that_cannot_be_stored_is_with_the_error(storage: Storage, cache: Any) -> None:
    class Odd(Workflow):
        @step(cache=cache)
        def make(self) -> Any:
            return {"client": MARK}

        def run(self) -> None:
            self.make()

    with pytest.raises(StepPersistError, match=r"result\['client'\]") as caught:
        Odd(storage=storage).run()
    assert caught.value.result == {"client": MARK}


MARK = threading.Lock()


def test_a_cache_that_fails_makes_a_warning_and_the_step_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()

    def fail(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable(where="the cache", reason="it is gone")

    names = ["read", "claim", "store", "release", "count_hits"]
    for failing in (names[1:], names):
        for name in failing:
            monkeypatch.setattr(storage.step_cache, name, fail)
        with pytest.warns(StepWarning, match="could not be read" if "read" in failing else "others may compute"):
            assert Plain(storage=storage).run("a").content.title == "aa"


def test_a_commit_between_a_step_and_its_record_is_not_made_again(storage: Storage) -> None:
    running: list[Workflow] = []

    class Appending(Workflow):
        @step(store_if=lambda _: running[0].write_to_storage() > 0)
        def append(self) -> str:
            self.session_state["posts"].append("a")
            return "done"

        def run(self) -> str:
            running.append(self)
            self.session_state["posts"] = ["first"]
            self.write_to_storage()
            return self.append()

    assert Appending(session_id="s", storage=storage).run().content == "done"
    assert Appending(session_id="s", storage=storage).session_state == {"posts": ["first", "a"]}
    assert len(storage.changes("", "s")) == 2


def test_what_a_run_found_in_the_cache_is_counted_with_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(Workflow):
        @step(cache="workflow")
        def ask(self, topic: str) -> str:
            return topic

        def run(self) -> list[str]:
            return [self.ask(topic) for topic in "abcabcabc"]

    written: list[Any] = []
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage:
        count = type(storage.step_cache).count_hits
        monkeypatch.setattr(
            type(storage.step_cache), "count_hits", lambda cache, hits: (written.append(dict(hits)), count(cache, hits))
        )
        Asking(storage=storage).run()
        assert [sorted(hits.values()) for hits in written] == [[2, 2, 2]]
        assert sorted(entry.hits for entry in storage.step_cache.find(None)) == [2, 2, 2]


@pytest.mark.parametrize(
    "value", ["a", "", '"}', '{"$hf":["tuple",[]]}', "$hf:1", "\u20ac\n", "x" * 20_000, ("a",), ["a"], {"v": "a"}]
)
def test_a_result_that_is_found_is_the_one_that_was_kept(storage: Storage, value: Any) -> None:
    class Giving(Workflow):
        @step(cache="workflow")
        def give(self) -> Any:
            computed.append("give")
            return value

        def run(self) -> list[Any]:
            return [self.give() for _ in range(3)]

    found = Giving(storage=storage).run().content
    assert found == [value] * 3
    assert {type(each) for each in found} == {type(value)}
    assert computed == ["give"]


def test_a_record_of_a_run_that_cannot_be_written_raises_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    monkeypatch.setattr(time, "sleep", lambda _: None)

    class Paid(Workflow):
        @step
        def pay(self) -> str:
            return "paid"

        def run(self) -> str:
            return self.pay()

    tries = []
    commit = storage.commit

    def fail(given: Any, **more: Any) -> Any:
        if given.steps:
            tries.append(given)
            raise StorageUnavailable(where="the storage", reason="it is gone")
        return commit(given, **more)

    monkeypatch.setattr(storage, "commit", fail)
    with pytest.raises(StepPersistError, match="it is gone") as caught:
        Paid(storage=storage).run()
    assert caught.value.result == "paid"
    assert len(tries) == 3


def test_what_cannot_be_read_any_more_is_computed_again_with_a_warning(storage: Storage) -> None:
    def workflow(cls: type) -> Workflow:
        class Typed(Workflow):
            state_types = [cls]

            @step(cache="session", version=1, ignore=["cls"])
            def make(self) -> Any:
                computed.append("make")
                return cls("x")

            def run(self) -> Any:
                return self.make().name

        return Typed(session_id="s", storage=storage)

    @dataclass
    class Named:
        name: str

    @dataclass
    class Titled:  # the same class after an edit
        name: str

    def run(cls: type) -> Any:
        return workflow(cls).run().content

    assert run(Named) == "x"
    with pytest.warns(StepWarning, match="cannot be read"):
        assert run(Titled) == "x"
    assert run(Titled) == "x"
    assert computed == ["make", "make"]


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_not_read_to_its_end_keeps_nothing(storage: Storage) -> None:
    with closing(Streaming(session_id="s", storage=storage).run("a")) as responses:
        next(responses)
    assert entries(storage) == ()
    list(Streaming(session_id="s", storage=storage).run("a"))
    assert computed == ["a", "a"]


def test_who_reads_a_stream_may_change_the_state_meanwhile(storage: Storage) -> None:
    class Counting(Streaming):
        def run(self, topic: str) -> Iterator[Any]:
            for piece in self.write(topic):
                self.session_state["n"] = self.session_state.get("n", 0) + 1
                yield piece

    for total in (3, 6):
        workflow = Counting(session_id="s", storage=storage)
        assert len(list(workflow.run("a"))) == 3
        assert workflow.session_state == {"n": total}
    assert computed == ["a"]


class Writing(Workflow):
    writer = Agent(lambda message: iter(["About ", message]), name="writer")

    @step(cache="session")
    def write(self, topic: str) -> Iterator[RunResponse]:
        computed.append(topic)
        yield from self.writer.run(topic, stream=True)

    def run(self, *topics: str) -> Iterator[Any]:
        for topic in topics:
            yield from self.write(topic)
            yield RunResponse(content=[self.writer.run_response.content])


def test_after_a_hit_an_agent_says_what_it_said_in_that_step(storage: Storage) -> None:
    contents = [
        [response.content for response in Writing(session_id="s", storage=storage).run(*topics)]
        for topics in (["a", "b"], ["b", "a"])
    ]
    assert contents[0] == ["About ", "a", ["About a"], "About ", "b", ["About b"]]
    assert contents[1] == ["About ", "b", ["About b"], "About ", "a", ["About a"]]
    assert computed == ["a", "b"]


# -- agents that are steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["session", Cache("workflow", ttl="1d")])
def test_an_agent_with_a_cache_is_asked_once(storage: Storage, cache: Any) -> None:
    def answer(message: str) -> str:
        computed.append(message)
        return message.upper()

    class Asking(Workflow):
        writer = Agent(answer, cache=cache)

        def run(self, message: str) -> Any:
            return [self.writer.run(message).content, self.writer.run_response.content]

    class Streamed(Asking):
        def run(self, message: str) -> Iterator[Any]:
            yield from self.writer.run(message, stream=True)
            yield [self.writer.run_response.content]

    class Later(Asking):
        async def run(self, message: str) -> Any:
            return [(await self.writer.arun(message)).content, self.writer.run_response.content]

    def made(cls: type[Workflow]) -> Workflow:
        return cls(session_id="s", name="Asking", storage=storage)

    assert made(Asking).run("a").content == ["A", "A"]
    assert made(Asking).run("a").content == ["A", "A"]
    assert [response.content for response in made(Streamed).run("a")] == ["A", ["A"]]
    assert asyncio.run(made(Later).run("a")).content == ["A", "A"]
    assert computed == ["a"]
    assert made(Asking).run("b").content == ["B", "B"]


def test_outside_of_a_run_an_agent_with_a_cache_is_asked_each_time() -> None:
    def answer(message: str) -> None:
        computed.append(message)

    agent = Agent(answer, cache="session")
    agent.run("a")
    agent.run("a")
    assert computed == ["a", "a"]


def test_an_inline_step_of_an_agent_keeps_its_messages(storage: Storage) -> None:
    class Asking(Workflow):
        writer = Agent("offline", cache="session")

        def run(self) -> Any:
            response = self.writer.run("Hello")
            return [message.kind for message in response.messages]

    for _ in range(2):
        workflow = Asking(session_id="s", storage=storage)
        assert workflow.run().content == ["request", "response"]
    (record,) = steps_of(workflow)
    assert record.is_hit
    assert record.usage.requests == 1


def test_a_step_with_a_timeout_is_stopped(storage: Storage) -> None:
    class Slow(Workflow):
        @step(timeout=0.05)
        async def wait(self) -> None:
            await asyncio.sleep(30)

        async def run(self) -> None:
            await self.wait()

    with pytest.raises(TimeoutError):
        asyncio.run(Slow(storage=storage).run())

    async def never(message: str) -> None:
        await asyncio.sleep(30)

    class SlowAgent(Workflow):
        writer = Agent(never)

        def run(self) -> None:
            self.step("write", step(self.writer.run, timeout=0.05), "x")

    with pytest.raises(TimeoutError):
        SlowAgent(storage=storage).run()


# -- controls ---------------------------------------------------------------------------------------------------------


class Numbered(Workflow):
    @step(cache="session", ignore=["self"])
    def number(self) -> int:
        computed.append("number")
        return len(computed)

    def run(self) -> int:
        return self.number()


def numbered(storage: Storage, **options: bool) -> Any:
    return Numbered(session_id="s", storage=storage).run(**options).content


def test_the_options_of_a_run_say_what_it_may_use(storage: Storage) -> None:
    with pytest.raises(CacheMiss):
        numbered(storage, only_if_cached=True)
    assert numbered(storage, use_cache=False) == 1
    assert entries(storage) == ()
    assert numbered(storage) == 2
    assert numbered(storage, only_if_cached=True) == 2
    assert numbered(storage, use_cache=False) == 3
    assert numbered(storage) == 2
    assert numbered(storage, refresh=True) == 4
    assert numbered(storage) == 4
    with pytest.raises(InvalidInput):
        numbered(storage, only_if_cached=True, refresh=True)


@pytest.mark.parametrize("variable", ["off", "refresh"])
def test_what_the_environment_takes_away_does_not_make_a_run_pay(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    numbered(storage)
    monkeypatch.setenv("HOLDFAST_CACHE", variable)
    with pytest.raises(CacheMiss):
        numbered(storage, only_if_cached=True)
    assert computed == ["number"]


def test_a_miss_says_what_the_step_was_given_without_its_values(storage: Storage) -> None:
    class Asking(Workflow):
        @step(cache="session", ignore=["client"])
        def look_up(self, topic: str, *, words: int = 3, client: Any = None) -> str:
            return topic * words

        @step(cache="session")
        def bare(self) -> int:
            return 1

        def run(self, topics: list[str]) -> list[str]:
            return [self.look_up(topic, client=object()) for topic in topics] or [str(self.bare())]

    Asking(session_id="s", storage=storage).run(["tides"])
    with pytest.raises(CacheMiss) as caught:
        Asking(session_id="s", storage=storage).run(["tides", "waves-and-wind"], only_if_cached=True)
    assert (caught.value.step, caught.value.arguments) == ("look_up", {"topic": "waves-and-wind", "words": 3})
    assert "step 'look_up' for topic (str of 14) and words (int) is not in the cache" in str(caught.value)
    assert "waves" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.arguments) == (str(caught.value), caught.value.arguments)
    with pytest.raises(CacheMiss, match="step 'bare' for no arguments is not in the cache"):
        Asking(session_id="s", storage=storage).run([], only_if_cached=True)


def test_a_parameter_of_run_with_that_name_says_it_as_well(storage: Storage) -> None:
    class Own(Numbered):
        def run(self, use_cache: bool = True) -> Any:
            return [use_cache, self.number()]

    def run(**given: bool) -> Any:
        return Own(session_id="s", storage=storage).run(**given).content

    assert [run(), run(), run(use_cache=False)] == [[True, 1], [True, 1], [False, 2]]


def test_a_block_and_the_environment_can_only_take_away(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    with cache_control(use_cache=False):
        assert [numbered(storage), numbered(storage)] == [1, 2]
    monkeypatch.setenv("HOLDFAST_CACHE", "readonly")
    assert [numbered(storage), numbered(storage)] == [3, 4]
    monkeypatch.setenv("HOLDFAST_CACHE", "refresh")
    assert numbered(storage) == 5
    monkeypatch.setenv("HOLDFAST_CACHE", "readonly")
    assert numbered(storage) == 5
    monkeypatch.setenv("HOLDFAST_CACHE", "off")
    assert numbered(storage) == 6
    monkeypatch.setenv("HOLDFAST_CACHE", "sometimes")
    with pytest.raises(InvalidInput, match="HOLDFAST_CACHE"):
        numbered(storage)


def test_what_is_refreshed_stays_readable_until_it_is_replaced(storage: Storage) -> None:
    seen: list[Any] = []

    class Refreshed(Workflow):
        @step(cache="session", ignore=["meanwhile"])
        def number(self, meanwhile: Callable[[], None]) -> int:
            computed.append("number")
            meanwhile()
            return len(computed)

        def run(self, meanwhile: Callable[[], None] = lambda: None) -> int:
            return self.number(meanwhile)

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(refreshed()))
        thread.start()
        thread.join(10)

    def refreshed(*given: Any, **options: bool) -> Any:
        return Refreshed(session_id="s", storage=storage).run(*given, **options).content

    assert refreshed() == 1
    assert refreshed(look, refresh=True) == 2
    assert seen == [1]


# -- savings ----------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_saved_and_an_unknown_price_stays_unknown(storage: Storage) -> None:
    from holdfast.metering import add_usage
    from holdfast.records import Usage

    class Spending(Workflow):
        @step(cache="session", ignore=["cost"])
        def spend(self, n: int, cost: float | None) -> int:
            add_usage(Usage(1, 10, 5, cost))
            return n

        def run(self) -> Any:
            return [self.spend(1, 0.25), self.spend(2, None)]

    for _ in range(2):
        Spending(session_id="s", storage=storage).run()
    second, first = storage.find_runs("")
    assert (first.usage.requests, first.usage.cost, first.savings.hits) == (2, None, 0)
    assert (second.usage.requests, second.usage.cost) == (0, 0.0)
    assert (second.savings.hits, second.savings.usage.requests, second.savings.usage.input_tokens) == (2, 2, 20)
    assert second.savings.usage.cost is None
    assert second.savings.seconds > 0


def test_entries_tell_how_often_they_were_found(storage: Storage) -> None:
    for _ in range(3):
        Plain(session_id="s", storage=storage).run("a")
    (entry,) = entries(storage)
    assert (entry.step, entry.hits, entry.scope, entry.workflow) == ("outline", 2, "session", "Plain")
    assert entry.run_id == storage.find_runs("")[-1].run_id


def test_events_tell_of_steps(storage: Storage) -> None:
    def events(cls: type[Workflow]) -> list[Any]:
        responses = cls(session_id="s", storage=storage).run("a", stream_events=True)
        return [
            (str(response.event), response.data.get("cached"))
            for response in responses
            if response.event in (RunEvent.step_started, RunEvent.step_completed)
        ]

    assert events(Streaming) == [("StepStarted", None), ("StepCompleted", False)]
    assert events(Streaming) == [("StepCompleted", True)]
    assert events(Plain) == [("StepStarted", None), ("StepCompleted", False)]


# -- at the same time -------------------------------------------------------------------------------------------------


class Fanning(Workflow):
    @step
    def fetch(self, n: int) -> int:
        if n < 0:
            raise ConnectionError(str(n))
        return n * n

    def run(self, *numbers: int) -> Any:
        return self.parallel(*(partial(self.fetch, number) for number in numbers), limit=3)


def test_parallel_steps_return_their_values_in_order(storage: Storage) -> None:
    workflow = Fanning(storage=storage)
    assert workflow.run(*range(10)).content == [n * n for n in range(10)]
    assert len(steps_of(workflow)) == 10


def test_the_limit_holds_and_is_used(storage: Storage) -> None:
    together: list[int] = []
    meeting = threading.Barrier(3)

    class Meeting(Workflow):
        @step
        def meet(self, n: int) -> int:
            together.append(1)
            meeting.wait(10)
            assert sum(together) <= 3
            meeting.wait(10)
            together.append(-1)
            return n

        def run(self) -> Any:
            return self.parallel(*(partial(self.meet, n) for n in range(6)), limit=3)

    assert Meeting(storage=storage).run().content == list(range(6))


def test_a_failure_leaves_the_finished_ones_recorded(storage: Storage) -> None:
    workflow = Fanning(storage=storage)
    with pytest.raises(ConnectionError, match="-1"):
        workflow.run(1, 2, -1, *range(10, 200))
    recorded = {record.name for record in steps_of(workflow)}
    assert recorded == {"fetch"}
    assert 2 <= len(steps_of(workflow)) < 150


def test_parallel_steps_leave_the_state_alone(storage: Storage) -> None:
    class Touching(Workflow):
        @step
        def read(self) -> Any:
            return self.session_state.get("n")

        @step
        def change(self, items: list[int]) -> None:
            items.append(1)

        def run(self, which: str) -> Any:
            items = self.session_state.setdefault("items", [])
            return self.parallel(self.read if which == "read" else partial(self.change, items))

    for which, told in (("read", r"uses self\.session_state"), ("change", "changed the session state")):
        with pytest.raises(StepStateError, match=told):
            Touching(storage=storage).run(which)


def test_parallel_tasks_of_an_async_workflow(storage: Storage) -> None:
    class Tasks(Workflow):
        @step
        async def fetch(self, n: int) -> int:
            await asyncio.sleep(0)
            if n < 0:
                raise ConnectionError(str(n))
            return n * n

        async def run(self, *numbers: int) -> Any:
            return await self.parallel(*(partial(self.fetch, number) for number in numbers), limit=2)

    workflow = Tasks(storage=storage)
    assert asyncio.run(workflow.run(*range(5))).content == [0, 1, 4, 9, 16]
    assert len(steps_of(workflow)) == 5
    with pytest.raises(ConnectionError):
        asyncio.run(Tasks(storage=storage).run(1, -1, 2, 3))


def test_what_parallel_cannot_call_is_refused() -> None:
    class Refused(Fanning):
        def run(self, which: str) -> Any:
            async def awaited() -> None: ...

            calls: dict[str, Any] = {
                "called": [self.fetch(1)],
                "mixed": [partial(self.fetch, 1), awaited],
                "stream": [lambda: (n for n in "ab")],
            }
            return self.parallel(*calls.get(which, []), limit=0 if which == "limit" else 1)

    for which in ("called", "mixed", "stream", "limit"):
        with pytest.raises(InvalidInput):
            Refused().run(which)
    assert Refused().run("none").content == []


# -- declaring --------------------------------------------------------------------------------------------------------


LIMIT = 3


def asks(client: Any, topic: str) -> Any:
    return client, topic, LIMIT


def uses_limit() -> Any:
    return LIMIT


def takes_all(**options: Any) -> Any:
    return options


class Naming(Workflow):
    client = "c"

    def helper(self) -> Any:
        return self.client, LIMIT

    def asked(self, topic: str) -> Any:
        return self.helper()

    def run(self) -> Any:
        return self.asked("x")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        *((asks, ["client"]), (asks, ["topic", "LIMIT"]), (takes_all, ["anything"]), (len, ["obj"])),
        *((Naming.asked, [name]) for name in ("self", "topic", "client", "session_state", "LIMIT")),
    ],
)
@pytest.mark.parametrize("cache", [None, "session"])
def test_what_is_ignored_may_be_whatever_the_step_uses(
    function: Any, names: list[str], cache: Any, storage: Storage
) -> None:
    if names == ["LIMIT"] and cache is None:
        return  # a constant never counts there
    declared = step(cache=cache, ignore=["client", *names] if function is Naming.asked and cache else names)(function)
    if function is Naming.asked:
        assert type("Named", (Naming,), {"asked": declared})(storage=storage).run().content == ("c", 3)


@pytest.mark.parametrize("key", [None, lambda client, *rest: rest])
@pytest.mark.parametrize("cache", [None, "session"])
def test_what_is_ignored_but_is_neither_parameter_nor_named_by_the_code_is_refused(cache: Any, key: Any) -> None:
    declared = step(cache=cache, key=key, ignore=["clinet", "client"])(Naming.asked)
    with pytest.raises(InvalidInput, match=r"(?s)Step 'asked' is to ignore 'clinet'.*Did you mean 'client'"):
        type("Named", (Naming,), {"asked": declared})().run()
    with pytest.raises(InvalidInput, match="'clinet'"):
        step(cache=cache, ignore=["clinet"])(partial(asks, 1))


def test_a_typo_in_ignore_of_a_method_is_told_the_parameter_that_was_meant() -> None:
    class Typing(Workflow):
        @step(ignore=["cliennt"])
        def asked(self, client: object) -> None: ...

        def run(self) -> None:
            self.asked(1)

    with pytest.raises(InvalidInput, match=r"Did you mean 'client'"):
        Typing().run()


def test_a_part_of_an_argument_or_of_self_cannot_be_ignored_and_it_is_said_how_that_is_written() -> None:
    def styled(self: Any, client: Any) -> Any:
        return self.style, client.name

    with pytest.raises(InvalidInput, match=r"'self\.style'\. An attribute .* without it: ignore=\['style'\]"):
        step(cache="session", ignore=["self.style"])(styled)
    for name in ("client.name", "client['name']"):
        with pytest.raises(InvalidInput, match=r"as a whole: ignore=\['client'\]"):
            step(ignore=[name], key=lambda client: client)(styled)


def test_what_code_of_uses_names_may_be_ignored() -> None:
    def calls() -> Any:
        return uses_limit()

    step(cache="session", ignore=["LIMIT"], uses=[uses_limit])(calls)
    with pytest.raises(InvalidInput, match="'LIMIT'"):
        step(cache="session", ignore=["LIMIT"])(calls)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: step(3),  # type: ignore[call-overload]
        lambda: step(int),
        lambda: step(staticmethod(len)),
        lambda: step(len, retries=-1),
        lambda: step(len, name=""),
        lambda: step(len, name="\ud800"),
        lambda: step(len, retries=True),
        lambda: step(len, timeout=1),
        lambda: step(len, version="2"),
        lambda: step(len, uses=[max]),
        lambda: step(len, depends=lambda self: 1),
        lambda: step(ignore=["clinet"])(asks),
        lambda: step(cache="session", ignore="clinet")(asks),
        lambda: step(len, cache=3),  # type: ignore[call-overload]
        lambda: step(len, cache="everywhere"),  # type: ignore[call-overload]
        lambda: Cache("session", shared=True),
        lambda: Cache("run", ttl=1),
        lambda: Cache("session", ttl=0),
        lambda: Cache("session", ttl="soon"),
        lambda: Cache("session", ttl=timedelta(0)),
        lambda: Cache("session", wait_timeout=-1),
        lambda: Agent("offline", cache=3),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused_when_it_is_declared(declare: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInput):
        declare()


def test_ttl_in_all_its_forms() -> None:
    assert [Cache("session", ttl=ttl).seconds for ttl in (90, "90s", "1.5m", timedelta(seconds=90), None)] == [
        *([90.0] * 4),
        None,
    ]


def test_no_warning_without_reason(storage: Storage) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            workflow = Plain(session_id="s", storage=storage)
            workflow.run("a")
    assert not caught
    assert storage.find_runs("")[0].status is RunStatus.completed
