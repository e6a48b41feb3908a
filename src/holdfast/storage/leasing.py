"""Who holds the lease of a session and who waits for it: one queue for each session, the first in it is the holder.

Rules that must stay true:
- whoever comes last stands last; a place is kept until it is given up, or not claimed again in time;
- a place that was lost is lost: a holder that is claimed for anew has to find out, whatever time it is by its clock;
- an expired place goes only when somebody else comes, so that a holder who was merely slow keeps it if nobody did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.errors import LeaseLost
from holdfast.records import Claim

RENEW_AFTER = 1 / 3
"""The part of its time after which a place is renewed."""


class Queued(NamedTuple):
    """One place in the queue of a session."""

    ticket: int
    """Higher for those who came later."""
    lease_id: str
    is_exclusive: bool
    expires_at: float


Queue = Sequence[Queued]


def place_of(queue: Queue, lease_id: str) -> int | None:
    """How many stand before a holder or waiter; None if it has no place.

    >>> place_of([Queued(7, "a", False, 10.0), Queued(9, "b", False, 10.0)], "b")
    1
    """
    return next((place for place, queued in enumerate(queue) if queued.lease_id == lease_id), None)


def claimed(queue: Queue, claim: Claim, now: float) -> tuple[list[Queued], int]:
    """The queue after a claim, and how many stand before the claimer.

    Raises:
        LeaseLost: the claimer held the lease, and has no place any more.

    >>> queue, ahead = claimed([Queued(7, "a", False, 10.0)], Claim("", "s", "b", seconds=10.0), now=5.0)
    >>> ahead, queue[-1]
    (1, Queued(ticket=8, lease_id='b', is_exclusive=False, expires_at=15.0))
    >>> claimed(queue, Claim("", "s", "b", seconds=10.0), now=11.0)
    ([Queued(ticket=8, lease_id='b', is_exclusive=False, expires_at=21.0)], 0)
    """
    place = place_of(queue, claim.lease_id)
    if place is None and claim.is_held:
        raise LeaseLost(session_id=claim.session_id)
    kept = [queued for queued in queue if queued.expires_at > now or queued.lease_id == claim.lease_id]
    if place is not None:
        ticket = queue[place].ticket
    elif kept and not claim.waits:
        return kept, len(kept)
    else:
        ticket = max((queued.ticket for queued in queue), default=0) + 1
    own = Queued(ticket, claim.lease_id, claim.is_exclusive, now + claim.seconds)
    others = [queued for queued in kept if queued.lease_id != claim.lease_id]
    after = sorted([*others, own])
    return after, after.index(own)


def standing(queue: Queue, claim: Claim, now: float) -> int | None:
    """How many stand before the claimer, if that is all that a claim has to find out; None if it changes anything."""
    place = place_of(queue, claim.lease_id)
    if place is None or (place == 0) is not claim.is_held or queue[place].is_exclusive is not claim.is_exclusive:
        return None
    is_due = queue[place].expires_at - now <= claim.seconds * (1 - RENEW_AFTER)
    if is_due or any(queued.expires_at <= now for queued in queue[:place]):
        return None
    return place


def require_first(queue: Queue, lease_id: str, session_id: str) -> None:
    """Make sure that a lease is held.

    Raises:
        LeaseLost: it is not.
    """
    if place_of(queue, lease_id) != 0:
        raise LeaseLost(session_id=session_id)


def is_live(queue: Queue, lease_id: str, now: float) -> bool:
    """Whether a holder has been heard of in time."""
    place = place_of(queue, lease_id)
    return place is not None and queue[place].expires_at > now
