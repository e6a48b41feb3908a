"""`holdfast quickstart`, and the example that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import as_json, holdfast, ok, process
from holdfast.errors import StateConflict
from holdfast.storage.sql import SqlWorkflowStorage

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("here")


class TestQuickstart:
    def test_the_second_call_in_another_process_finds_the_post_in_the_session(self) -> None:
        first = process("quickstart", "--db", "q.db")
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("# ")
        assert re.search(r"sources \.\.\.\n[1-5] sources; the post", first.stderr)
        assert "saved as version 1 of session 'quickstart'" in first.stderr
        second = process("quickstart", "--db", "q.db")
        assert second.returncode == 0, second.stderr
        assert second.stdout == first.stdout
        assert re.search(r"from the session 'quickstart', version 1, in [\d.]+ s: nobody was called", second.stderr)
        assert re.search(r"saved .* s, \d+ model requests, [\d,]+ tokens and \$0", second.stderr)

    def test_json_tells_the_same(self) -> None:
        first = as_json("quickstart", "Exceptions")
        assert (first["from_session"], first["saved"], first["version"]) == (False, None, 1)
        second = as_json("quickstart", "Exceptions")
        assert second["from_session"]
        assert second["blog_post"] == first["blog_post"]
        assert second["saved"]["requests"] >= 2
        assert second["saved"]["cost"] == 0
        assert as_json("quickstart", "Generators")["version"] == 2

    def test_a_folder_of_ones_own_is_the_material(self, here: Path) -> None:
        (here / "texts").mkdir()
        (here / "texts" / "tides.md").write_text("# Tides\n\nThe moon pulls the sea. The water rises twice a day.\n")
        made = as_json("quickstart", "Tides", "--docs", "texts")
        assert made["session_id"] == "quickstart-texts"
        assert made["sources"] == 1
        assert "The moon pulls the sea." in made["blog_post"]
        assert "tides.md" in made["blog_post"]

    def test_a_topic_without_sources_is_told_and_nothing_is_kept(self) -> None:
        result = holdfast("quickstart", "zzzqqqxxx")
        assert result.exit_code == 0
        assert result.stdout == "Nothing was found about 'zzzqqqxxx', so no post was written.\n"
        assert "no sources\nnothing was kept: another TOPIC, or --docs FOLDER, may be found" in result.stderr
        assert as_json("sessions", "list") == []
        again = as_json("quickstart", "zzzqqqxxx")
        assert (again["from_session"], again["sources"], again["blog_post"], again["version"]) == (False, 0, None, None)
        ok("quickstart", "Exceptions")
        assert as_json("quickstart", "zzzqqqxxx")["version"] == 1

    def test_another_model_may_be_named(self) -> None:
        result = holdfast("quickstart", "--model", "no-such-provider:model")
        assert result.exit_code == 1
        assert "no-such-provider" in result.stderr

    def test_another_run_of_the_session_does_not_count_as_the_one_that_wrote_the_post(self) -> None:
        ok("quickstart", "Exceptions")
        found = [as_json("quickstart", topic) for topic in ("Generators", "Exceptions", "Exceptions")]
        assert found[1]["saved"]["tokens"] == found[2]["saved"]["tokens"] > 0

    def test_an_error_of_ours_ends_with_its_own_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def conflict(*_: object, **__: object) -> int:
            facts = {"base": 1, "ours": 2, "theirs": 3, "base_version": 0, "current_version": 1}
            raise StateConflict(session_id="quickstart", path="session_state['n']", **facts)

        monkeypatch.setattr(SqlWorkflowStorage, "commit", conflict)
        assert holdfast("quickstart").exit_code == 5

    def test_an_edit_of_the_instructions_writes_another_post(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from holdfast.blog_post_generator import BlogPostGenerator

        ok("quickstart", "Exceptions")
        monkeypatch.setattr(BlogPostGenerator.writer, "instructions", ["Write a post."])
        again = as_json("quickstart", "Exceptions")
        assert not again["from_session"]
        assert again["saved"]["requests"] == 2  # the search was kept

    def test_posts_are_in_the_state_of_the_session(self) -> None:
        post = as_json("quickstart", "Exceptions")["blog_post"]
        stored = as_json("sessions", "show", "quickstart")["state"]
        assert stored == {"blog_posts": {"Exceptions": post}}

    def test_the_example_runs_as_a_script(self, here: Path) -> None:
        script = ROOT / "examples" / "blog_post_generator.py"
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, str(script), "Exceptions"], capture_output=True, text=True, check=True, cwd=here
            )
            assert "xception" in done.stdout
        assert (here / "tmp" / "workflows.db").exists()
