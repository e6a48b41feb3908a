"""Whose changes of the session state are whose, while a step hands out a stream and its reader takes turns with it.

Rules that must stay true:
- what the reader changed is never taken for the step's: resumed, the reader changes it again;
- looking costs a part of the time at most; where it would cost more, it is given up, and nothing is claimed.
"""

from __future__ import annotations

import time
from typing import Final

from holdfast.frames import AtWork, Frame
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
        at_work: the steps of its run that go on.
        frame: the step.
    """

    mark: StoredDocument
    """The state when the step began."""

    def __init__(self, session: Session, at_work: AtWork, frame: Frame) -> None:
        self.by_step = False
        """Whether the step has changed something."""
        self.by_reader = False
        """Whether its reader has."""
        self.is_known = True
        """Whether both of these are known."""
        self.have_begun = False
        """Whether the reader has had a turn."""
        self._session = session
        self._at_work = at_work
        self._frame = frame
        self._last: StoredDocument
        self._began = time.perf_counter()
        self._spent = 0.0

    def begin(self) -> None:
        """The step begins."""
        self._at_work.begin(self._frame)
        self.mark = self._last = self._session.mark()

    def end(self) -> None:
        """The step has ended, and what it changed is known."""
        self._at_work.pause(self._frame)

    def step_pauses(self) -> None:
        """The step has handed something out: its reader's turn."""
        self.by_step = self._has_changed() or self.by_step
        self._at_work.pause(self._frame)

    def step_goes_on(self) -> None:
        """The reader wants the next piece."""
        self._at_work.begin(self._frame)
        self.have_begun = True
        self.by_reader = self._has_changed() or self.by_reader

    def step_has_ended(self) -> None:
        """Its last turn is over."""
        self.by_step = self._has_changed() or self.by_step

    def _has_changed(self) -> bool:
        began = time.perf_counter()
        self.is_known = self.is_known and self._spent <= LEAST + SHARE * (began - self._began)
        if not self.is_known:
            return False
        self._last, is_changed = self._session.changed_since(self._last)
        self._spent += time.perf_counter() - began
        return is_changed
