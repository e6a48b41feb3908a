"""Burr: an application of one action with a `SQLitePersister`, built anew for each run; a session is its `app_id`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from burr.core import ApplicationBuilder, State, action
from burr.core.persistence import SQLitePersister

from contestants import SMALL, Failed, Sessions, Target, killed

logging.disable(logging.CRITICAL)  # it tells about errors that are raised as well

EMPTY: dict[str, Any] = {"keys": {}, "items": [], "found": None}


@action(reads=["keys", "items"], writes=["keys", "items", "found"])
def work(state: State, work: str, new: Any) -> State:
    match work:
        case "append":
            return state.append(items=new)
        case "fail":
            state.append(items=new)
            raise Failed
        case "find":
            return state.update(found=next(item for item in state["items"] if item["id"] == new)["text"])
        case "seed":
            return state.update(items=new, keys=SMALL)
    state["keys"].get("owner")
    return state.update(keys={**state["keys"], **new})


@action(reads=["items"], writes=["items"])
def first(state: State, new: Any) -> State:
    return state.append(items=new[0])


@action(reads=["items"], writes=["items"])
def second(state: State, new: Any) -> State:
    return state.append(items=new[1])


@action(reads=[], writes=[])
def die(state: State) -> State:
    killed()
    return state


class Runs(Sessions):
    """Applications with a persister."""

    def __init__(self, target: Target) -> None:
        self.persister = SQLitePersister(target.where)
        self.persister.initialize()

    def append(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, "append", item)

    def set(self, session: str, key: str, value: Any) -> None:
        self._run(session, "set", {key: value})

    def find(self, session: str, name: str) -> str:
        found: str = self._run(session, "find", name)["found"]
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, "fail", item)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        steps = self._application(session, first=first, second=second).iterate(
            halt_after=["second"], inputs={"new": items}
        )
        return (done.name for done, _, _ in steps)

    def die(self, session: str, item: dict[str, Any]) -> None:
        self._application(session, first=first, die=die).run(halt_after=["die"], inputs={"new": [item]})

    def put(self, session: str, value: Any) -> None:
        self._run(session, "set", {"sibling": 1, "value": value})

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self._run(session, "seed", items)

    def read(self, session: str) -> Mapping[str, Any]:
        stored = self.persister.load("", session)
        if stored is None:
            return {"items": []}
        return {**stored["state"]["keys"], "items": stored["state"]["items"]}

    def close(self) -> None:
        with closing(self.persister.connection):
            pass

    def _application(self, session: str, **others: Callable[..., Any]) -> Any:
        names = ["work", *others] if others else ["work", "work"]  # what may follow the action of the last run
        return (
            ApplicationBuilder()
            .with_actions(work=work, **others)
            .with_transitions(*itertools.pairwise(names))
            .initialize_from(
                self.persister, resume_at_next_action=True, default_state=EMPTY, default_entrypoint=names[1]
            )
            .with_state_persister(self.persister)
            .with_identifiers(app_id=session)
            .build()
        )

    def _run(self, session: str, what: str, new: Any) -> State:
        _, _, state = self._application(session).run(halt_after=["work"], inputs={"work": what, "new": new})
        return state
