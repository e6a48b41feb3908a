"""`python -m faults`: examines every case on every backend that is there, and prints one table.

    python -m faults                      what `make faults` runs
    python -m faults --only deaths        the cases whose name contains a word
    python -m faults --markdown           the table as Markdown
    python -m faults --write PAGE         ... put into a page between its marks, unless something is wrong
    python -m faults --soak               the long figures, each case for HOLDFAST_SOAK_SECONDS (60) at most

A soak begins with the round that HOLDFAST_SOAK_FROM names, a number for all cases or `case/backend=number,...`, and
says at its end what to set that to in order to go on.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from faults import table
from faults.backends import BACKENDS, backend_named, is_there
from faults.cases.all import CASES
from faults.examination import Result, examine


def main() -> int:
    """Examine what is asked for; the exit status is 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m faults", description="Try every promise with real faults.")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases whose name contains this")
    parser.add_argument("--backend", choices=BACKENDS, help="only this backend")
    parser.add_argument("--soak", action="store_true", help="go on for long")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    options = parser.parse_args()
    results = []
    for result in examinations(options):
        print(table.text([result]).rpartition("\n\n")[0], file=sys.stderr, flush=True)
        results.append(result)
    command = "make soak" if options.soak else "make faults"
    whole = table.markdown(results, command, table.machine(os.cpu_count()))
    print(whole if options.markdown else table.text(results))
    is_sound = all(result.is_sound for result in results)
    if options.write and is_sound:
        table.put_into(options.write, whole)
    elif options.write:
        print(f"{options.write} was left as it is: it shows only what holds.")
    if options.soak:
        print("to go on there:", "HOLDFAST_SOAK_FROM=" + ",".join(f"{name_of(r)}={r.following}" for r in results))
    return 0 if is_sound else 1


def examinations(options: argparse.Namespace) -> Iterator[Result]:
    """The results of all that is asked for, one after the other."""
    seconds = float(os.environ.get("HOLDFAST_SOAK_SECONDS", "60")) if options.soak else math.inf
    with ExitStack() as stack:
        for name in [options.backend] if options.backend else BACKENDS:
            cases = [case for case in CASES if options.only in case.name and name in case.backends]
            if not is_there(name):
                yield from (Result(case, name, skipped="its driver or its server is not installed") for case in cases)
            elif cases:
                backend = stack.enter_context(closing(backend_named(name)))
                for case in cases:
                    amounts = case.amounts_on(name)
                    amount = amounts.soak if options.soak else amounts.full
                    first = first_round(f"{case.name}/{name}") if options.soak else 0
                    yield examine(case, backend, amount, seconds=seconds, first=first)


def name_of(result: Result) -> str:
    """The name of an examination."""
    return f"{result.case.name}/{result.backend}".replace(" ", "-")


def first_round(name: str) -> int:
    """The round with which a soak begins."""
    given = os.environ.get("HOLDFAST_SOAK_FROM", "0")
    if given.isdigit():
        return int(given)
    return int(dict(part.split("=") for part in given.split(",")).get(name.replace(" ", "-"), "0"))


if __name__ == "__main__":
    sys.exit(main())
