"""How long runs wait when they arrive at random: a simulation, from how long a run was measured to be served.

A run needs first a core, to load and to encode, and then what commits: of SQLite the one writer of a database, of
PostgreSQL a core again, for its server is on the same machine and each connection commits on its own. Runs are served
in the order of arrival, which is that of the gate file of SQLite.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from heapq import heapreplace
from typing import NamedTuple

Stages = Sequence[float]
"""Seconds of one run at each station."""


class Waits(NamedTuple):
    """What runs took from their arrival on, in seconds, and how busy the busiest station was, of 1."""

    p50: float
    p99: float
    utilisation: float


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which this share of all values lies.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def utilisation(rate: float, measured: Sequence[Stages], servers: Sequence[int]) -> float:
    """The share of time in which the busiest station works; from 1 on runs arrive faster than they can be served.

    >>> utilisation(100, [(0.002, 0.005)], (2, 1))
    0.5
    """
    means = [sum(stage) / len(measured) for stage in zip(*measured, strict=True)]
    return max(rate * mean / count for mean, count in zip(means, servers, strict=True))


def simulated(
    rate: float, measured: Sequence[Stages], servers: Sequence[int], *, runs: int = 50_000, seed: int = 7
) -> Waits:
    """Let runs arrive at random (a Poisson process) and go through the stations one after the other.

    Args:
        rate: runs that arrive in a second, on average.
        measured: runs to choose from, each with its seconds at each station.
        servers: how many runs each station serves at the same time.
        runs: how many arrive.
        seed: the same gives the same.

    >>> alone = simulated(0.001, [(0.002, 0.005)], (2, 1), runs=100)
    >>> round(alone.p50, 6), round(alone.p99, 6)
    (0.007, 0.007)
    """
    chance = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(runs):
        now += chance.expovariate(rate)
        arrivals.append(now)
    chosen = chance.choices(measured, k=runs)
    ready = [(arrival, number) for number, arrival in enumerate(arrivals)]
    for station, count in enumerate(servers):
        ready = served(ready, [stages[station] for stages in chosen], count)
    took = [end - arrivals[number] for end, number in ready]
    return Waits(percentile(took, 0.5), percentile(took, 0.99), utilisation(rate, measured, servers))


def served(ready: Sequence[tuple[float, int]], seconds: Sequence[float], count: int) -> list[tuple[float, int]]:
    """When each run leaves a station, in the order of leaving.

    Args:
        ready: when each run comes, with its number, in the order of coming.
        seconds: of each run by its number.
        count: how many the station serves at the same time.

    >>> served([(0.0, 0), (0.5, 1)], [1.0, 1.0], 1)
    [(1.0, 0), (2.0, 1)]
    """
    free = [0.0] * count
    left = []
    for comes, number in ready:
        end = max(free[0], comes) + seconds[number]
        heapreplace(free, end)
        left.append((end, number))
    return sorted(left)
