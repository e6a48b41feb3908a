"""The order of the layers, and what else holds for the source as a whole."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"

LAYERS = [
    # the command
    "holdfast.cli",
    "holdfast.cli.quickstart",
    "holdfast.cli.plan",
    "holdfast.cli.sessions",
    "holdfast.cli.applying",
    "holdfast.cli.copying",
    "holdfast.cli.runs",
    "holdfast.cli.resuming",
    "holdfast.cli.run",
    "holdfast.cli.parameters",
    "holdfast.cli.cache",
    "holdfast.cli.doctor",
    "holdfast.cli.transfer",
    "holdfast.cli.retention",
    "holdfast.cli.asking",
    "holdfast.cli.changes",
    "holdfast.cli.failures",
    "holdfast.cli.database",
    "holdfast.cli.exit_status",
    "holdfast.cli.calls",
    "holdfast.cli.output",
    # the example, and the public names
    "holdfast.blog_post_generator",
    "holdfast.testing_steps",
    "holdfast.testing",
    "holdfast",
    # workflows
    "holdfast.planning",
    "holdfast.explaining",
    "holdfast.workflow",
    "holdfast.run_function",
    "holdfast.stepping",
    "holdfast.steps",
    "holdfast.parallel",
    "holdfast.awaited",
    "holdfast.step_flow",
    "holdfast.computing",
    "holdfast.asked",
    "holdfast.turns",
    "holdfast.step_keys",
    "holdfast.declared_steps",
    "holdfast.recorded",
    "holdfast.flights",
    "holdfast.running",
    "holdfast.run_steps",
    "holdfast.step_owner",
    "holdfast.arguments",
    "holdfast.leases",
    "holdfast.drivers",
    "holdfast.async_driver",
    "holdfast.effects",
    "holdfast.heartbeat",
    # agents
    "holdfast.agent_identity",
    "holdfast.told_types",
    "holdfast.model_identity",
    "holdfast.agent",
    "holdfast.frames",
    "holdfast.caching",
    "holdfast.agent_run",
    "holdfast.messages",
    "holdfast.providers",
    "holdfast.offline",
    "holdfast.extractive",
    "holdfast.agent_loop",
    "holdfast.metering",
    "holdfast.printing",
    "holdfast.library",
    # a session in use, and what is done with it by hand
    "holdfast.refused",
    "holdfast.copying",
    "holdfast.session",
    "holdfast.comparing",
    "holdfast.retracing",
    "holdfast.conflicts",
    "holdfast.standing",
    "holdfast.live",
    "holdfast.values",
    "holdfast.stored",
    "holdfast.originals",
    "holdfast.plain",
    "holdfast.state",
    # what identifies the result of a step
    "holdfast.methods",
    "holdfast.fingerprint",
    "holdfast.imports",
    "holdfast.decorators",
    "holdfast.sources",
    "holdfast.witness",
    "holdfast.canonical",
    "holdfast.pieces",
    "holdfast.outlines",
    # storages
    "holdfast.storage.memory",
    "holdfast.storage.memory_step_cache",
    "holdfast.storage.sql",
    "holdfast.storage.registry",
    "holdfast.storage.server",
    "holdfast.storage.pool",
    "holdfast.storage.postgres",
    "holdfast.storage.engine",
    "holdfast.storage.writer",
    "holdfast.storage.readers",
    "holdfast.storage.requests",
    "holdfast.storage.sqlite",
    "holdfast.storage.gate",
    "holdfast.storage.schema",
    "holdfast.storage.step_cache",
    "holdfast.storage.writing",
    "holdfast.storage.attempts",
    "holdfast.storage.checking",
    "holdfast.storage.reading",
    "holdfast.storage.liveness",
    "holdfast.storage.history",
    "holdfast.storage.queries",
    "holdfast.storage.remembered",
    "holdfast.storage.step_rows",
    "holdfast.storage.rows",
    "holdfast.storage.leasing",
    "holdfast.storage.listing",
    "holdfast.storage.sweeping",
    "holdfast.storage",
    "holdfast.storage.base",
    # values and changes
    "holdfast.merging",
    "holdfast.edits",
    "holdfast.patch",
    "holdfast.difference",
    "holdfast.operations",
    "holdfast.codec",
    "holdfast.display",
    "holdfast.encoding",
    "holdfast.decoding",
    "holdfast.declared",
    "holdfast.shapes",
    "holdfast.scalars",
    "holdfast.refusals",
    "holdfast.paths",
    "holdfast.recursion",
    "holdfast.threads",
    "holdfast.environment",
    # plain data
    "holdfast.response",
    "holdfast.records",
    "holdfast.ids",
    "holdfast.clock",
    "holdfast.errors",
]
"""From the top to the ground: a module imports only modules that stand below it, so there is no cycle."""

HEAVY = [
    "click",
    "httpx2",
    "openai",
    "opentelemetry",
    "psycopg",
    "pydantic",
    "pydantic_ai",
    "rich",
    "sqlite3",
    "asyncio",
]
"""What `import holdfast` must not load: each costs more than everything of ours together."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((SOURCE / "holdfast").rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """The modules of this package that a module imports anywhere, also inside functions and for types only."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else str(node.module)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_every_module_has_its_place_in_the_order() -> None:
    assert sorted(LAYERS) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_only_downward(name: str) -> None:
    above = [other for other in imports(name) if LAYERS.index(other) <= LAYERS.index(name)]
    assert above == [], f"{name} imports what stands above it"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_opens_with_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    assert text, f"{name} has no docstring"
    assert text.partition("\n\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_MODEL", raising=False)
    monkeypatch.delenv("HOLDFAST_DB", raising=False)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0, capsys.readouterr().out


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, holdfast; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # A coverage run loads packages of its own into every process.
    measured = {"sqlite3", "asyncio"} if "coverage" in loaded else set()
    assert "holdfast" in loaded
    assert [name for name in HEAVY if name in loaded and name not in measured] == []


def test_the_public_names_are_few_and_all_there() -> None:
    assert len(holdfast.__all__) <= 12
    assert sorted(holdfast.__all__) == list(holdfast.__all__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in holdfast.__all__:
            assert getattr(holdfast, name) is not None
    assert set(holdfast.__all__) <= set(dir(holdfast))
    with pytest.raises(AttributeError, match="no attribute 'Wrkflow'"):
        holdfast.Wrkflow  # noqa: B018


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", holdfast.__version__)


def test_no_module_is_a_heap_of_odds_and_ends() -> None:
    forbidden = {"utils", "util", "core", "helpers", "common", "manager", "misc"}
    assert [name for name in MODULES if forbidden & set(name.split("."))] == []


def test_no_file_names_a_path_of_one_machine_or_a_package_index() -> None:
    # Written in parts, so that this file does not match itself.
    telling = re.compile(
        "|".join(
            ["/" + "work/", "/" + "root/", r"/" + r"home/\w+/", "index" + "-url", r"find" + "-links", "/" + "opt/"]
        )
    )
    for path in tracked_files():
        if path.is_file() and path.suffix not in {".png", ".db"}:
            found = telling.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_the_example_ships_with_the_package_as_the_same_file() -> None:
    shipped = SOURCE / "holdfast" / "blog_post_generator.py"
    assert shipped.read_bytes() == (ROOT / "examples" / "blog_post_generator.py").read_bytes()
