"""One process of a contestant, as in `contention_worker.py`, which measures one block of a workload at a time."""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import posts
from contention_worker import Worker, serve
from contestants import Failed, Target
from measure import cost_of, folder_size

SAME, LARGE, MANY, GROWING = "same", "large", "many", "growing"
"""Sessions."""
ITEMS = 1_000
"""Of the session that an item is found in."""


def item(number: int) -> dict[str, str]:
    """About 2 kB."""
    return {"id": f"item-{number}", "text": posts.text(number)}


class Measuring(Worker):
    """The contestant that is open in this process."""

    def attempt(self, work: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a method answers, or the reason why it does not."""
        try:
            return {"answer": getattr(self, work)(**arguments)}
        except NotImplementedError:
            return {"refusal": "n/a"}
        except Exception as error:  # noqa: BLE001  (the driver shows it)
            return {"refusal": told(error)}

    def begin(self, module: str, kind: str, target: list[str]) -> dict[str, float]:
        """Import and open a contestant; the milliseconds that both took."""
        began = time.perf_counter()
        made = getattr(importlib.import_module(f"contestants.{module}"), kind)
        imported = time.perf_counter()
        self.contestant = made(Target(*target))
        opened = time.perf_counter()
        self.where = "" if target[0] == "postgres" else target[1]
        return {"import": (imported - began) * 1e3, "open": (opened - imported) * 1e3}

    def fill(self, session: str, count: int) -> None:
        """Begin a session with so many items."""
        self.contestant.seed(session, [item(number) for number in range(count)])

    def block(self, work: str, start: int, count: int, seconds: float = 1e9) -> dict[str, Any]:
        """So many runs, or fewer if the time is up, and the size of the database after them."""
        made: Callable[[int], Callable[[], Any]] = getattr(self, f"_{work}")
        cost = cost_of([made(number) for number in range(start, start + count)], seconds)
        return {
            "wall": cost.wall,
            "cpu": cost.cpu,
            "written": cost.written,
            "database": self.where and folder_size(Path(self.where).parent),
        }

    def _same(self, number: int) -> Callable[[], Any]:
        return partial(self.contestant.set, SAME, f"k{number % 50}", number)

    def _new(self, number: int) -> Callable[[], Any]:
        return partial(self.contestant.set, f"new-{number}", "k", number)

    def _append(self, number: int) -> Callable[[], Any]:
        return partial(self.contestant.append, GROWING, item(number))

    def _change(self, number: int) -> Callable[[], Any]:
        # A value of varying length: SQLite rewrites only some pages of a record that keeps its size.
        return partial(self.contestant.set, LARGE, "counter", 10 ** (number % 5))

    def _find(self, number: int) -> Callable[[], Any]:
        name = f"item-{number * 137 % ITEMS}"

        def found() -> None:
            assert len(self.contestant.find(MANY, name)) > 1_900

        return found

    def first(self, work: str, number: int) -> dict[str, float]:
        """The first run of this process, and the CPU time that the process took until it was done."""
        figures = self.block(work, number, 1)
        return {"wall": figures["wall"][0], "cpu": figures["cpu"][0], "process": time.process_time() * 1e3}

    def steps(self, topics: list[str]) -> float:
        """Microseconds of each."""
        spent: float = self.contestant.seconds(topics) / len(topics) * 1e6
        return spent

    def loaded(self, session: str) -> dict[str, float]:
        """How much the memory of this process grew by a state that was loaded and touched, at its end and at most."""
        self._touched(SAME)
        gc.collect()
        before = _memory("VmRSS")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        state = self._touched(session)
        gc.collect()
        grown, peak = _memory("VmRSS") - before, _memory("VmHWM") - before
        assert state["items"]
        return {"grown": grown, "peak": peak}

    def _touched(self, session: str) -> Any:
        state = self.contestant.read(session)
        assert all(one["text"] for one in state["items"])
        return state

    # -- what survives ----------------------------------------------------------------------------------------------

    def fails(self) -> str:
        """What a caller sees of a run that fails after an append."""
        try:
            self.contestant.fail("fails", item(2))
        except Failed:
            return "the caller saw the error"
        except Exception as error:  # noqa: BLE001  (the driver shows it)
            return f"the caller saw {type(error).__name__}"
        return "the caller saw no error"

    def closed(self) -> str:
        """Take the first of two chunks, and close the stream."""
        chunks = self._begun_stream("closed")
        if hasattr(chunks, "close"):
            chunks.close()
        del chunks
        gc.collect()
        return "closed"

    def exits(self) -> None:
        """Take the first of two chunks, and leave the process."""
        chunks = self._begun_stream("exits")
        assert chunks
        os._exit(0)

    def _begun_stream(self, session: str) -> Any:
        chunks = self.contestant.stream(session, [item(2), item(3)])
        next(chunks)
        return chunks

    def dies(self) -> str:
        """Be killed in the second step of a run."""
        self.contestant.die("dies", item(2))
        return "it lives"

    def begun(self, session: str) -> None:
        """Let an earlier run store the first item."""
        self.contestant.append(session, item(1))

    def stored(self, session: str, wait: float = 0.0) -> list[str]:
        """The ids of what is there after so many seconds, in which a run may be recovered."""
        time.sleep(wait)
        found: list[str] = self.contestant.kept(session)
        return found

    # -- odd values -------------------------------------------------------------------------------------------------

    def put(self) -> dict[str, str]:
        """Store each odd value in a session of its own, beside an item; what was raised."""
        raised = {}
        for name, value in self._odd().items():
            self.contestant.append(f"odd {name}", item(1))
            try:
                self.contestant.put(f"odd {name}", value)
            except NotImplementedError:
                raise
            except Exception as error:  # noqa: BLE001  (the driver shows it)
                raised[name] = type(error).__name__
        return raised

    def got(self) -> dict[str, str]:
        """What came of each odd value."""
        return {name: self._got(name, value) for name, value in self._odd().items()}

    def _odd(self) -> dict[str, Any]:
        from contestants import odd

        self.contestant.declare(odd.TYPES)
        return odd.VALUES

    def _got(self, name: str, value: Any) -> str:
        try:
            state = self.contestant.read(f"odd {name}")
            if "value" not in state:
                return "lost" if "sibling" in state else "lost with the whole run"
            found = state["value"]
        except Exception as error:  # noqa: BLE001  (the driver shows it)
            return f"unreadable: {type(error).__name__}"
        if type(found) is type(value) and found == value:
            return "exact"
        return f"changed to {type(found).__name__}"


def told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def _memory(what: str) -> float:
    """In MB; 0 where there is no such file."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))
    except OSError:
        return 0.0


if __name__ == "__main__":
    serve(Measuring())
