"""Texts of about 2 kB, no two alike, and always the same."""

from __future__ import annotations

import random
from functools import cache


def text(number: int) -> str:
    """The text of this number."""
    words = _words()
    start = (number * 7919) % (len(words) - 2100)
    return words[start : start + 1940]


@cache
def _words() -> str:
    chosen = random.Random(7)
    return " ".join(
        "".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(2, 9))) for _ in range(30_000)
    )
