"""How history is thinned and pruned, against a model, for histories of any shape."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import VersionNotKept
from holdfast.storage.base import KeepHistory, Storage
from holdfast.storage.history import oldest_wanted, superfluous
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, adjustable_clock, rebuilt

Step = tuple[list[str], dict[str, Any], bool, int]

steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), max_size=2),
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3) | st.just("x" * 17_000), max_size=2),
        st.booleans(),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=40,
)
amounts = st.none() | st.integers(1, 12) | st.integers(1, 3000).map(lambda seconds: timedelta(seconds=seconds))


def play(storage: Storage, story: list[Step], keep: KeepHistory, prune: KeepHistory) -> list[Any]:
    """Commit a story, prune, and return every version that is kept, or what was said about it."""
    told: list[Any] = []
    writer = Writer(storage)
    writer.incarnation = "same for both"
    with adjustable_clock() as hands:
        times = [0.0]
        for removed, changed, snapshot, seconds in story:
            hands.time += seconds
            times.append(hands.time)
            state = {name: value for name, value in writer.states[-1].items() if name not in removed}
            writer.commit(state | changed, snapshot=snapshot)
        forgotten = storage.prune_session("", "s", prune)
        told.append(forgotten)
        wanted = [
            oldest_wanted(amount, writer.version, lambda time: max(v for v, at in enumerate(times) if at <= time))
            for amount in (keep, prune)
        ]
        for version in range(1, writer.version + 1):
            try:
                state = rebuilt(storage.load("", "s", at=version), storage)
            except VersionNotKept as error:
                assert version < max(wanted), "a version that was to be kept is gone"
                told.append((error.oldest, error.newest))  # type: ignore[attr-defined]
            else:
                assert list(state.items()) == list(writer.states[version].items())
                told.append(state)
        told.append(rebuilt(storage.load("", "s"), storage))
        told.append(len(storage.changes("", "s")))
    return told


@settings(max_examples=80, deadline=None)
@given(story=steps, keep=amounts, prune=amounts)
def test_every_kept_version_can_be_rebuilt_and_all_backends_keep_the_same(
    story: list[Step], keep: KeepHistory, prune: KeepHistory
) -> None:
    with closing(SqlWorkflowStorage(db_url="sqlite://", keep_history=keep)) as sql:
        in_memory = play(MemoryStorage(keep_history=keep), story, keep, prune)
        assert play(sql, story, keep, prune) == in_memory
        assert sql.check() == ()


@given(st.lists(st.booleans(), max_size=400), st.integers(0, 50))
def test_thinning_keeps_few_snapshots_near_every_version(story: list[bool], first: int) -> None:
    kept: list[int] = []
    taken: list[int] = []
    for version, is_snapshot in enumerate(story, start=first + 1):
        if not is_snapshot:
            continue
        taken.append(version)
        kept.append(version)
        dropped = superfluous(kept, first)
        kept = [kept_version for kept_version in kept if kept_version not in dropped]
        assert kept[-1] == version
        assert superfluous(kept, first) == []
        age = version - first
        assert len(kept) <= 2 * age.bit_length() + 2
        for place in taken:
            start = max([first, *(kept_version for kept_version in kept if kept_version <= place)])
            assert place - start <= version - place, "a rebuild replays more than lies ahead of it"


def test_without_snapshots_nothing_is_superfluous() -> None:
    assert superfluous([], 0) == []


def test_the_oldest_wanted_version() -> None:
    with adjustable_clock() as hands:
        made = {1: hands.time - 100, 2: hands.time - 50, 3: hands.time}

        def version_at(time: float) -> int:
            return min((version - 1 for version, at in made.items() if at > time), default=3)

        assert oldest_wanted(None, 3, version_at) == 0
        assert oldest_wanted(2, 3, version_at) == 2
        assert oldest_wanted(9, 3, version_at) == 0
        assert oldest_wanted(timedelta(seconds=49), 3, version_at) == 2
        assert oldest_wanted(timedelta(seconds=60), 3, version_at) == 1
        assert oldest_wanted(timedelta(seconds=200), 3, version_at) == 0
