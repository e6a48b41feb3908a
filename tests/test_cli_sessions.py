"""`holdfast sessions`: what is stored, and what changed when."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import jsonpatch
import pytest

from cli import Plain, as_json, holdfast, keep, ok
from holdfast.cli.retention import keep_history
from holdfast.errors import InvalidInput
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


class TestSessions:
    def test_the_list_spans_users_and_tables_and_is_narrowed_by_options(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        keep(default_storage, "a", {"n": 1})
        keep(default_storage, "b", {"n": 1}, {"n": 2}, user_id="ann")
        other = SqlWorkflowStorage(table_name="others", db_file="holdfast.db")
        keep(other, "c", {"n": 1})
        other.close()
        found = as_json("sessions", "list")
        assert [(entry["session_id"], entry["user_id"], entry["version"], entry["table"]) for entry in found] == [
            ("c", None, 1, "others"),
            ("b", "ann", 2, "workflow_sessions"),
            ("a", None, 1, "workflow_sessions"),
        ]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--user-id", "ann")] == ["b"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--user-id", "")] == ["c", "a"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--table", "others")] == ["c"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--limit", "1")] == ["c"]
        table = ok("sessions", "list").splitlines()
        assert table[0].split()[:4] == ["SESSION", "USER", "WORKFLOW", "VERSION"]
        assert table[2].split()[:4] == ["b", "ann", "Plain", "2"]

    def test_an_empty_database_lists_nothing(self, default_storage: SqlWorkflowStorage) -> None:
        default_storage.find_sessions(None)
        keep(default_storage, "a", {"n": 1})
        ok("sessions", "delete", "a", "--yes")
        assert ok("sessions", "list") == ""
        assert as_json("sessions", "list") == []
        assert ok("runs", "list") == ""

    def test_an_id_that_several_owners_have_must_be_narrowed(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "same", {"of": "nobody"})
        keep(default_storage, "same", {"of": "ann"}, user_id="ann")
        result = holdfast("sessions", "show", "same")
        assert result.exit_code == 2
        assert "--user-id 'ann'" in result.stderr
        assert as_json("sessions", "show", "same", "--user-id", "ann")["state"] == {"of": "ann"}
        assert as_json("sessions", "show", "same", "--user-id", "")["state"] == {"of": "nobody"}

    def test_the_state_is_shown_readably_and_as_it_was_at_a_version(self, default_storage: SqlWorkflowStorage) -> None:
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        keep(
            default_storage,
            "s",
            {"posts": [{"topic": "tides", "text": "one\ntwo"}], 7: {1, 2}},
            {"at": at, "none": None},
        )
        first = ok("sessions", "show", "s", "--version", "1")
        assert "version:  1 of 2" in first
        assert "posts:\n  - topic: tides\n    text:\n      one\n      two\n7: {1, 2}\n" in first
        second = ok("sessions", "show", "s")
        assert "at: 2026-01-31" in second
        assert "none: null" in second
        exact = as_json("sessions", "show", "s", "--version", "1")["state"]
        assert exact == {"posts": [{"topic": "tides", "text": "one\ntwo"}], "$hf:7": {"$hf": ["set", [1, 2]]}}

    def test_large_values_are_shown_whole(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"large": "x" * 100_000, "small": 1})
        assert as_json("sessions", "show", "s")["state"]["large"] == "x" * 100_000

    def test_history_says_what_changed_at_which_version_by_which_run(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"posts": ["a"], "draft": 1}, {"posts": ["a", "b"], "draft": 1})
        last = keep(default_storage, "s", {"posts": ["a", "b"], "new": True})
        entries = as_json("sessions", "history", "s")
        assert [entry["version"] for entry in entries] == [3, 2, 1]
        assert entries[0]["run_id"] == last
        assert entries[1]["patch"] == [{"op": "add", "path": "/posts/-", "value": "b", "atom": 1}]
        text = ok("sessions", "history", "s", "--limit", "2").splitlines()
        assert text[0].startswith("version 3  ")
        assert text[0].endswith(f"run {last}")
        assert text[1:3] == ["  - draft", "  + new  true"]
        assert text[4] == '  + posts/-  "b"'
        assert len(text) == 5

    def test_json_is_the_stored_text_to_the_byte(self, default_storage: SqlWorkflowStorage) -> None:
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        keep(default_storage, "s", {"n": 1e22, "at": at, "big": 2**80, "zero": -0.0})
        state = ok("sessions", "show", "s", "--json").partition('"state":')[2]
        (change,) = default_storage.changes("", "s")
        assert ok("sessions", "history", "s", "--json").partition('"patch":')[2] == change.patch.decode() + "}]\n"
        operations = json.loads(change.patch)
        assert json.loads(state[:-2]) == {operation["path"][1:]: operation["value"] for operation in operations}
        assert '"zero":-0.0' in state
        assert '"at":{"$hf":["datetime","2026-01-31T12:00:00' in state

    def test_the_patch_of_a_difference_makes_one_version_out_of_the_other(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        first = {"a/b": {"m~n": [1, (1, 2)]}, "list": [1, 2], 5: {1}, "gone": None}
        second = {"a/b": {"m~n": [(1, 3)], "": 0}, "list": [1, 2, {"new": True}], 5: {1, 2}}
        keep(default_storage, "s", first, second)
        old, new = (as_json("sessions", "show", "s", "--version", version)["state"] for version in "12")
        patch = as_json("sessions", "diff", "s")["patch"]
        assert any(operation["path"].startswith("/a~1b/m~0n/") for operation in patch)
        assert jsonpatch.apply_patch(old, patch) == new
        assert jsonpatch.apply_patch(old, as_json("sessions", "history", "s")[0]["patch"]) == new

    def test_lists_that_are_cut_say_so(self, default_storage: SqlWorkflowStorage) -> None:
        for name in "abc":
            keep(default_storage, name, {"n": 1}, {"n": 2}, {"n": 3})
        assert (
            holdfast("sessions", "list", "--limit", "2").stderr.splitlines()[-1] == "2 shown, there are more; --limit N"
        )
        assert holdfast("sessions", "history", "a", "--limit", "1").stderr.splitlines()[-1] == "1 of 3 shown; --limit N"
        assert holdfast("runs", "list", "--limit", "8").stderr.splitlines()[-1] == "8 shown, there are more; --limit N"
        whole = (["sessions", "list", "--limit", "3"], ["sessions", "history", "a", "--limit", "3"])
        for words in (*whole, ["runs", "list", "--limit", "9"]):
            assert "shown" not in holdfast(*words).stderr

    def test_a_change_made_outside_of_a_run_says_so(self, default_storage: SqlWorkflowStorage) -> None:
        workflow = Plain(session_id="s", storage=default_storage)
        workflow.session_state["n"] = 1
        workflow.write_to_storage()
        assert "outside a run" in ok("sessions", "history", "s")

    def test_diff_shows_values_before_and_after(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1, "posts": [{"t": "a"}, {"t": "b"}], "old": 0})
        keep(default_storage, "s", {"n": 1.0, "posts": [{"t": "b"}, {"t": "c"}], "new": {"k": 1}})
        keep(default_storage, "s", {"n": 1.0})
        lines = ok("sessions", "diff", "s", "1", "2").splitlines()
        assert lines[0] == "version 1 to version 2"
        assert lines[1:3] == ["- old", "    - 0"]
        assert "~ n" in lines
        assert lines[lines.index("~ n") + 1 :][:2] == ["    - 1", "    + 1.0"]
        assert lines[-2:] == ["+ new", '    + {"k": 1}']
        removed = as_json("sessions", "diff", "s")
        assert (removed["old"], removed["new"]) == (2, 3)
        assert {operation["op"] for operation in removed["patch"]} == {"remove"}
        assert as_json("sessions", "diff", "s", "0", "1")["patch"][0] == {"op": "add", "path": "/n", "value": 1}

    def test_diff_finds_the_value_before_inside_of_nested_values(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"d": {"list": [0, {"deep": "x" * 50, 5: "five"}], "rest": "y" * 200}})
        keep(default_storage, "s", {"d": {"list": [0, {"deep": "x" * 50, 5: "FIVE"}], "rest": "y" * 200}})
        assert ok("sessions", "diff", "s").splitlines()[1:] == ["~ d/list/1/5", '    - "five"', '    + "FIVE"']

    def test_a_version_that_is_not_kept_is_not_found(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        for words in (["show", "s", "--version", "9"], ["diff", "s", "1", "9"]):
            result = holdfast("sessions", *words)
            assert result.exit_code == 3
            assert "Version 9 of session 's' is not kept" in result.stderr

    def test_rename_keeps_history_and_runs(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "old", {"n": 1}, {"n": 2})
        assert ok("sessions", "rename", "old", "new") == ""
        assert len(as_json("sessions", "history", "new")) == 2
        assert len(as_json("runs", "list", "--session-id", "new")) == 2
        keep(default_storage, "third", {"n": 1})
        assert holdfast("sessions", "rename", "third", "new").exit_code == 2
        assert holdfast("sessions", "rename", "old", "x").exit_code == 3
        assert holdfast("sessions", "rename", "new", "").exit_code == 2

    def test_delete_needs_yes_where_nobody_can_be_asked(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        result = holdfast("sessions", "delete", "s")
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        ok("sessions", "delete", "s", "--yes")
        assert as_json("sessions", "list") == []
        assert as_json("runs", "list") == []
        assert holdfast("sessions", "delete", "s", "--yes").exit_code == 3

    def test_prune_forgets_history_of_one_session_or_of_all(self, default_storage: SqlWorkflowStorage) -> None:
        for name in ("a", "b"):
            keep(default_storage, name, *({"n": n, "text": "x" * 9_000 + str(n)} for n in range(12)))
        one = as_json("sessions", "prune", "a", "--keep", "1", "--yes")
        assert one["sessions"] == 1
        assert one["forgotten_changes"] > 0
        (kept,) = one["kept"]
        assert (kept["session_id"], kept["newest"], kept["oldest"]) == ("a", 12, one["forgotten_changes"])
        assert as_json("sessions", "show", "a", "--version", str(kept["oldest"]))
        assert holdfast("sessions", "show", "a", "--version", str(kept["oldest"] - 1)).exit_code == 3
        assert as_json("sessions", "show", "a")["state"]["n"] == 11
        said = ok("sessions", "prune", "--keep", "1w", "--yes").splitlines()
        assert said[0] == "forgot 0 change(s) of 2 session(s), in whole stretches up to a stored snapshot"
        assert sorted(said[1:]) == [f"a: versions {kept['oldest']} to 12 stay", "b: versions 1 to 12 stay"]
        assert len(as_json("sessions", "history", "b")) == 12
        assert holdfast("sessions", "prune", "--keep", "1").exit_code == 2

    @pytest.mark.parametrize("text", ["", "0", "-1", "3y", "1.5d", "ten", "9999999999"])
    def test_what_is_neither_a_number_nor_an_age_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="--keep is a number of versions"):
            keep_history(text)
