"""Conformance: the contract of a store, as tests that any store can be put through.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def stores(self, tmp_path):
            return lambda: MyStore(tmp_path / "agents.db")

Needs pytest; async tests run by the plugin that comes with anyio.
"""

import pytest

_ROOMS = ("keeping", "noting", "owning", "refusing", "remembering", "together", "waiting", "writing")
pytest.register_assert_rewrite(*(f"{__name__}.{room}" for room in _ROOMS))  # or a failure shows no values

from turnkeeper.testing.conformance.suite import StoreConformance  # noqa: E402 - after the line above, or too late
from turnkeeper.testing.conformance.world import Stores  # noqa: E402 - as above

__all__ = ["StoreConformance", "Stores"]
