"""A power loss leaves a prefix of whole commits: the write-ahead log of a live writer, cut, zeroed, garbled or holed.

A disk that loses power may have written any part of what was not synced yet. The log of a writer that was killed is
damaged in all these ways in a copy; what the copy then shows must be a prefix of the commits, or a distinct error.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.cases.deaths import acknowledged
from faults.history import events
from faults.places import Place, final
from faults.plants import UNVERIFIED, planted
from holdfast.errors import HoldfastError

VARIANTS = 50
"""Of one log, in one round."""

TRUSTING = "a recovery that trusts every frame, and no checksums of rows"
_HEADER = 32
_FRAME = 24
_SECTOR = 512


class Source(NamedTuple):
    """A database with a log, and what is known of it."""

    database: bytes
    log: bytes
    tokens: tuple[tuple[str, ...], ...]
    """Of each version."""
    boundaries: tuple[int, ...]
    """Where each transaction in the log ends."""
    acknowledged: int
    """The newest version that the writer was told of."""


def boundaries(log: bytes) -> tuple[int, ...]:
    """Where the transactions of a log end, from the marks of its frames.

    Frames of an earlier life of the log, which have other salts, do not count.
    """
    (page_size,) = struct.unpack_from(">I", log, 8)
    found = []
    for start in range(_HEADER, len(log) - _FRAME - page_size + 1, _FRAME + page_size):
        if log[start + 8 : start + 16] != log[16:24]:
            break
        if struct.unpack_from(">I", log, start + 4)[0]:
            found.append(start + _FRAME + page_size)
    return tuple(found)


def cut(log: bytearray, dice: random.Random, start: int) -> None:
    del log[start:]


def zeroed(log: bytearray, dice: random.Random, start: int) -> None:
    log[start:] = bytes(len(log) - start)


def garbled(log: bytearray, dice: random.Random, start: int) -> None:
    end = min(len(log), start + dice.choice([1, 100, 5000]))
    log[start:end] = dice.randbytes(end - start)


def holed(log: bytearray, dice: random.Random, start: int) -> None:
    """Some sectors were not written, while later ones were."""
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(start, len(log)) // _SECTOR * _SECTOR
        if place >= start:
            log[place : place + _SECTOR] = bytes(len(log[place : place + _SECTOR]))


DAMAGES: tuple[Callable[[bytearray, random.Random, int], None], ...] = (cut, zeroed, garbled, holed)


class Power(Case):
    """Damaged logs."""

    name = "power"
    promise = "a power loss leaves a prefix of whole commits"
    unit = "logs cut, zeroed, garbled or holed"
    amounts = Amounts(sample=100, full=1_000, soak=100_000)
    plants = {TRUSTING: 10}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        facts: Counter[str] = Counter()
        found: list[str] = []
        with workshop.place() as place:
            source = self.source(workshop, place, dice)
            for variant in range(VARIANTS):
                folder = place.folder / str(variant)
                folder.mkdir()
                damage = DAMAGES[variant % len(DAMAGES)]
                start = dice.randrange(len(source.log))
                log = bytearray(source.log)
                damage(log, dice, start)
                copy = Place(f"sqlite:///{folder / 'copy.db'}", "t", folder)
                put(copy, source.database, log, trusting=plant is not None)
                with planted(UNVERIFIED if plant else None):
                    what, outcome = shown(copy, source, start)
                found += [f"{damage.__name__} at {start}: {each}" for each in what]
                facts[outcome] += 1
                shutil.rmtree(folder)
        return Round(VARIANTS, found, facts)

    def source(self, workshop: Workshop, place: Place, dice: random.Random) -> Source:
        """What a writer leaves that was killed after up to some hundred commits."""
        orders = workshop.orders(place, dice.getrandbits(32), padding=3000)
        with at_work(workshop, orders) as (writer,):
            wanted = dice.randint(1, 150)
            while sum(event.kind == "ok" for event in events(writer.notes)) < wanted:
                acknowledged(writer.notes)
            writer.kill()
        told = [event.version or 0 for event in events(Path(orders.notes)) if event.kind == "ok"]
        file = place.file
        database, log = file.read_bytes(), file.with_name(f"{file.name}-wal").read_bytes()
        with place.storage() as storage:
            tokens = final(storage, "s").versions
        assert len(tokens) >= max(told)
        return Source(database, log, tokens, boundaries(log), max(told))


def put(copy: Place, database: bytes, log: bytearray, *, trusting: bool) -> None:
    """Lay down a database and its log; a trusting recovery copies every frame into the database by itself."""
    if trusting and len(log) > _HEADER:
        (page_size,) = struct.unpack_from(">I", log, 8)
        pages = bytearray(database)
        for start in range(_HEADER, len(log) - _FRAME + 1, _FRAME + page_size):
            (number,) = struct.unpack_from(">I", log, start)
            if 0 < number < 100_000:
                data = bytes(log[start + _FRAME : start + _FRAME + page_size]).ljust(page_size, b"\0")
                pages.extend(bytes(max(0, number * page_size - len(pages))))
                pages[(number - 1) * page_size : number * page_size] = data
        database, log = bytes(pages), bytearray()
    copy.file.write_bytes(database)
    copy.file.with_name(f"{copy.file.name}-wal").write_bytes(log)


def shown(copy: Place, source: Source, start: int) -> tuple[list[str], str]:
    """What is wrong with what a damaged copy shows, and in a word what it shows."""
    try:
        with copy.storage(lock_timeout=1) as storage:
            held = final(storage, "s")
            findings = storage.check()
    except HoldfastError as error:
        return ([], "distinct errors") if type(error) is not HoldfastError else ([str(error)], "other errors")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{type(error).__name__}: {error}"], "other errors"
    found = [f"damage: {finding.what}" for finding in findings]
    length = len(held.versions)
    if held.versions != source.tokens[:length]:
        found.append("the changes are no prefix")
    if held.state != tuple(token for tokens in held.versions for token in tokens):
        found.append("the state is not what its history makes")
    after = sum(end > start for end in source.boundaries)
    if length < len(source.tokens) - after:
        found.append(f"version {len(source.tokens) - after} was whole and is gone")
    return found, "whole prefixes"
