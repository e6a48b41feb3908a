"""Verifies everything that one table prefix of a SQL database holds.

Rules that must stay true:
- every row is read and verified, the data of every kept value included;
- how much memory that takes depends on the largest session, not on how many sessions and runs there are;
- damage to one session does not hide damage to another: each is reported, none is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from holdfast.errors import CorruptData
from holdfast.records import Finding, SessionInfo
from holdfast.storage import reading, rows, step_rows
from holdfast.storage.listing import Entry
from holdfast.storage.queries import NO_LIMIT, Statements
from holdfast.storage.remembered import Remembered

MOST_IN_PART = 1000
"""Changes of a session that are read at a time."""

SIZE_OF_PART = 1_000_000
"""Bytes that they have together, unless it is only one."""


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
    for row in db.in_parts("each_run_of_all_owners"):
        try:
            rows.read_run(row, db.where)
        except CorruptData as error:
            yield Finding(_place(row[0], row[1]), error.facts["what"])
    yield from _step_findings(db)
    yield from _entry_findings(db)
    yield from _lease_findings(db)
    for owner, session_id in db.all("sessions_without_head_of_all_owners"):
        yield Finding(_place(owner, session_id), "its head is missing")
    for row in db.in_parts("each_head_of_all_owners"):
        try:
            head = rows.read_head(row, db.where)
        except CorruptData as error:
            yield Finding(_place(row[0], row[1]), error.facts["what"])
            continue
        yield from _session_findings(db, head)


def _step_findings(db: Statements) -> Iterator[Finding]:
    """What is wrong with the steps of runs."""
    for owner, session_id, run_id in db.all("steps_without_run_of_all_owners"):
        yield Finding(_place(owner, session_id), f"the record of run {run_id!r} is missing, of which there are steps")
    for row in db.in_parts("steps_of_all_owners"):
        place = _place(row[0], row[1])
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
        upto = _end_of_part(db, head, after)
        found = db.all("find_patches", **key, after=after, upto=upto, limit=MOST_IN_PART)
        for row in found:
            yield from _gap(info, after, row[0])
            after = row[0]
            try:
                rows.read_changes([row], info, after - 1, db.where)
            except CorruptData as error:
                yield Finding(place, error.facts["what"])
        if not found:
            yield from _gap(info, after, info.version + 1)
            return


def _gap(info: SessionInfo, after: int, following: int) -> Iterator[Finding]:
    """That changes are missing between two versions, if any are."""
    if following > after + 1:
        missing = f"change {after + 1}" if following == after + 2 else f"changes {after + 1} to {following - 1}"
        yield Finding(_place(info.owner, info.session_id), f"{missing} of session {info.session_id!r}")


def _end_of_part(db: Statements, head: rows.Head, after: int) -> int:
    """Up to which version the changes after one may be read at once: one of them, or as many as are small together."""
    info = head.info
    if after + 1 == info.version:
        return info.version
    key = {"owner": info.owner, "session_id": info.session_id}
    end, total = after, 0
    for version, size in db.all("patch_sizes", **key, after=after, upto=info.version, limit=MOST_IN_PART):
        total += size
        if total > SIZE_OF_PART and end > after:
            break
        end = version
    return info.version if end == after else end


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
