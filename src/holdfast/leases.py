"""Having a session to oneself: for a whole run, or for the block of a transaction.

Rules that must stay true:
- a lease is a row that is renewed while it is held, never an open transaction of the database;
- who waits can be cancelled at any moment, and then leaves its place in the queue;
- what is committed under a lease carries it, so that a holder who was suspended for too long commits nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from holdfast import clock
from holdfast.drivers import aperform, perform
from holdfast.effects import Flow, Pause, Store
from holdfast.errors import InvalidInput, LeaseLost, SessionBusy, UnstorableValue
from holdfast.heartbeat import heartbeat
from holdfast.records import Claim
from holdfast.session import Session
from holdfast.standing import Problems
from holdfast.state import SessionState
from holdfast.storage.base import LEASE_SECONDS
from holdfast.threads import process_number

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.1
"""Seconds between two looks at the queue: so many for each who is ahead, and at most."""


class Lease:
    """A place in the queue for a session, or the session itself."""

    def __init__(self, session: Session, *, waits: bool = True) -> None:
        self.lease_id = clock.new_id()
        self.storage = session.storage
        self.session_id = session.session_id
        self.claimed_at = clock.monotonic()
        self.is_held = False
        self.is_renewed = False
        self.waits = waits
        self._session = session
        self._is_exclusive = False
        self._is_given_up = False
        # The heartbeat renews it on another thread, and must not take a place again that was given up.
        self._lock = threading.Lock()

    def claim(self, is_exclusive: bool | None = None) -> int:
        """Ask for the lease, or renew it, and return how many are ahead; at 0 it is held.

        Raises:
            LeaseLost: it was held, and was given to somebody else.
        """
        with self._lock:
            if self._is_given_up:
                return 0
            if is_exclusive is not None:
                self._is_exclusive = is_exclusive
            session = self._session
            claim = Claim(
                session.owner,
                session.session_id,
                self.lease_id,
                LEASE_SECONDS,
                is_exclusive=self._is_exclusive,
                waits=self.waits,
                is_held=self.is_held,
            )
            self.claimed_at = clock.monotonic()
            ahead = self.storage.claim_lease(claim)
            self.is_held = ahead == 0
            # Who waits renews its place by asking for it; one that does not ask any more must not come to hold it.
            if self.is_held and not self.is_renewed:
                self.is_renewed = True
                heartbeat().hold(self)
            return ahead

    def release(self) -> None:
        """Give it up, or the place in the queue."""
        if not self._is_given_up:
            self.forget()
            self.storage.release_lease(self._session.owner, self._session.session_id, self.lease_id)

    def forget(self) -> None:
        """Renew it no more: it was given up together with a commit."""
        heartbeat().let_go(self)
        with self._lock:
            self._is_given_up, self.is_held = True, False


def acquiring(
    lease: Lease, *, is_exclusive: bool, timeout: float | None, waiting: Callable[[int], Flow] | None = None
) -> Flow:
    """Wait for a lease, as effects for a driver to perform.

    Args:
        timeout: seconds after which to give up; None waits for as long as it takes.
        waiting: what to do when it turns out that others are ahead.

    Raises:
        SessionBusy: others were ahead for all that time.
    """
    began = clock.monotonic()
    try:
        ahead = yield Store(partial(lease.claim, is_exclusive))
        if ahead and waiting is not None:
            yield from waiting(ahead)
        while ahead:
            _require_time(lease, began, timeout)
            yield Pause(min(FIRST_PAUSE * ahead, LONGEST_PAUSE))
            ahead = yield Store(lease.claim)
    except GeneratorExit:
        lease.release()
        raise
    except BaseException:
        yield Store(lease.release)
        raise


def _require_time(lease: Lease, began: float, timeout: float | None) -> None:
    if timeout is not None and clock.monotonic() - began >= timeout:
        raise SessionBusy(session_id=lease.session_id, holder="others", seconds=timeout)


_inside: ContextVar[tuple[Transaction, ...]] = ContextVar("holdfast_transactions", default=())
"""The transactions that the code is in. A task keeps what its maker was in, and another thread may end one, so that
each says itself whether it is still open."""


class Transaction:
    """The block of `with self.transaction() as state:`; `async with` waits without blocking the event loop.

    Args:
        session: the session to read and write.
        run_lease: the lease that the run holds the session by, if it does.
        save: commits what is pending outside of the block, with the record of the run that is going on.
    """

    def __init__(self, session: Session, run_lease: Lease | None, save: Callable[[bool], Problems]) -> None:
        self._session = session
        self._run_lease = run_lease
        self._lease = run_lease or Lease(session)
        self._save = save
        self._is_open = False
        self._process = process_number()

    def __enter__(self) -> SessionState:
        perform(self._entering())
        self._open()
        return self._session.state

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._is_open = False
        perform(self._leaving(error))

    async def __aenter__(self) -> SessionState:
        await aperform(self._entering())
        self._open()
        return self._session.state

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._is_open = False
        await aperform(self._leaving(error))

    def _open(self) -> None:
        self._is_open = True
        _inside.set((*(outer for outer in _inside.get() if outer._is_open), self))

    def _entering(self) -> Flow:
        session = self._session
        if self._is_open or any(outer._is_open and outer._session is session for outer in _inside.get()):
            raise InvalidInput("A transaction of this session is open already here; one transaction holds no other.")
        self._lease = self._run_lease or Lease(session)  # each use has a place of its own
        timeout = session.storage.lock_timeout
        deadline = clock.monotonic() + timeout
        while not session.take_for_transaction():  # another thread of this object has it
            if clock.monotonic() >= deadline:
                raise SessionBusy(session_id=session.session_id, holder="another thread", seconds=timeout)
            yield Pause(FIRST_PAUSE)
        try:
            yield from acquiring(self._lease, is_exclusive=True, timeout=max(deadline - clock.monotonic(), 0.0))
            yield Store(self._begin)
        except GeneratorExit:
            self._give_up()
            raise
        except BaseException:
            yield Store(self._give_up)
            raise

    def _begin(self) -> None:
        """Commit what is pending, and start from what is stored; from then on, nobody else changes it."""
        session = self._session
        session.lease_id = self._lease.lease_id
        problems = self._save(False)
        if problems:
            raise UnstorableValue(problems, "The transaction was not begun; all other top-level keys were saved.")
        session.refresh()  # keeps what another thread has changed since that commit
        session.is_exclusive = True

    def _leaving(self, error: BaseException | None) -> Flow:
        yield Store(partial(self._end, error))

    def _end(self, error: BaseException | None) -> None:
        session = self._session
        if process_number() != self._process:
            if error is None:
                raise InvalidInput(
                    "A forked child cannot end the transaction of its parent; nothing of it was committed."
                )
            return
        try:
            if error is not None:
                session.restore()
            else:
                self._commit()
        finally:
            self._give_up()

    def _commit(self) -> None:
        """Commit the block as a whole, or nothing of it."""
        try:
            problems = self._session.collect().problems or self._save(self._run_lease is None)
        except (LeaseLost, SessionBusy):
            self._session.restore()
            raise
        if problems:
            self._session.restore()
            raise UnstorableValue(problems, "Nothing of this transaction was committed, and the state was restored.")

    def _give_up(self) -> None:
        session, run_lease = self._session, self._run_lease
        was_released = session.was_released
        session.leave_transaction(run_lease.lease_id if run_lease is not None else "")
        if run_lease is not None and run_lease.is_held:
            run_lease.claim(is_exclusive=False)
        elif was_released:
            self._lease.forget()
        elif run_lease is None:
            self._lease.release()
