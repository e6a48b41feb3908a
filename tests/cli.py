"""What the tests of the command share: workflows to run, the command in this process or as a real one, and sessions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from holdfast import Workflow
from holdfast.cli import command
from holdfast.errors import StateConflict
from holdfast.storage.base import Storage

WORKFLOWS = '''
import asyncio, datetime, enum
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from holdfast import Agent, RunEvent, RunResponse, SqlWorkflowStorage, Workflow


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Place(BaseModel):
    name: str
    height: float = 0.0


class Notes(Workflow):
    """Keeps notes."""

    def run(self, note: str, times: int = 1, loud: bool = False) -> Iterator[str]:
        """Keep a note.

        Args:
            note: what to remember.
            times: how often,
                at least once.
        """
        for _ in range(times):
            self.session_state.setdefault("notes", []).append(note)
        yield (note.upper() if loud else note) + "\\n"
        yield f"{len(self.session_state['notes'])} notes"


class Everything(Workflow):
    def run(
        self,
        ratio: float,
        on: bool,
        colour: Colour,
        size: Literal["s", "m"],
        day: datetime.date,
        file: Path,
        tags: list[str],
        numbers: set[int],
        place: Place | None = None,
        sizes: dict[str, int] | None = None,
        default: Colour = Colour.BLUE,
        untyped=3,
    ) -> dict:
        return {name: repr(value) for name, value in locals().items() if name not in ("self", "__class__")}


class Shadow(Workflow):
    def run(self, db: str, json: int = 0) -> str:
        return f"db is {db} and json is {json}"


class Slow(Workflow):
    async def run(self) -> str:
        await asyncio.sleep(0)
        self.session_state["slow"] = True
        return "awaited"


class Ticks(Workflow):
    async def run(self, n: int = 2) -> AsyncIterator[str]:
        for i in range(n):
            yield f"tick {i} "


class Streams(Workflow):
    echo = Agent(lambda message: iter(message.split("|")))

    def run(self) -> Iterator[RunResponse]:
        yield from self.echo.run("one |two |three", stream=True)
        yield RunResponse(content={"then": ["a", "dict"]})
        yield RunResponse()
        yield from self.echo.run("four", stream=True)


class Endless(Workflow):
    def run(self) -> Iterator[str]:
        self.session_state["begun"] = True
        while True:
            yield "on and on\\n"


class Pieces(Workflow):
    def run(self) -> Iterator[str | dict | RunResponse]:
        yield "Hel"
        yield "lo"
        yield {"a": 1}
        yield "\\n"
        yield from self.pieces()
        yield RunResponse(content="one two", event=RunEvent.workflow_completed)

    def pieces(self):
        yield RunResponse(content="one ", agent="a")
        yield RunResponse(content="two", agent="b")


class Echo(Workflow):
    def run(self, day: datetime.date) -> tuple:
        return day, 1


class Fails(Workflow):
    def run(self) -> None:
        self.session_state["before"] = 1
        raise ValueError("the oven is cold")


class Explained(Workflow):
    def run(self) -> None:
        error = ValueError("401")
        error.add_note("Holdfast: the server refused the key.")
        raise error


class Deep(Workflow):
    def run(self, depth: int) -> None:
        try:
            self.session_state["deep"] = self.deeper(depth)
        except KeyError as error:
            raise ValueError("too deep") from error

    def deeper(self, depth):
        return self.deeper(depth - 1) if depth % 2 else self.still_deeper(depth)

    def still_deeper(self, depth):
        return self.deeper(depth - 1) if depth else {}["nothing"]


class AsksATool(Workflow):
    def lookup(self, query: str) -> str:
        raise ValueError("the library is closed")

    def run(self) -> str:
        return Agent("offline", tools=[self.lookup]).run("salt").content


class Inside(Workflow):
    def run(self) -> None:
        from holdfast.cli.output import moment

        moment("no time")


class Declares(Workflow):
    storage = SqlWorkflowStorage(table_name="declared", db_file="declared.db")
    session_id = "declared"

    def run(self, fail: bool = False) -> str:
        self.session_state["n"] = self.session_state.get("n", 0) + 1
        if fail:
            raise ValueError("as asked")
        return "done"


class Unstorable(Workflow):
    def run(self) -> None:
        self.session_state["lock"] = object()


class Conflicted(Workflow):
    def run(self) -> None:
        self.session_state["n"] = 1
        other = Conflicted(session_id=self.session_id, storage=self.storage)
        other.session_state["n"] = 2
        other.write_to_storage()


class Waits(Workflow):
    def run(self) -> Iterator[str]:
        self.session_state["begun"] = True
        yield "waiting\\n"
        import time
        time.sleep(60)
'''

BLOG = '''
from pathlib import Path

from holdfast import Agent, Cache, Workflow, step

STYLE = "plain"


class Blog(Workflow):
    """Writes posts, and says on which words it was called."""

    writer = Agent(lambda message: message.upper(), cache=Cache("workflow", ttl="1h"))

    @step
    def fetch(self, topic: str) -> str:
        told("fetch")
        return topic * 2

    @step(cache=Cache("session", ttl="30d"))
    def outline(self, topic: str, words: int = 2) -> list[str]:
        told("outline")
        return [topic] * words + [STYLE]

    @step(cache="workflow")
    def write(self, outline: list[str]) -> str:
        told("write")
        return " ".join(outline)

    def run(self, topic: str, fails: bool = False) -> str:
        self.session_state["topics"] = [*self.session_state.get("topics", []), topic]
        fetched = self.fetch(topic)
        outline = self.outline(topic)
        self.step("count", len, outline)
        post = self.writer.run(self.write(outline)).content
        if fails and not Path("mended").exists():
            raise ValueError(f"cannot print {fetched}")
        return post


def told(step: str) -> None:
    with open("calls.txt", "a", encoding="utf-8") as file:
        file.write(step + "\\n")
'''
"""A workflow with steps of each kind, that notes which of them were computed."""


def blog(old: str = "", new: str = "") -> None:
    """Put the workflow with steps into the working folder, with a change of its text."""
    assert old in BLOG
    Path("blog.py").write_text(BLOG.replace(old, new) if old else BLOG, encoding="utf-8")


def calls() -> list[str]:
    """Which steps were computed since this was asked last."""
    path = Path("calls.txt")
    found = path.read_text(encoding="utf-8").split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def holdfast(*words: str, given: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(command, list(words), input=given, prog_name="holdfast")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*words: str, given: str | bytes | None = None) -> str:
    result = holdfast(*words, given=given)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*words: str) -> Any:
    return json.loads(ok(*words, "--json"))


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / "holdfast"
    return subprocess.run(
        [str(script), *words], capture_output=True, text=True, timeout=120, check=False, encoding="utf-8", **options
    )


class Plain(Workflow):
    """Lets a test put anything into a session."""

    def run(self, change: Callable[[dict[Any, Any]], None]) -> None:
        change(self.session_state)


def keep(storage: Storage, session_id: str, *states: dict[Any, Any], user_id: str | None = None) -> str:
    """Make one version for each state; returns the id of the last run."""
    workflow = Plain(session_id=session_id, user_id=user_id, storage=storage)
    for state in states:
        workflow.run(lambda live, state=state: (live.clear(), live.update(state)))
    assert workflow.run_id is not None
    return workflow.run_id


Change = Callable[[dict[Any, Any]], None]


def refused(
    storage: Storage, ours: Change, theirs: Change, session_id: str = "s", *, user_id: str | None = None, **options: Any
) -> str:
    """Change a session in a run while another run changes it, so that it is refused; returns the id of the run."""

    def change(live: dict[Any, Any]) -> None:
        ours(live)
        Plain(session_id=session_id, user_id=user_id, storage=storage, **options).run(theirs)

    workflow = Plain(session_id=session_id, user_id=user_id, storage=storage, **options)
    with suppress(StateConflict):
        workflow.run(change)
        raise AssertionError("nothing was refused")
    assert workflow.run_id is not None
    return workflow.run_id


def damage(old: bytes, new: bytes) -> None:
    """Change stored bytes behind SQLite's back."""
    changed = 0
    for path in (Path("holdfast.db"), Path("holdfast.db-wal")):
        if path.exists():
            data = path.read_bytes()
            changed += data.count(old)
            path.write_bytes(data.replace(old, new))
    assert changed


def packaged(**fields: Any) -> dict[str, Any]:
    """An export made by hand, with a right checksum."""
    import msgspec

    from holdfast.cli.transfer import Package, checksum

    head = {"holdfast_session": 1, "session_id": "s", "user_id": "", "workflow": "W", "version": 1}
    package = msgspec.convert(head | {"created_at": 0.0, "exported_at": 0.0} | fields, Package)
    package.sha256 = checksum(package)
    made: dict[str, Any] = msgspec.to_builtins(package)
    return made
