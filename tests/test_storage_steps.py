"""Every backend of this library against what the storage interface says of steps and of the step cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import postgres
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing_steps import MakeCached, StepCacheConformance, StepConformance


class TestMemory(StepConformance, StepCacheConformance):
    @pytest.fixture
    def make_cached(self) -> MakeCached:
        return lambda size: MemoryStorage(max_cache_size=size)

    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


class TestSQLiteFile(StepConformance, StepCacheConformance):
    @pytest.fixture
    def make_cached(self, tmp_path: Path) -> Iterator[MakeCached]:
        numbers = itertools.count()
        with ExitStack() as stack:

            def make(size: int) -> Storage:
                storage = SqlWorkflowStorage(
                    db_file=tmp_path / f"{next(numbers)}.db", synchronous="NORMAL", max_cache_size=size
                )
                return stack.enter_context(closing(storage))

            yield make

    @pytest.fixture
    def storage(self, make_cached: MakeCached) -> Storage:
        return make_cached(2**30)


class TestSQLiteInMemory(StepConformance, StepCacheConformance):
    @pytest.fixture
    def make_cached(self) -> Iterator[MakeCached]:
        with ExitStack() as stack:

            def make(size: int) -> Storage:
                return stack.enter_context(closing(SqlWorkflowStorage(db_url="sqlite://", max_cache_size=size)))

            yield make

    @pytest.fixture
    def storage(self, make_cached: MakeCached) -> Storage:
        return make_cached(2**30)


class TestPostgres(StepConformance, StepCacheConformance):
    """Over a socket of this machine, where every answer is waited for."""

    over_tcp = False

    @pytest.fixture
    def make_cached(self) -> Iterator[MakeCached]:
        with ExitStack() as stack:

            def make(size: int) -> Storage:
                url = stack.enter_context(postgres.schema(postgres.shared_url(over_tcp=self.over_tcp)))
                return stack.enter_context(closing(SqlWorkflowStorage(db_url=url, max_cache_size=size)))

            yield make

    @pytest.fixture
    def storage(self, make_cached: MakeCached) -> Storage:
        return make_cached(2**30)


class TestPostgresFarAway(TestPostgres):
    """Over TCP, where statements are sent without waiting for the answers that nobody reads."""

    over_tcp = True
