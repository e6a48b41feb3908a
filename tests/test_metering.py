"""Adding up usage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from holdfast.metering import Meter, add_usage, metering
from holdfast.records import Usage

ONE = Usage(requests=1, input_tokens=2, output_tokens=3, cost=0.25)


def test_a_meter_counts_only_what_is_reported_while_it_is_open() -> None:
    add_usage(ONE)
    with metering() as meter:
        add_usage(ONE)
        add_usage(ONE)
    add_usage(ONE)
    assert meter.usage == Usage(requests=2, input_tokens=4, output_tokens=6, cost=0.5)


def test_an_unknown_cost_makes_the_sum_unknown() -> None:
    with metering() as meter:
        add_usage(ONE)
        add_usage(Usage(requests=1, cost=None))
    assert meter.usage.cost is None


def test_a_meter_inside_another_counts_for_both() -> None:
    with metering() as outer:
        add_usage(ONE)
        with metering() as inner:
            add_usage(ONE)
    assert (inner.usage.requests, outer.usage.requests) == (1, 2)


def test_the_same_meter_inside_itself_counts_once() -> None:
    meter = Meter()
    with metering(meter), metering(meter):
        add_usage(ONE)
    assert meter.usage == ONE


def test_a_meter_counts_what_threads_in_its_context_report_at_once() -> None:
    together = threading.Barrier(8)

    def report() -> None:
        together.wait()
        for _ in range(200):
            add_usage(ONE)

    with metering() as meter, ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(copy_context().run, report) for _ in range(8)]:
            done.result()
    assert meter.usage.requests == 1600


def test_a_generator_closed_in_another_context_sets_the_meter_back() -> None:
    def run() -> Iterator[None]:
        with metering(meter):
            yield

    meter = Meter()
    running = run()
    copy_context().run(next, running)
    running.close()
    add_usage(ONE)
    assert meter.usage == Usage()
