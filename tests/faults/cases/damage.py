"""Damage is detected: single flipped bits of a database file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from faults.case import Amounts, Case, Round, Workshop, dice_of
from faults.plants import UNVERIFIED, planted
from holdfast.errors import HoldfastError
from holdfast.records import Claim, Place, RunStatus, Savings, Usage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, adjustable_clock, make_run, rebuilt
from holdfast.testing_steps import key_of, make_entry, make_step, put

FLIPS = 50
"""In one round."""


def make_sound(file: Path) -> None:
    """Make a database with a small and a large session, thinned and pruned history, removed names, runs with steps,
    leases, and entries of the step cache."""
    with closing(SqlWorkflowStorage(db_file=file, table_name="t")) as storage, adjustable_clock():
        for owner in ("", "ann"):
            writer = Writer(storage, owner, "s")
            large = {"big": "y" * 66_000}
            for number in range(25):
                state: dict[str, Any] = {"same": "x" * 700, "number": number, **(large if owner else {})}
                state |= {f"k{number % 4}": number}
                run = make_run(owner, "s", RunStatus.running, run_id=f"r{number}", input=b"{}", output=b"1")
                run = replace(run, attempt=2, savings=Savings(1, 2.5, Usage(1, 2, 3, 0.5)))
                writer.commit(state, snapshot=number % 4 == 2, run=run if number % 5 == 0 else None)
            steps = (make_step(1, result=b"x" * 900), make_step(2, patch=b"[]", within=1))
            storage.commit(replace(writer.prepared({}), patch=None, run_id="r20", steps=steps, attempt=2))
            storage.step_cache.claim(Place(owner), key_of("computed"), "somebody", 1e9, unless=None)
            put(storage.step_cache, make_entry("a", Place(owner, "s"), result=b"y" * 900), ttl=1e9)
        storage.prune_session("ann", "s", 10)
        storage.claim_lease(Claim("ann", "s", "held", seconds=1e9, is_exclusive=True))
        storage.claim_lease(Claim("ann", "s", "waiting", seconds=1e9))


def everything_readable(file: Path) -> list[Any]:
    """All that the storage tells, with everything read and verified that `load` leaves for later."""
    with closing(SqlWorkflowStorage(db_file=file, table_name="t", lock_timeout=1)) as storage, adjustable_clock():
        told: list[Any] = [storage.find_sessions(None), storage.find_runs(None)]
        for owner in ("", "ann"):
            told += [storage.load(owner, "s"), rebuilt(storage.load(owner, "s"), storage)]
            told += [rebuilt(storage.load(owner, "s", at=version), storage) for version in (17, 20)]
            told.append(storage.changes(owner, "s"))
            told.append(storage.find_steps(owner, "s", "r20", with_results=True))
            entry = storage.step_cache.read(Place(owner, "s"), key_of("a"))
            told.append(entry and replace(entry, hits=0, hit_at=None))  # how often it was found is not guarded
        return told


def findings(file: Path) -> list[str]:
    """What a check of the whole database lists."""
    with closing(SqlWorkflowStorage(db_file=file, table_name="t", lock_timeout=1)) as storage:
        return [f"{finding.where}: {finding.what}" for finding in storage.check()]


class FlippedBits(Case):
    """Each flipped bit is an error, or is found by a check, or changes nothing that can be read."""

    name = "bits"
    promise = "damage to the file is detected"
    unit = "flipped bits"
    amounts = Amounts(sample=100, full=600, soak=2_000_000)
    plants = {UNVERIFIED: 10}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        found: list[str] = []
        errors = 0
        with self.sound(workshop) as (content, expected, folder):
            for flip in range(FLIPS):
                # The soak goes on with every byte in turn once the dice have had theirs.
                place = dice.randrange(len(content) * 8)
                with flipped(content, place, folder / f"{flip}.db") as file, planted(plant):
                    outcome = seen(file, expected)
                errors += outcome == "an error"
                if outcome not in ("an error", "no difference", "found by a check"):
                    found.append(f"bit {place}: {outcome}")
        return Round(FLIPS, found, {"errors": errors})

    @contextmanager
    def sound(self, workshop: Workshop) -> Iterator[tuple[bytes, list[Any], Path]]:
        with workshop.place() as place:
            make_sound(place.file)
            content = place.file.read_bytes()
            yield content, everything_readable(Path(shutil.copy(place.file, place.folder / "same.db"))), place.folder


@contextmanager
def flipped(content: bytes, place: int, file: Path) -> Iterator[Path]:
    """A file with this content but for one bit, removed at the end."""
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << place % 8
    file.write_bytes(damaged)
    yield file
    for left in file.parent.glob(f"{file.name}*"):
        left.unlink()


def seen(file: Path, expected: list[Any]) -> str:
    """What a damaged file shows, in a few words."""
    try:
        told = everything_readable(file)
    except HoldfastError:
        return "an error"
    except (ValueError, KeyError, TypeError) as error:
        return f"a {type(error).__name__} that says nothing of damage"
    if told == expected:
        return "no difference"
    return "found by a check" if findings(file) else "something else was read, and nothing found"
