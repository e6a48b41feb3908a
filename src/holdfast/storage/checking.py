"""Verifies everything that one table prefix of a SQL database holds.

Rules that must stay true:
- every row is read and verified, the data of every kept value included;
- damage to one session does not hide damage to another: each is reported, none is raised.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from holdfast.errors import CorruptData
from holdfast.records import Finding, SessionInfo
from holdfast.storage import reading, rows, step_rows
from holdfast.storage.listing import Entry
from holdfast.storage.queries import NO_LIMIT, Statements
from holdfast.storage.remembered import Remembered


def check(db: Statements) -> tuple[Finding, ...]:
    """See `Storage.check`."""
    db.remembered = Remembered()  # what is remembered may be damaged on the disk by now
    with db.undecodable_text_kept():
        return tuple(_findings(db))


def _findings(db: Statements) -> Iterator[Finding]:
    for line in db.unsound():
        yield Finding(db.where, line)
    try:
        rows.read_beats(db.each("beats"), db.where)
    except CorruptData as error:
        yield Finding(db.where, error.facts["what"])
    runs = set()
    for row in db.all("runs_of_all_owners", session_id=None, run_id=None, limit=NO_LIMIT):
        runs.add(row[:3])
        try:
            rows.read_run(row, db.where)
        except CorruptData as error:
            yield Finding(_place(row[0], row[1]), error.facts["what"])
    yield from _step_findings(db, runs)
    yield from _entry_findings(db)
    yield from _lease_findings(db)
    found = db.all("heads_of_all_owners", session_id=None, least=0, limit=NO_LIMIT)
    heads = {(row[0], row[1]): row for row in found}
    for owner, session_id in db.all("sessions_with_rows_of_all_owners"):
        if (owner, session_id) not in heads:
            yield Finding(_place(owner, session_id), "its head is missing")
    for (owner, session_id), row in heads.items():
        try:
            head = rows.read_head(row, db.where)
        except CorruptData as error:
            yield Finding(_place(owner, session_id), error.facts["what"])
            continue
        yield from _session_findings(db, head)


def _step_findings(db: Statements, runs: Container[tuple[object, ...]]) -> Iterator[Finding]:
    """What is wrong with the steps of the runs, each of which is one of these."""
    for row in db.all("steps_of_all_owners"):
        place = _place(row[0], row[1])
        if row[:3] not in runs:
            yield Finding(place, f"the record of run {row[2]!r} is missing, of which there are steps")
        try:
            step_rows.read_step(row, db.where)
            found = db.one("find_step_result", owner=row[0], session_id=row[1], run_id=row[2], number=row[3])
            if found is None or found[0] is not None:
                step_rows.read_result(found and found[0], row[16], db.where, f"step {row[3]} of run {row[2]!r}")
        except CorruptData as error:
            yield Finding(place, error.facts["what"])


def _entry_findings(db: Statements) -> Iterator[Finding]:
    """What is wrong with the entries of the step cache, which all table prefixes share."""
    wanted = {"step": None, "workflow": None, "session_id": None, "table_name": None}
    for row in db.all("entries_of_all_owners", **wanted, limit=NO_LIMIT):
        try:
            step_rows.read_entry(row, db.where)
            found = db.found("find_entry", row[:4])
            result = None if found is None else found[-1]
            step_rows.read_result(result, row[17], db.where, f"an entry of the step cache for step {row[7]!r}")
        except CorruptData as error:
            yield Finding(_place(row[0], row[2]) if row[2] else db.where, error.facts["what"])


def _lease_findings(db: Statements) -> Iterator[Finding]:
    for owner, session_id, *columns in db.all("leases_of_all_owners"):
        try:
            rows.read_queue([columns], owner, session_id, db.where)
        except CorruptData as error:
            yield Finding(_place(owner, session_id), error.facts["what"])


def _session_findings(db: Statements, head: rows.Head) -> Iterator[Finding]:
    info = head.info
    key = {"owner": info.owner, "session_id": info.session_id}
    place = _place(info.owner, info.session_id)
    snapshots = [row[0] for row in db.all("snapshot_versions", **key)]
    if not {head.forgotten, info.snapshot_version} <= {0, *snapshots}:
        yield Finding(place, "a snapshot that its head names is missing")
    yield from _value_findings(db, info, snapshots)
    yield from _change_findings(db, head)


def _change_findings(db: Statements, head: rows.Head) -> Iterator[Finding]:
    """What is wrong with the changes. A gap is one finding, however wide: a wrong head can claim any version."""
    info = head.info
    key = {"owner": info.owner, "session_id": info.session_id}
    place = _place(info.owner, info.session_id)
    after = head.forgotten
    while after < info.version:
        found = db.one("find_patches", **key, after=after, upto=info.version, limit=1)
        following = found[0] if found else info.version + 1
        if following > after + 1:
            missing = f"change {after + 1}" if following == after + 2 else f"changes {after + 1} to {following - 1}"
            yield Finding(place, f"{missing} of session {info.session_id!r}")
        if found:
            try:
                rows.read_changes([found], info, following - 1, db.where)
            except CorruptData as error:
                yield Finding(place, error.facts["what"])
        after = following


def _value_findings(db: Statements, info: SessionInfo, snapshots: Sequence[int]) -> Iterator[Finding]:
    """What is wrong with the listings of all snapshots, and with the values that they refer to."""
    key = {"owner": info.owner, "session_id": info.session_id}
    place = _place(info.owner, info.session_id)
    listed: dict[tuple[int, bytes], Entry] = {}
    are_listed = True
    for version in snapshots:
        try:
            entries = reading.listing_at(db, info, version).values()
        except CorruptData as error:
            are_listed = False  # which values only this one has is not known
            yield Finding(place, error.facts["what"])
        else:
            listed.update({rows.value_key(entry): entry for entry in entries})
    for (version, name), entry in listed.items():
        try:
            found = db.one("find_value", **key, version=version, name=name)
            rows.read_data(found and found[0], entry, info, db.where)
        except CorruptData as error:
            yield Finding(place, error.facts["what"])
    stored = db.all("value_keys", **key, after=0, before=NO_LIMIT) if are_listed else []
    for row in stored:
        if row not in listed:
            yield Finding(place, f"a value of version {row[0]} that no snapshot has")


def _place(owner: object, session_id: object) -> str:
    return f"session {session_id!r} of owner {owner!r}"
