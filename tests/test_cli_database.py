"""Which database the commands use, and what they do with one that cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli import as_json, damage, holdfast, keep, ok
from holdfast.cli.database import narrowing_options
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


class TestDatabase:
    READING = (
        ["sessions", "list"],
        ["sessions", "show", "s"],
        ["sessions", "history", "s"],
        ["sessions", "diff", "s"],
        ["sessions", "rename", "s", "t"],
        ["sessions", "export", "s"],
        ["sessions", "delete", "s", "--yes"],
        ["sessions", "prune", "--keep", "1", "--yes"],
        ["runs", "list"],
        ["runs", "show", "r"],
    )

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    @pytest.mark.parametrize("db", ["missing.db", "sqlite:///missing.db"])
    def test_a_missing_database_is_not_found_and_not_made(self, words: list[str], db: str) -> None:
        result = holdfast(*words, "--db", db)
        assert result.exit_code == 3
        assert "There is no database at missing.db" in result.stderr
        assert not list(Path().glob("missing*"))

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    def test_a_foreign_database_gives_a_sentence_and_stays_untouched(self, words: list[str]) -> None:
        Path("notes.db").write_bytes(b"My notes, which are not a database. " * 200)
        before = Path("notes.db").read_bytes()
        result = holdfast(*words, "--db", "notes.db")
        assert result.exit_code == 4
        assert "is not a Holdfast database" in result.stderr
        assert Path("notes.db").read_bytes() == before

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    def test_another_programs_sqlite_database_stays_untouched(self, words: list[str]) -> None:
        import sqlite3

        connection = sqlite3.connect("theirs.db")
        connection.execute("CREATE TABLE accounts (id INTEGER)")
        connection.commit()
        connection.close()
        before = Path("theirs.db").read_bytes()
        assert holdfast(*words, "--db", "theirs.db").exit_code in (0, 3, 4)
        assert Path("theirs.db").read_bytes() == before

    def test_it_is_named_by_option_then_environment_then_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_DB", "sqlite:///env.db")
        ok("run", "work.py:Slow", "--session-id", "env")
        assert [found["session_id"] for found in as_json("sessions", "list")] == ["env"]
        ok("run", "work.py:Slow", "--session-id", "opt", "--db", "opt.db")
        assert [found["session_id"] for found in as_json("sessions", "list", "--db", "opt.db")] == ["opt"]
        monkeypatch.delenv("HOLDFAST_DB")
        assert "database: holdfast.db" in holdfast("run", "work.py:Slow").stderr
        assert {path.name for path in Path().glob("*.db")} == {"env.db", "opt.db", "holdfast.db"}

    def test_a_table_that_is_not_there_is_wrong_use(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        result = holdfast("sessions", "list", "--table", "elsewhere")
        assert result.exit_code == 2
        assert "It has: workflow_sessions" in result.stderr

    def test_a_damaged_value_is_named_and_exits_6(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"word": "harmless"})
        default_storage.close()
        damage(b"harmless", b"harmful!")
        result = holdfast("sessions", "show", "s")
        assert result.exit_code == 6
        assert "does not match its checksum" in result.stderr
        result = holdfast("doctor")
        assert result.exit_code == 6
        assert "PROBLEM" in result.stdout
        assert "harm" not in result.output

    @pytest.mark.skipif(sys.platform == "win32", reason="the gate is a lock of POSIX")
    @pytest.mark.parametrize("words", [["sessions", "delete", "s", "--yes"], ["run", "work.py:Slow"]], ids=" ".join)
    def test_a_busy_database_gives_a_sentence(
        self, words: list[str], default_storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        keep(default_storage, "s", {"n": 1})
        default_storage.close()
        monkeypatch.setattr("holdfast.cli.database.LOCK_TIMEOUT", 0.2)
        with open("holdfast.db-gate", "rb") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            result = holdfast(*words)
        assert result.exit_code == 4
        assert "was busy for 0.2 s" in result.stderr

    def test_a_session_that_is_deleted_while_it_is_read_is_not_found(
        self, default_storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(default_storage, "s", {"large": "x" * 100_000})
        with monkeypatch.context() as patched:
            patched.setattr(SqlWorkflowStorage, "read_values", lambda *_, **__: {})
            assert holdfast("sessions", "show", "s").exit_code == 3
            patched.setattr(SqlWorkflowStorage, "load", lambda *_, **__: None)
            assert holdfast("sessions", "show", "s").exit_code == 3

    def test_an_interrupt_while_it_is_read_exits_130(
        self, default_storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        keep(default_storage, "s", {"n": 1})
        monkeypatch.setattr(SqlWorkflowStorage, "find_sessions", interrupt)
        result = holdfast("sessions", "list")
        assert result.exit_code == 130
        assert "Interrupted." in result.stderr

    def test_a_database_in_memory_is_not_there_for_another_process(self) -> None:
        assert holdfast("sessions", "list", "--db", "sqlite://").exit_code == 3
        assert "There is no database at sqlite://" in ok("doctor", "--db", "sqlite://")

    def test_a_server_that_cannot_be_reached_is_said(self) -> None:
        result = holdfast("sessions", "list", "--db", "postgresql://ann:secret@127.0.0.1:1/notes")
        assert result.exit_code == 4
        assert "postgresql://ann@127.0.0.1:1/notes cannot be reached" in result.stderr
        assert "secret" not in result.stderr

    def test_all_reading_commands_take_the_same_options(self) -> None:
        @narrowing_options
        def probe() -> None: ...

        names = {parameter.name for parameter in probe.__click_params__}  # type: ignore[attr-defined]
        assert names == {"db", "table", "user_id"}
