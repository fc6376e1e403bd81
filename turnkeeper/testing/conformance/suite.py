"""The suite: every test of the contract in one class, and the fixtures they stand on."""

from collections.abc import AsyncIterator

import pytest

from turnkeeper.kernel.ports import Store
from turnkeeper.testing.conformance.keeping import Keeping
from turnkeeper.testing.conformance.noting import Noting
from turnkeeper.testing.conformance.owning import Owning
from turnkeeper.testing.conformance.refusing import Refusing
from turnkeeper.testing.conformance.remembering import Remembering
from turnkeeper.testing.conformance.together import Together
from turnkeeper.testing.conformance.waiting import Waiting
from turnkeeper.testing.conformance.world import WORLD, Stores
from turnkeeper.testing.conformance.writing import Writing

__all__ = ["StoreConformance"]


@pytest.mark.anyio
class StoreConformance(Writing, Keeping, Noting, Remembering, Waiting, Together, Refusing, Owning):
    """What every `kernel.ports.Store` promises. Subclass it as `Test...` and give it the fixture `stores`.

    A store that passes writes all or nothing of each commit point and refuses the guilty alone, by the right error;
    gives back what was written, now and after it is opened again; lets one turn of an actor run, end once and be
    written to by its holder alone; says in order what has happened; prunes what is over and nothing else; keeps what is
    wanted of children, and the newest of what became of them; keeps what actors remember; knows what suspended turns
    stand on, until when, and the signals that nobody has taken; and has one owner at a time.
    Not shown here: that what stands survives a crash of the process or the machine. For that, kill it.
    """

    @pytest.fixture
    def stores(self) -> Stores:
        """Return what makes one more store, not yet opened, each time on the same place, which is empty at first."""
        raise NotImplementedError("a subclass of StoreConformance brings the fixture `stores`")

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the event loop that the runtime has."""
        return "asyncio"

    @pytest.fixture
    async def store(self, stores: Stores) -> AsyncIterator[Store]:
        """Yield an open store that holds the world."""
        opened = stores()
        await opened.open()
        rejected = await opened.apply(WORLD)
        if rejected:
            pytest.fail(f"the store refuses what is lawful: {dict(rejected)}")
        yield opened
        await opened.close()
