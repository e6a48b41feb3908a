"""Holdfast: one storage object for each process, a new workflow object for each run."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from contestants import Target
from holdfast import SqlWorkflowStorage, Workflow, clock
from holdfast.operations import Operation, encode_patch
from holdfast.records import Change, Commit, SessionInfo


class Appending(Workflow):
    def run(self, item: dict[str, Any]) -> None:
        self.session_state.setdefault("items", []).append(item)


class Counting(Workflow):
    def run(self) -> None:
        with self.transaction() as state:
            state["count"] = state.get("count", 0) + 1


class Appends:
    """A run that appends one item to a list in the session; runs at the same time are merged."""

    def __init__(self, target: Target) -> None:
        self.storage = (
            SqlWorkflowStorage(db_url=target.where, lock_timeout=60)
            if target.database == "postgres"
            else SqlWorkflowStorage(db_file=target.where, synchronous=target.synchronous, lock_timeout=60)
        )

    def append(self, session: str, item: dict[str, Any]) -> None:
        Appending(session_id=session, storage=self.storage).run(item)

    def kept(self, session: str) -> list[str] | int:
        state = Appending(session_id=session, storage=self.storage).session_state
        return [item["id"] for item in state["items"]]

    def close(self) -> None:
        self.storage.close()


class Commits(Appends):
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
            return dataclasses.replace(commit, base=info.version)

        self._known[session] = incarnation, self.storage.commit(commit, rebase=rebase)


class Transactions(Appends):
    """A run that increments a counter in a transaction, in which it has the session to itself."""

    def append(self, session: str, item: dict[str, Any]) -> None:  # noqa: ARG002  (it counts instead)
        Counting(session_id=session, storage=self.storage).run()

    def kept(self, session: str) -> list[str] | int:
        count: int = Counting(session_id=session, storage=self.storage).session_state["count"]
        return count
