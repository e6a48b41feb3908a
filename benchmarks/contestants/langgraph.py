"""LangGraph: a graph of one node, compiled once with `SqliteSaver` or `PostgresSaver`; a session is a thread, and a run
is one `invoke`.
"""

from __future__ import annotations

import itertools
import operator
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.cache.sqlite import SqliteCache
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

from contestants import SMALL, Failed, Sessions, Steps, Target, computed, killed


class State(TypedDict, total=False):
    """The list grows by what a node returns for it, and small keys are merged; `new` is what the run is given."""

    items: Annotated[list[dict[str, Any]], operator.add]
    keys: Annotated[dict[str, Any], operator.or_]
    new: Any
    found: str


def extended(items: list[dict[str, Any]], writes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What a delta channel makes of what was written to it."""
    return [*items, *(item for write in writes for item in write)]


class DeltaState(State):
    """The same, where checkpoints hold what was added to the list, not the list; a beta, say its authors."""

    items: Annotated[list[dict[str, Any]], DeltaChannel(extended)]  # type: ignore[misc]


def append(state: dict[str, Any]) -> State:
    return {"items": [state["new"]]}


def append_first(state: dict[str, Any]) -> State:
    return {"items": [state["new"][0]]}


def append_second(state: dict[str, Any]) -> State:
    return {"items": [state["new"][1]]}


def set_key(state: dict[str, Any]) -> State:
    state.get("keys", {}).get("owner")
    return {"keys": state["new"]}


def find(state: dict[str, Any]) -> State:
    return {"found": next(item for item in state["items"] if item["id"] == state["new"])["text"]}


def fail(state: dict[str, Any]) -> State:  # noqa: ARG001  (a node has one)
    raise Failed


def die(state: dict[str, Any]) -> State:  # noqa: ARG001  (a node has one)
    killed()
    return {}


class Runs(Sessions):
    """Graphs with a checkpointer."""

    state: type = State
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, target: Target) -> None:
        self.open = ExitStack()
        if target.database == "postgres":
            self.saver: Any = self.open.enter_context(PostgresSaver.from_conn_string(target.where))
        else:
            connection = sqlite3.connect(target.where, check_same_thread=False)
            self.saver = SqliteSaver(self.open.enter_context(closing(connection)))
        self.saver.setup()
        self.graphs: dict[tuple[Callable[..., Any], ...], Any] = {}

    def append(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append)

    def set(self, session: str, key: str, value: Any) -> None:
        self._run(session, {key: value}, set_key)

    def find(self, session: str, name: str) -> str:
        found: str = self._run(session, name, find)["found"]
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append, fail)  # in nodes of their own, for state changes when a node ends

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        graph = self._graph(append_first, append_second)
        chunks: Iterator[Any] = graph.stream(
            {"new": items}, self._thread(session), stream_mode="updates", **self.options
        )
        return chunks

    def die(self, session: str, item: dict[str, Any]) -> None:
        self._run(session, item, append, die)

    def put(self, session: str, value: Any) -> None:
        self._run(session, {"sibling": 1, "value": value}, set_key)

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        def seed(state: dict[str, Any]) -> State:  # noqa: ARG001  (a node has one)
            return {"items": items, "keys": SMALL}

        self._run(session, None, seed)  # not given to the run, which would keep them once more

    def read(self, session: str) -> Mapping[str, Any]:
        values = self._graph(append).get_state(self._thread(session)).values
        return {**values.get("keys", {}), "items": values.get("items", [])}

    def close(self) -> None:
        self.open.close()

    def _graph(self, *nodes: Callable[..., Any]) -> Any:
        if nodes not in self.graphs:
            graph = StateGraph(self.state)
            names = [START, *(node.__name__ for node in nodes), END]
            for node in nodes:
                graph.add_node(node.__name__, node)
            for before, after in itertools.pairwise(names):
                graph.add_edge(before, after)
            self.graphs[nodes] = graph.compile(checkpointer=self.saver)
        return self.graphs[nodes]

    def _thread(self, session: str) -> Any:
        return {"configurable": {"thread_id": session}}

    def _run(self, session: str, new: Any, *nodes: Callable[..., Any]) -> Any:
        return self._graph(*nodes).invoke({"new": new}, self._thread(session), **self.options)


class DeltaRuns(Runs):
    """With a delta channel for the list."""

    state = DeltaState


class ExitRuns(Runs):
    """With one checkpoint for each run, at its end: the documentation's fastest, and least durable, mode."""

    options: ClassVar[dict[str, Any]] = {"durability": "exit"}


class SyncRuns(Runs):
    """With checkpoints that are written before the run goes on: the documentation's most durable mode."""

    options: ClassVar[dict[str, Any]] = {"durability": "sync"}


class Cached(Steps):
    """Tasks with a cache, asked for in one entry point."""

    def __init__(self, target: Target) -> None:
        @task(cache_policy=CachePolicy())
        def write(topic: str) -> str:
            return computed(topic)

        @entrypoint(cache=SqliteCache(path=target.where))
        def ask(topics: list[str]) -> float:
            began = time.perf_counter()
            for topic in topics:
                write(topic).result()
            return time.perf_counter() - began

        self.ask = ask

    def seconds(self, topics: list[str]) -> float:
        spent: float = self.ask.invoke(topics)
        return spent
