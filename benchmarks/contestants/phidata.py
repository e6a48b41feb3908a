"""Phidata: a class-based workflow whose `session_state` is stored at the end of each run; a new object for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from phi.storage.workflow.postgres import PgWorkflowStorage
from phi.storage.workflow.sqlite import SqlWorkflowStorage
from phi.utils.log import logger
from phi.workflow import RunResponse, Workflow

from contestants import SMALL, Failed, Sessions, Target, killed

logger.setLevel(60)  # it tells what it catches to the terminal, which would be measured too


class Appending(Workflow):
    def run(self, item: dict[str, Any]) -> RunResponse:
        self.session_state.setdefault("items", []).append(item)
        return RunResponse(content="ok")


class Setting(Workflow):
    def run(self, key: str, value: Any) -> RunResponse:
        self.session_state.get("owner")
        self.session_state[key] = value
        return RunResponse(content="ok")


class Finding(Workflow):
    def run(self, name: str) -> RunResponse:
        found = next(item for item in self.session_state["items"] if item["id"] == name)
        return RunResponse(content=found["text"])


class Failing(Workflow):
    def run(self, item: dict[str, Any]) -> RunResponse:
        self.session_state.setdefault("items", []).append(item)
        raise Failed


class Streaming(Workflow):
    def run(self, items: list[dict[str, Any]]) -> Iterator[RunResponse]:
        for item in items:
            self.session_state.setdefault("items", []).append(item)
            yield RunResponse(content=f"stored {item['id']}")


class Dying(Workflow):
    def run(self, item: dict[str, Any]) -> RunResponse:
        self.append(item)
        killed()
        return RunResponse(content="ok")

    def append(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)


class Putting(Workflow):
    def run(self, update: dict[str, Any]) -> RunResponse:
        self.session_state.update(update)
        return RunResponse(content="ok")


class Runs(Sessions):
    """Workflows with a storage, which both are made as the documentation makes them."""

    def __init__(self, target: Target) -> None:
        if target.database == "postgres":
            self.storage: Any = PgWorkflowStorage(table_name="runs", schema=target.schema, db_url=target.url())
        else:
            self.storage = SqlWorkflowStorage(table_name="runs", db_file=target.where)
        self.storage.create()

    def append(self, session: str, item: dict[str, Any]) -> None:
        self._made(Appending, session).run(item=item)

    def set(self, session: str, key: str, value: Any) -> None:
        self._made(Setting, session).run(key=key, value=value)

    def find(self, session: str, name: str) -> str:
        found: str = self._made(Finding, session).run(name=name).content
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self._made(Failing, session).run(item=item)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        chunks: Iterator[Any] = self._made(Streaming, session).run(items=items)
        return chunks

    def die(self, session: str, item: dict[str, Any]) -> None:
        self._made(Dying, session).run(item=item)

    def put(self, session: str, value: Any) -> None:
        self._made(Putting, session).run(update={"sibling": 1, "value": value})

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self._made(Appending, session, session_state={**SMALL, "items": items}).write_to_storage()

    def read(self, session: str) -> Mapping[str, Any]:
        workflow = self._made(Appending, session)
        workflow.read_from_storage()
        found: Mapping[str, Any] = workflow.session_state
        return found

    def close(self) -> None:
        self.storage.db_engine.dispose()

    def _made(self, kind: type[Any], session: str, **given: Any) -> Any:
        return kind(session_id=session, storage=self.storage, telemetry=False, monitoring=False, **given)
