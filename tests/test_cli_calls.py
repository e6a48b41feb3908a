"""How calls of one step are told apart where several are listed."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest

from cli import as_json, holdfast, ok
from holdfast import Workflow, step
from holdfast.cli.calls import names
from holdfast.records import Run
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import make_run
from holdfast.testing_steps import make_entry, make_step

PAGES = """
from holdfast import Workflow, step


class Pages(Workflow):
    @step(cache="workflow")
    def fetch(self, url: str, tries: int = 3) -> str:
        return f"the page at {url}"

    @step(cache="workflow")
    def shorten(self, text: str) -> str:
        return text[:10]

    @step
    def count(self, text: str) -> int:
        return len(text)

    def run(self, urls: list[str], title: str = "harbours") -> int:
        return sum(self.count(self.shorten(self.fetch(url))) for url in urls) + self.count("harbours")
"""

RUN = ("pages.py:Pages", "--urls", "https://a.org", "--urls", "https://b.org")


@pytest.fixture
def pages(here: Any) -> None:
    (here / "pages.py").write_text(PAGES, encoding="utf-8")


def told(text: str, column: int = 0) -> list[str]:
    return [line.split("  ")[column] for line in text.splitlines()]


@pytest.mark.usefixtures("pages")
class TestCommands:
    def test_a_run_and_a_plan_show_what_the_run_was_given_and_digests_of_all_else(self) -> None:
        ok("run", *RUN, "--session-id", "s")
        (run,) = as_json("runs", "list")
        parts = [each["parts"] for each in as_json("runs", "show", run["run_id"])["steps"]]
        digests = [each.get("argument text", "")[:6] + "…" for each in parts]
        assert all(len(digest) == 7 for digest in digests[1:3])
        steps = ok("runs", "show", run["run_id"]).partition("steps:\n")[2]
        expected = [
            'fetch(url="https://a.org")',
            f"shorten(text={digests[1]})",
            f"count(text={digests[2]})",
            'fetch(url="https://b.org")',
            f"shorten(text={digests[4]})",
            f"count(text={digests[5]})",
            'count(text="harbours")',
        ]
        assert [line.split()[0] for line in steps.splitlines()[1:]] == expected
        assert [line.split()[0] for line in ok("plan", *RUN).splitlines()[1:-1]] == expected
        assert [line.split()[1] for line in ok("cache", "why", run["run_id"], "fetch").splitlines()[1:]] == [
            expected[0],
            expected[3],
        ]

    def test_kept_results_are_told_apart_by_digests(self) -> None:
        ok("run", *RUN)
        rows = [line.split()[1] for line in ok("cache", "list", "--step", "fetch").splitlines()[1:]]
        parts = [each["parts"]["argument url"] for each in as_json("cache", "list", "--step", "fetch")]
        assert rows == [f"fetch(url={digest[:6]}…)" for digest in parts]
        assert "a.org" not in ok("cache", "list")


class TestNames:
    def test_a_step_that_is_listed_once_or_always_given_the_same_has_its_name_only(self) -> None:
        steps = [make_step(1, name="once"), *[make_step(number, name="poll") for number in (2, 3)]]
        assert names(steps) == ["once", "poll", "poll"]

    def test_only_what_differs_is_shown_and_of_that_no_more_than_three(self) -> None:
        def entry(**digests: str) -> Any:
            parts = {f"argument {name}": digest * 16 for name, digest in digests.items()} | {"code of `f`": "0" * 32}
            return make_entry(step="f", parts=msgspec.json.encode(parts))

        one = entry(a="a1", b="b1", c="c1", d="d1", same="00")
        other = entry(a="a2", b="b1", c="c1", d="d1", same="00")
        assert names([one, other]) == ["f(a=a1a1a1…)", "f(a=a2a2a2…)"]
        far = entry(a="a2", b="b2", c="c2", d="d2", same="00")
        assert names([one, far])[0] == "f(a=a1a1a1…, b=b1b1b1…, c=c1c1c1…, …)"
        assert names([one, entry(b="b1", c="c1", d="d1", same="00")]) == ["f(a=a1a1a1…)", "f"]

    def test_variables_and_what_callables_hold_count_as_well(self) -> None:
        class Inline(Workflow):
            def run(self) -> None:
                for number in (1, 2):
                    self.step("look", lambda number=number: number)
                    self.step("hold", functools.partial(abs, number))

        storage = MemoryStorage()
        workflow = Inline(session_id="s", storage=storage)
        workflow.run()
        found = names(storage.find_steps("", "s", workflow.run_id or "", with_results=False))
        assert len(set(found)) == 4
        assert found[0].startswith("look(number=")
        assert found[1].startswith("hold(")

    @pytest.mark.parametrize("given", [None, b"[1]", b"{", b'{"page":{"$hf":["model","Gone",{"url":"a"}]},"n":1}'])
    def test_an_input_that_cannot_be_read_shows_digests(self, given: bytes | None) -> None:
        run: Run = make_run(input=given)
        steps = [make_step(number, name="f", parts=b'{"argument a":"%032d"}' % number) for number in (1, 2)]
        assert names(steps, run) == ["f(a=000000…)", "f(a=000000…)"]

    def test_a_long_value_is_cut(self, default_storage: SqlWorkflowStorage) -> None:
        class Long(Workflow):
            @step
            def read(self, text: str) -> int:
                return len(text)

            def run(self, texts: list[str]) -> None:
                for text in texts:
                    self.read(text)

        Long(session_id="s", storage=default_storage).run(["x" * 100, "\x1b[31m"])
        (run,) = default_storage.find_runs("")
        found = names(default_storage.find_steps("", "s", run.run_id, with_results=False), run)
        assert found[0] == 'read(text="' + "x" * 38 + "…)"
        assert found[1] == 'read(text="\\u001b[31m")'
        assert "\x1b" not in holdfast("runs", "show", run.run_id).stdout
