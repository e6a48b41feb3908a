"""Every operation of a storage, called in every way that can reach a session: the table that tests of owners and of
hostile input go through.

Rules that must stay true:
- an operation of the `Storage` or the `StepCache` protocol, a parameter of one, or a field of `Commit` that has no
  entry here fails `test_owners.py`: whoever adds one says here how it would be abused;
- a call is made for a `Caller`, who is not the owner of the session that it aims at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import fields, replace

from holdfast.records import Change, Claim, Commit, Known, Place, Run, SessionInfo, Snapshot
from holdfast.storage.base import StepCache, Storage
from holdfast.testing import Writer, make_run
from holdfast.testing_steps import key_of, make_entry, make_step


@dataclass(frozen=True)
class Caller:
    """Who calls, and what they have learned about the session of somebody else."""

    storage: Storage
    owner: str
    session_id: str
    incarnation: str
    version: int
    commit_id: str
    run_id: str
    lease_id: str

    def claim(self, **changed: Any) -> Claim:
        """A claim under the lease of the holder that they know."""
        return Claim(self.owner, self.session_id, self.lease_id, 10.0, **changed)

    def begin(self) -> None:
        """A session that begins where they know theirs is; it is taken away again, so that only what it did to the
        other one is left."""
        info = SessionInfo(self.owner, self.session_id, self.incarnation, self.version, self.version, "w", 1.0, 1.0)
        self.storage.begin_session(info, Snapshot((), ()))
        self.storage.delete_session(self.owner, self.session_id)

    def rebasing(self, **changed: Any) -> int:
        """A commit that is told, if it can be, what others have changed."""
        prepared = Writer(self.storage, self.owner, self.session_id).prepared({"a": "stolen"})

        def rebase(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
            raise AssertionError(f"a thief was told of {len(changes)} changes of {info.session_id!r}")

        return self.storage.commit(replace(prepared, **changed), rebase=rebase)

    def commit(self, **changed: Any) -> int:
        """A commit of theirs."""
        prepared = Writer(self.storage, self.owner, self.session_id).prepared({"a": "stolen"}, snapshot=True)
        return self.storage.commit(replace(prepared, **changed))

    def run(self) -> Run:
        """A record that would replace the one of the run that they know."""
        return make_run(self.owner, self.session_id, run_id=self.run_id)

    @property
    def cache(self) -> StepCache:
        """The step cache."""
        return self.storage.step_cache

    def places(self) -> tuple[Place, ...]:
        """Theirs, for all their sessions and for that of the same id."""
        return Place(self.owner), Place(self.owner, self.session_id)

    def of_each(self, name: str, call: Callable[[Place, bytes], Any]) -> Any:
        """The first answer that says anything of an entry which the holder has in a place like theirs."""
        return next(filter(None, (call(place, key_of(name)) for place in self.places())), None)

    def computed(self, place: Place, key: bytes) -> Any:
        """Whether somebody computes what they ask for; nobody does it for them."""
        is_claimed = self.cache.claim(place, key, "the thief's", 10.0, unless=None)
        self.cache.release(place, key, "the thief's")
        return not is_claimed


@dataclass(frozen=True)
class Operation:
    """How one operation is tried.

    Args:
        parameters: all that it has, separated by spaces.
        calls: each aims at the session of somebody else.
        spans: why the operation is not one of an owner; empty when it is.
    """

    parameters: str
    calls: tuple[Callable[[Caller], Any], ...]
    spans: str = ""


OPERATIONS: dict[str, Operation] = {
    "load": Operation(
        "owner session_id known at",
        (
            lambda c: c.storage.load(c.owner, c.session_id),
            lambda c: c.storage.load(c.owner, c.session_id, at=c.version),
            lambda c: c.storage.load(c.owner, c.session_id, known=Known(c.incarnation, c.version)),
            lambda c: c.storage.load(c.owner, c.session_id, known=Known(c.incarnation, 1)),
        ),
    ),
    "read_values": Operation(
        "owner session_id names incarnation at",
        (
            lambda c: c.storage.read_values(c.owner, c.session_id, ["a"], incarnation=c.incarnation, at=1),
            lambda c: c.storage.read_values(c.owner, c.session_id, ["a"], incarnation=c.incarnation, at=0),
        ),
    ),
    "commit": Operation(
        "commit rebase",
        (
            lambda c: c.commit(base=c.version, incarnation=c.incarnation),
            lambda c: c.commit(base=c.version, incarnation=c.incarnation, run=c.run()),
            lambda c: c.commit(base=c.version - 1, incarnation=c.incarnation, commit_id=c.commit_id),
            lambda c: c.commit(base=c.version, incarnation=c.incarnation, patch=None, snapshot=None, run=c.run()),
            lambda c: c.commit(base=c.version, incarnation=c.incarnation, lease_id=c.lease_id, releases=True),
            lambda c: c.commit(base=c.version, incarnation=c.incarnation, created_at=1.0),
            lambda c: c.rebasing(base=1, incarnation=c.incarnation),
            lambda c: c.commit(base=c.version, incarnation=c.incarnation, run_id=c.run_id, attempt=9, patch=None),
            lambda c: c.commit(patch=None, snapshot=None, run_id=c.run_id, steps=(make_step(result=b"stolen"),)),
            lambda c: c.commit(patch=None, snapshot=None, run_id=c.run_id, forgets_results=True),
            lambda c: c.commit(
                patch=None, snapshot=None, resumes=c.run(), run_id=c.run_id, run=replace(c.run(), attempt=2)
            ),
        ),
    ),
    "begin_session": Operation(
        "info snapshot",
        (lambda c: c.begin(),),
    ),
    "claim_lease": Operation(
        "claim",
        (
            lambda c: c.storage.claim_lease(replace(c.claim(), lease_id="another")),
            lambda c: c.storage.claim_lease(c.claim(is_exclusive=True, is_held=True)),
        ),
    ),
    "release_lease": Operation(
        "owner session_id lease_id", (lambda c: c.storage.release_lease(c.owner, c.session_id, c.lease_id),)
    ),
    "beat": Operation(
        "process_id stopped",
        (
            lambda c: c.storage.beat(f"process of {c.owner}"),
            lambda c: c.storage.beat(f"process of {c.owner}", stopped=True),
        ),
        spans="a heartbeat is of a process, whoever's runs are open in it",
    ),
    "changes": Operation(
        "owner session_id after limit",
        (
            lambda c: c.storage.changes(c.owner, c.session_id),
            lambda c: c.storage.changes(c.owner, c.session_id, after=0, limit=1),
        ),
    ),
    "find_sessions": Operation(
        "owner session_id limit",
        (
            lambda c: c.storage.find_sessions(c.owner),
            lambda c: c.storage.find_sessions(c.owner, session_id=c.session_id, limit=1),
        ),
    ),
    "find_runs": Operation(
        "owner session_id run_id limit",
        (
            lambda c: c.storage.find_runs(c.owner),
            lambda c: c.storage.find_runs(c.owner, session_id=c.session_id),
            lambda c: c.storage.find_runs(c.owner, run_id=c.run_id, limit=1),
            lambda c: c.storage.find_runs(c.owner, session_id=c.session_id, run_id=c.run_id),
        ),
    ),
    "find_steps": Operation(
        "owner session_id run_id with_results",
        (
            lambda c: c.storage.find_steps(c.owner, c.session_id, c.run_id, with_results=True),
            lambda c: c.storage.find_steps(c.owner, c.session_id, c.run_id, with_results=False),
        ),
    ),
    "rename_session": Operation(
        "owner session_id new_id", (lambda c: c.storage.rename_session(c.owner, c.session_id, "taken"),)
    ),
    "delete_session": Operation("owner session_id", (lambda c: c.storage.delete_session(c.owner, c.session_id),)),
    "prune_session": Operation("owner session_id keep", (lambda c: c.storage.prune_session(c.owner, c.session_id, 1),)),
    "check": Operation("", (lambda c: c.storage.check(),), spans="it verifies everything that is stored"),
    "close": Operation("", (), spans="it ends the use of a storage object"),
    "step_cache.read": Operation("place key", (lambda c: c.of_each("kept", c.cache.read),)),
    "step_cache.claim": Operation("place key lease_id seconds unless", (lambda c: c.of_each("computed", c.computed),)),
    "step_cache.renew": Operation(
        "place key lease_id seconds",
        (lambda c: c.of_each("computed", lambda place, key: c.cache.renew(place, key, c.lease_id, 10.0)),),
    ),
    "step_cache.store": Operation(
        "entry lease_id ttl",
        (
            lambda c: c.of_each(
                "computed", lambda place, _: c.cache.store(make_entry("computed", place), c.lease_id, ttl=None)
            ),
        ),
    ),
    "step_cache.release": Operation(
        "place key lease_id",
        (lambda c: c.of_each("computed", lambda place, key: c.cache.release(place, key, c.lease_id)),),
    ),
    "step_cache.count_hits": Operation(
        "hits", (lambda c: c.of_each("kept", lambda place, key: c.cache.count_hits({(place, key): 1})),)
    ),
    "step_cache.find": Operation(
        "owner step workflow session_id limit",
        (
            lambda c: c.cache.find(c.owner),
            lambda c: c.cache.find(c.owner, session_id=c.session_id, step="write", workflow="Conformance", limit=1),
        ),
    ),
    "step_cache.delete": Operation(
        "entries", (lambda c: c.of_each("kept", lambda place, key: c.cache.delete([(place, key)])),)
    ),
    "step_cache.sweep": Operation(
        "", (lambda c: c.cache.sweep(),), spans="it deletes what has expired or is too much, of whomever"
    ),
}

COMMIT = (
    "owner session_id commit_id base incarnation workflow patch snapshot run run_id lease_id releases attempt resumes "
    "steps forgets_results created_at"
)
"""The fields of a `Commit`. A new one belongs into a call of `commit` above, if it can name or hold anything."""


def forgotten(
    protocol: type = Storage, cache: type = StepCache, operations: Mapping[str, Operation] = OPERATIONS
) -> Iterator[str]:
    """What a protocol, or that of its step cache, has and the table does not, each as a message."""
    members = {
        prefix + name: member
        for prefix, each in (("", protocol), ("step_cache.", cache))
        for name, member in inspect.getmembers(each, inspect.isfunction)
        if name[0] != "_"
    }
    for name in members.keys() - operations.keys():
        yield f"the operation `{name}` is not tried as another owner: give it an entry in storage_calls.OPERATIONS"
    for name in members.keys() & operations.keys():
        found = list(inspect.signature(members[name]).parameters)[1:]
        for parameter in set(found) ^ set(operations[name].parameters.split()):
            yield f"the parameter `{parameter}` of `{name}` is not what storage_calls.OPERATIONS says: try it there"
        if {"owner", "place", "entry"} & set(found) and (operations[name].spans or not operations[name].calls):
            yield f"`{name}` has an owner, so it must be called as another one in storage_calls.OPERATIONS"
    for field in {field.name for field in fields(Commit)} ^ set(COMMIT.split()):
        yield f"the field `{field}` of Commit is not what storage_calls.COMMIT says: try it in a call of `commit`"
