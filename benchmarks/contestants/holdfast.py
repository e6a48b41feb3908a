"""Holdfast: one storage object for each process, a new workflow object for each run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from contestants import SMALL, Failed, Sessions, Steps, Target, computed, killed
from holdfast import Cache, SqlWorkflowStorage, Workflow, clock, step
from holdfast.operations import Operation, encode_patch
from holdfast.records import Change, Commit, SessionInfo


class Appending(Workflow):
    def run(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)


class Setting(Workflow):
    def run(self, key: str, value: Any) -> str:
        self.session_state.get("owner")
        self.session_state[key] = value
        return "ok"


class Finding(Workflow):
    def run(self, name: str) -> str:
        found: str = next(item for item in self.session_state["items"] if item["id"] == name)["text"]
        return found


class Failing(Workflow):
    def run(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)
        raise Failed


class Streaming(Workflow):
    def run(self, items: list[dict[str, Any]]) -> Iterator[str]:
        for item in items:
            self.session_state.setdefault("items", []).append(item)
            yield f"stored {item['id']}"


class Dying(Workflow):
    def run(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)
        killed()


class SteppedAppending(Workflow):
    @step
    def append(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)


class SteppedFailing(SteppedAppending):
    def run(self, item: dict[str, Any]) -> None:
        self.append(item)
        raise Failed


class SteppedStreaming(SteppedAppending):
    def run(self, items: list[dict[str, Any]]) -> Iterator[str]:
        for item in items:
            self.append(item)
            yield f"stored {item['id']}"


class SteppedDying(SteppedAppending):
    def run(self, item: dict[str, Any]) -> None:
        self.append(item)
        killed()


class Counting(Workflow):
    def run(self) -> None:
        with self.transaction() as state:
            state["count"] = state.get("count", 0) + 1


class Runs(Sessions):
    """Workflows with a storage; appends of runs at the same time are merged."""

    types: tuple[type, ...] = ()

    def __init__(self, target: Target) -> None:
        self.storage = (
            SqlWorkflowStorage(db_url=target.where, lock_timeout=60)
            if target.database == "postgres"
            else SqlWorkflowStorage(db_file=target.where, synchronous=target.synchronous, lock_timeout=60)
        )

    def append(self, session: str, item: dict[str, Any]) -> None:
        Appending(session_id=session, storage=self.storage).run(item)

    def set(self, session: str, key: str, value: Any) -> None:
        Setting(session_id=session, storage=self.storage).run(key, value)

    def find(self, session: str, name: str) -> str:
        found: str = Finding(session_id=session, storage=self.storage).run(name).content
        return found

    def fail(self, session: str, item: dict[str, Any]) -> None:
        Failing(session_id=session, storage=self.storage).run(item)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        return Streaming(session_id=session, storage=self.storage).run(items)

    def die(self, session: str, item: dict[str, Any]) -> None:
        Dying(session_id=session, storage=self.storage).run(item)

    def declare(self, types: tuple[type, ...]) -> None:
        self.types = types

    def put(self, session: str, value: Any) -> None:
        class Putting(Workflow):
            state_types = self.types

            def run(self) -> None:
                self.session_state.update(sibling=1, value=value)

        Putting(session_id=session, storage=self.storage).run()

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        class Seeding(Workflow):
            def run(self) -> None:
                self.session_state.update(SMALL, items=items)

        Seeding(session_id=session, storage=self.storage).run()

    def read(self, session: str) -> Mapping[str, Any]:
        class Reading(Workflow):
            state_types = self.types

            def run(self) -> None:
                """Not called."""

        found: Mapping[str, Any] = Reading(session_id=session, storage=self.storage).session_state
        return found

    def close(self) -> None:
        self.storage.close()


class SteppedRuns(Runs):
    """Each append is a step, which is committed before the run goes on."""

    def fail(self, session: str, item: dict[str, Any]) -> None:
        SteppedFailing(session_id=session, storage=self.storage).run(item)

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        return SteppedStreaming(session_id=session, storage=self.storage).run(items)

    def die(self, session: str, item: dict[str, Any]) -> None:
        SteppedDying(session_id=session, storage=self.storage).run(item)


class Commits(Runs):
    """A commit of one encoded item to the storage, rebased when others were faster, without a workflow around it."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._known: dict[str, tuple[str, int]] = {}

    def append(self, session: str, item: dict[str, Any]) -> None:
        if session not in self._known:
            stored = self.storage.load("", session)
            if stored is None:
                super().append(session, item)
                return
            self._known[session] = stored.info.incarnation, stored.info.version
        incarnation, version = self._known[session]
        patch = encode_patch([Operation("add", ("items", "-"), json.dumps(item).encode())])
        commit = Commit("", session, clock.new_id(), version, incarnation, "Commits", patch)

        def rebase(info: SessionInfo, _: tuple[Change, ...]) -> Commit:
            return msgspec.structs.replace(commit, base=info.version)

        self._known[session] = incarnation, self.storage.commit(commit, rebase=rebase)


class Transactions(Runs):
    """A run that increments a counter in a transaction, in which it has the session to itself."""

    def append(self, session: str, item: dict[str, Any]) -> None:  # noqa: ARG002  (it counts instead)
        Counting(session_id=session, storage=self.storage).run()

    def kept(self, session: str) -> list[str] | int:
        count: int = Counting(session_id=session, storage=self.storage).session_state["count"]
        return count


class Cached(Steps):
    """A step whose results the workflow shares between its sessions, asked for in one run."""

    def __init__(self, target: Target) -> None:
        self.storage = SqlWorkflowStorage(db_file=target.where)

    def seconds(self, topics: list[str]) -> float:
        spent: float = Writing(storage=self.storage).run(topics).content
        return spent

    def close(self) -> None:
        self.storage.close()


class Writing(Workflow):
    @step(cache=Cache("workflow", ttl="7d"))
    def write(self, topic: str) -> str:
        return computed(topic)

    def run(self, topics: list[str]) -> float:
        began = time.perf_counter()
        for topic in topics:
            self.write(topic)
        return time.perf_counter() - began
