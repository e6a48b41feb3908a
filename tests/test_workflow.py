"""Workflows as users write them: the forms of run(), what comes out, and what the constructor takes."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast import codec
from holdfast.declared import Types
from holdfast.errors import InvalidInput, RunInProgress
from holdfast.records import RunStatus
from holdfast.response import RunEvent, RunResponse
from holdfast.storage.base import Storage
from holdfast.workflow import Workflow


class Plain(Workflow):
    def run(self, topic: str) -> RunResponse:
        self.session_state["topic"] = topic
        return RunResponse(content=topic.upper(), event=RunEvent.workflow_completed)


class Generator(Workflow):
    def run(self, topic: str) -> Iterator[RunResponse]:
        self.session_state["topic"] = topic
        for letter in topic:
            yield RunResponse(content=letter.upper())


class Coroutine(Workflow):
    async def run(self, topic: str) -> RunResponse:
        await asyncio.sleep(0)
        self.session_state["topic"] = topic
        return RunResponse(content=topic.upper())


class AsyncGenerator(Workflow):
    async def run(self, topic: str) -> AsyncIterator[RunResponse]:
        self.session_state["topic"] = topic
        for letter in topic:
            await asyncio.sleep(0)
            yield RunResponse(content=letter.upper())


class ReturnsGenerator(Workflow):
    def run(self, topic: str) -> Iterator[Any]:
        self.session_state["topic"] = topic
        return (letter.upper() for letter in topic)


class ReturnsAsyncGenerator(Workflow):
    def run(self, topic: str) -> AsyncIterator[Any]:
        async def letters() -> AsyncIterator[str]:
            for letter in topic:
                yield letter.upper()

        self.session_state["topic"] = topic
        return letters()


class ReturnsCoroutine(Workflow):
    def run(self, topic: str) -> Any:
        async def answer() -> str:
            await asyncio.sleep(0)
            return topic.upper()

        self.session_state["topic"] = topic
        return answer()


FORMS = [Plain, Generator, Coroutine, AsyncGenerator, ReturnsGenerator, ReturnsAsyncGenerator, ReturnsCoroutine]


async def _collect(responses: Any) -> list[RunResponse]:
    return [response async for response in responses]


async def _await(awaitable: Any) -> Any:
    return await awaitable


def responses_of(result: Any) -> list[RunResponse]:
    """All responses of a run, whatever form it has."""
    if isinstance(result, RunResponse):
        return [result]
    if hasattr(result, "__aiter__"):
        return asyncio.run(_collect(result))
    if hasattr(result, "__await__"):
        return [asyncio.run(_await(result))]
    return list(result)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_run_saves_its_state_and_hands_out_responses(form: type[Workflow], storage: Storage) -> None:
    responses = responses_of(form(session_id="s", storage=storage).run(topic="abc"))
    assert "".join(response.content for response in responses) == "ABC"
    assert form(session_id="s", storage=storage).session_state == {"topic": "abc"}
    (run,) = storage.find_runs("")
    assert run.status is RunStatus.completed
    assert codec.decode(run.output or b"") == "ABC"
    assert codec.decode(run.input or b"") == {"topic": "abc"}


@pytest.mark.parametrize("form", FORMS)
def test_every_response_is_filled_in(form: type[Workflow], storage: Storage) -> None:
    workflow = form(session_id="s", storage=storage, user_id="ada", workflow_id="w")
    responses = responses_of(workflow.run("abc"))
    assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))
    assert {(r.run_id, r.session_id, r.workflow_id, r.user_id) for r in responses} == {
        (workflow.run_id, "s", "w", "ada")
    }


def test_plain_values_become_content() -> None:
    class Values(Workflow):
        def run(self) -> Iterator[Any]:
            yield "text"
            yield {"a": 1}
            yield None
            yield RunResponse(content=3)

    assert [response.content for response in Values().run()] == ["text", {"a": 1}, None, 3]

    class Nothing(Workflow):
        def run(self) -> None:
            pass

    response = Nothing().run()
    assert isinstance(response, RunResponse)
    assert response.content is None


def test_a_response_handed_out_twice_keeps_its_first_numbers() -> None:
    class Again(Workflow):
        def run(self) -> Iterator[RunResponse]:
            response = RunResponse(content="x")
            yield response
            yield response

    assert [response.sequence for response in Again().run()] == [1, 2]


def test_the_ancestors_idiom_finds_its_post_in_the_next_object(storage: Storage) -> None:
    class Writer:
        run_response: RunResponse

        def run(self, topic: str, stream: bool) -> Iterator[RunResponse]:
            yield from (RunResponse(content=part) for part in ("A post ", "about ", topic))
            self.run_response = RunResponse(content=f"A post about {topic}")

    class BlogPostGenerator(Workflow):
        description = "Writes posts"
        writer = Writer()
        calls = 0

        def run(self, topic: str, use_cache: bool = True) -> Iterator[RunResponse]:
            if use_cache and "blog_posts" in self.session_state:
                for cached in self.session_state["blog_posts"]:
                    if cached["topic"] == topic:
                        yield RunResponse(
                            run_id=self.run_id, event=RunEvent.workflow_completed, content=cached["blog_post"]
                        )
                        return
            type(self).calls += 1
            yield from self.writer.run(topic, stream=True)
            if "blog_posts" not in self.session_state:
                self.session_state["blog_posts"] = []
            self.session_state["blog_posts"].append({"topic": topic, "blog_post": self.writer.run_response.content})

    first = list(BlogPostGenerator(session_id="s", storage=storage).run(topic="SQLite"))
    second = list(BlogPostGenerator(session_id="s", storage=storage).run(topic="SQLite"))
    assert "".join(response.content for response in first) == "A post about SQLite"
    assert [response.content for response in second] == ["A post about SQLite"]
    assert second[0].event is RunEvent.workflow_completed
    assert BlogPostGenerator.calls == 1


def test_a_generator_that_was_never_started_has_not_begun(storage: Storage) -> None:
    workflow = Generator(session_id="s", storage=storage)
    never_started = workflow.run("abc")
    assert len(list(workflow.run("xyz"))) == 3
    del never_started
    gc.collect()
    assert len(storage.find_runs("")) == 1


@pytest.mark.parametrize("form", [Generator, ReturnsGenerator])
def test_a_second_run_of_an_object_in_a_run_is_refused(form: type[Workflow]) -> None:
    workflow = form(session_id="s")
    responses = workflow.run("abc")
    next(responses)
    with pytest.raises(RunInProgress, match=rf"{form.__name__}\(session_id='s', storage=...\)"):
        list(workflow.run("xyz"))
    assert len(list(responses)) == 2
    assert len(list(workflow.run("xyz"))) == 3


def test_wrong_arguments_raise_when_run_is_called() -> None:
    with pytest.raises(TypeError, match="topic"):
        Generator().run()
    assert Generator().run.__name__ == "run"


def test_a_call_of_super_and_a_recursion_are_plain_calls(storage: Storage) -> None:
    class Shouting(Generator):
        def run(self, topic: str, again: int = 1) -> Iterator[RunResponse]:
            for response in super().run(topic):
                yield RunResponse(content=f"{response.content}!")
            if again:
                yield from self.run(topic, again - 1)

    responses = list(Shouting(session_id="s", storage=storage).run("ab"))
    assert [response.content for response in responses] == ["A!", "B!", "A!", "B!"]
    assert [response.sequence for response in responses] == [1, 2, 3, 4]
    assert len(storage.find_runs("")) == 1


def test_a_workflow_called_by_another_has_a_run_of_its_own(storage: Storage) -> None:
    class Outer(Workflow):
        def run(self) -> str:
            inner = Plain(session_id="inner", storage=self.storage)
            return inner.run("abc").content

    assert Outer(session_id="outer", storage=storage).run().content == "ABC"
    assert {run.session_id for run in storage.find_runs("")} == {"outer", "inner"}


def test_two_tasks_cannot_run_one_object_at_once() -> None:
    class Slow(Workflow):
        async def run(self) -> None:
            await asyncio.sleep(0.05)

    async def both() -> list[Any]:
        workflow = Slow()
        return await asyncio.gather(workflow.run(), workflow.run(), return_exceptions=True)

    assert sorted(type(result).__name__ for result in asyncio.run(both())) == ["RunInProgress", "RunResponse"]


def test_the_framework_s_own_events_are_handed_out_when_asked_for(storage: Storage) -> None:
    for form in (Plain, Generator, Coroutine, AsyncGenerator):
        workflow = form(session_id=form.__name__, storage=storage)
        responses = responses_of(workflow.run("ab", stream_events=True))
        events = [response.event for response in responses]
        assert events[0] is RunEvent.workflow_started
        assert events[-1] is RunEvent.workflow_completed
        (saved,) = [response for response in responses if response.event is RunEvent.state_saved]
        assert saved.data == {"patch": [{"op": "add", "path": "/topic", "value": "ab"}], "version": 1}
        assert [response.sequence for response in responses] == list(range(1, len(responses) + 1))


def test_a_failure_is_an_event_as_well_as_an_exception() -> None:
    class Failing(Workflow):
        def run(self) -> Iterator[Any]:
            yield "a"
            raise LookupError("no such topic")

    seen = []
    with pytest.raises(LookupError, match="no such topic"):
        for response in Failing().run(stream_events=True):
            seen.append(response.event)
    assert seen == [RunEvent.workflow_started, RunEvent.run_response, RunEvent.run_failed]


def test_a_run_that_takes_stream_events_itself_is_given_it() -> None:
    class Own(Workflow):
        def run(self, stream_events: bool = False) -> str:
            return f"given {stream_events}"

    assert Own().run(stream_events=True).content == "given True"


class Article(BaseModel):
    title: str


@dataclass(frozen=True)
class Point:
    x: int


def test_declared_types_round_trip_as_themselves(storage: Storage) -> None:
    class Declaring(Workflow):
        state_types = [Point]

        def run(self, article: Article | None = None) -> Article | None:
            if article is not None:
                self.session_state["article"] = article
                self.session_state["points"] = {Point(1): [Point(2)]}
            return self.session_state["article"]

    Declaring(session_id="s", storage=storage).run(Article(title="t"))
    workflow = Declaring(session_id="s", storage=storage)
    assert workflow.run().content == Article(title="t")
    assert workflow.session_state["points"] == {Point(1): [Point(2)]}
    run = storage.find_runs("")[-1]
    types = Types([Article])
    assert codec.decode(run.output or b"", types) == Article(title="t")
    assert codec.decode(run.input or b"", types) == {"article": Article(title="t")}


def test_undeclared_content_is_recorded_as_plain_data_and_what_cannot_be_is_marked(storage: Storage) -> None:
    class Undeclared(Workflow):
        def run(self, source: object) -> Any:
            return {"article": Article(title="t")}

    Undeclared(session_id="s", storage=storage).run(object())
    (run,) = storage.find_runs("")
    assert run.status is RunStatus.completed
    assert json.loads(run.output or b"") == {"article": {"$class": "Article", "title": "t"}}
    assert b"object" in (run.input or b"")


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\0b", "\ud800", 3, b"x"])
def test_ids_that_cannot_be_used_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidInput, match="session_id"):
        Plain(session_id=bad)
    with pytest.raises(InvalidInput, match="user_id"):
        Plain(user_id=bad)


def test_ids_that_differ_only_in_case_width_or_normal_form_are_different_sessions(storage: Storage) -> None:
    ids = ["Abc", "abc", "abc ", "ＡＢＣ", "\u00e9", "e\u0301", "x" * 255]
    for session_id in ids:
        Plain(session_id=session_id, storage=storage).run(session_id)
    for session_id in ids:
        assert Plain(session_id=session_id, storage=storage).session_state["topic"] == session_id


def test_another_user_s_session_does_not_exist(storage: Storage) -> None:
    for user in ("ada", "bob", None):
        Plain(session_id="s", storage=storage, user_id=user).run(str(user))
    for user in ("ada", "bob", None):
        assert Plain(session_id="s", storage=storage, user_id=user).session_state == {"topic": str(user)}
    assert Plain(session_id="s", storage=storage, user_id="eve").session_state == {}


def test_the_constructor_takes_what_the_class_declares_and_nothing_else() -> None:
    class Declared(Plain):
        temperature = 0.5
        style: str
        _private = 1

    workflow = Declared(temperature=0.7, style="dry", description="d", on_error="rollback")
    assert (workflow.temperature, workflow.style, workflow.description) == (0.7, "dry", "d")
    for unknown in ("_private", "run", "colour", "write_to_storage", "session"):
        with pytest.raises(InvalidInput, match=r"knows.*style, temperature"):
            Declared(**{unknown: 1})
    with pytest.raises(InvalidInput, match="on_error"):
        Declared(on_error="ignore")
    assert Declared().name == Declared().workflow_id == "Declared"
    assert len(Declared().session_id) == 32
    assert "session_id='s'" in repr(Declared(session_id="s"))


def test_defaults_are_used_only_while_nothing_is_stored_and_are_never_shared(storage: Storage) -> None:
    class WithDefault(Workflow):
        session_state = {"posts": []}

        def run(self, post: str) -> None:
            self.session_state["posts"].append(post)

    WithDefault(session_id="s", storage=storage).run("a")
    WithDefault(session_id="s", storage=storage).run("b")
    assert WithDefault(session_id="s", storage=storage).session_state == {"posts": ["a", "b"]}
    assert WithDefault(session_id="other", storage=storage).session_state == {"posts": []}
    given = {"posts": ["x"]}
    workflow = WithDefault(session_id="new", storage=storage, session_state=given)
    workflow.run("y")
    assert given == {"posts": ["x"]}
    assert workflow.session_state == {"posts": ["x", "y"]}
    assert WithDefault(session_id="new", storage=storage, session_state=given).session_state == {"posts": ["x", "y"]}


def test_assigning_the_state_replaces_it_and_none_is_refused(storage: Storage) -> None:
    workflow = Plain(session_id="s", storage=storage)
    workflow.run("a")
    state = workflow.session_state
    workflow.session_state = {"b": 1}
    assert workflow.session_state is state
    assert workflow.write_to_storage() == 2
    assert Plain(session_id="s", storage=storage).session_state == {"b": 1}
    workflow.session_state = workflow.session_state
    assert workflow.session_state == {"b": 1}
    with pytest.raises(InvalidInput, match="NoneType"):
        workflow.session_state = None
    with pytest.raises(InvalidInput, match="list"):
        Plain(session_state=[1])


def test_without_storage_the_state_lives_as_long_as_the_object() -> None:
    workflow = Plain()
    workflow.run("a")
    assert workflow.session_state == {"topic": "a"}
    assert Plain(session_id=workflow.session_id).session_state == {}


def test_a_workflow_without_run_says_so() -> None:
    with pytest.raises(InvalidInput, match="has no run"):
        Workflow().run()


def test_annotations_that_cannot_be_resolved_are_left_alone() -> None:
    class Lazy(Workflow):
        def run(self, missing: NotImported) -> Nowhere.Else:  # type: ignore[name-defined]  # noqa: F821
            return 1

    assert Lazy().run(2).content == 1


def test_a_response_as_json_holds_its_content() -> None:
    response = Plain(session_id="s").run("abc")
    assert json.loads(response.to_json())["content"] == "ABC"
    assert RunResponse(content=Article(title="t")).to_dict()["content"] == {"title": "t"}
    assert RunResponse(content=Article(title="t")).to_dict()["content_type"] == "Article"


def test_the_input_is_recorded_whatever_parameters_run_has(storage: Storage) -> None:
    class Any_(Workflow):
        def run(self, first: int, /, second: int = 2, *rest: int, third: int = 3, **others: int) -> None:
            pass

    class Simple(Workflow):
        def run(self, first: int, second: int = 2) -> None:
            pass

    Any_(session_id="any", storage=storage).run(1, 5, 6, third=7, fourth=8)
    Simple(session_id="simple", storage=storage).run(second=3, first=1)
    Simple(session_id="simple", storage=storage).run(4)
    inputs = {run.session_id: [] for run in storage.find_runs("")}
    for run in reversed(storage.find_runs("")):
        inputs[run.session_id].append(codec.decode(run.input or b""))
    assert inputs["any"] == [{"first": 1, "second": 5, "rest": (6,), "third": 7, "others": {"fourth": 8}}]
    assert inputs["simple"] == [{"first": 1, "second": 3}, {"first": 4, "second": 2}]
    for wrong in (lambda w: w.run(), lambda w: w.run(1, 2, 3), lambda w: w.run(1, first=1), lambda w: w.run(1, x=2)):
        with pytest.raises(TypeError):
            wrong(Simple(session_id="simple", storage=storage))


def test_what_the_class_body_declares_stands_in_for_the_constructors_arguments(storage: Storage) -> None:
    class Declared(Plain):
        session_id = "fixed"
        user_id = "ada"
        name = "a name"

    Declared.storage = storage
    Declared().run("abc")
    (head,) = storage.find_sessions(None)
    assert (head.session_id, head.owner, head.workflow) == ("fixed", "ada", "a name")
    assert Declared(session_id="given").session_id == "given"
    assert Declared().workflow_id == "Declared"


@pytest.mark.parametrize("wrong", ["api.db", dict, 3])
def test_a_storage_of_a_wrong_type_is_refused_by_the_constructor(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=r"SqlWorkflowStorage\(db_file"):
        Plain(storage=wrong)


def test_a_constructor_that_forgets_super_is_told_so() -> None:
    class Forgetful(Plain):
        def __init__(self) -> None:
            self.mine = 1

    for use in (lambda w: w.run("a"), lambda w: w.session_state, lambda w: w.write_to_storage()):
        with pytest.raises(InvalidInput, match=r"super\(\).__init__"):
            use(Forgetful())
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        Plain().missing  # noqa: B018
