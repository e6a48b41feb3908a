"""The command on a terminal."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import as_json, keep
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestTerminal:
    def spawn(self, *words: str) -> Any:
        import pexpect

        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        environment.pop("NO_COLOR", None)
        script = Path(sys.executable).parent / "holdfast"
        return pexpect.spawn(
            str(script), list(words), env=environment, dimensions=(40, 100), timeout=60, encoding="utf-8"
        )

    def read(self, *words: str) -> str:
        import pexpect

        child = self.spawn(*words)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0, child.before
        return str(child.before)

    def test_the_quickstart_previews_renders_and_finds_again(self) -> None:
        first = self.read("quickstart", "--db", "q.db")
        assert first.index("sources ...") < first.index("sources; the post") < first.index("saved as version 1")
        assert "\x1b[" in first
        assert "# " not in re.sub(r"\x1b\[[\d;?]*\w", "", first).split("saved as version")[0].splitlines()[-1]
        second = self.read("quickstart", "--db", "q.db")
        assert "from the session" in second

    def test_history_is_coloured(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1}, {"n": 2}, {})
        text = self.read("sessions", "history", "s")
        assert "\x1b[32m  + n" in text
        assert "\x1b[33m  ~ n" in text
        assert "\x1b[31m  - n" in text

    def test_delete_asks_and_does_what_it_is_told(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        for answer, left in (("n", 1), ("y", 0)):
            child = self.spawn("sessions", "delete", "s")
            child.expect(r"Delete session s at version 1, with its runs\? \[y/N\]")
            child.sendline(answer)
            child.expect("Aborted" if left else "deleted s")
            child.wait()
            child.close()
            assert child.exitstatus == (1 if left else 0)
            assert len(as_json("sessions", "list")) == left
