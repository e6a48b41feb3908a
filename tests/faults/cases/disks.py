"""Full and read-only disks, and limits on the size of files: what was acknowledged is kept, and writes resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.history import events
from faults.nursery import Child
from faults.places import Place, judged
from faults.plants import SWALLOWED

PROMISE = "a full or read-only disk takes nothing back, and writes resume"
SIZE = 400_000
"""Bytes of the small file system, when it is made."""
ROOM = 200_000
"""Bytes that are freed when it was full."""


def faults_met(notes: list[Path]) -> int:
    """How many faults the writers noted."""
    return sum(event.kind == "fault" for path in notes for event in events(path))


class SizeLimit(Case):
    """A limit on the size of files (`RLIMIT_FSIZE`), a random number of bytes above what the log has."""

    name = "size-limit"
    promise = PROMISE
    unit = "writes refused by a limit on the size of files"
    amounts = Amounts(sample=20, full=300, soak=20_000)
    plants = {SWALLOWED: 5}

    def missing(self, workshop: Workshop) -> str | None:
        return "this system has no such limit" if sys.platform == "win32" else None

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        with workshop.place() as place:
            seed, padding = dice.getrandbits(32), dice.choice([10, 2000, 20_000])
            orders = workshop.orders(place, seed, mode="limited", padding=padding, count=100, plant=plant)
            with at_work(workshop, orders) as (writer,):
                writer.wait()
            found, count = judged(place, ["s"], [writer.notes])
            return Round(faults_met([writer.notes]), found, {"acknowledged": count})


class SmallDisk(Case):
    """A real file system of a few hundred kilobytes: filled, emptied a little, made read-only, and writable again."""

    name = "small-disk"
    promise = PROMISE
    unit = "writes refused by a full or read-only file system"
    amounts = Amounts(sample=15, full=150, soak=20_000)
    plants = {SWALLOWED: 5}

    def missing(self, workshop: Workshop) -> str | None:
        return None if can_mount() else "a small file system can be mounted by root on Linux only"

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        notes: list[Path] = []
        with workshop.place() as outer, small_disk(outer.folder / "disk", dice.randrange(SIZE, SIZE * 2)) as disk:
            place = Place(f"sqlite:///{disk / 'sessions.db'}", "t", outer.folder)
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(ROOM))

            def met(count: int = 200) -> None:
                orders = workshop.orders(
                    place, dice.getrandbits(32), mode="filling", padding=3000, count=count, plant=plant
                )
                with at_work(workshop, orders) as children:
                    child: Child = children[0]
                    notes.append(child.notes)
                    child.wait()

            met()
            ballast.unlink()
            met(5)
            remount(disk, "ro")
            met()
            remount(disk, "rw")
            met(5)
            met()
            subprocess.run(["mount", "-o", f"remount,size={SIZE * 4}", disk], check=True)
            met(5)
            found, count = judged(place, ["s"], notes)
            resumed = [b'["ok"' in path.read_bytes() for path in notes]
            met_faults = faults_met(notes)
        found += [f"writes did not resume in step {step}" for step in (1, 3, 5) if not resumed[step]]
        return Round(met_faults, found, {"acknowledged": count})


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system in memory of so many bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(disk: Path, how: str) -> None:
    """Make a file system read-only or writable."""
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


@cache
def can_mount() -> bool:
    """Whether a file system can be mounted here."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mount"):
        return False
    folder = Path(os.path.realpath(f"/tmp/holdfast-mount-{os.getpid()}"))
    try:
        with small_disk(folder, SIZE):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        folder.rmdir()
