"""`holdfast sessions apply`, and how `runs` shows what was refused."""

from __future__ import annotations

import json
import shlex
from typing import Any

import jsonpatch
import pytest

from cli import as_json, holdfast, keep, ok, refused
from holdfast import clock
from holdfast.records import Commit, RunStatus
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import make_run

pytestmark = pytest.mark.usefixtures("here")


def ours(live: dict[Any, Any]) -> None:
    live.update(n=1, mine=True)
    live["posts"].append({"by": "ours"})


def theirs(live: dict[Any, Any]) -> None:
    live.update(n=2)
    live["posts"].append({"by": "theirs"})


@pytest.fixture
def run_id(default_storage: SqlWorkflowStorage) -> str:
    keep(default_storage, "s", {"n": 0, "posts": []})
    return refused(default_storage, ours, theirs)


class TestApply:
    def test_without_a_choice_every_overlap_is_listed_and_nothing_is_changed(self, run_id: str) -> None:
        before = as_json("sessions", "show", "s")
        result = holdfast("sessions", "apply", "s", run_id, "--yes")
        assert result.exit_code == 5
        assert result.stdout.splitlines() == [
            "made from version 1, to be applied to version 2",
            "! n",
            "    base   0",
            "    ours   1",
            "    theirs 2",
        ]
        assert "1 place of session 's'" in result.stderr
        assert "--ours" in result.stderr
        result = holdfast("sessions", "apply", "s", run_id, "--json")
        assert result.exit_code == 5
        told = json.loads(result.stdout)
        assert told["overlaps"] == [{"path": "/n", "base": 0, "ours": 1, "theirs": 2}]
        assert (told["version"], told["applied_to"], told["refused_version"]) == (None, 2, 1)
        assert as_json("sessions", "show", "s") == before

    @pytest.mark.parametrize(("choice", "n"), [("--ours", 1), ("--theirs", 2)])
    def test_one_side_wins_and_the_rest_is_merged(self, run_id: str, choice: str, n: int) -> None:
        before = as_json("sessions", "show", "s")["state"]
        told = as_json("sessions", "apply", "s", run_id[:12], choice, "--yes")
        assert (told["version"], told["run_id"], told["was_applied"]) == (3, run_id, False)
        after = as_json("sessions", "show", "s")["state"]
        assert after == {"n": n, "posts": [{"by": "theirs"}, {"by": "ours"}], "mine": True}
        assert jsonpatch.apply_patch(before, told["patch"]) == after
        assert as_json("sessions", "history", "s")[0]["run_id"] == run_id
        assert as_json("runs", "show", run_id)["refused_patch"], "it is kept with the run"

    def test_what_would_change_is_shown_before_it_is_asked_for(self, run_id: str) -> None:
        before = as_json("sessions", "show", "s")
        result = holdfast("sessions", "apply", "s", run_id, "--ours")
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        assert result.stdout.splitlines() == [
            "made from version 1, to be applied to version 2",
            "~ n",
            "    - 2",
            "    + 1",
            "+ posts/-",
            '    + {"by": "ours"}',
            "+ mine",
            "    + true",
        ]
        assert as_json("sessions", "show", "s") == before
        result = holdfast("sessions", "apply", "s", run_id, "--ours", "--yes")
        assert result.stderr.splitlines()[-1] == "applied as version 3"

    def test_applied_again_it_is_recognised(self, run_id: str) -> None:
        ok("sessions", "apply", "s", run_id, "--ours", "--yes")
        assert ok("sessions", "apply", "s", run_id) == "was applied already, as version 3\n"
        told = as_json("sessions", "apply", "s", run_id, "--theirs", "--yes")
        assert (told["version"], told["was_applied"], told["patch"]) == (3, True, [])
        assert as_json("sessions", "show", "s")["version"] == 3

    def test_where_nothing_is_left_to_change_it_says_so(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 0})
        run_id = refused(default_storage, lambda live: live.update(n=1), lambda live: live.update(n=2))
        assert ok("sessions", "apply", "s", run_id, "--theirs").splitlines()[1:] == ["nothing to change"]
        assert as_json("sessions", "apply", "s", run_id, "--theirs")["version"] is None
        assert as_json("sessions", "show", "s")["version"] == 2

    def test_overlaps_are_shown_readably_and_a_side_without_a_value_says_so(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        keep(default_storage, "s", {"a/b": [{5: {1, 2}}], "gone": "\x1b[31m"})
        run_id = refused(
            default_storage,
            lambda live: (live["a/b"][0].update({5: {3}}), live.pop("gone")),  # type: ignore[arg-type, return-value]
            lambda live: (live["a/b"][0].update({5: {4}}), live.update(gone="x")),  # type: ignore[arg-type, return-value]
        )
        text = holdfast("sessions", "apply", "s", run_id).stdout.splitlines()
        assert text[1:] == [
            "! gone",
            '    base   "\\u001b[31m"',
            "    ours   (nothing)",
            '    theirs "x"',
            "! a/b/0/5",
            '    base   "{1, 2}"',
            '    ours   "{3}"',
            '    theirs "{4}"',
        ]
        told = json.loads(holdfast("sessions", "apply", "s", run_id, "--json").stdout)["overlaps"]
        assert told[0] == {"path": "/gone", "base": "\x1b[31m", "theirs": "x"}
        assert told[1]["path"] == "/a~1b/0/$hf:5"
        assert told[1]["ours"] == {"$hf": ["set", [3]]}

    def test_a_forgotten_base_is_not_found(self, default_storage: SqlWorkflowStorage, run_id: str) -> None:
        keep(default_storage, "s", *({"n": n, "text": "x" * 20_000 + str(n)} for n in range(5)))
        ok("sessions", "prune", "s", "--keep", "1", "--yes")
        result = holdfast("sessions", "apply", "s", run_id, "--ours", "--yes")
        assert result.exit_code == 3
        assert "does\nnot reach back that far" in result.stderr

    def test_a_run_of_another_session_or_without_refused_changes_is_not_applied(
        self, default_storage: SqlWorkflowStorage, run_id: str
    ) -> None:
        other = keep(default_storage, "t", {"n": 0})
        assert holdfast("sessions", "apply", "t", run_id).exit_code == 2
        result = holdfast("sessions", "apply", "t", other)
        assert result.exit_code == 2
        assert "was not refused any changes" in result.stderr
        assert holdfast("sessions", "apply", "never", run_id).exit_code == 3

    def test_a_session_whose_id_others_have_too_is_narrowed(self, default_storage: SqlWorkflowStorage) -> None:
        for user_id in ("ann", None):
            keep(default_storage, "s", {"n": 0, "posts": []}, user_id=user_id)
        run_id = refused(default_storage, ours, theirs, user_id="ann")
        assert holdfast("sessions", "apply", "s", run_id, "--ours", "--yes").exit_code == 2
        ok("sessions", "apply", "s", run_id, "--ours", "--yes", "--user-id", "ann")
        assert as_json("sessions", "show", "s", "--user-id", "")["state"]["n"] == 0


class TestRuns:
    def test_a_refused_run_is_shown_with_the_command_that_applies_it(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "my session", {"n": 0, "posts": []}, user_id="ann")
        run_id = refused(default_storage, ours, theirs, "my session", user_id="ann")
        shown = as_json("runs", "show", run_id)
        assert (shown["refused_version"], shown["applied_version"]) == (1, None)
        assert shown["refused_patch"][0] == {"op": "replace", "path": "/n", "value": 1}
        lines = ok("runs", "show", run_id).splitlines()
        at = lines.index("refused changes, made from version 1:")
        assert lines[at + 1 : -1] == ["  ~ n  1", '  + posts/-  {"by": "ours"}', "  + mine  true"]
        assert lines[-1].startswith("apply them: holdfast sessions apply 'my session' ")
        words = shlex.split(lines[-1].removeprefix("apply them: holdfast"))
        ok(*words, "--ours", "--yes")
        assert "refused changes, made from version 1 and applied as version 3:" in ok("runs", "show", run_id)
        assert "apply them:" not in ok("runs", "show", run_id)
        assert as_json("runs", "show", run_id)["applied_version"] == 3

    def test_a_waiting_run_is_listed_and_shown(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 0})
        run = make_run(status=RunStatus.waiting, run_id="w1", refused_patch=b"[]")
        default_storage.commit(Commit("", "s", clock.new_id(), 0, "", "Plain", None, run=run))
        assert [found["run_id"] for found in as_json("runs", "list", "--status", "waiting")] == ["w1"]
        assert ok("runs", "list").splitlines()[1].split()[:2] == ["w1", "waiting"]
        text = ok("runs", "show", "w1")
        assert "status: waiting" in text
        assert "apply them:" not in text, "from which version is not known"

    def test_two_winners_are_one_too_many(self) -> None:
        result = holdfast("sessions", "apply", "s", "r", "--ours", "--theirs")
        assert result.exit_code == 2
        assert "only one of them can win" in result.stderr
