"""LlamaIndex Workflows: a workflow of one step that edits `ctx.store`.

There is no database of sessions for this: the documentation keeps `ctx.to_dict()` as JSON, here in one row for each
session, which is replaced after each run.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from workflows import Context, Workflow, step
from workflows.context.serializers import JsonSerializer
from workflows.events import Event, StartEvent, StopEvent

from contestants import SMALL, Failed, Sessions, Target, killed


class Next(Event):
    """Begins the second step."""


class Stored(Event):
    """Tells that an item was stored."""

    id: str


class Run(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            match ev.work:
                case "append" | "fail":
                    state["items"] = [*state.get("items", []), ev.new]
                    if ev.work == "fail":
                        raise Failed
                case "set":
                    state.get("owner")
                    for key, value in ev.new.items():
                        state[key] = value
                case "find":
                    return StopEvent(result=next(item for item in state["items"] if item["id"] == ev.new)["text"])
        return StopEvent(result="ok")


class Streaming(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Next:
        await append(ctx, ev.new[0])
        return Next(new=ev.new[1])

    @step
    async def second(self, ctx: Context, ev: Next) -> StopEvent:
        await append(ctx, ev.new)
        return StopEvent(result="ok")


class Dying(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Next:
        await append(ctx, ev.new)
        return Next()

    @step
    async def second(self, ev: Next) -> StopEvent:  # noqa: ARG002  (it is told by its type when to begin)
        killed()
        return StopEvent(result="ok")


async def append(ctx: Context, item: dict[str, Any]) -> None:
    async with ctx.store.edit_state() as state:
        state["items"] = [*state.get("items", []), item]
    ctx.write_event_to_stream(Stored(id=item["id"]))


class Runs(Sessions):
    """Workflows whose context is stored after each run."""

    def __init__(self, target: Target) -> None:
        self.loop = asyncio.Runner()
        self.connection = sqlite3.connect(target.where, timeout=30, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("CREATE TABLE IF NOT EXISTS context (session TEXT PRIMARY KEY, data TEXT NOT NULL)")

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.loop.run(self._run(session, Run(), work="append", new=item))

    def set(self, session: str, key: str, value: Any) -> None:
        self.loop.run(self._run(session, Run(), work="set", new={key: value}))

    def find(self, session: str, name: str) -> str:
        text: str = self.loop.run(self._run(session, Run(), work="find", new=name))
        return text

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self.loop.run(self._run(session, Run(), work="fail", new=item))

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        workflow = Streaming()

        async def begun() -> tuple[Context, Any]:
            context = self._context(session, workflow)
            return context, workflow.run(ctx=context, new=items).stream_events()

        context, events = self.loop.run(begun())
        while True:
            event = self.loop.run(_next(events))
            if event is None:
                break
            if isinstance(event, Stored):
                yield event
        self._store(session, context)

    def die(self, session: str, item: dict[str, Any]) -> None:
        self.loop.run(self._run(session, Dying(), new=item))

    def put(self, session: str, value: Any) -> None:
        self.loop.run(self._run(session, Run(), work="set", new={"sibling": 1, "value": value}))

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self.loop.run(self._run(session, Run(), work="set", new={**SMALL, "items": items}))

    def read(self, session: str) -> Mapping[str, Any]:
        row = self.connection.execute("SELECT data FROM context WHERE session = ?", (session,)).fetchone()
        if row is None:
            return {"items": []}
        stored, serializer = json.loads(row[0])["state"]["state_data"]["_data"], JsonSerializer()
        return {key: serializer.deserialize(value) for key, value in stored.items()}

    def close(self) -> None:
        self.connection.close()
        self.loop.close()

    def _context(self, session: str, workflow: Workflow) -> Context:
        row = self.connection.execute("SELECT data FROM context WHERE session = ?", (session,)).fetchone()
        return Context.from_dict(workflow, json.loads(row[0])) if row else Context(workflow)

    def _store(self, session: str, context: Context) -> None:
        data = json.dumps(context.to_dict())
        self.connection.execute("INSERT OR REPLACE INTO context VALUES (?, ?)", (session, data))

    async def _run(self, session: str, workflow: Workflow, **given: Any) -> Any:
        context = self._context(session, workflow)
        result = await workflow.run(ctx=context, **given)
        self._store(session, context)
        return result


async def _next(events: Any) -> Any:
    return await anext(events, None)
