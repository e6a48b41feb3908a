"""LangGraph: a graph of one node, compiled once with a checkpointer; a session is a thread, a run one `invoke`."""

from __future__ import annotations

import operator
import sqlite3
from contextlib import ExitStack, closing
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from contestants import Target


class State(TypedDict, total=False):
    """The list grows by what a node returns for it."""

    items: Annotated[list[dict[str, Any]], operator.add]
    new: dict[str, Any]


def append(state: State) -> State:
    """The node."""
    return {"items": [state["new"]]}


class Appends:
    """A run that appends one item to a list in the state of the graph."""

    def __init__(self, target: Target) -> None:
        self.open = ExitStack()
        if target.database == "postgres":
            saver: Any = self.open.enter_context(PostgresSaver.from_conn_string(target.where))
        else:
            connection = sqlite3.connect(target.where, check_same_thread=False)
            saver = SqliteSaver(self.open.enter_context(closing(connection)))
        saver.setup()
        graph = StateGraph(State).add_node("append", append).add_edge(START, "append").add_edge("append", END)
        self.graph = graph.compile(checkpointer=saver)

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.graph.invoke({"new": item}, {"configurable": {"thread_id": session}})

    def kept(self, session: str) -> list[str]:
        state = self.graph.get_state({"configurable": {"thread_id": session}})
        return [item["id"] for item in state.values["items"]]

    def close(self) -> None:
        self.open.close()
