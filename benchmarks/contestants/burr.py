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


@action(reads=["items"], writes=["items"])
def append(state: State, new: Any) -> State:
    return state.append(items=new)


@action(reads=["items"], writes=["items"])
def append_first(state: State, new: Any) -> State:
    return state.append(items=new[0])


@action(reads=["items"], writes=["items"])
def append_second(state: State, new: Any) -> State:
    return state.append(items=new[1])


@action(reads=["keys"], writes=["keys"])
def set_key(state: State, new: Any) -> State:
    state["keys"].get("owner")
    return state.update(keys={**state["keys"], **new})


@action(reads=["items"], writes=["found"])
def find(state: State, new: Any) -> State:
    return state.update(found=next(item for item in state["items"] if item["id"] == new)["text"])


@action(reads=[], writes=["items", "keys"])
def seed(state: State, new: Any) -> State:
    return state.update(items=new, keys=SMALL)


@action(reads=["items"], writes=["items"])
def fail(state: State, new: Any) -> State:
    state.append(items=new)
    raise Failed


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
        self._run(session, item, append=append)

    def set(self, session: str, key: str, value: Any) -> None:
        self._run(session, {key: value}, set_key=set_key)

    def find(self, session: str, name: str) -> str:
        found: str = self._run(session, name, find=find)["found"]
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, fail=fail)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        application = self._application(session, append_first=append_first, append_second=append_second)
        steps = application.iterate(halt_after=["append_second"], inputs={"new": items})
        return (done.name for done, _, _ in steps)

    def die(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append=append, die=die)

    def put(self, session: str, value: Any) -> None:
        self._run(session, {"sibling": 1, "value": value}, set_key=set_key)

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self._run(session, items, seed=seed)

    def read(self, session: str) -> Mapping[str, Any]:
        stored = self.persister.load("", session)
        if stored is None:
            return {"items": []}
        return {**stored["state"]["keys"], "items": stored["state"]["items"]}

    def close(self) -> None:
        with closing(self.persister.connection):
            pass

    def _application(self, session: str, **actions: Callable[..., Any]) -> Any:
        names = list(actions)
        return (
            ApplicationBuilder()
            .with_actions(**actions)
            .with_transitions(*itertools.pairwise(names))
            .initialize_from(
                self.persister,
                resume_at_next_action=False,
                default_state=EMPTY,
                default_entrypoint=names[0],
            )
            .with_state_persister(self.persister)
            .with_identifiers(app_id=session)
            .build()
        )

    def _run(self, session: str, new: Any, **actions: Callable[..., Any]) -> State:
        _, _, state = self._application(session, **actions).run(halt_after=[list(actions)[-1]], inputs={"new": new})
        return state
