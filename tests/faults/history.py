"""The history checker: what writers said they did, against what a session holds in the end.

Rules that must stay true:
- a session is an append-only list of tokens, each sent by one writer and never again, so that every loss, doubling
  and mixture can be told from the list alone;
- a writer notes what it sends before it sends it, and an answer after it came; a note cut off by its death counts
  as not written;
- a token without an answer may have been applied or not; everything else is decided.

>>> sent, ok = Event("send", 1.0, "s", "a"), Event("ok", 2.0, "s", "a", version=1)
>>> anomalies([[sent, ok]], {"s": Final(versions=(("a",),), state=("a",))})
[]
>>> anomalies([[sent, ok]], {"s": Final()})
['acknowledged, but lost: a of s']
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec


class Event(msgspec.Struct, array_like=True, gc=False):
    """One note of a writer: it sent a token, or learned what became of it, or read a session."""

    kind: str
    """"send", "ok", "refused" or "read"; "fault" for a fault that it met; or "trouble", which nobody expects, with its
    text as the token."""
    at: float
    """Seconds on the machine's monotonic clock; of a read, when it began."""
    session: str
    token: str = ""
    version: int | None = None
    """That the token made, or that was read; None when the writer is not told."""
    length: int = 0
    """How many tokens were read; of an "ok", how many there must be up to this one, where that is known."""
    chain: int = 0
    """The `chain` of the tokens that were read."""


@dataclass(frozen=True)
class Final:
    """What a session holds in the end."""

    versions: tuple[tuple[str, ...], ...] = ()
    """The tokens that each change added, from version 1."""
    state: tuple[str, ...] = ()
    """The list in the session's state."""
    numbers: tuple[int, ...] | None = None
    """The numbers of the changes, when these are not 1, 2, 3, ..."""


def chain(tokens: Iterable[str], start: int = 0) -> int:
    """A number that stands for a list of tokens in this order, and can be continued.

    >>> chain(["b"], chain(["a"])) == chain(["a", "b"]) != chain(["b", "a"])
    True
    """
    for token in tokens:
        start = zlib.crc32(token.encode() + b"\n", start)
    return start


class Log:
    """The file in which one writer notes its events."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def note(self, event: Event) -> None:
        """Write one event; what is written outlives the process at once."""
        self._file.write(self._encode(event) + b"\n")


def events(path: Path) -> list[Event]:
    """What a writer noted, without a last line that was cut off."""
    decode = msgspec.json.Decoder(Event).decode
    content = path.read_bytes() if path.exists() else b""
    return [decode(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def anomalies(histories: Sequence[Sequence[Event]], finals: Mapping[str, Final]) -> list[str]:
    """Everything in which the histories of the writers and the sessions contradict each other."""
    found = [f"trouble: {event.token}" for events in histories for event in events if event.kind == "trouble"]
    for session in sorted({event.session for events in histories for event in events if event.session} | set(finals)):
        final = finals.get(session, Final())
        told = [[event for event in events if event.session == session] for events in histories]
        everything = [event for events in told for event in events]
        found += [f"{what} of {session}" for what in (*_contradictions(everything, final), *_going_back(told))]
    return found


def _contradictions(events: Sequence[Event], final: Final) -> list[str]:
    place: dict[str, int] = {}
    found = []
    for version, tokens in enumerate(final.versions, 1):
        for token in tokens:
            if token in place:
                found.append(f"applied twice: {token}")
            place[token] = version
    tokens = [token for each in final.versions for token in each]
    sent = {event.token for event in events if event.kind == "send"}
    found += [f"never sent: {token}" for token in place if token not in sent]
    if final.numbers is not None and final.numbers != tuple(range(1, len(final.numbers) + 1)):
        found.append("a version is missing")
    if final.state != tuple(tokens):
        found.append("the state is not what its history makes")
    for event in events:
        if event.kind == "ok":
            found += _wrongly_acknowledged(event, place.get(event.token))
            if event.length and event.token in place and event.length != 1 + tokens.index(event.token):
                found.append(f"made from {event.length - 1} tokens, but stands elsewhere: {event.token}")
        elif event.kind == "refused" and event.token in place:
            found.append(f"refused, but applied: {event.token}")
    return found + _wrong_reads(events, final, place)


def _wrongly_acknowledged(event: Event, version: int | None) -> list[str]:
    if version is None:
        return [f"acknowledged, but lost: {event.token}"]
    if event.version not in (None, version):
        return [f"acknowledged at version {event.version}, but is in {version}: {event.token}"]
    return []


def _wrong_reads(events: Sequence[Event], final: Final, place: Mapping[str, int]) -> list[str]:
    """Reads that are no prefix of the session, or lack what was acknowledged before they began."""
    counts = list(accumulate((len(tokens) for tokens in final.versions), initial=0))
    tokens = [token for tokens in final.versions for token in tokens]
    chains = list(accumulate(tokens, lambda before, token: chain([token], before), initial=0))
    acknowledged = sorted((event.at, place.get(event.token, 0)) for event in events if event.kind == "ok")
    times = [at for at, _ in acknowledged]
    newest = list(accumulate((version for _, version in acknowledged), max, initial=0))
    found = []
    for event in events:
        if event.kind != "read":
            continue
        is_prefix = event.length < len(chains) and chains[event.length] == event.chain
        if not is_prefix or (event.version is not None and not _ends_at(event, counts)):
            found.append(f"a read of {event.length} tokens at version {event.version} is no prefix")
        elif event.length < counts[newest[bisect_left(times, event.at)]]:
            found.append(f"a read of {event.length} tokens lacks what was acknowledged before")
    return found


def _ends_at(read: Event, counts: Sequence[int]) -> bool:
    return read.version is not None and read.version < len(counts) and counts[read.version] == read.length


def _going_back(histories: Sequence[Sequence[Event]]) -> list[str]:
    """Reads that see less than the same writer read before."""
    found = []
    for events in histories:
        lengths = [event.length for event in events if event.kind == "read"]
        found += [f"a read goes back from {a} to {b} tokens" for a, b in pairwise(lengths) if b < a]
    return found
