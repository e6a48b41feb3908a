"""Where writers are born: a process that has everything imported, and forks one writer for each order.

A writer so costs milliseconds instead of a fifth of a second. The nursery itself uses no storage and has one thread,
so that a writer starts as clean as a new process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from faults.worker import Orders, work

PATIENCE = 120.0
"""Seconds that a writer may take to end."""


@dataclass
class Child:
    """A writer that was born."""

    nursery: Nursery
    pid: int
    notes: Path
    is_gone: bool = False

    def wait(self) -> int:
        """Wait for its end; returns its exit status, that of a signal negative."""
        self.is_gone = True
        status = self.nursery.ask(f"wait {self.pid}")
        assert status.lstrip("-").isdigit(), f"writer {self.pid}: {status}"
        return int(status)

    def kill(self) -> None:
        """Kill it as `kill -9` does, and wait for its end."""
        if not self.is_gone:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def stop(self) -> None:
        """Stop it in its tracks."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


class Nursery:
    """The process that forks writers; what they print goes to a file, shown when the nursery breaks."""

    def __init__(self) -> None:
        self._trouble = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the nursery)
        # What measures coverage would be killed as well, and does not always survive that.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        paths = [str(Path(__file__).parent.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._trouble,
            env=environment,
            text=True,
        )

    def ask(self, line: str) -> str:
        """Say one line and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the nursery ended: {self.trouble()}"
        return answer.strip()

    def start(self, orders: Orders) -> Child:
        """A new writer."""
        return Child(self, int(self.ask(f"make {msgspec.json.encode(orders).decode()}")), Path(orders.notes))

    def trouble(self) -> str:
        """What the nursery and its writers printed as errors."""
        self._trouble.seek(0)
        return self._trouble.read().decode(errors="replace")[-4000:]

    def close(self) -> None:
        """Let the nursery end; writers that are left notice it and end as well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()
        self._trouble.close()


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery for as long as the context lasts."""
    opened = Nursery()
    try:
        yield opened
    finally:
        opened.close()


def serve() -> None:
    """What the process does: answer one line after the other."""
    for line in sys.stdin:
        what, _, rest = line.strip().partition(" ")
        if what == "make":
            pid = os.fork()
            if pid == 0:
                _live(msgspec.json.decode(rest, type=Orders))
            print(pid, flush=True)
        else:
            print(_ended(int(rest)), flush=True)


def _ended(pid: int) -> int | str:
    """The exit status of a writer, once it has ended; one that never does is ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"it did not end within {PATIENCE:g} s"


def _live(orders: Orders) -> None:
    """The life of a writer, which ends without going back to where the nursery was."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    status = 1
    try:
        work(orders)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
