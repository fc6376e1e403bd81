"""The floor of durable turns: raw sqlite3, one writer thread, group commit, and nothing else.

The same workload with no runtime around it: a turn is five rows (accepted, three results, the end), each durable
before the next. The writer takes everything that waits into one transaction. No receipts, no keys, no leases, no
recovery: what remains is what the disk, SQLite and the event loop cost.
"""

import asyncio
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Self

import msgspec

from benchmarks._workload import Ran, drive, search

Row = tuple[str, int, bytes]


class Floor:
    """One table, one writing thread."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        """Make the table in a new file."""
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[asyncio.Future[None], Row] | None] = queue.SimpleQueue()
        self._connection = sqlite3.connect(folder / "floor.db", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(
            "CREATE TABLE steps (turn TEXT, step INTEGER, result BLOB, PRIMARY KEY (turn, step)) WITHOUT ROWID"
        )
        self._thread = threading.Thread(target=self._write)
        self.commits = 0

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the thread and close the file."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    async def turn(self, session: str, key: str) -> object:
        """Run one turn: accepted, three tools, the end."""
        await self._put((key, -1, session.encode()))
        results = []
        for step in range(3):
            result = await search(step, key)
            await self._put((key, step, msgspec.msgpack.encode(result)))
            results.append(result["step"])
        await self._put((key, 3, msgspec.msgpack.encode(results)))
        return results

    def _put(self, row: Row) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((done, row))
        return done

    def _write(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while not self._queue.empty():
                more = self._queue.get_nowait()
                if more is None:
                    self._queue.put(None)
                    break
                batch.append(more)
            self._connection.execute("BEGIN IMMEDIATE")
            for _, row in batch:
                self._connection.execute("INSERT INTO steps VALUES (?, ?, ?)", row)
            self._connection.execute("COMMIT")
            self.commits += 1
            self._loop.call_soon_threadsafe(_tell, batch)


def _tell(batch: list[tuple["asyncio.Future[None]", Row]]) -> None:
    for done, _ in batch:
        done.set_result(None)


async def run_floor(folder: Path, synchronous: str, sessions: int, seconds: float) -> Ran:
    """Drive the floor and return what it did."""
    async with Floor(folder, synchronous) as floor:
        return await drive(floor.turn, lambda: floor.commits, sessions, seconds)
