"""Shared by all tests: asyncio as anyio's backend, a store's path, a clock in the test's hands."""

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A real file, not there yet."""
    return tmp_path / "agents.db"


class FakeClock:
    """Wall time that stands until the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
