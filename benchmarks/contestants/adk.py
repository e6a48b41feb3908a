"""Google ADK: `DatabaseSessionService`; a run gets the session and appends an event with what changes in its state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from google.adk.events import Event, EventActions
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig

from contestants import SMALL, StoredAtOnce, Target

OF: dict[str, Any] = {"app_name": "runs", "user_id": "user"}


class Runs(StoredAtOnce):
    """The list is one key of the state, so that a change of it is the whole list."""

    config: GetSessionConfig | None = None

    def __init__(self, target: Target) -> None:
        self.loop = asyncio.Runner()
        self.service = DatabaseSessionService(target.url("+aiosqlite"))
        self.loop.run(self.service.prepare_tables())

    def changed(self, state: Mapping[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
        """What changes in the state when these items are added."""
        return {"items": [*state.get("items", []), *items]}

    def found(self, state: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The item of this id."""
        item: dict[str, Any] = next(item for item in state["items"] if item["id"] == name)
        return item

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.loop.run(self._run(session, lambda state: self.changed(state, [item])))

    def set(self, session: str, key: str, value: Any) -> None:
        def change(state: Mapping[str, Any]) -> dict[str, Any]:
            state.get("owner")
            return {key: value}

        self.loop.run(self._run(session, change))

    def find(self, session: str, name: str) -> str:
        async def find() -> str:
            opened = await self._opened(session)
            text: str = self.found(opened.state, name)["text"]
            await self._event(opened, {})
            return text

        return self.loop.run(find())

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        opened = self.loop.run(self._opened(session))
        for item in items:
            self.loop.run(self._event(opened, self.changed(opened.state, [item])))
            yield item["id"]

    def put(self, session: str, value: Any) -> None:
        self.loop.run(self._run(session, lambda _: {"sibling": 1, "value": value}))

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        state = {**SMALL, **self.changed({}, items)}
        self.loop.run(self.service.create_session(**OF, session_id=session, state=state))

    def read(self, session: str) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.loop.run(self._opened(session)).state
        return state

    def close(self) -> None:
        self.loop.run(self.service.close())
        self.loop.close()

    async def _opened(self, session: str) -> Any:
        found = await self.service.get_session(**OF, session_id=session, config=self.config)
        return found or await self.service.create_session(**OF, session_id=session, state={})

    def _event(self, session: Any, change: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        actions = EventActions(state_delta=change)
        event = Event(author="workflow", invocation_id=f"run-{time.time_ns()}", actions=actions)
        return self.service.append_event(session, event)

    async def _run(self, session: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        opened = await self._opened(session)
        await self._event(opened, change(opened.state))


class KeyedRuns(Runs):
    """Each item is a key of its own, and the earlier events are not loaded: as friendly as it gets."""

    config = GetSessionConfig(num_recent_events=0)

    def changed(self, state: Mapping[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002
        return {f"item:{item['id']}": item for item in items}

    def found(self, state: Mapping[str, Any], name: str) -> dict[str, Any]:
        item: dict[str, Any] = state[f"item:{name}"]
        return item

    def read(self, session: str) -> Mapping[str, Any]:
        state = super().read(session)
        items = [value for key, value in state.items() if key.startswith("item:")]
        return {**{key: value for key, value in state.items() if not key.startswith("item:")}, "items": items}
