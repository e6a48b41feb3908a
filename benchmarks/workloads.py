"""The workloads: each runs in a process of its own, which prints its figures as one line of JSON."""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import msgspec
from floor import RawInserts, RawRuns
from measure import Cost, cost_of, folder_size
from posts import text

from holdfast import SqlWorkflowStorage, Workflow
from holdfast.errors import UnstorableValue

SHORT, LONG = "a post was written.."[:20], "the post itself"


def post(number: int, *, dated: bool) -> dict[str, Any]:
    """About 2 kB, no two alike; with a datetime, which plain JSON cannot say, if `dated`."""
    made: dict[str, Any] = {"topic": f"topic-{number}", "blog_post": text(number)}
    if dated:
        made["written"] = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=number)
    return made


class Setting(Workflow):
    def run(self, key: str, value: int) -> str:
        self.session_state[key] = value
        return SHORT


class Appending(Workflow):
    def run(self, number: int, dated: bool, returns_post: bool) -> Any:
        made = post(number, dated=dated)
        self.session_state.setdefault("posts", []).append(made)
        return made["blog_post"] if returns_post else SHORT


class Seeding(Workflow):
    def run(self, many: bool, dated: bool) -> str:
        posts = [post(number, dated=dated) for number in range(5000)]
        self.session_state.update({f"post-{i}": p for i, p in enumerate(posts)} if many else {"posts": posts})
        self.session_state["counter"] = 0
        return SHORT


def small_run(folder: Path) -> dict[str, Any]:
    """A run that adds one small key, against one raw insert and the raw rows of a run, in alternating blocks."""
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")
    raw, rows = RawInserts(folder), RawRuns(folder)

    def run(number: int) -> None:
        Setting(session_id="s", storage=storage).run(f"k{number % 50}", number)

    for number in range(50):
        run(number)
        raw.insert(b"x" * 80)
        rows.insert(b"x" * 80)
    blocks: dict[str, list[Any]] = {"ours": [], "floor": [], "rows": []}
    for block in range(10):
        blocks["ours"].append(cost_of([partial(run, block * 100 + number) for number in range(100)]))
        blocks["floor"].append(cost_of([partial(raw.insert, b"x" * 80)] * 100))
        blocks["rows"].append(cost_of([partial(rows.insert, b"x" * 80)] * 100))
    return {
        name: {"wall": [c.median_wall() for c in costs], "cpu": [c.mean_cpu() for c in costs]}
        for name, costs in blocks.items()
    }


def growth(cost: Cost, folder: Path) -> dict[str, Any]:
    """What many appends cost, and how large the database became."""
    return {
        "written": cost.written,
        "early": cost.mean_cpu(slice(0, 50)),
        "late": cost.mean_cpu(slice(-50, None)),
        "late_wall": cost.median_wall(slice(-50, None)),
        "database": folder_size(folder),
    }


def growing_list(folder: Path, dated: bool, returns_post: bool, runs: int = 1000) -> dict[str, Any]:
    """Runs that each append a post of 2 kB, each by a new Workflow object."""
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")

    def run(number: int) -> None:
        Appending(session_id="s", storage=storage).run(number, dated, returns_post)

    cost = cost_of([partial(run, number) for number in range(runs)])
    return growth(cost, folder)


def growing_floor(folder: Path, runs: int = 1000) -> dict[str, Any]:
    """The same posts as raw inserts."""
    raw = RawInserts(folder)
    rows = [json.dumps(post(number, dated=False)).encode() for number in range(runs)]
    cost = cost_of([partial(raw.insert, row) for row in rows])
    return growth(cost, folder)


def large_state(folder: Path, many: bool, dated: bool) -> dict[str, Any]:
    """A state of 10 MB of which one small key changes, in a process that has just used it."""
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")
    Seeding(session_id="s", storage=storage).run(many, dated)

    def run(number: int) -> None:
        Setting(session_id="s", storage=storage).run("counter", 10 ** (number % 5))

    run(1)
    cost = cost_of([partial(run, number) for number in range(30)])
    return {"wall": cost.median_wall(), "cpu": cost.mean_cpu(), "written": cost.written / 30}


def large_state_cold(folder: Path) -> dict[str, Any]:
    """The same in a new process: its first load and run, after the imports."""
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")
    Setting(session_id="warm-up", storage=storage).run("counter", 1)
    cost = cost_of([lambda: Setting(session_id="s", storage=storage).run("counter", int(time.time()))])
    return {"wall": cost.wall[0], "cpu": cost.cpu[0], "written": cost.written}


class Searching(Workflow):
    searches: ClassVar[list[float]] = []
    """CPU ms that the search itself took, once the posts were there."""

    def run(self, topic: str) -> str:
        posts = self.session_state["posts"]
        begin = time.process_time()
        found = found_in(posts, topic)
        self.searches.append((time.process_time() - begin) * 1e3)
        return found


class Changing(Workflow):
    def run(self, place: int, text: str) -> str:
        self.session_state["posts"][place]["topic"] = text
        return SHORT


class Reading(Workflow):
    def run(self) -> int:
        return int(self.session_state["counter"])


def found_in(posts: list[dict[str, Any]], topic: str) -> str:
    """The search that the README does, one post after the other."""
    return next(post["blog_post"][:20] for post in posts if post["topic"] == topic)


def large_list(folder: Path, posts: int, dated: bool, runs: int = 40) -> dict[str, Any]:
    """What runs cost on a list of so many posts of 2 kB: CPU, each by a new Workflow object.

    Beside them two floors: encoding the list once, and the same search in a plain list.
    """
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")
    plain = [post(number, dated=dated) for number in range(posts)]
    for number in range(posts):
        if number % 1000 == 0:
            Filling(session_id="s", storage=storage).run(plain[number : number + 1000])
    Setting(session_id="s", storage=storage).run("counter", 1)
    topic = plain[-1]["topic"]
    jobs: dict[str, Callable[[int], Any]] = {
        "append": lambda n: Appending(session_id="s", storage=storage).run(posts + n, dated, False),
        "leaf": lambda n: Changing(session_id="s", storage=storage).run(n * 997 % posts, f"topic {n}"),
        "search": lambda _: Searching(session_id="s", storage=storage).run(topic),
        "read": lambda _: Reading(session_id="s", storage=storage).run(),
        "plain search": lambda _: found_in(plain, topic),
        "encode": lambda _: json_encoded(plain),
    }
    costs: dict[str, list[float]] = {name: [] for name in jobs}
    written = dict.fromkeys(jobs, 0.0)
    for job in jobs.values():
        job(0)
    for block in range(4):
        for name, job in jobs.items():
            cost = cost_of([partial(job, block * runs + number + 1) for number in range(runs)])
            costs[name].append(cost.mean_cpu())
            written[name] += cost.written / (4 * runs)
    costs["search itself"] = [mean(Searching.searches[-runs * block :][:runs]) for block in range(4, 0, -1)]
    return {"cpu": costs, "written": written}


class Filling(Workflow):
    def run(self, posts: list[dict[str, Any]]) -> str:
        self.session_state.setdefault("posts", []).extend(dict(post) for post in posts)
        return SHORT


def json_encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def nested(depth: int, width: int = 1) -> Any:
    """Lists in lists, each level the same object so many times: small to make, endless to walk."""
    value: Any = "x"
    for _ in range(depth):
        value = [value] * width
    return value


def sets_in_sets(depth: int) -> Any:
    """Sets of which each holds the one below twice."""
    value: Any = frozenset({"x"})
    for _ in range(depth):
        value = frozenset({value, (value,)})
    return value


BEYOND: dict[str, Callable[[], Any]] = {
    "a text of 64 MB": lambda: "x" * 64_000_001,
    "bytes of 64 MB": lambda: b"x" * 64_000_001,
    "100,000 containers, one in another": lambda: nested(100_000),
    "ten lists in each of 90 levels, all one object": lambda: nested(90, 10),
    "sets that hold the one below twice, 90 levels": lambda: sets_in_sets(90),
    "40 million items that are one list": lambda: [[0] * 1000] * 40_000,
    "a key of 1 MB": lambda: {"k" * 10**6: 1},
    "an int of a million digits": lambda: 10**1_000_000,
    "100,000 objects of no known type": lambda: [object() for _ in range(100_000)],
    "100,000 texts with half a character, twice": lambda: ["\ud83d\ude00"] * 100_000,
}
"""Values beyond the limits, each to be refused."""


def refusals(folder: Path, times: int = 3) -> dict[str, Any]:
    """How long it takes until a run that put such a value into a state of 1 MB has ended with its error."""
    storage = SqlWorkflowStorage(db_file=folder / "ours.db")
    Setting(session_id="s", storage=storage).run("earlier", "x" * 10**6)  # type: ignore[arg-type]
    figures = {}
    for name, make in BEYOND.items():
        value = make()

        def refused(value: Any = value) -> None:
            try:
                Setting(session_id="s", storage=storage).run("beyond", value)
            except UnstorableValue:
                return
            raise AssertionError("it was not refused")

        figures[name] = cost_of([refused] * times).wall
    return figures


WORKLOADS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (small_run, growing_list, growing_floor, large_list, large_state, large_state_cold, refusals)
}

if __name__ == "__main__":
    name, folder, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    print(json.dumps(WORKLOADS[name](Path(folder or tempfile.mkdtemp()), **arguments)))
