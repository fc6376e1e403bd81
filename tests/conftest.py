"""Shared by all tests: asyncio as anyio's backend, a store's path, a clock in the test's hands."""

from pathlib import Path

import pytest
from looking import FakeClock


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A real file, not there yet."""
    return tmp_path / "agents.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
