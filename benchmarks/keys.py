"""`python benchmarks/keys.py`: what it costs to identify the arguments of a step, in Markdown on standard output.

Each value goes through all contestants in turn, in one process, and the fastest of several rounds counts. The floor is
`json.dumps(sort_keys=True)` and SHA-256, which takes `{1: 1}` for `{"1": 1}` and knows few types; `joblib.hash` is what
the cache of joblib does, and is skipped where joblib is not installed. The walk is Holdfast's own way for values that
JSON cannot say, made to take all of them.
"""

from __future__ import annotations

import datetime
import json
import timeit
from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from measure import machine
from pydantic import BaseModel

from holdfast.agent import Agent
from holdfast.agent_identity import agent_parts
from holdfast.canonical import digest
from holdfast.fingerprint import code_parts
from holdfast.pieces import Walk

ROUNDS = 7


class Message(BaseModel):
    role: str
    content: str


def ours(value: Any) -> bytes:
    return digest(value, "argument value", "step")


def walk(value: Any) -> bytes:
    return sha256(Walk().node(value, ("value",), 0)).digest()


def floor(value: Any) -> bytes:
    return sha256(json.dumps(value, sort_keys=True).encode()).digest()


CONTESTANTS: dict[str, Callable[[Any], Any]] = {"`json.dumps`, SHA-256": floor, "Holdfast": ours, "its walk": walk}
if find_spec("joblib"):
    CONTESTANTS["`joblib.hash`"] = import_module("joblib").hash


def messages(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "lorem ipsum " * 8} for _ in range(count)]


VALUES: dict[str, Any] = {
    "a topic, 20 characters": "Context managers ...",
    "10 chat messages, 1 kB": {"messages": messages(10), "temperature": 0.1},
    "800 chat messages, 100 kB": {"messages": messages(800), "temperature": 0.1},
    "one text of 100 kB": {"text": "x" * 100_000},
    "10,000 floats": [n / 7 for n in range(10_000)],
    "10 models": [Message(**message) for message in messages(10)],
    "10 messages with a datetime": [{**message, "at": datetime.datetime(2026, 1, 1)} for message in messages(10)],
}


def spent(work: Callable[[], Any]) -> float | None:
    """Microseconds of one call; None for a contestant that does not take the value."""
    try:
        work()
    except TypeError:
        return None
    times, _ = timeit.Timer(work).autorange()
    times = max(1, times // 5)
    return min(timeit.repeat(work, number=times, repeat=ROUNDS)) / times * 1e6


def row(name: str, value: Any) -> str:
    figures = [spent(lambda use=use: use(value)) for use in CONTESTANTS.values()]
    base = figures[0]
    shown = ["does not take it" if figure is None else f"{figure:,.1f}" for figure in figures]
    ratio = f"{figures[1] / base:.2f}" if base and figures[1] else ""
    return " | ".join([f"| {name}", *shown, f"{ratio} |"])


def look_up(query: str) -> str:
    """Look it up."""
    return query


def write(topic: str) -> str:
    return look_up(topic) + str(ROUNDS)


def main() -> None:
    print(f"On {machine()}\n\n### The identity of a value, microseconds\n")
    print(" | ".join(["| value", *CONTESTANTS, "Holdfast / floor |"]))
    print("|" + "---|" * (len(CONTESTANTS) + 2))
    for name, value in VALUES.items():
        print(row(name, value), flush=True)
    if "`joblib.hash`" not in CONTESTANTS:
        print("\njoblib is not installed and was skipped.")
    agent = Agent("offline", instructions="Be brief.", tools=[look_up], output_type=Message)
    print("\n### Asked again for what has not changed, microseconds\n\n| what | time |\n|---|---|")
    print(f"| the code of a step with a helper and a constant | {spent(lambda: code_parts(write)):,.1f} |")
    print(f"| an agent with a tool and an output type | {spent(lambda: agent_parts(agent, 'writer')):,.1f} |")


if __name__ == "__main__":
    main()
