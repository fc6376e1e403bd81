"""Memory: a store without a file, of the same contract as SQLite's; a plain model, for thousands of runs a second.

    disk = Disk()
    first = MemoryStore(disk)
    await first.open()
    ...
    first.die()  # as kill -9 does: what was committed is on the disk, and nothing else
    again = MemoryStore(disk)
    await again.open()

No thread, no clock and no chance of its own: it does the same on every run.
"""

from turnkeeper.testing.memory.disk import Disk
from turnkeeper.testing.memory.store import MemoryStore

__all__ = ["Disk", "MemoryStore"]
