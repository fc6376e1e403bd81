"""Every store of ours keeps the contract of stores: on a real file, in memory, and in memory with pauses."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.testing.conformance import StoreConformance, Stores
from turnkeeper.testing.memory import Disk, MemoryStore


class TestSqliteOnAFile(StoreConformance):
    """SQLite's store, on a real file."""

    @pytest.fixture
    def stores(self, path: Path) -> Stores:
        return partial(SqliteStore, path, synchronous="OFF", store_id="a1b2", created_at=100.0)


class TestMemory(StoreConformance):
    """The store in memory."""

    @pytest.fixture
    def stores(self) -> Stores:
        return partial(MemoryStore, Disk())


class TestMemoryWithPauses(StoreConformance):
    """The store in memory, where everybody else runs before it lands or answers."""

    @pytest.fixture
    def stores(self) -> Stores:
        return partial(MemoryStore, Disk(), pause=partial(asyncio.sleep, 0))
