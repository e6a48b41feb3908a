"""Shows the responses of a run on the terminal while they come.

Rules that must stay true:
- everything that has content is shown, once: pieces of text are joined, and the whole text that a completing event
  repeats is not shown again;
- without a terminal nothing moves: the content is written once, as plain text;
- what had come is shown also when the run raises.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from holdfast import clock
from holdfast.errors import InvalidInput
from holdfast.response import RunEvent, RunResponse

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["pprint_run_response"]

_COMPLETED = frozenset({RunEvent.run_completed, RunEvent.workflow_completed})
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What a model or tool could steer a terminal with."""
_FRAME_LINES = 4
"""Lines of the terminal that the panel's frame and the prompt take."""


def pprint_run_response(
    run_response: RunResponse | Iterable[RunResponse], markdown: bool = False, show_time: bool = False
) -> None:
    """Print a response, or the responses of a stream as they come: live in a panel on a terminal, else as plain text.

    Args:
        run_response: one response, or an iterator of responses.
        markdown: show text as Markdown. Without a terminal it is written as it is.
        show_time: show how many seconds it took until the last response came.

    Raises:
        InvalidInput: something else was given, such as an async iterator.

    >>> pprint_run_response(RunResponse(content={"answer": 42}))
    {
      "answer": 42
    }
    """
    from rich.console import Console

    responses = _responses(run_response)
    screen = _Screen(Console(), markdown, show_time)
    if screen.console.is_terminal:
        screen.show_live(responses)
    else:
        screen.write(responses)


def _responses(given: RunResponse | Iterable[RunResponse]) -> Iterator[RunResponse]:
    if isinstance(given, RunResponse):
        return iter([given])
    if isinstance(given, AsyncIterable):
        raise InvalidInput(
            "pprint_run_response got an async iterator. Print each response as it comes: "
            "`async for response in run: print(response.content, end='')`, or give it what a plain run() hands out."
        )
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
        raise InvalidInput(
            f"pprint_run_response got a {type(given).__name__}. Give it what run() returned: a RunResponse or an "
            "iterator of them."
        )
    return iter(given)


class _Shown:
    """What is to be seen: pieces of text joined, other values as blocks of their own."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []

    def add(self, response: RunResponse) -> None:
        content = response.content
        last = self.blocks[-1] if self.blocks else None
        if content is None or content == "":
            return
        if not isinstance(content, str):
            if response.event not in _COMPLETED or content != last:
                self.blocks.append(content)
        elif response.event in _COMPLETED:
            if not (isinstance(last, str) and last.endswith(content)):
                self.blocks.append(content)
        elif isinstance(last, str):
            self.blocks[-1] = last + content
        else:
            self.blocks.append(content)

    def text(self) -> str:
        return "\n".join(block if isinstance(block, str) else _as_json(block) for block in self.blocks)


class _Screen:
    def __init__(self, console: Console, markdown: bool, show_time: bool) -> None:
        self.console = console
        self.markdown = markdown
        self.show_time = show_time
        self.begin = clock.monotonic()
        self.shown = _Shown()

    def write(self, responses: Iterator[RunResponse]) -> None:
        try:
            for response in responses:
                self.shown.add(response)
        finally:
            # As it is: rich would fold long lines and read brackets in it as markup.
            print(self.shown.text(), file=self.console.file)
            if self.show_time:
                print(self._time(), file=self.console.file)

    def show_live(self, responses: Iterator[RunResponse]) -> None:
        from rich.live import Live

        try:
            # The preview is wiped, then the whole is printed: a live display cannot be longer than the terminal.
            with Live(console=self.console, refresh_per_second=12, transient=True) as live:
                for response in responses:
                    self.shown.add(response)
                    live.update(self._panel(self._preview()))
        finally:
            self.console.print(self._panel(self._whole()))

    def _panel(self, inside: RenderableType) -> RenderableType:
        from rich.panel import Panel

        return Panel(inside, title="Response", subtitle=self._time() if self.show_time else None, title_align="left")

    def _time(self) -> str:
        return f"{clock.monotonic() - self.begin:.1f} s"

    def _preview(self) -> RenderableType:
        """The last lines, as many as there is room for."""
        from rich.text import Text

        lines = Text(self.shown.text().translate(_CONTROLS)).wrap(self.console, max(self.console.width - 4, 1))
        return Text("\n").join(list(lines)[-max(self.console.height - _FRAME_LINES, 1) :])

    def _whole(self) -> RenderableType:
        from rich.console import Group
        from rich.json import JSON
        from rich.markdown import Markdown
        from rich.text import Text

        parts: list[RenderableType] = []
        for block in self.shown.blocks:
            if isinstance(block, str):
                text = block.translate(_CONTROLS)
                parts.append(Markdown(text) if self.markdown else Text(text))
            else:
                parts.append(JSON(_as_json(block)))
        return Group(*parts)


def _as_json(value: Any) -> str:
    from pydantic_core import to_jsonable_python

    return json.dumps(to_jsonable_python(value, fallback=repr), indent=2, ensure_ascii=False)
