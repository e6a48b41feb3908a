"""Values that are more than JSON."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    name: str
    at: dt.datetime


_NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 678901)

VALUES: dict[str, Any] = {
    "datetime": _NOON,
    "datetime with a zone": _NOON.replace(tzinfo=dt.UTC),
    "date": _NOON.date(),
    "Decimal": decimal.Decimal("1.10"),
    "UUID": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"\x00\xffabc",
    "set": {1, 2, 3},
    "tuple": (1, "a"),
    "int keys": {1: "a", 2: "b"},
    "dataclass": Point(1, 2),
    "pydantic": Model(name="n", at=_NOON),
}
TYPES = (Point, Model)
"""Of one's own."""
