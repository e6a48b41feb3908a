"""DBOS: a workflow whose step is recorded, and whose transaction writes to tables of the user, exactly once.

There is no session: its documentation keeps such data in tables of one's own. So a run inserts a row, as the floor
does, and records what it takes to be resumed; nothing but what it needs is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource

from contestants import SMALL, Failed, Sessions, Steps, Target, computed, killed

ODD: dict[str, Any] = {}
"""Values that steps return; DBOS has no other place where it keeps values of any type."""


def launched(target: Target) -> SQLAlchemyDatasource:
    """DBOS, with its own database beside the user's one on SQLite, and in it on PostgreSQL."""
    url = target.url()
    own = url if target.database == "postgres" else url.replace(".db", "-dbos.db")
    DBOS(
        config={
            "name": "runs",
            "system_database_url": own,
            "log_level": "CRITICAL",
            "application_version": "1",
            "executor_id": os.environ.get("DBOS__VMID", "local"),
            **({"dbos_system_schema": target.schema} if target.schema else {}),
        }
    )
    return SQLAlchemyDatasource.create(url, schema=target.schema or None)


class Runs(Sessions):
    """Workflows that write to two tables."""

    def __init__(self, target: Target) -> None:
        self.source = launched(target)
        serial = "bigserial" if target.database == "postgres" else "INTEGER"
        with self.source.engine.begin() as connection:
            for table in (
                f"CREATE TABLE IF NOT EXISTS item (id {serial} PRIMARY KEY, session TEXT, name TEXT, data TEXT)",
                "CREATE INDEX IF NOT EXISTS item_name ON item (session, name)",
                "CREATE TABLE IF NOT EXISTS entry (session TEXT, key TEXT, data TEXT, PRIMARY KEY (session, key))",
            ):
                connection.execute(sqlalchemy.text(table))
        self._declare_changes()
        self._declare_the_rest()
        DBOS.launch()

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.appending(session, item, "")

    def set(self, session: str, key: str, value: Any) -> None:
        self.setting(session, key, value)

    def find(self, session: str, name: str) -> str:
        text: str = self.finding(session, name)
        return text

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self.appending(session, item, "fail")

    def die(self, session: str, item: dict[str, Any]) -> None:
        with SetWorkflowID(f"die-{session}"):
            self.appending(session, item, "die")

    def put(self, session: str, value: Any) -> None:
        ODD[session] = value
        with SetWorkflowID(f"put-{session}"):
            self.putting(session)

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        rows = [{"session": session, "name": item["id"], "data": json.dumps(item)} for item in items]
        entries = [{"session": session, "key": key, "data": json.dumps(value)} for key, value in SMALL.items()]
        with self.source.engine.begin() as connection:
            if rows:
                connection.execute(INSERT, rows)
            connection.execute(UPSERT, entries)

    def read(self, session: str) -> Mapping[str, Any]:
        of = {"session": session}
        with self.source.engine.begin() as connection:
            entries = connection.execute(sqlalchemy.text("SELECT key, data FROM entry WHERE session = :session"), of)
            state = {key: json.loads(data) for key, data in entries}
            items = connection.execute(
                sqlalchemy.text("SELECT data FROM item WHERE session = :session ORDER BY id"), of
            )
            state["items"] = [json.loads(data) for (data,) in items]
        if DBOS.get_workflow_status(f"put-{session}"):
            state |= DBOS.retrieve_workflow(f"put-{session}").get_result()
        return state

    def close(self) -> None:
        DBOS.destroy(destroy_registry=True)
        self.source.engine.dispose()

    # What follows is declared anew for each target, for `destroy` forgets it.

    def _declare_changes(self) -> None:
        source = self.source
        marker = Path(f"{source.engine.url.database}-killed")

        @DBOS.step()
        def write(item: dict[str, Any]) -> dict[str, Any]:
            return item

        @DBOS.step()
        def die() -> None:
            if not marker.exists():  # the first time
                marker.touch()
                killed()

        @source.transaction()
        def insert(session: str, item: dict[str, Any]) -> None:
            row = {"session": session, "name": item["id"], "data": json.dumps(item)}
            source.sql_session().execute(INSERT, row)

        @source.transaction()
        def upsert(session: str, key: str, value: Any) -> None:
            source.sql_session().execute(OWNER, {"session": session}).fetchone()
            source.sql_session().execute(UPSERT, {"session": session, "key": key, "data": json.dumps(value)})

        @DBOS.workflow()
        def appending(session: str, item: dict[str, Any], ending: str) -> None:
            insert(session, write(item))
            if ending == "fail":
                raise Failed
            if ending == "die":
                die()

        @DBOS.workflow()
        def setting(session: str, key: str, value: Any) -> None:
            upsert(session, key, value)

        self.appending, self.setting = appending, setting

    def _declare_the_rest(self) -> None:
        source = self.source

        @DBOS.step()
        def odd(session: str) -> Any:
            return ODD[session]

        @source.transaction()
        def select(session: str, name: str) -> str:
            data = source.sql_session().execute(BY_NAME, {"session": session, "name": name}).scalar_one()
            text: str = json.loads(data)["text"]
            return text

        @DBOS.workflow()
        def finding(session: str, name: str) -> str:
            return select(session, name)

        @DBOS.workflow()
        def putting(session: str) -> dict[str, Any]:
            return {"sibling": 1, "value": odd(session)}

        self.finding, self.putting = finding, putting


INSERT = sqlalchemy.text("INSERT INTO item (session, name, data) VALUES (:session, :name, :data)")
OWNER = sqlalchemy.text("SELECT data FROM entry WHERE session = :session AND key = 'owner'")
BY_NAME = sqlalchemy.text("SELECT data FROM item WHERE session = :session AND name = :name")
UPSERT = sqlalchemy.text(
    "INSERT INTO entry VALUES (:session, :key, :data) ON CONFLICT (session, key) DO UPDATE SET data = excluded.data"
)


class Cached(Steps):
    """Steps of a workflow that is executed again: the results that are recorded are given, the rest is computed."""

    def __init__(self, target: Target) -> None:
        self.source = launched(target)

        @DBOS.step()
        def write(topic: str) -> str:
            return computed(topic)

        @DBOS.workflow()
        def ask(topics: list[str]) -> float:
            began = time.perf_counter()
            for topic in topics:
                write(topic)
            return time.perf_counter() - began

        self.ask = ask
        self.asked: dict[str, tuple[str, int]] = {}
        DBOS.launch()

    def seconds(self, topics: list[str]) -> float:
        key = topics[0]
        if key in self.asked:  # it is forked behind its last step, so that all of them are replayed
            identity, steps = self.asked[key]
            spent: float = DBOS.fork_workflow(identity, steps + 1).get_result()
            return spent
        self.asked[key] = f"asked-{len(self.asked)}", len(topics)
        with SetWorkflowID(self.asked[key][0]):
            answered: float = self.ask(topics)
        return answered

    def close(self) -> None:
        DBOS.destroy(destroy_registry=True)
