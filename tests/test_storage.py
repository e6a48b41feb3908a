"""Every backend of this library against the conformance suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import postgres
from holdfast.storage.base import KeepHistory, Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import MakeStorage, StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return MemoryStorage

    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


class TestSQLiteFile(StorageConformance):
    @pytest.fixture
    def make_storage(self, tmp_path: Path) -> Iterator[MakeStorage]:
        numbers = itertools.count()
        with ExitStack() as stack:

            def make(keep_history: KeepHistory = None) -> Storage:
                storage = SqlWorkflowStorage(
                    db_file=tmp_path / f"{next(numbers)}.db", keep_history=keep_history, synchronous="NORMAL"
                )
                return stack.enter_context(closing(storage))

            yield make

    @pytest.fixture
    def storage(self, make_storage: MakeStorage) -> Storage:
        return make_storage()


class TestSQLiteInMemory(StorageConformance):
    @pytest.fixture
    def make_storage(self) -> Iterator[MakeStorage]:
        with ExitStack() as stack:

            def make(keep_history: KeepHistory = None) -> Storage:
                storage = SqlWorkflowStorage(db_url="sqlite://", keep_history=keep_history)
                return stack.enter_context(closing(storage))

            yield make

    @pytest.fixture
    def storage(self, make_storage: MakeStorage) -> Storage:
        return make_storage()


class TestPostgres(StorageConformance):
    @pytest.fixture
    def make_storage(self) -> Iterator[MakeStorage]:
        with ExitStack() as stack:

            def make(keep_history: KeepHistory = None) -> Storage:
                url = stack.enter_context(postgres.schema())
                return stack.enter_context(closing(SqlWorkflowStorage(db_url=url, keep_history=keep_history)))

            yield make

    @pytest.fixture
    def storage(self, make_storage: MakeStorage) -> Storage:
        return make_storage()
