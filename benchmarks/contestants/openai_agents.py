"""OpenAI Agents: `SQLiteSession`, a list of items without keys beside it; a run gets all items and adds its own.

That is what the library's runner does around each run of an agent. A small key is an item of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agents.memory.sqlite_session import SQLiteSession

from contestants import SMALL, StoredAtOnce, Target


class Runs(StoredAtOnce):
    """A new session object for each run."""

    def __init__(self, target: Target) -> None:
        self.path = target.where
        self.loop = asyncio.Runner()

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.loop.run(self._run(session, [item]))

    def set(self, session: str, key: str, value: Any) -> None:
        self.loop.run(self._run(session, [{"key": key, "value": value}]))

    def find(self, session: str, name: str) -> str:
        items = self.loop.run(self._run(session, []))
        text: str = next(item for item in items if item.get("id") == name)["text"]
        return text

    def put(self, session: str, value: Any) -> None:
        self.loop.run(self._run(session, _keys({"sibling": 1, "value": value})))

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self.loop.run(self._run(session, [*items, *_keys(SMALL)]))

    def read(self, session: str) -> Mapping[str, Any]:
        found = self.loop.run(self._run(session, []))
        keys = {item["key"]: item["value"] for item in found if "key" in item}
        return keys | {"items": [item for item in found if "id" in item]}

    def close(self) -> None:
        self.loop.close()

    async def _run(self, session: str, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
        opened = SQLiteSession(session, self.path)
        try:
            items: list[Any] = await opened.get_items()
            if new:
                await opened.add_items(new)  # type: ignore[arg-type]
            return items
        finally:
            opened.close()


def _keys(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]
