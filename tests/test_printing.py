"""Showing responses with and without a terminal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pydantic import BaseModel

from conftest import FakeClock
from holdfast.errors import InvalidInput
from holdfast.printing import pprint_run_response
from holdfast.response import RunEvent, RunResponse


class City(BaseModel):
    name: str
    people: int


def text(content: object, event: RunEvent = RunEvent.run_response) -> RunResponse:
    return RunResponse(content=content, event=event)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")


def plain(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)


class TestWithoutATerminal:
    def test_a_response_is_written_once_as_it_is(self, printed: Callable[[], str]) -> None:
        long = "a [bold]line[/bold] " * 20
        pprint_run_response(text(long), markdown=True)
        assert printed() == long + "\n"

    def test_the_pieces_of_a_stream_are_joined(self, printed: Callable[[], str]) -> None:
        pprint_run_response(iter([text("The moon "), text("pulls "), text("the sea.")]))
        assert printed() == "The moon pulls the sea.\n"

    def test_a_completing_event_that_repeats_the_whole_is_not_shown_again(self, printed: Callable[[], str]) -> None:
        whole = text("The sea.", RunEvent.run_completed)
        pprint_run_response(iter([text("Let me look. "), text("The "), text("sea."), whole]))
        assert printed() == "Let me look. The sea.\n"

    def test_a_completing_event_with_something_else_is_shown_below(self, printed: Callable[[], str]) -> None:
        pprint_run_response(iter([text("The sea."), text("Saved.", RunEvent.workflow_completed)]))
        assert printed() == "The sea.\nSaved.\n"

    def test_an_answer_from_the_session_is_shown(self, printed: Callable[[], str]) -> None:
        pprint_run_response(iter([text("The sea.", RunEvent.workflow_completed)]))
        assert printed() == "The sea.\n"

    def test_events_without_content_show_nothing(self, printed: Callable[[], str]) -> None:
        pprint_run_response(iter([text(None, RunEvent.run_started), text("a"), text(None), text(""), text("b")]))
        assert printed() == "ab\n"

    def test_data_is_shown_as_json(self, printed: Callable[[], str]) -> None:
        city = City(name="Århus", people=300_000)
        pprint_run_response(iter([text("Found:"), text(city), text(city, RunEvent.run_completed), text([1])]))
        assert printed() == 'Found:\n{\n  "name": "Århus",\n  "people": 300000\n}\n[\n  1\n]\n'

    def test_what_json_does_not_know_is_shown_somehow(self, printed: Callable[[], str]) -> None:
        pprint_run_response(text({"what": object}))
        assert "object" in printed()

    def test_the_time_is_shown_when_asked(self, printed: Callable[[], str], fake_clock: FakeClock) -> None:
        def slow() -> Iterator[RunResponse]:
            fake_clock.seconds += 2.5
            yield text("done")

        pprint_run_response(slow(), show_time=True)
        assert printed() == "done\n2.5 s\n"

    def test_what_came_before_an_error_is_shown(self, printed: Callable[[], str]) -> None:
        def broken() -> Iterator[RunResponse]:
            yield text("so far")
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            pprint_run_response(broken())
        assert printed() == "so far\n"


@pytest.mark.usefixtures("terminal")
class TestOnATerminal:
    def test_text_stands_in_a_panel(self, printed: Callable[[], str]) -> None:
        pprint_run_response(iter([text("The moon "), text("pulls [the] sea.")]))
        output = plain(printed())
        assert "Response" in output
        assert "│ The moon pulls [the] sea." in output

    def test_markdown_is_rendered_when_asked(self, printed: Callable[[], str]) -> None:
        pprint_run_response(text("# Tides\n\n- The *moon*"), markdown=True)
        output = plain(printed()).splitlines()
        whole = "\n".join(output[-8:])
        assert "Tides" in whole
        assert "# Tides" not in whole
        assert " • The moon" in whole

    def test_data_is_shown_as_json(self, printed: Callable[[], str]) -> None:
        pprint_run_response(text(City(name="Oslo", people=1)))
        assert '"name": "Oslo"' in plain(printed())

    def test_a_long_text_is_whole_in_the_end_and_its_last_lines_before(self, printed: Callable[[], str]) -> None:
        pprint_run_response(text(f"line {number}\n") for number in range(40))
        output = plain(printed())
        shown = [re.findall(r"line (\d+)\b", panel) for panel in output.split("╭")]
        assert shown[-1] == [str(number) for number in range(40)]
        assert max(len(lines) for lines in shown[:-1]) < 12

    def test_the_time_is_shown_when_asked(self, printed: Callable[[], str], fake_clock: FakeClock) -> None:
        pprint_run_response(text("done"), show_time=True)
        assert "0.0 s" in plain(printed())

    def test_what_came_before_an_error_stays(self, printed: Callable[[], str]) -> None:
        def broken() -> Iterator[RunResponse]:
            yield text("so far")
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            pprint_run_response(broken())
        assert "so far" in plain(printed()).splitlines()[-2]

    @pytest.mark.parametrize("markdown", [False, True])
    def test_text_cannot_steer_the_terminal(self, printed: Callable[[], str], markdown: bool) -> None:
        pprint_run_response(text("\x1b]0;owned\x07\x1b[2Jhello\x9b1m"), markdown=markdown)
        output = printed()
        assert "hello" in output
        assert [steering for steering in ("\x07", "\x9b", "\x1b]0", "\x1b[2Jh") if steering in output] == []


class TestSomethingElse:
    def test_an_async_iterator_is_refused_with_what_to_do(self) -> None:
        async def responses() -> AsyncIterator[RunResponse]:
            yield text("hello")

        unstarted = responses()
        with pytest.raises(InvalidInput, match="async for"):
            pprint_run_response(unstarted)  # type: ignore[arg-type]
        asyncio.run(unstarted.aclose())  # type: ignore[attr-defined]

    @pytest.mark.parametrize("wrong", ["text", b"bytes", {"content": 1}, 42, None])
    def test_what_is_no_response_is_refused(self, wrong: object) -> None:
        with pytest.raises(InvalidInput, match=type(wrong).__name__):
            pprint_run_response(wrong)  # type: ignore[arg-type]
