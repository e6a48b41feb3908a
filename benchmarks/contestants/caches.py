"""Caches of functions on disk: diskcache as its tutorial says, joblib as its user guide says."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from contestants import Steps, Target, computed


class DiskCache(Steps):
    """`diskcache.Cache.memoize`, which is not durable."""

    def __init__(self, target: Target) -> None:
        self.cache = import_module("diskcache").Cache(f"{target.where}-diskcache")
        self.function: Callable[[str], str] = self.cache.memoize()(computed)

    def seconds(self, topics: list[str]) -> float:
        began = time.perf_counter()
        for topic in topics:
            self.function(topic)
        return time.perf_counter() - began

    def close(self) -> None:
        self.cache.close()


class Joblib(DiskCache):
    """`joblib.Memory`, which is not durable."""

    def __init__(self, target: Target) -> None:
        self.function = import_module("joblib").Memory(f"{target.where}-joblib", verbose=0).cache(computed)

    def close(self) -> None:
        """Nothing is open."""


INSTALLED: dict[str, type[DiskCache]] = {
    name: kind
    for name, package, kind in (("`diskcache`", "diskcache", DiskCache), ("`joblib.Memory`", "joblib", Joblib))
    if find_spec(package)
}
"""Those that this environment has."""
