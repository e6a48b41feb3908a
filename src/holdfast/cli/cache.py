"""`holdfast cache`: the results of steps that are kept for later runs.

Rules that must stay true:
- the cache belongs to the database, and not to a table prefix; only what is kept for a session does;
- everything goes through the step cache of a storage, never through SQL;
- what deletes results that are still good asks first, or needs `--yes` where nobody can be asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from holdfast import clock
from holdfast.cli.asking import confirm
from holdfast.cli.calls import names, parts_of
from holdfast.cli.database import AnyCommand, Database, LocatedEntry, LocatedRun, db_option, opened
from holdfast.cli.exit_status import EntryNotFound, StepNotFound
from holdfast.cli.output import (
    cost,
    cut,
    duration,
    encoded,
    json_option,
    moment,
    note,
    print_exact,
    print_facts,
    print_json,
    print_table,
    printable,
    readable,
    size,
    tokens,
    usage_json,
)
from holdfast.cli.retention import age, max_size
from holdfast.errors import InvalidInput
from holdfast.explaining import ago, in_order, reasons_of_run, recorded_parts
from holdfast.recorded import displayed
from holdfast.records import Entry

UNLIMITED: Final = 2**62
"""Bytes that are more than there can be."""

NAMES: Final = 20
"""Names of steps that an error lists."""

SHOWN: Final = 16
"""Digits of a key that are listed; its beginning is enough to name it."""


@click.group("cache")
def command() -> None:
    """List, show, explain, thin and clear the results of steps that are kept for later runs."""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what narrows a command to some entries, as its arguments `where` and `which`."""

    @functools.wraps(function)
    def called(db: str | None, user_id: str | None, step: str | None, workflow: str | None, **given: Any) -> Any:
        which = {"step": step, "workflow": workflow, "session_id": given.pop("session_id")}
        return function(where={"db": db, "user_id": user_id}, which=which, **given)

    for option in (
        _user_option(),
        click.option("--session-id", metavar="ID", help="Only what is kept for this session."),
        click.option("--workflow", metavar="NAME", help="Only what runs of this workflow computed."),
        click.option("--step", metavar="NAME", help="Only results of this step."),
        db_option(),
    ):
        called = option(called)
    return called


def _user_option() -> Callable[[AnyCommand], AnyCommand]:
    return click.option("--user-id", metavar="ID", help='Only this user\'s; "" for those of no user, and shared ones.')


def described(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, without its result."""
    return {
        "key": entry.key.hex(),
        "step": entry.step,
        "parts": parts_of(entry),
        "scope": entry.scope,
        "workflow": entry.workflow,
        "user_id": entry.place.owner or None,
        "shared": entry.is_shared,
        "session_id": entry.place.session_id or None,
        "run_id": entry.run_id or None,
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "size": entry.size,
        "hits": entry.hits,
        "hit_at": entry.hit_at,
        "seconds": entry.seconds,
        "usage": usage_json(entry.usage),
    }


@command.command("list")
@_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_entries(*, where: dict[str, Any], which: dict[str, Any], limit: int, as_json: bool) -> None:
    """List the results that are kept, the newest first."""
    with opened(**where) as database:
        known = database.entries(**which)
    if len(known) > limit:
        cut(limit, len(known))
    found = [located.entry for located in known[:limit]]
    if as_json:
        print_json([described(entry) for entry in found])
    elif not found:
        note("no results of steps")
    else:
        titles = ["KEY", "STEP", "SCOPE", "WORKFLOW", "USER", "COMPUTED", "EXPIRES", "SIZE", "HITS", "TOOK", "COST"]
        now = clock.now()
        print_table(titles, [_row(entry, name, now) for entry, name in zip(found, names(found), strict=True)])
        note(_summary([located.entry for located in known]))


def _row(entry: Entry, name: str, now: float) -> list[str]:
    return [
        entry.key.hex()[:SHOWN],
        name,
        entry.scope + (" (shared)" if entry.is_shared else ""),
        entry.workflow,
        entry.place.owner or "-",
        ago(now - entry.created_at),
        _expiry(entry, now),
        size(entry.size),
        str(entry.hits),
        duration(entry.seconds),
        cost(entry.usage.cost),
    ]


def _expiry(entry: Entry, now: float) -> str:
    if entry.expires_at is None:
        return "never"
    if entry.expires_at <= now:
        return f"expired {ago(now - entry.expires_at)}"
    return "in " + ago(entry.expires_at - now).removesuffix(" ago")


def _summary(entries: Iterable[Entry]) -> str:
    found = list(entries)
    return f"{len(found)} result(s) of {size(sum(entry.size for entry in found))}"


@command.command()
@click.argument("key")
@db_option()
@_user_option()
@json_option
def show(key: str, db: str | None, user_id: str | None, as_json: bool) -> None:
    """Show one result: what it is, what its key is made of, and who computed it. The beginning of a key is enough."""
    with opened(db, user_id=user_id) as database:
        located = _one(database, key)
        entry = located.storage.step_cache.read(located.entry.place, located.entry.key)
    if entry is None or entry.result is None:  # it went just now
        raise EntryNotFound(key=key, where=database.where)
    if as_json:
        print_exact(described(entry) | {"result": encoded(entry.result)})
        return
    now = clock.now()
    print_facts(
        {
            "key": entry.key.hex(),
            "step": entry.step,
            "scope": entry.scope + (", shared by all users" if entry.is_shared else ""),
            "workflow": entry.workflow,
            "user": entry.place.owner or "-",
            "session": entry.place.session_id or "-",
            "computed": f"{moment(entry.created_at)} by run {entry.run_id or '-'}",
            "expires": _expiry(entry, now),
            "took": duration(entry.seconds),
            "used": f"{entry.usage.requests} requests, {tokens(entry.usage)} tokens, cost {cost(entry.usage.cost)}",
            "hits": f"{entry.hits}, the last one {moment(entry.hit_at)}" if entry.hits else "0",
            "size": size(entry.size),
        }
    )
    click.secho("parts:", bold=True)
    for line in readable(_parts(entry), indent=1):
        click.echo(line)
    _print_result(displayed(entry.result))


def _parts(entry: Entry) -> dict[str, str]:
    """What the key is made of: the arguments first."""
    told = recorded_parts(entry.parts, scope=entry.scope, session_id=entry.place.session_id)
    return {label: told[label] for label in in_order(told) if label not in ("scope", "session")}


def _print_result(given: dict[str, Any]) -> None:
    handed_out = "" if given["events"] is None else f", after {given['events']} event(s)"
    click.secho(f"result{handed_out}:", bold=True)
    for line in readable(given["value"], indent=1):
        click.echo(line)


def _one(database: Database, prefix: str) -> LocatedEntry:
    """The only entry whose key begins so.

    Raises:
        EntryNotFound: there is none.
        InvalidInput: there are several.
    """
    found = [each for each in database.entries() if each.entry.key.hex().startswith(prefix.lower())] if prefix else []
    if not found:
        raise EntryNotFound(key=prefix, where=database.where)
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} results have keys that begin with {prefix!r}. Give more of it, or --user-id.")
    return found[0]


@command.command()
@click.argument("run_id")
@click.argument("step", required=False)
@db_option()
@_user_option()
@json_option
def why(run_id: str, step: str | None, db: str | None, user_id: str | None, as_json: bool) -> None:
    """Say why a run computed its steps, or one STEP: what differs from the nearest result that there was."""
    with opened(db, user_id=user_id) as database:
        located = database.run(run_id)
        run = located.run
        if step is not None:
            _require_step(located, step)
        found = reasons_of_run(located.storage, run)
    found = [(record, reason) for record, reason in found if step in (None, record.name)]
    if as_json:
        print_json(
            [
                {
                    "number": record.number,
                    "step": record.name,
                    "scope": record.scope,
                    "key": record.key.hex(),
                    "reason": reason.text,
                    "differing": list(reason.differing),
                    "nearest_run_id": reason.run_id or None,
                }
                for record, reason in found
            ]
        )
    elif not found:
        of = "" if step is None else f" named {printable(step)}"
        note(f"the run computed no step{of} that is kept for later runs")
    else:
        rows = [
            [str(record.number), name, record.scope, reason.text, reason.run_id or "-"]
            for (record, reason), name in zip(found, names([record for record, _ in found], run), strict=True)
        ]
        print_table(["STEP", "NAME", "SCOPE", "WHY", "NEAREST OF RUN"], rows)


def _require_step(located: LocatedRun, name: str) -> None:
    """Refuse the name of a step that the run does not have.

    Raises:
        StepNotFound: there is none.
    """
    run = located.run
    steps = located.storage.find_steps(run.owner, run.session_id, run.run_id, with_results=False)
    known = list(dict.fromkeys(step.name for step in steps))
    if name not in known:
        listed = ", ".join(map(printable, known[:NAMES])) + (", ..." if len(known) > NAMES else "")
        raise StepNotFound(run_id=run.run_id, step=name, known=listed or "none")


@command.command()
@db_option()
@click.option("--older-than", metavar="AGE", help="Also what was computed longer ago: 12h, 30d, 8w.")
@click.option("--max-size", "largest", metavar="SIZE", help="Also what was unused for longest, down to 100MB, say.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(*, db: str | None, older_than: str | None, largest: str | None, yes: bool, as_json: bool) -> None:
    """Delete results that have expired, and more if that is asked for."""
    oldest = None if older_than is None else clock.now() - age(older_than)
    limit = UNLIMITED if largest is None else max_size(largest)
    with opened(db, max_cache_size=limit) as database:
        before = database.entries()
        if oldest is not None or largest is not None:
            what = " and ".join(
                text for text in (older_than and f"older than {older_than}", largest and f"beyond {largest}") if text
            )
            confirm(f"Delete the results that have expired, and those {what}, of {_all(before)}?", yes)
        old = [located for located in before if oldest is not None and located.entry.created_at < oldest]
        _delete(old)
        for storage in database.storages[:1]:
            storage.step_cache.sweep()
        after = {_identity(located) for located in database.entries()}
    gone = [located.entry for located in before if _identity(located) not in after]
    _tell_deleted(gone, as_json)


@command.command()
@_options
@click.option("--all", "everything", is_flag=True, help="All that is kept in the database.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def clear(*, where: dict[str, Any], which: dict[str, Any], everything: bool, yes: bool, as_json: bool) -> None:
    """Delete results that are kept: those of a step, a workflow or a session, or all."""
    if everything == any(value is not None for value in which.values()):
        raise click.UsageError("Say what is to be deleted: --step, --workflow, --session-id, or else --all.")
    with opened(**where) as database:
        found = database.entries(**which)
        if found:
            confirm(f"Delete {_all(found)}?", yes)
            _delete(found)
    _tell_deleted([located.entry for located in found], as_json)


def _identity(located: LocatedEntry) -> tuple[Any, ...]:
    """Tells one computation of an entry from all others."""
    entry = located.entry
    return located.storage.table_name, entry.place, entry.key, entry.created_at


def _all(found: list[LocatedEntry]) -> str:
    return _summary(located.entry for located in found)


def _delete(found: list[LocatedEntry]) -> None:
    """Delete entries, each by a storage of its prefix."""
    by_table: dict[str, list[LocatedEntry]] = {}
    for located in found:
        by_table.setdefault(located.storage.table_name, []).append(located)
    for each in by_table.values():
        each[0].storage.step_cache.delete((located.entry.place, located.entry.key) for located in each)


def _tell_deleted(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        print_json({"deleted": len(entries), "size": sum(entry.size for entry in entries)})
    else:
        click.echo(f"deleted {_summary(entries)}")
