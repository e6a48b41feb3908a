"""What a run was refused, applied by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from msgspec.structs import replace

from cli import Plain, keep, refused
from holdfast import Workflow
from holdfast.errors import (
    ChangesOverlap,
    InvalidInput,
    RefusedVersionNotKept,
    SessionBusy,
    SessionNotFound,
    StateConflict,
)
from holdfast.merging import Overlap
from holdfast.records import Claim, Run
from holdfast.refused import RefusedChanges, Winner, applied_version
from holdfast.storage.base import Storage
from holdfast.testing import make_run


def state(storage: Storage, session_id: str = "s") -> dict[Any, Any]:
    return dict(Plain(session_id=session_id, storage=storage).session_state)


def record(storage: Storage, run_id: str) -> Run:
    (run,) = storage.find_runs(None, run_id=run_id)
    return run


def ours(live: dict[Any, Any]) -> None:
    live["n"] = "ours"
    live["posts"].append("ours")
    live["mine"] = 1


def theirs(live: dict[Any, Any]) -> None:
    live["n"] = "theirs"
    live["posts"].append("theirs")
    live["yours"] = 2


def conflicted(storage: Storage) -> RefusedChanges:
    keep(storage, "s", {"n": "base", "posts": ["base"]})
    return RefusedChanges(storage, record(storage, refused(storage, ours, theirs)))


@pytest.mark.parametrize("winner", ["ours", "theirs"])
def test_what_does_not_overlap_is_merged_and_one_side_wins_the_rest(storage: Storage, winner: Winner) -> None:
    changes = conflicted(storage)
    before = state(storage)
    proposal = changes.proposal(winner)
    assert (proposal.version, state(storage)) == (2, before)
    assert changes.commit(proposal) == 3
    assert state(storage) == {"n": winner, "posts": ["base", "theirs", "ours"], "yours": 2, "mine": 1}
    (change,) = storage.changes("", "s", after=2)
    assert change.run_id == changes.run.run_id
    assert storage.check() == ()


def test_what_overlaps_is_listed_whole_and_not_decided(storage: Storage) -> None:
    keep(storage, "s", {"n": 0, "m": {"x": 1}, "gone": 0, "free": 0})
    run_id = refused(
        storage,
        lambda live: (live.update(n=1, gone=1, new=1, free=1), live["m"].update(x=2)),  # type: ignore[arg-type, return-value]
        lambda live: (live.update(n=2, new=2), live.pop("gone"), live["m"].update(x=3)),  # type: ignore[arg-type, return-value]
    )
    changes = RefusedChanges(storage, record(storage, run_id))
    before = state(storage)
    proposal = changes.proposal()
    found = {overlap.path: (overlap.base, overlap.ours, overlap.theirs) for overlap in proposal.overlaps}
    assert found == {
        ("n",): (b"0", b"1", b"2"),
        ("m", "x"): (b"1", b"2", b"3"),
        ("gone",): (b"0", b"1", None),
        ("new",): (None, b"1", b"2"),
    }
    with pytest.raises(ChangesOverlap, match=r"4 places of session 's'.*since\s+version 1"):
        changes.commit(proposal)
    assert state(storage) == before


def test_applied_twice_it_is_recognised(storage: Storage) -> None:
    changes = conflicted(storage)
    assert applied_version(storage, changes.run) is None
    proposal = changes.proposal("ours")
    assert changes.commit(proposal) == 3
    assert changes.commit(proposal) == 3, "shown before, and committed by somebody else meanwhile"
    keep(storage, "s", {"n": "later"})
    again = RefusedChanges(storage, record(storage, changes.run.run_id))
    assert again.proposal().applied == 3
    assert again.commit(again.proposal("theirs")) == 3
    assert applied_version(storage, changes.run) == 3
    assert state(storage) == {"n": "later"}
    assert changes.run.refused_patch == record(storage, changes.run.run_id).refused_patch is not None


def test_others_may_commit_between_what_is_shown_and_what_is_done(storage: Storage) -> None:
    changes = conflicted(storage)
    proposal = changes.proposal("ours")
    Plain(session_id="s", storage=storage).run(lambda live: live.update(later=True))
    assert changes.commit(proposal) == 4
    assert state(storage)["later"] is True
    assert state(storage)["n"] == "ours"


def test_an_overlap_that_was_not_shown_is_not_decided(storage: Storage) -> None:
    changes = conflicted(storage)
    proposal = changes.proposal("ours")
    Plain(session_id="s", storage=storage).run(lambda live: live.update(mine="others"))
    with pytest.raises(ChangesOverlap, match="2 places"):
        changes.commit(proposal)
    assert state(storage)["mine"] == "others"


def test_what_is_left_of_nothing_is_nothing(storage: Storage) -> None:
    keep(storage, "s", {"n": 0})
    run_id = refused(storage, lambda live: live.update(n=1), lambda live: live.update(n=2))
    changes = RefusedChanges(storage, record(storage, run_id))
    assert changes.proposal("theirs").commit is None
    assert changes.commit(changes.proposal("theirs")) is None
    assert state(storage) == {"n": 2}
    assert len(storage.changes("", "s")) == 2


def test_the_first_two_runs_of_a_session_that_begin_with_defaults_are_merged(storage: Storage) -> None:
    defaults = {"session_state": {"posts": ["welcome"], "count": 0, "n": 0}}
    run_id = refused(
        storage,
        lambda live: (live["posts"].append("ours"), live.update(n=1)),  # type: ignore[arg-type, return-value]
        lambda live: (live["posts"].append("theirs"), live.update(n=2)),  # type: ignore[arg-type, return-value]
        **defaults,
    )
    changes = RefusedChanges(storage, record(storage, run_id))
    assert changes.version == 0
    assert [overlap.path for overlap in changes.proposal().overlaps] == [("n",)]
    changes.commit(changes.proposal("ours"))
    assert state(storage) == {"posts": ["welcome", "theirs", "ours"], "count": 0, "n": 1}


def test_a_large_change_is_stored_with_a_snapshot(storage: Storage) -> None:
    keep(storage, "s", {"n": 0})
    run_id = refused(storage, lambda live: live.update(n=1, long="x" * 70_000), lambda live: live.update(n=2))
    changes = RefusedChanges(storage, record(storage, run_id))
    assert changes.commit(changes.proposal("ours")) == 3
    assert storage.find_sessions("")[0].snapshot_version == 3
    assert state(storage)["long"] == "x" * 70_000
    assert storage.check() == ()


def test_a_session_that_somebody_has_to_himself_is_left_alone(storage: Storage) -> None:
    changes = conflicted(storage)
    storage.claim_lease(Claim("", "s", "x", 30.0, is_exclusive=True))
    with pytest.raises(SessionBusy):
        changes.commit(changes.proposal("ours"))


def test_a_base_that_is_forgotten_is_an_error_that_says_so(storage: Storage) -> None:
    changes = conflicted(storage)
    keep(storage, "s", *({"n": n, "text": "x" * 20_000 + str(n)} for n in range(5)))
    assert storage.prune_session("", "s", 1)
    with pytest.raises(RefusedVersionNotKept, match="was refused was made from version 1 of session 's'"):
        RefusedChanges(storage, changes.run)
    with pytest.raises(RefusedVersionNotKept):
        changes.proposal()
    first = replace(changes.run, refused_version=0, refused_patch=b'[{"op":"add","path":"/n","value":1}]')
    with pytest.raises(RefusedVersionNotKept):
        RefusedChanges(storage, first).proposal()


def test_a_run_that_was_refused_nothing_has_nothing_to_apply(storage: Storage) -> None:
    keep(storage, "s", {"n": 0})
    (run,) = storage.find_runs("")
    with pytest.raises(InvalidInput, match="was not refused any changes"):
        RefusedChanges(storage, run)
    assert applied_version(storage, run) is None


def test_a_session_that_is_gone_is_not_found(storage: Storage) -> None:
    run = make_run(refused_patch=b"[]", refused_version=3)
    with pytest.raises(SessionNotFound):
        RefusedChanges(storage, run)
    assert applied_version(storage, run) is None


def test_two_that_apply_it_at_once_make_one_change(storage: Storage) -> None:
    changes = conflicted(storage)
    made: list[int | None] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        mine = RefusedChanges(storage, changes.run)
        proposal = mine.proposal("ours")
        barrier.wait()
        made.append(mine.commit(proposal))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [3, 3, 3, 3]
    assert len(storage.changes("", "s")) == 3


def test_what_was_refused_over_changes_of_others_is_not_applied_unseen(storage: Storage) -> None:
    """The run had merged before, so that what it is refused is told as a patch of a version with theirs in it."""

    class Adding(Workflow):
        def run(self, count: int) -> None:
            self.session_state["n"] += count

    class Merging(Workflow):
        def run(self) -> None:
            before = self.session_state["n"]
            Adding(session_id="s", storage=self.storage).run(100)
            self.session_state["m"] = 5
            self.write_to_storage()
            self.session_state["n"] = before + 1

    first = Adding(session_id="s", storage=storage, session_state={"n": 0})
    first.run(0)
    with pytest.raises(StateConflict):
        Merging(session_id="s", storage=storage).run()
    (run,) = [run for run in storage.find_runs("", session_id="s") if run.refused_patch]
    refused = RefusedChanges(storage, run)
    (overlap,) = refused.proposal().overlaps
    assert overlap == Overlap(("n",), b"0", b"1", b"100")
    with pytest.raises(ChangesOverlap):
        refused.commit(refused.proposal())
    with pytest.raises(InvalidInput, match="only be applied as they are"):
        refused.proposal("theirs")
    refused.commit(refused.proposal("ours"))
    assert Adding(session_id="s", storage=storage).session_state == {"n": 1, "m": 5}
