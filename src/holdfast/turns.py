"""Whose changes of the session state are whose, while a step hands out a stream and its reader takes turns with it.

Rules that must stay true:
- what the reader changed is never taken for the step's: resumed, the reader changes it again;
- looking costs a part of the time at most; where it would cost more, it is given up, and nothing is claimed.
"""

from __future__ import annotations

import time
from typing import Final

from holdfast.session import Session
from holdfast.stored import StoredDocument

LEAST: Final = 0.5
"""Seconds that looking may take in any case."""

SHARE: Final = 0.1
"""The part of the time of the stream that it may take beyond that."""


class Turns:
    """The turns of one step and of who reads its stream.

    Args:
        session: whose state both of them may change.
        mark: that state when the step began.
    """

    def __init__(self, session: Session, mark: StoredDocument) -> None:
        self.by_step = False
        """Whether the step has changed something."""
        self.by_reader = False
        """Whether its reader has."""
        self.is_known = True
        """Whether both of these are known."""
        self.have_begun = False
        """Whether the reader has had a turn."""
        self._session = session
        self._mark = mark
        self._began = time.perf_counter()
        self._spent = 0.0

    def step_has_had_its_turn(self) -> None:
        """The step has handed something out, or has come to its end."""
        self.by_step = self._has_changed() or self.by_step

    def reader_has_had_its_turn(self) -> None:
        """The reader wants the next piece."""
        self.have_begun = True
        self.by_reader = self._has_changed() or self.by_reader

    def _has_changed(self) -> bool:
        began = time.perf_counter()
        self.is_known = self.is_known and self._spent <= LEAST + SHARE * (began - self._began)
        if not self.is_known:
            return False
        self._mark, is_changed = self._session.changed_since(self._mark)
        self._spent += time.perf_counter() - began
        return is_changed
