"""One process of a contestant: does what it reads, a line of JSON each, from standard input, and answers on standard
output.

It stays for all rounds, so that no start-up is measured, and is opened anew for each. What the contestant prints goes
to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from typing import Any

from contestants import Target

TEXT = 150
"""Characters of the text in an item, which has about 200 bytes as JSON."""


def version(package: str) -> str:
    """Of a package, installed or, as Holdfast itself, only on the path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(importlib.import_module(package).__version__)


class Worker:
    """The contestant that is open in this process, and what it did."""

    def __init__(self) -> None:
        self.contestant: Any = None
        self.random = random.Random()

    @cached_property
    def text(self) -> str:
        """Where the texts of items are taken from."""
        return "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz     ", k=100_000))

    def versions(self, packages: list[str]) -> dict[str, str]:
        """Of Python, SQLite and some packages."""
        found = {"Python": sys.version.split()[0], "SQLite": sqlite3.sqlite_version}
        return found | {name: version(name) for name in packages}

    def open(self, module: str, kind: str, target: list[str], process: int, number: int) -> str | None:
        """Open the contestant and let it do one thing; the reason if it cannot."""
        self.random.seed(f"{process} {number}")
        try:
            self.contestant = getattr(importlib.import_module(f"contestants.{module}"), kind)(Target(*target))
            self.seed([f"warm-up-{process}"])
        except Exception as error:  # noqa: BLE001  (the driver shows it)
            return f"{type(error).__name__}: {error}"
        return None

    def seed(self, sessions: list[str]) -> None:
        """Begin sessions with one item each, alone in them, but perhaps not in the database."""
        for session in sessions:
            for last in (False, False, True):
                try:
                    self.contestant.append(session, self._item("seed"))
                    break
                except Exception:
                    if last:
                        raise

    def run(self, start: float, seconds: float, sessions: list[str], process: int) -> dict[str, Any]:
        """Append to random ones of these sessions for so long, from a moment on that all processes share."""
        acknowledged: list[tuple[str, str]] = []
        took: list[float] = []
        errors: dict[str, int] = {}
        clock = time.monotonic
        time.sleep(max(start - clock(), 0))
        began = ended = clock()
        while ended - start < seconds:
            session, item = self.random.choice(sessions), self._item(f"{process}-{len(took)}")
            before = clock()
            try:
                self.contestant.append(session, item)
            except Exception as error:  # noqa: BLE001  (the driver shows it)
                name = f"{type(error).__name__}: {str(error).splitlines()[0][:60] if str(error) else ''}"
                errors[name] = errors.get(name, 0) + 1
            else:
                acknowledged.append((session, item["id"]))
            ended = clock()
            took.append((ended - before) * 1e3)
        return {"began": began, "ended": ended, "took": took, "errors": errors, "acknowledged": acknowledged}

    def kept(self, sessions: list[str]) -> dict[str, list[str] | int]:
        """What is stored of each session."""
        return {session: self.contestant.kept(session) for session in sessions}

    def close(self) -> None:
        """Close the contestant."""
        self.contestant, contestant = None, self.contestant
        if contestant is not None:
            contestant.close()

    def _item(self, name: str) -> dict[str, str]:
        start = self.random.randrange(len(self.text) - TEXT)
        return {"id": name, "text": self.text[start : start + TEXT]}


def serve(worker: Worker) -> None:
    """Do what is asked until the pipe is closed."""
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        method: Callable[..., Any] = getattr(worker, name)
        print(json.dumps(method(**arguments)), file=answers, flush=True)


if __name__ == "__main__":
    serve(Worker())
