"""Agno: a workflow of one step, a function that changes `run_context.session_state`; a new object for each run."""

from __future__ import annotations

from typing import Any

from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.run import RunContext
from agno.utils.log import logger
from agno.workflow import StepInput, StepOutput, Workflow

from contestants import Target

logger.setLevel(60)  # it tells what it catches to the terminal, which would be measured too


def append(step_input: StepInput, run_context: RunContext) -> StepOutput:
    """The step."""
    run_context.session_state.setdefault("items", []).append(step_input.input)
    return StepOutput(content="ok")


class Appends:
    """A run that appends one item to a list in the session state."""

    def __init__(self, target: Target) -> None:
        if target.database == "postgres":
            url = target.where.replace("postgresql://", "postgresql+psycopg://")
            self.db: Any = PostgresDb(db_url=url, db_schema=target.schema)
        else:
            self.db = SqliteDb(db_file=target.where)

    def append(self, session: str, item: dict[str, Any]) -> None:
        done = self._workflow(session).run(input=item)
        status = str(getattr(done.status, "value", done.status))
        if status.upper() != "COMPLETED":
            raise RuntimeError(f"the run ended as {status}")

    def kept(self, session: str) -> list[str]:
        state = self._workflow(session).get_session_state(session)
        return [item["id"] for item in state["items"]]

    def close(self) -> None:
        self.db.db_engine.dispose()

    def _workflow(self, session: str) -> Workflow:
        return Workflow(name="appends", db=self.db, steps=[append], session_id=session, telemetry=False)
