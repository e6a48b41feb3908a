"""`holdfast doctor`: is the installation complete, is the database sound, which model would answer.

Rules that must stay true:
- it changes nothing, and it creates no database;
- of a key or a password it says whether it is set, never what it is.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click

from holdfast import __version__
from holdfast.cli.database import LOCK_TIMEOUT, database_path, db_option, is_on_server, named, opened, shown
from holdfast.cli.exit_status import ConfigurationProblem, DamageFound, DatabaseNotFound
from holdfast.cli.output import json_option, print_json, printable
from holdfast.errors import InvalidInput, StorageError

KEYS: Final = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}
"""The variables in which each provider's key is looked for; a provider is named as its extra is."""

LOW_DISK: Final = 100 * 1024 * 1024
"""Bytes of free disk below which a warning is given."""

UNKNOWN_MODEL: Final = (
    "HOLDFAST_MODEL names no provider that pydantic-ai knows, so only an Agent with a base_url can use it: write "
    "provider:model, such as openai-chat:gpt-5-mini or anthropic:claude-sonnet-4-5, or offline"
)

_SIGNS: Final = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and whether it is `ok`, a `warning` or a `problem`."""

    name: str
    found: str
    state: str = "ok"


@click.command("doctor")
@db_option()
@json_option
def command(db: str | None, as_json: bool) -> None:
    """Check the installation, the database and the model configuration."""
    checks = [*installation(), *database(db), *models()]
    if as_json:
        print_json([{"name": check.name, "state": check.state, "found": check.found} for check in checks])
    else:
        for check in checks:
            sign, colour = _SIGNS[check.state]
            click.echo(click.style(f"{sign:8}", fg=colour) + f" {check.name}: {printable(check.found)}")
    problems = [check for check in checks if check.state == "problem"]
    damage = [check for check in problems if check.name != "model"]
    if damage:
        raise DamageFound(count=f"{len(damage)} problem(s)", where=shown(named(db)))
    if problems:
        raise ConfigurationProblem(count=f"{len(problems)} problem(s)")


def installation() -> Iterator[Check]:
    """What runs here."""
    import sqlite3

    yield Check("holdfast", __version__)
    yield Check("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Check("sqlite", sqlite3.sqlite_version)
    for package in ("pydantic-ai-slim", "pydantic", "msgspec"):
        yield Check(package, metadata.version(package))
    is_installed = importlib.util.find_spec("psycopg") is not None
    yield Check("psycopg", metadata.version("psycopg") if is_installed else "not installed (for PostgreSQL only)")


def database(db: str | None) -> Iterator[Check]:
    """What is in the database, and whether all of it is sound."""
    name = named(db)
    path = database_path(name)
    try:
        with opened(db) as found:
            if path is not None:
                yield from sqlite_file(path)
            elif is_on_server(name):
                yield from postgres_database(name)
            for storage in found.storages:
                findings = storage.check()
                sessions = storage.find_sessions(None)
                for finding in findings:
                    yield Check(f"table {storage.table_name}", f"{finding.where}: {finding.what}", "problem")
                if not findings:
                    yield Check(f"table {storage.table_name}", f"{len(sessions)} session(s), all checksums match")
    except DatabaseNotFound as error:
        yield Check("database", str(error), "warning")
    except (StorageError, InvalidInput) as error:
        yield Check("database", str(error), "problem")
    if path is not None:
        yield from disk(path)


def sqlite_file(path: Path) -> Iterator[Check]:
    """How SQLite keeps the database, as it stands in the file."""
    import sqlite3

    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
        ((mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
        ((schema,),) = connection.execute("SELECT max(number) FROM holdfast_migration").fetchall()
    yield Check("database", f"{path}, {path.stat().st_size:,} bytes, schema {schema}, journal mode: {mode}")


def postgres_database(url: str) -> Iterator[Check]:
    """What PostgreSQL says of the database, and how far away it is."""
    from holdfast.storage.postgres import PostgresServer

    server = PostgresServer(url)
    with closing(server.connect(LOCK_TIMEOUT)) as connection:
        version = connection.info.parameter_status("server_version")
        began = time.perf_counter()
        ((schema,),) = connection.execute("SELECT max(number) FROM holdfast_migration").fetchall()
        latency = time.perf_counter() - began
        ((size, used, allowed),) = connection.execute(_SERVER).fetchall()
    yield Check("database", f"{server.where}, PostgreSQL {version}, {size:,} bytes, schema {schema}")
    nearly_all = used > 0.9 * allowed
    yield Check("connections", f"{used} of {allowed} of the server", "warning" if nearly_all else "ok")
    yield Check("latency", f"{latency * 1000:.1f} ms for one query")


_SERVER: Final = """
SELECT pg_database_size(current_database()),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       CAST(current_setting('max_connections') AS INTEGER)
"""


def disk(path: Path) -> Iterator[Check]:
    """How much room the database has to grow."""
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    yield Check("free disk", f"{free / 1e9:.1f} GB", "ok" if free > LOW_DISK else "warning")


def models() -> Iterator[Check]:
    """Which model answers when an agent names none, and which providers could."""
    from holdfast.providers import is_known

    model = os.environ.get("HOLDFAST_MODEL")
    if not model:
        yield Check("model", "HOLDFAST_MODEL is not set: agents without a model use the offline model")
    else:
        yield Check("model", f"HOLDFAST_MODEL is {model}")
        if not is_known(model):
            yield Check("model", UNKNOWN_MODEL, "problem")
        elif model.startswith("openai:"):
            yield Check("model", "openai: means OpenAI's Responses API; a compatible server needs openai-chat:")
        yield from _provider_problems(model.partition(":")[0])
    for provider, variables in KEYS.items():
        installed = "installed" if _is_installed(provider) else f"not installed (pip install 'holdfast[{provider}]')"
        keys = ", ".join(f"{name} {'set' if os.environ.get(name) else 'not set'}" for name in variables)
        yield Check(f"provider {provider}", f"{installed}; {keys}")


def _provider_problems(prefix: str) -> Iterator[Check]:
    provider = next((name for name in KEYS if prefix.startswith(name)), None)
    if provider is None:
        return
    if not _is_installed(provider):
        yield Check("model", f"needs the package: pip install 'holdfast[{provider}]'", "warning")
    if not any(os.environ.get(name) for name in KEYS[provider]):
        yield Check("model", f"needs a key in {' or '.join(KEYS[provider])}", "warning")


def _is_installed(provider: str) -> bool:
    module = {"google": "google.genai"}.get(provider, provider)
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing as well
        return False
