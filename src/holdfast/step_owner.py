"""A workflow as far as its steps know it: they stand below it, and it has them only when it needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.declared import Types
    from holdfast.session import Session


class StepOwner:
    """Has steps as its methods; the base of all workflows."""

    name: str
    _session: Session
    _types: Types
