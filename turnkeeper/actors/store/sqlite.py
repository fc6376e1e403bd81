"""The SQLite store: one owned file, one writing connection, one that only reads."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import msgspec

from turnkeeper.actors.store.batch import BatchConnection
from turnkeeper.actors.store.file import UNREADABLE, check_file, explained, migrate, resolve
from turnkeeper.actors.store.lock import OwnerLock
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sql import queries
from turnkeeper.actors.store.waiting import SqliteWaiting
from turnkeeper.kernel.edge import Edge, EdgeKind
from turnkeeper.kernel.errors import StorageFailed, TurnkeeperError
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Happening, LiveTurn, Marks
from turnkeeper.kernel.receipt import ReceiptRow, ReceiptState
from turnkeeper.kernel.records import Deliverable, Record, StateSet
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.noted import ChildEvent, ChildEventKind, DesiredRow
from turnkeeper.kernel.turn import TurnRow, TurnState

__all__ = ["SqliteStore"]

T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = OFF",  # Debian turns it on; it doubles what a freed page costs
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",
)


class SqliteStore:
    """A store in one file. The writing connection belongs to one writer; reads see the last commit."""

    def __init__(self, path: str | Path, *, synchronous: str = "FULL", store_id: str, created_at: float) -> None:
        """Name the file; nothing is touched before `open`.

        Args:
            path: the database file; it is made where it does not exist.
            synchronous: SQLite's setting, see `Settings.synchronous`.
            store_id: the name the store gets if it is new.
            created_at: wall time, s, recorded if it is new.
        """
        self._file = resolve(path)
        self.path = str(self._file)
        self._synchronous = synchronous
        self._new = (store_id, created_at)
        self._lock = OwnerLock()
        self._raw: list[BatchConnection] = []
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self.waiting = SqliteWaiting(self._read)

    async def open(self) -> Marks:
        """Take the owner lock, check the file, migrate it, connect.

        Raises:
            StoreInUse: another runtime owns the file.
            SchemaTooNew: a newer version wrote it.
            StorageFailed: it is no store, or cannot be opened; the reason says which.
        """
        check_file(self._file)
        self._lock.acquire(self._file)
        try:
            await asyncio.to_thread(migrate, self._file, *self._new)
            await self._connect()
            (row,) = await self._read("marks")
        except BaseException:
            await self.close()
            raise
        return Marks(*row)

    async def close(self) -> None:
        """Close both connections and give the file back. Safe to call twice, and after a failed `open`."""
        connections = (self._writer, self._reader)  # the last one is closed first
        self._reader = self._writer = None  # before they are closed: a read that comes now is told so
        async with AsyncExitStack() as stack:  # each of them also where this is cancelled on the way
            stack.callback(self._lock.release)
            stack.callback(self._raw.clear)
            for connection in connections:
                if connection is not None:
                    stack.push_async_callback(connection.close)

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        """Write the commit points in one transaction and one thread hop; see `Store.apply`."""
        return (await self._do(lambda raw: raw.write(points))).rejected

    async def prune(self, ended_before: float, now: float, limit: int) -> int:
        """Delete turns that are over, in one transaction and one thread hop; see `Store.prune`.

        Which ones is found out beside the writer: what may go once may go for ever, or until a turn stands on it.
        """

        def chosen() -> list[int]:
            with Reader(self._file) as rows:
                return rows.prunable(ended_before, now, limit)

        turn_ids = await asyncio.to_thread(chosen)
        return (await self._do(lambda raw: raw.prune(turn_ids, now))).pruned

    async def _do(self, work: Callable[[BatchConnection], None]) -> BatchConnection:
        """Do something on the writing connection, in one hop to its thread."""
        if self._writer is None:
            raise StorageFailed(self.path, "the store is closed")
        raw = self._raw[0]
        raw.staged.append(work)  # the thread takes it up in the order of the commits
        try:
            await self._writer.commit()
        except UNREADABLE as error:
            raise explained(self.path, error) from error
        return raw

    async def live_turns(self) -> list[LiveTurn]:
        """Return every live turn, in the order of acceptance."""
        return [_live(row) for row in await self._read("live_turns")]

    async def awake_turns(self) -> list[LiveTurn]:
        """Return the live turns of the actors that have no suspended one."""
        return [_live(row) for row in await self._read("awake_turns")]

    async def live_turns_of(self, actor_id: int) -> list[LiveTurn]:
        """Return an actor's live turns."""
        return [_live(row) for row in await self._read("live_turns_of", actor_id)]

    async def live_turns_after(self, actor_id: int, turn_id: int, limit: int) -> list[LiveTurn]:
        """Return live turns behind a place in the order of actors and turns."""
        return [_live(row) for row in await self._read("live_turns_after", actor_id, turn_id, limit)]

    async def actor_id(self, address: Address) -> int | None:
        """Return the id of an actor that has been spoken to before."""
        rows = await self._read("actor_id", *address)
        return rows[0][0] if rows else None

    async def receipt(self, actor_id: int, key: str) -> ReceiptRow | None:
        """Return the receipt a key stands for now."""
        for row in await self._read("receipt", actor_id, key):
            return msgspec.structs.replace(ReceiptRow(*row), state=ReceiptState(row[5]))
        return None

    async def turn(self, turn_id: int) -> TurnRow | None:
        """Return a turn as stored."""
        for row in await self._read("turn", turn_id):
            return _turn(row)
        return None

    async def edges(self, turn_id: int) -> list[Edge]:
        """Return a turn's edges in order."""
        return [Edge(row[0], row[1], EdgeKind(row[2]), *row[3:]) for row in await self._read("edges", turn_id)]

    async def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable once it has one."""
        for row in await self._read("deliverable_of", turn_id):
            return Deliverable(*row)
        return None

    async def state(self, actor_id: int) -> StateSet | None:
        """Return what an actor remembers."""
        for row in await self._read("state_of", actor_id):
            return StateSet(*row)
        return None

    async def happened(self, since: int, limit: int) -> list[Happening]:
        """Return committed edges after an offset, in the order in which they were committed."""
        return [Happening(*[*row[:5], Address(*row[5:])]) for row in await self._read("edges_since", since, limit)]

    async def desired(self) -> list[DesiredRow]:
        """Return what is wanted of whom, by path."""
        return [DesiredRow(*row)._replace(desired=Desired(row[1])) for row in await self._read("desired")]

    async def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """Return events of supervision after a number, in the order in which they were committed."""
        if path is None:
            found = await self._read("child_events", after, limit)
        else:
            found = await self._read("child_events_of", path, after, limit)
        return [ChildEvent(*row)._replace(kind=ChildEventKind(row[4])) for row in found]

    async def look(self, question: Callable[[Rows], T]) -> T:
        """Answer a question from one consistent view, in a thread and on a connection of its own."""

        def asked() -> T:
            with Reader(self._file) as rows:
                return question(rows)

        return await asyncio.to_thread(asked)

    async def _connect(self) -> None:
        def connection(*args: Any, **kwargs: Any) -> BatchConnection:
            made = BatchConnection(*args, **kwargs)
            made.prepare()
            self._raw.append(made)
            return made

        try:
            self._writer = await aiosqlite.connect(
                self.path, isolation_level=None, cached_statements=256, factory=connection
            )
            for pragma in (*_PRAGMAS, f"PRAGMA synchronous = {self._synchronous}"):
                await self._writer.execute_fetchall(pragma)
            self._reader = await aiosqlite.connect(
                f"{self._file.as_uri()}?mode=ro", uri=True, isolation_level=None, cached_statements=256
            )
        except UNREADABLE as error:
            raise explained(self.path, error) from error

    async def _read(self, name: str, *parameters: object) -> list[Any]:
        if self._reader is None:
            raise StorageFailed(self.path, "the store is closed")
        try:
            return list(await self._reader.execute_fetchall(queries()[name], parameters))
        except (OverflowError, UnicodeEncodeError):  # what could not be stored is in no row
            return []
        except UNREADABLE as error:
            raise explained(self.path, error) from error
        except ValueError as error:  # aiosqlite's word for a connection that was closed meanwhile
            raise StorageFailed(self.path, "the store is closed") from error


def _live(row: Sequence[Any]) -> LiveTurn:
    return LiveTurn(_turn(row[:10]), Address(*row[10:13]), *row[13:])


def _turn(row: Sequence[Any]) -> TurnRow:
    return msgspec.structs.replace(TurnRow(*row), state=TurnState(row[2]))
