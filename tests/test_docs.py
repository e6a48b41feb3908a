"""Every example on every page does what the page says.

- `python` blocks run: those of one page as one program, in a process of its own, in an empty folder;
- a `python` block that opens with the comment `# name.py` is that file as well;
- `console` blocks hold `$ holdfast ...` lines, which run after it in the same folder and must succeed, or exit with
  the status that a comment `# exits 3` at their end names.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (?P<command>.*?)(?:\s+# exits (?P<status>\d+))?$")
OURS = re.compile(r"^(HOLDFAST_|OPENAI_|ANTHROPIC_|GOOGLE_|GEMINI_)")


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    """The line of the page on which the text begins, from 1."""


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(match["language"].strip(), match["text"], text.count("\n", 0, match.start("text")) + 1)


def program(page: Path) -> str:
    """The python blocks of a page, each on the lines that it has there, so that a traceback points into the page."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def commands(page: Path) -> Iterator[tuple[list[str], int]]:
    """The `$` lines of a page's console blocks as (words, exit status)."""
    for block in blocks(page):
        if block.language == "console":
            for line in block.text.replace("\\\n", " ").splitlines():
                if match := COMMAND.match(line):
                    yield shlex.split(match["command"]), int(match["status"] or 0)


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONUTF8"] = "1"
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=240, check=False
    )


def identity(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_every_example_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        name = re.match(r"# ([\w/]+\.py)\n", block.text)
        if block.language == "python" and name:
            (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name[1]).write_text(block.text, encoding="utf-8")
    source = program(page)
    if source.strip():
        script = tmp_path / f"{page.stem.replace('-', '_')}_page.py"
        script.write_text(source, encoding="utf-8")
        done = run([sys.executable, "-W", "error", str(script)], tmp_path)
        assert done.returncode == 0, f"{identity(page)} (same line numbers):\n{done.stderr}"
    for words, status in commands(page):
        done = run(words, tmp_path)
        assert done.returncode == status, f"$ {shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_no_block_evades_being_run(page: Path) -> None:
    known = {"python", "console", "text", "json", "toml", "sql", "make", "mermaid"}
    languages = {block.language for block in blocks(page)}
    assert languages <= known, f"{identity(page)}: name one of {sorted(known)} after each ```"
    for words, _ in commands(page):
        assert words[0] in {"holdfast", "python"}, f"{identity(page)}: only holdfast and python run in a console block"


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{identity(page)} links to {target}, which does not exist"


def test_the_first_example_about_storage_may_be_run_again(tmp_path: Path) -> None:
    first = next(block for block in blocks(ROOT / "docs" / "storage.md") if block.language == "python")
    outputs = []
    for _ in range(2):
        done = run([sys.executable, "-W", "error", "-c", first.text], tmp_path)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs == ["2 posts\n", "4 posts\n"]


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_only_the_test_of_a_backend_needs_pytest(page: Path) -> None:
    needing = [block.line for block in blocks(page) if block.language == "python" and "pytest" in block.text]
    assert len(needing) == (1 if page.name == "storage.md" else 0)


def test_every_decision_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in ROOT.glob("docs/decisions/*.md")} - {"README.md"}
    assert set(re.findall(r"\]\((.+?\.md)\)", index)) == pages


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text("# A\n\n```python\nassert 1 == 2\n```\n", encoding="utf-8")
    script = tmp_path / "page.py"
    script.write_text(program(page), encoding="utf-8")
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 1
    assert "line 4" in done.stderr
