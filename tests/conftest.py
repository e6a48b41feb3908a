"""What many tests share: storages, a clock that tests own, and a folder for the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import settings

import postgres
from holdfast import clock
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage

# How long an example takes says how busy the machine is.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")

BACKENDS = ["memory", "sqlite", "postgres"]


def printed(*words: str, seed: str, cwd: Path | None = None) -> str:
    """What Python prints in a new process whose hashes have this seed."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(params=BACKENDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage of each kind."""
    with ExitStack() as stack:
        if request.param == "memory":
            kept: Storage = MemoryStorage()
        elif request.param == "sqlite":
            kept = SqlWorkflowStorage(db_file=tmp_path / "workflows.db")
        else:
            kept = SqlWorkflowStorage(db_url=stack.enter_context(postgres.schema(postgres.shared_url(over_tcp=True))))
        yield stack.enter_context(closing(kept))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database that several processes can use."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'workflows.db'}"
        return
    with postgres.schema(postgres.shared_url(over_tcp=True)) as own:
        yield own


@pytest.fixture
def proxied() -> Iterator[tuple[postgres.Proxy, str]]:
    """A proxy before a server of its own, and a URL of an empty schema by way of it."""
    with postgres.Server() as server, postgres.schema(server.url) as direct, postgres.Proxy(server.port) as proxy:
        options = direct.partition("options=")[2]
        yield proxy, f"{server.tcp_url_at(proxy.port)}?options={options}"


@pytest.fixture
def pg_url() -> Iterator[str]:
    """The URL of an empty schema of a PostgreSQL server that tests share."""
    with postgres.schema() as url:
        yield url


class FakeClock(clock.Clock):
    """A clock that moves when a test says so; identifiers stay random."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def server_now(self, ask: Callable[[], float]) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock that stands still until its `seconds` are changed."""
    fake = FakeClock()
    monkeypatch.setattr(clock, "current", fake)
    return fake


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[[str], str]:
    """Runs a program in a new process, in the test's folder, and returns what it printed."""
    import subprocess

    def run(source: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with workflows for the command, and no settings of whoever runs the tests."""
    from cli import WORKFLOWS

    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("HOLDFAST_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work.py").write_text(WORKFLOWS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def default_storage(here: Path) -> Iterator[SqlWorkflowStorage]:
    """The storage that the commands find without options."""
    kept = SqlWorkflowStorage(db_file="holdfast.db")
    yield kept
    kept.close()
