"""How the commands print: text for people, JSON for programs.

Rules that must stay true:
- stored text never reaches a terminal raw: characters that are not printable are shown as escapes, so that no
  stored value can move the cursor, colour the screen or reorder what is shown;
- colours only on a terminal (click strips them elsewhere); `--json` prints nothing but JSON on stdout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from holdfast.records import Savings, Usage

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def json_option(function: AnyCommand) -> AnyCommand:
    """Add `--json` to a command, as its argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def print_json(value: Any) -> None:
    """Print one value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_exact(value: Any) -> None:
    """Print one value as one line of JSON; what is `encoded` in it is printed as it is stored."""
    import msgspec

    click.echo(msgspec.json.encode(value).decode())


def encoded(data: bytes | None) -> Any:
    """Stored JSON text as a value for `print_exact`, to the byte.

    >>> print_exact({"state": encoded(b'{"n":1e22}'), "output": encoded(None)})
    {"state":{"n":1e22},"output":null}
    """
    import msgspec

    return None if data is None else msgspec.Raw(data)


def cut(shown: int, total: int | None = None) -> None:
    """Say on stderr that a list was cut by `--limit`; None when it is not known how long it is."""
    note(f"{shown} {'shown, there are more' if total is None else f'of {total} shown'}; --limit N")


def note(text: str) -> None:
    """Say something on stderr that is not part of the result."""
    click.secho(text, err=True, dim=True)


def printable(text: str, *, lines: bool = False) -> str:
    """The text with every character that is not printable as an escape; newlines and tabs stay if `lines`.

    >>> printable("red \\x1b[31m, right-to-left \\u202e")
    'red \\\\x1b[31m, right-to-left \\\\u202e'
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in kept else ascii(character)[1:-1] for character in text
    )


def moment(seconds: float | None) -> str:
    """A time in UTC to the second, `-` for none.

    >>> moment(0)
    '1970-01-01 00:00:00'
    """
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def duration(seconds: float | None) -> str:
    """A length of time, `-` for none.

    >>> duration(0.25), duration(125)
    ('0.25 s', '2 min 5 s')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def cost(dollars: float | None) -> str:
    """An amount of US dollars; None is a price that is not known.

    >>> cost(0.0123), cost(0), cost(None)
    ('$0.0123', '$0', 'unknown')
    """
    return "unknown" if dollars is None else f"${dollars:.4g}"


def size(number: int) -> str:
    """A number of bytes.

    >>> size(999), size(1_234_567), size(3_000_000_000)
    ('999 B', '1.23 MB', '3 GB')
    """
    unit, amount = "B", float(number)
    for bigger in ("kB", "MB", "GB", "TB"):
        if amount < 1_000:
            break
        unit, amount = bigger, amount / 1_000
    return f"{amount:.3g} {unit}" if amount < 100 else f"{amount:.0f} {unit}"


def tokens(usage: Usage) -> str:
    """How many tokens were used, in and out.

    >>> from holdfast.records import Usage
    >>> tokens(Usage(1, 1_000, 234))
    '1,234'
    """
    return f"{usage.input_tokens + usage.output_tokens:,}"


def spending(usage: Usage, savings: Savings) -> str:
    """What was paid for, and what was not because it was found.

    >>> from holdfast.records import Savings, Usage
    >>> spending(Usage(cost=0.12), Savings(3, 41.0, Usage(cost=0.84)))
    'spent $0.12 · saved $0.84 and 41 s'
    >>> spending(Usage(cost=None), Savings())
    'spent unknown'
    """
    spent = f"spent {cost(usage.cost)}"
    return f"{spent} · saved {cost(savings.usage.cost)} and {duration(savings.seconds)}" if savings.hits else spent


def usage_json(usage: Usage) -> dict[str, Any]:
    """What was used, as JSON; a cost that is not known is null."""
    return {
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": usage.cost,
    }


def savings_json(savings: Savings) -> dict[str, Any]:
    """What was saved, as JSON."""
    return {"hits": savings.hits, "seconds": savings.seconds, "usage": usage_json(savings.usage)}


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns under titles."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *shown, strict=True)]
    click.secho(aligned(titles, widths), bold=True)
    for row in shown:
        click.echo(aligned(row, widths))


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One row of a table.

    >>> aligned(["a", "b"], [3, 3])
    'a    b'
    """
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def print_facts(facts: dict[str, str]) -> None:
    """Print named facts, one on each line."""
    width = max(map(len, facts)) + 1
    for name, fact in facts.items():
        click.echo(click.style(f"{name}:".ljust(width), bold=True) + " " + printable(fact))


def readable(value: Any, indent: int = 0) -> Iterator[str]:
    """A value out of JSON as lines: short ones on one line, long texts and containers below their name.

    >>> print(*readable({"posts": [{"topic": "tides", "words": 420}], "draft": None}), sep="\\n")
    posts:
      - topic: tides
        words: 420
    draft: null
    """
    pad = "  " * indent
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _entry(f"{pad}{printable(str(name))}:", member, indent)
    elif isinstance(value, list) and value:
        for member in value:
            first, *rest = readable(member, indent + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from rest
    elif isinstance(value, str) and "\n" in value:
        for line in value.splitlines():
            yield pad + printable(line)
    else:
        yield pad + (printable(value) if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


def _entry(label: str, member: Any, indent: int) -> Iterator[str]:
    if (isinstance(member, dict | list) and member) or (isinstance(member, str) and "\n" in member):
        yield label
        yield from readable(member, indent + 1)
    else:
        yield f"{label} {next(readable(member))}"


def brief(value: Any, width: int = 100) -> str:
    """A value out of JSON on one line, cut to a width in characters.

    >>> brief({"topic": "tides", "words": 420}, 20)
    '{"topic": "tides", …'
    """
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= width else text[: width - 1] + "…"
