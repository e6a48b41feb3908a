"""`holdfast sessions export` and `import`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli import Plain, as_json, holdfast, keep, ok, packaged
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


class TestTransfer:
    STATE: dict[Any, Any] = {
        "at": datetime(2026, 1, 31, tzinfo=UTC),
        "numbers": [1, True, 1.0, -0.0, 1e22, 2**70, float("inf")],
        7: {"tuple": (1, 2), "set": {3}},
        "text": "NUL \0 and \ud800 and \u2028",
        "empty": {},
    }

    def test_an_exported_session_is_imported_exactly(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1}, self.STATE, user_id="ann")
        ok("sessions", "export", "s", "s.json")
        assert as_json("sessions", "import", "s.json", "--db", "new.db") == {
            "session_id": "s",
            "user_id": "ann",
            "version": 1,
        }
        copy = SqlWorkflowStorage(db_file="new.db")
        state = Plain(session_id="s", user_id="ann", storage=copy).session_state
        assert repr(dict(state)) == repr(self.STATE)
        assert copy.check() == ()
        copy.close()

    def test_history_is_imported_as_versions(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1}, {"n": 2, "long": "x" * 50_000}, self.STATE)
        text = ok("sessions", "export", "s", "--history")
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        for version in ("1", "2", "3"):
            old = as_json("sessions", "show", "s", "--version", version)["state"]
            assert as_json("sessions", "show", "copy", "--version", version)["state"] == old
        assert as_json("doctor")

    def test_a_pruned_history_is_imported_from_where_it_begins(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", *({"n": n, "text": "x" * 9_000 + str(n)} for n in range(12)))
        ok("sessions", "prune", "s", "--keep", "2", "--yes")
        kept = len(as_json("sessions", "history", "s"))
        assert kept < 12
        text = ok("sessions", "export", "s", "--history")
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        assert as_json("sessions", "show", "copy")["version"] == kept + 1
        assert as_json("sessions", "show", "copy")["state"]["n"] == 11

    def test_an_empty_state_is_imported_as_such(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1}, {})
        ok("sessions", "import", "-", "--session-id", "copy", given=ok("sessions", "export", "s"))
        assert as_json("sessions", "show", "copy")["state"] == {}

    def test_a_reformatted_file_is_still_exact(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", self.STATE)
        text = json.dumps(json.loads(ok("sessions", "export", "s")), indent=7, sort_keys=True)
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        assert as_json("sessions", "show", "copy")["state"] == as_json("sessions", "show", "s")["state"]

    def test_a_file_that_exists_is_overwritten_only_when_told_so(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        Path("s.json").write_text("mine", encoding="utf-8")
        result = holdfast("sessions", "export", "s", "s.json")
        assert result.exit_code == 2
        assert "s.json exists already" in result.stderr
        assert Path("s.json").read_text(encoding="utf-8") == "mine"
        ok("sessions", "export", "s", "s.json", "--force")
        assert json.loads(Path("s.json").read_text(encoding="utf-8"))["session_id"] == "s"

    @pytest.mark.skipif(sys.platform == "win32", reason="the words of POSIX")
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["missing/s.json"], "There is no folder missing"),
            (["work.py/s.json"], "cannot be written: Not a directory"),
            (["folder", "--force"], "cannot be written: Is a directory"),
        ],
    )
    def test_a_file_that_cannot_be_written_is_told_in_a_sentence(
        self, default_storage: SqlWorkflowStorage, words: list[str], said: str
    ) -> None:
        keep(default_storage, "s", {"n": 1})
        Path("folder").mkdir()
        result = holdfast("sessions", "export", "s", *words)
        assert result.exit_code == 2
        assert said in result.stderr

    def test_a_session_that_exists_is_not_overwritten(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        text = ok("sessions", "export", "s")
        keep(default_storage, "s", {"n": 2})
        result = holdfast("sessions", "import", "-", given=text)
        assert result.exit_code == 2
        assert "exists already" in result.stderr
        assert as_json("sessions", "show", "s")["state"] == {"n": 2}
        assert "imported s at version 1" in ok("sessions", "import", "-", "--user-id", "ben", given=text)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda package: package["values"].append(["k", "1"]), "its checksum does not match"),
            (lambda package: package.update(session_id="other"), "its checksum does not match"),
            (lambda package: package.update(holdfast_session=2), "format 2"),
            (lambda package: package.update(extra=1), "is not a session that"),
            (lambda package: package.pop("values"), "is not a session that"),
        ],
    )
    def test_a_changed_file_is_refused(
        self, default_storage: SqlWorkflowStorage, change: Callable[[dict[str, Any]], None], said: str
    ) -> None:
        keep(default_storage, "s", {"n": 1})
        package = json.loads(ok("sessions", "export", "s"))
        change(package)
        result = holdfast("sessions", "import", "-", "--db", "new.db", given=json.dumps(package))
        assert result.exit_code == 2
        assert said in result.stderr
        assert not Path("new.db").exists()

    @pytest.mark.parametrize(
        "values",
        [
            [["a", "1"], ["a", "2"]],
            [["a", '{"k":1,"k":2}']],
            [["a", "1e400"]],
            [["a", "NaN"]],
            [["a", " 1"]],
            [["a", "[1"]],
            [["a", ""]],
            [["a", "[" * 5000 + "]" * 5000]],
        ],
        ids=["repeated name", "repeated key", "1e400", "NaN", "spelling", "cut off", "nothing", "deep"],
    )
    def test_a_file_made_by_hand_is_held_to_what_holdfast_writes(self, values: list[list[str]]) -> None:
        result = holdfast("sessions", "import", "-", given=json.dumps(packaged(values=values)))
        assert result.exit_code == 2
        assert "of this file" in result.stderr
        assert not Path("holdfast.db").exists()

    @pytest.mark.parametrize("patch", ['[{"op":"add","path":"/n","value":2}]', '[{"op":"remove","path":"/x"}]', "no"])
    def test_a_history_that_does_not_lead_to_the_values_is_refused(self, patch: str) -> None:
        package = packaged(values=[["n", "1"]], base=[], history=[patch])
        result = holdfast("sessions", "import", "-", given=json.dumps(package))
        assert result.exit_code == 2
        assert "The history in this file" in result.stderr

    @pytest.mark.parametrize("text", [b"", b"not json", b"[]", b'{"session_id": "\xff"}', b"[" * 100_000])
    def test_what_is_no_export_is_refused(self, text: bytes) -> None:
        result = holdfast("sessions", "import", "-", given=text)
        assert result.exit_code == 2
        assert "is not a session that" in result.stderr

    def test_an_import_that_fails_half_way_leaves_nothing_behind(
        self, default_storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(default_storage, "s", {"n": 1}, {"n": 2}, {"n": 3})
        text = ok("sessions", "export", "s", "--history")
        commit, made = SqlWorkflowStorage.commit, []

        def failing(self: SqlWorkflowStorage, given: Any) -> int:
            made.append(1)
            if len(made) == 3:
                raise OSError("the disk is gone")
            return commit(self, given)

        monkeypatch.setattr(SqlWorkflowStorage, "commit", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            holdfast("sessions", "import", "-", "--session-id", "copy", given=text)
        assert [entry["session_id"] for entry in as_json("sessions", "list")] == ["s"]
