"""`holdfast doctor`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import as_json, holdfast, keep, ok
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


class TestDoctor:
    def test_a_sound_database_is_said_to_be_sound(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        text = ok("doctor")
        assert "1 session(s), all checksums match" in text
        assert re.search(r"journal mode: wal", text)
        assert "free disk" in text
        assert "HOLDFAST_MODEL is not set" in text

    def test_a_missing_database_is_a_warning_and_is_not_made(self) -> None:
        checks = as_json("doctor", "--db", "folder/none.db")
        (found,) = [check for check in checks if check["name"] == "database"]
        assert found["state"] == "warning"
        assert not Path("folder").exists()

    def test_a_foreign_database_is_a_problem(self) -> None:
        Path("notes.db").write_text("not a database at all " * 100, encoding="utf-8")
        result = holdfast("doctor", "--db", "notes.db")
        assert result.exit_code == 6
        assert "is not a Holdfast database" in result.stdout

    def test_keys_are_never_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "canary-value")
        monkeypatch.setenv("HOLDFAST_MODEL", "openai:gpt-5-mini")
        result = holdfast("doctor")
        assert "OPENAI_API_KEY set" in result.stdout
        assert "ANTHROPIC_API_KEY not set" in result.stdout
        assert "openai-chat:" in result.stdout
        assert "canary" not in result.output

    def test_a_model_without_its_key_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_MODEL", "anthropic:claude-sonnet-4-5")
        states = [check["state"] for check in as_json("doctor") if check["name"] == "model"]
        assert "warning" in states
        monkeypatch.setenv("HOLDFAST_MODEL", "offline")
        assert [check["state"] for check in as_json("doctor") if check["name"] == "model"] == ["ok"]

    @pytest.mark.parametrize("name", ["gpt-5-mini", "llama3:8b", "opanai:gpt-5-mini", "openai:"])
    def test_a_model_of_no_known_provider_is_a_problem_with_its_fix(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("HOLDFAST_MODEL", name)
        result = holdfast("doctor")
        assert result.exit_code == 6
        assert "PROBLEM  model: HOLDFAST_MODEL names no provider" in result.stdout
        assert "provider:model, such as openai-chat:gpt-5-mini" in result.stdout
        assert "1 problem(s) with the configuration" in result.stderr

    @pytest.mark.parametrize("name", ["offline", "openai-chat:gpt-5-mini", "groq:llama-3.3-70b-versatile", "test"])
    def test_a_model_of_a_known_provider_is_none(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("HOLDFAST_MODEL", name)
        assert "problem" not in [check["state"] for check in as_json("doctor")]

    def test_what_is_empty_counts_as_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "")
        monkeypatch.setenv("HOLDFAST_MODEL", "")
        text = ok("doctor")
        assert "HOLDFAST_MODEL is not set" in text
        assert "OPENAI_API_KEY not set" in text
        monkeypatch.setenv("HOLDFAST_MODEL", "openai-chat:gpt-5-mini")
        assert "warning  model: needs a key in OPENAI_API_KEY" in ok("doctor")
