"""What tells the calls of one step from each other, where several are listed: `fetch(url=3f2a91…)`.

Rules that must stay true:
- only what differs between the calls that are listed is shown;
- a value is shown only if it is an argument of the run, or an item of one, for these are recorded and shown with it;
  of all others there are digests only, and the beginning of those is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from holdfast import codec
from holdfast.canonical import digest_or_none
from holdfast.cli.output import brief
from holdfast.display import display
from holdfast.errors import HoldfastError
from holdfast.records import INPUT_LABELS, Entry, Run, StepRecord
from holdfast.step_keys import shortened

DIGITS: Final = 6
"""Of a digest that are shown."""

MOST_SHOWN: Final = 3
"""Arguments of one call."""

MAX_WIDTH: Final = 40
"""Characters of a value."""


def names(calls: Iterable[StepRecord | Entry], run: Run | None = None) -> list[str]:
    """The name of the step of each call, with what tells it from others of that name in the list.

    Args:
        calls: those that are listed together.
        run: whose steps they are, if they are of one run.
    """
    told = [(_name(call), parts_of(call)) for call in calls]
    by_name: dict[str, list[dict[str, str]]] = {}
    for name, parts in told:
        by_name.setdefault(name, []).append(parts)
    differing = {name: _differing(parts) for name, parts in by_name.items()}
    values = dict(_values(run)) if run is not None and any(differing.values()) else {}
    return [name + _shown(parts, differing[name], values) for name, parts in told]


def _name(call: StepRecord | Entry) -> str:
    return call.step if isinstance(call, Entry) else call.name


def parts_of(call: StepRecord | Entry) -> dict[str, str]:
    """What the key of a call is made of: digests by what they are of."""
    return msgspec.json.decode(call.parts, type=dict[str, str])


def _differing(calls: list[dict[str, str]]) -> list[str]:
    """The labels of what the calls of one step were given that is not the same for all."""
    labels = dict.fromkeys(label for parts in calls for label in parts if label.startswith(INPUT_LABELS))
    return [label for label in labels if len({parts.get(label) for parts in calls}) > 1]


def _shown(parts: Mapping[str, str], labels: list[str], values: Mapping[str, str]) -> str:
    """What one call was given.

    >>> _shown({"argument url": "3f2a91b7", "variable `n`": "9c01d2e3"}, ["argument url", "variable `n`"], {})
    '(url=3f2a91…, n=9c01d2…)'
    >>> _shown({"argument url": "3f2a91b7"}, ["argument url"], {"3f2a91b7": '"a.org"'})
    '(url="a.org")'
    """
    shown = [
        f"{label.rpartition(' ')[2].strip('`')}={values.get(told, told[:DIGITS] + '…')}"
        for label in labels
        if (told := parts.get(label)) is not None
    ]
    more = ["…"] if len(shown) > MOST_SHOWN else []
    return f"({', '.join([*shown[:MOST_SHOWN], *more])})" if shown else ""


def _values(run: Run) -> Iterator[tuple[str, str]]:
    """What a run was given, and the items of that, by their digests."""
    try:
        given = msgspec.json.decode(run.input or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return  # whoever shows the input says what is wrong with it
    for data in given.values():
        try:
            value = codec.decode(bytes(data))
        except HoldfastError:
            continue  # of a class that only the workflow knows
        for each in (value, *(value if isinstance(value, list | tuple) else ())):
            if (told := digest_or_none(each)) is not None:
                yield shortened(told), _text(each)


def _text(value: Any) -> str:
    return brief(display(codec.encode_or_mark(value)), MAX_WIDTH)
