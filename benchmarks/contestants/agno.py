"""Agno: a workflow of one step, a function that changes `run_context.session_state`; a new object for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agno.db.postgres import PostgresDb
from agno.db.sqlite import SqliteDb
from agno.run import RunContext
from agno.utils.log import logger
from agno.workflow import HumanReview, OnError, Step, StepInput, StepOutput, Workflow

from contestants import SMALL, Failed, Sessions, Target, killed

logger.setLevel(60)  # it tells what it catches to the terminal, which would be measured too


def append(step_input: StepInput, run_context: RunContext) -> StepOutput:
    run_context.session_state.setdefault("items", []).append(step_input.input)
    return StepOutput(content="ok")


def set_key(step_input: StepInput, run_context: RunContext) -> StepOutput:
    run_context.session_state.get("owner")
    run_context.session_state.update(step_input.input)
    return StepOutput(content="ok")


def find(step_input: StepInput, run_context: RunContext) -> StepOutput:
    found = next(item for item in run_context.session_state["items"] if item["id"] == step_input.input)
    return StepOutput(content=found["text"])


def fail(step_input: StepInput, run_context: RunContext) -> StepOutput:
    append(step_input, run_context)
    raise Failed


def append_each(step_input: StepInput, run_context: RunContext) -> Iterator[str]:
    for item in step_input.input["items"]:
        run_context.session_state.setdefault("items", []).append(item)
        yield f"stored {item['id']}"


def die(step_input: StepInput) -> StepOutput:  # noqa: ARG001  (a step has one)
    killed()
    return StepOutput(content="ok")


class Runs(Sessions):
    """Workflows with a database."""

    def __init__(self, target: Target) -> None:
        if target.database == "postgres":
            self.db: Any = PostgresDb(db_url=target.url(), db_schema=target.schema)
        else:
            self.db = SqliteDb(db_file=target.where)

    def append(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append)

    def set(self, session: str, key: str, value: Any) -> None:
        self._run(session, {key: value}, set_key)

    def find(self, session: str, name: str) -> str:
        found: str = self._run(session, name, find).content
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, fail)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        events = self._workflow(session, append_each).run(input={"items": items}, stream=True, stream_events=True)
        return (event for event in events if str(getattr(event, "content", "")).startswith("stored"))

    def die(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append, die)

    def put(self, session: str, value: Any) -> None:
        def put(step_input: StepInput, run_context: RunContext) -> StepOutput:  # noqa: ARG001  (a step has both)
            run_context.session_state.update(sibling=1, value=value)
            return StepOutput(content="ok")

        self._run(session, "put", put)

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        def seed(step_input: StepInput, run_context: RunContext) -> StepOutput:  # noqa: ARG001  (a step has both)
            run_context.session_state.update(SMALL, items=items)
            return StepOutput(content="ok")

        self._run(session, "seed", seed)

    def read(self, session: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._workflow(session, append).get_session_state(session)
        return found

    def close(self) -> None:
        self.db.db_engine.dispose()

    def _workflow(self, session: str, *steps: Any) -> Workflow:
        return Workflow(name="runs", db=self.db, steps=list(steps), session_id=session, telemetry=False)

    def _run(self, session: str, given: Any, *steps: Any) -> Any:
        done = self._workflow(session, *steps).run(input=given)
        status = str(getattr(done.status, "value", done.status))
        if status.upper() != "COMPLETED":
            raise RuntimeError(f"the run ended as {status}")
        return done


class StrictRuns(Runs):
    """Without retries of a step, and with a run that fails if its step does: both are settings of a step."""

    def _workflow(self, session: str, *steps: Any) -> Workflow:
        review = HumanReview(on_error=OnError.fail)
        strict = [Step(name=one.__name__, executor=one, max_retries=0, human_review=review) for one in steps]
        return super()._workflow(session, *strict)
