"""`holdfast quickstart`: the example workflow, with a view of what it does.

Rules that must stay true:
- what runs is `examples/blog_post_generator.py` and nothing else; this module only shows it;
- everything shown was measured or read from the session; nothing is estimated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast import clock
from holdfast.cli.database import db_option, writable
from holdfast.cli.exit_status import FAILED
from holdfast.cli.output import cost, duration, json_option, note, print_json, printable
from holdfast.errors import HoldfastError
from holdfast.records import Savings
from holdfast.response import RunEvent, RunResponse

if TYPE_CHECKING:
    from holdfast.blog_post_generator import BlogPostGenerator

TOPIC: Final = "Context managers and the with statement"
TABLE: Final = "generate_blog_post_workflows"


@click.command("quickstart")
@click.argument("topic", default=TOPIC)
@click.option(
    "--docs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Research in the Markdown, reStructuredText and text files of this folder, instead of Python's own reference.",
)
@click.option("--model", help="Such as openai:gpt-5-mini; else HOLDFAST_MODEL, else the built-in offline model.")
@click.option("--session-id", metavar="ID", help="The session to keep posts in.  [default: quickstart]")
@db_option()
@json_option
def command(
    topic: str, docs: Path | None, model: str | None, session_id: str | None, db: str | None, as_json: bool
) -> None:
    """Research TOPIC, write a post about it, and find it again on the next call."""
    from holdfast.blog_post_generator import BlogPostGenerator
    from holdfast.library import Library

    # Posts from other material are other posts: each folder has a session of its own.
    session_id = session_id or ("quickstart" if docs is None else f"quickstart-{docs.resolve().name}"[:255])
    with writable(db, TABLE) as storage:
        generator = BlogPostGenerator(session_id=session_id, storage=storage)
        if docs is not None:
            generator.searcher.tools = [Library.from_folder(docs).search]
        if model is not None:
            generator.searcher.model = generator.writer.model = model
        view = View(live=sys.stdout.isatty() and not as_json)
        started = clock.monotonic()
        try:
            with view:
                for response in generator.run(topic=topic):
                    view.show(response)
        except HoldfastError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost boundary: what a provider raised is told, not traced
            told = [f"Error: {type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
            click.secho(printable("\n".join(told), lines=True), err=True, fg="red")
            click.get_current_context().exit(FAILED)
        outcome = Outcome.of(generator, topic, view, clock.monotonic() - started)
    if as_json:
        print_json(outcome.described())
    else:
        view.print_post()
        for line in outcome.lines():
            click.secho(printable(line), err=True, fg="green")


class View:
    """Shows the responses of a run as they come.

    Args:
        live: whether the growing post is shown while it is written.
    """

    def __init__(self, *, live: bool) -> None:
        self.post = ""
        self.sources: int | None = None
        self._live: Any = None
        if live:
            from rich.live import Live

            self._live = Live(refresh_per_second=8, transient=True, vertical_overflow="ellipsis")

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, response: RunResponse) -> None:
        """Take in the next response of the run."""
        if response.event is RunEvent.step_started:
            note("sources ...")
        elif response.event is RunEvent.step_completed and response.data is not None:
            self.sources = int(response.data["sources"])
            note(f"{self.sources} sources; the post ..." if self.sources else "no sources")
        elif response.content is not None:
            self.post += response.content
            self._preview()

    def _preview(self) -> None:
        if self._live is not None:
            from rich.markdown import Markdown

            self._live.start()
            self._live.update(Markdown(printable(self.post, lines=True)))

    def print_post(self) -> None:
        """Print the whole post: rendered on a terminal, else as the Markdown that it is."""
        if self._live is None:
            click.echo(printable(self.post, lines=True))
        else:
            from rich.markdown import Markdown

            self._live.console.print(Markdown(printable(self.post, lines=True)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of the quickstart came to."""

    topic: str
    session_id: str
    where: str
    run_id: str
    version: int | None
    """None while nothing is stored in the session."""
    seconds: float
    sources: int | None
    post: str
    savings: Savings
    """What its steps cost when they were computed, as far as they were answered and not computed."""
    from_session: bool
    """Whether nobody had to be called."""

    @classmethod
    def of(cls, generator: BlogPostGenerator, topic: str, view: View, seconds: float) -> Outcome:
        """Put together what the run showed and what is stored."""
        storage, session_id = generator.storage, generator.session_id
        infos = storage.find_sessions("", session_id=session_id)
        (run,) = storage.find_runs("", session_id=session_id, run_id=generator.run_id)
        return cls(
            topic=topic,
            session_id=session_id,
            where=str(getattr(storage, "where", "")),
            run_id=run.run_id,
            version=infos[0].version if infos else None,
            seconds=seconds,
            sources=view.sources,
            post=view.post,
            savings=run.savings,
            from_session=bool(run.savings.hits) and not run.usage.requests,
        )

    def described(self) -> dict[str, Any]:
        """The outcome as JSON."""
        saved = None
        if self.savings.hits:
            used = self.savings.usage
            saved = {
                "seconds": self.savings.seconds,
                "requests": used.requests,
                "tokens": used.input_tokens + used.output_tokens,
                "cost": used.cost,
            }
        return {
            "topic": self.topic,
            "session_id": self.session_id,
            "run_id": self.run_id,
            "version": self.version,
            "from_session": self.from_session,
            "seconds": self.seconds,
            "sources": self.sources,
            "saved": saved,
            "blog_post": None if self.sources == 0 else self.post,
        }

    def lines(self) -> list[str]:
        """The outcome for people."""
        if self.sources == 0:
            return ["nothing was kept: another TOPIC, or --docs FOLDER, may be found"]
        if not self.from_session:
            return [
                (
                    f"written in {duration(self.seconds)} and saved as version {self.version} of session "
                    f"{self.session_id!r} in {self.where}"
                ),
                "call it again, from any process: it will be found there",
            ]
        used = self.savings.usage
        return [
            (
                f"from the session {self.session_id!r}, version {self.version}, in {duration(self.seconds)}: "
                "nobody was called"
            ),
            (
                f"saved {duration(self.savings.seconds)}, {used.requests} model requests, "
                f"{used.input_tokens + used.output_tokens:,} tokens and {cost(used.cost)}"
            ),
            "another TOPIC, or another --session-id, writes a new post",
        ]
