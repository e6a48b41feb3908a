"""All cases, in the order of the table."""

from __future__ import annotations

from faults.case import Case
from faults.cases import (
    contention,
    damage,
    deaths,
    disks,
    interrupts,
    power,
    replies,
    schedules,
    servers,
    steps,
    values,
)

CASES: tuple[Case, ...] = (
    deaths.OneWriter(),
    deaths.FourWriters(),
    steps.Steps(),
    power.Power(),
    servers.Restarts(),
    contention.ByHand(),
    contention.Runs(),
    contention.Transactions(),
    schedules.ByHand(),
    schedules.ByHandInSQLite(),
    schedules.Runs(),
    replies.LostReplies(),
    servers.CutLines(),
    values.Machine(),
    values.Programs(),
    values.Catalogue(),
    interrupts.Interrupts(),
    interrupts.Cancels(),
    damage.FlippedBits(),
    disks.SizeLimit(),
    disks.SmallDisk(),
)
