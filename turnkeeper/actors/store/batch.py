"""A batch: many commit points written in one transaction, in one hop to the connection's thread.

The staged batch is applied by `commit()`, the one method of a connection that takes no arguments and that
aiosqlite passes through untouched: so a whole transaction costs one hop through its public interface.
"""

import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.actors.store.sql import queries
from turnkeeper.kernel import records
from turnkeeper.kernel.edge import chained
from turnkeeper.kernel.errors import (
    DeliverableRecorded,
    KeyTaken,
    LeaseHeld,
    StaleEpoch,
    StorageFailed,
    TurnkeeperError,
    TurnNotFound,
    VersionConflict,
)
from turnkeeper.kernel.records import Record
from turnkeeper.kernel.refusal import CAREFUL_BATCHES, may_be_followed

__all__ = ["ORDER", "BatchConnection", "statement_name"]

ORDER: Final[tuple[type[Record], ...]] = (
    records.NodeStarted,
    records.Deliverable,  # before the turn that points to it
    records.TurnReleased,  # first out of running: it frees the actor's one running slot
    records.ActorOpened,
    records.ReceiptRetired,  # frees the key
    records.TurnInserted,
    records.ReceiptAccepted,
    records.ReceiptMoved,  # behind the turn that it moves to
    records.TurnAcquired,
    records.WaitStood,  # behind the moves: a turn has waits only while it is suspended
    records.EdgeAppended,  # after the moves: an edge is fenced by the epoch its own commit point leads to
    records.EdgeAppendedLate,
    records.ReceiptSeen,
    records.NodeBeat,
    records.NodeStopped,
    records.SignalRetired,  # frees the key
    records.SignalSent,
    records.SignalTaken,
    records.HandedOff,
    records.DesiredSet,
    records.ChildNoted,
    records.StateSet,  # after the end of its turn, which it needs
)
"""The order of kinds within a batch; within a kind, rows keep the order of their commit points."""

_SPILLED_FROM_BYTES: Final = 16_384
"""Size from which a detail or a deliverable goes to `blobs`: four pages, or reading edges would be reading those."""
_SPILLED: Final = b"\xc1"
"""Stands in the row for what is in `blobs`: the one byte that msgpack never uses. The queries know it."""

_LARGE: Final = (records.EdgeAppended, records.Deliverable)
"""What holds values of any size."""

_GUILTY: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    UnicodeError,
)
"""What one row can cause. Any other error is the store's and fails the whole batch."""


def statement_name(kind: type[Record]) -> str:
    """Return the name of a record's statement: `TurnInserted` is written by `turn_inserted`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


_STATEMENTS: Final[Mapping[type[Record], str]] = MappingProxyType(
    {kind: queries()[statement_name(kind)] for kind in ORDER}
)
_CAREFUL: Final[Mapping[type[Record], str]] = MappingProxyType(
    {**_STATEMENTS, records.EdgeAppended: queries()["edge_appended_behind"]}
)
_PLACE: Final[Mapping[type[Record], int]] = MappingProxyType({kind: place for place, kind in enumerate(ORDER)})


class BatchConnection(sqlite3.Connection):
    """A connection whose `commit()` does what was staged first: writes points, all or none of each, or prunes."""

    staged: deque[Callable[["BatchConnection"], None]]
    rejected: Mapping[int, TurnkeeperError] = MappingProxyType({})
    pruned: int = 0
    careful: int = 0  # batches that may hold what was submitted on top of a refused edge

    def prepare(self) -> None:
        """Begin with nothing staged; give the statements the kernel's function that they call."""
        self.staged = deque()
        self.create_function("chained", 5, _chained, deterministic=True)

    def commit(self) -> None:
        """Do what was staged first, in transactions of its own.

        Raises:
            sqlite3.Error: the store failed, nothing of the open transaction was written.
        """
        if not self.staged:
            super().commit()
            return
        work = self.staged.popleft()
        try:
            work(self)
        finally:
            if self.in_transaction:
                self.rollback()

    def write(self, points: Sequence[Sequence[Record]]) -> None:
        """Write commit points in one transaction; `rejected` says which were refused, and why.

        Whoever wrote an edge that is refused may have submitted more on top of it before hearing that. It must not
        stand behind a gap, so in as many batches as may wait then each edge is looked at twice.
        """
        statements = _CAREFUL if self.careful else _STATEMENTS
        self.rejected = {} if self._write_together(points, statements) else self._write_one_by_one(points)
        followed = any(may_be_followed(points[number]) for number in self.rejected)
        self.careful = CAREFUL_BATCHES if followed else max(0, self.careful - 1)

    def prune(self, turn_ids: Sequence[int], now: float) -> None:
        """Delete turns that are over, with all that is theirs, and signals that are, in one transaction.

        `pruned` says how many turns have gone: not those on which another one has come to stand.

        What goes together is said by triggers. Foreign keys rest meanwhile: for every turn that goes, SQLite would
        search all turns and receipts for references to it, without an index.
        """
        self.execute("PRAGMA foreign_keys = OFF")
        try:
            self.execute("BEGIN IMMEDIATE")
            gone = self.executemany(queries()["turn_pruned"], [(turn_id,) for turn_id in turn_ids]).rowcount
            self.execute(queries()["signals_pruned"], (now,))
            self.execute("COMMIT")
            self.pruned = max(gone, 0)
        finally:
            if self.in_transaction:
                self.rollback()
            self.execute("PRAGMA foreign_keys = ON")

    def _write_together(self, points: Sequence[Sequence[Record]], statements: Mapping[type[Record], str]) -> bool:
        """Write all points, one `executemany` a kind; False, and nothing written, if any is to be refused."""
        rows: list[list[tuple[object, ...]]] = [[] for _ in ORDER]
        blobs: list[_Blob] = []
        place, astuple = _PLACE, msgspec.structs.astuple
        for point in points:
            for record in point:
                if isinstance(record, _LARGE) and _is_large(record):
                    record = _spilled(record, blobs)  # noqa: PLW2901 - the same record, as its row holds it
                rows[place[type(record)]].append(astuple(record))
        self.execute("BEGIN IMMEDIATE")
        try:
            if blobs:
                self.executemany(_BLOB, blobs)
            for kind, of_kind in zip(ORDER, rows, strict=True):
                if of_kind and self.executemany(statements[kind], of_kind).rowcount != len(of_kind):
                    self.rollback()  # somebody's guard said no
                    return False
            self.execute("COMMIT")
        except _GUILTY:
            self.rollback()
            return False
        return True

    def _write_one_by_one(self, points: Iterable[Sequence[Record]]) -> dict[int, TurnkeeperError]:
        """Write each point in a savepoint of its own, so that only those who are to be refused are."""
        rejected: dict[int, TurnkeeperError] = {}
        self.execute("BEGIN IMMEDIATE")
        for number, point in enumerate(points):
            self.execute("SAVEPOINT point")
            refusal = self._write_point(point)
            if refusal is not None:
                rejected[number] = refusal
                self.execute("ROLLBACK TO point")
            self.execute("RELEASE point")
        self.execute("COMMIT")
        return rejected

    def _write_point(self, point: Sequence[Record]) -> TurnkeeperError | None:
        for record in point:
            blobs: list[_Blob] = []
            record = _spilled(record, blobs)  # noqa: PLW2901 - the same record, as its row holds it
            try:
                self.executemany(_BLOB, blobs)
                if self.execute(_CAREFUL[type(record)], msgspec.structs.astuple(record)).rowcount != 1:
                    return _refusal(record, None)
            except _GUILTY as error:
                if isinstance(record, records.TurnAcquired) and _unique(error):
                    return LeaseHeld(self.execute(queries()["turn"], (record.turn_id,)).fetchone()[1])
                return _refusal(record, error)
        return None


_Blob = tuple[int, int, bytes]
_BLOB: Final = queries()["blob_written"]


def _chained(before: bytes, turn_id: int, kind: str, at: float | None, detail: bytes) -> bytes | None:
    """Return an edge's digest; none for a time that is no number, which then is refused for its row alone."""
    return None if at is None else chained(before, turn_id, kind, at, detail)


def _is_large(record: records.EdgeAppended | records.Deliverable) -> bool:
    value = record.detail if isinstance(record, records.EdgeAppended) else record.body
    return len(value) >= _SPILLED_FROM_BYTES


def _spilled(record: Record, blobs: list[_Blob]) -> Record:
    """Return the record as its row holds it; a value too large for a row goes to `blobs`."""
    match record:
        case records.EdgeAppended(detail=value) if _is_large(record):
            blobs.append((record.turn_id, record.ordinal, value))
            return msgspec.structs.replace(record, detail=_SPILLED)
        case records.Deliverable(body=value) if _is_large(record):
            blobs.append((record.turn_id, -1, value))
            return msgspec.structs.replace(record, body=_SPILLED)
        case _:
            return record


def _unique(error: Exception | None) -> bool:
    return isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error)


def _refusal(record: Record, error: Exception | None) -> TurnkeeperError:
    """Return what a refused row means to the one who wrote it: `error` is None where a guard said no."""
    if isinstance(record, records.ReceiptSeen | records.ReceiptRetired):
        return VersionConflict(record.receipt_id, 0)
    known = _taken(record) if _unique(error) else _guarded(record) if error is None else None
    why = error or "its guard said no"
    return known or StorageFailed("store", f"{statement_name(type(record))} was refused: {why}")


def _taken(record: Record) -> TurnkeeperError | None:
    """Return what it means that another row has the place already."""
    match record:
        case records.ReceiptAccepted(key=key) | records.SignalSent(key=key):
            return KeyTaken(key)
        case records.TurnInserted(actor_id=actor_id):
            return LeaseHeld(actor_id)
        case records.Deliverable(turn_id=turn_id):
            return DeliverableRecorded(turn_id)
        case records.EdgeAppended(turn_id=turn_id, ordinal=ordinal):
            return VersionConflict(turn_id, ordinal)
        case _:
            return None


def _guarded(record: Record) -> TurnkeeperError | None:
    """Return what it means that the statement's own condition did not hold."""
    match record:
        case records.TurnReleased() | records.TurnAcquired():
            return StaleEpoch(record.turn_id, record.epoch_before)
        case records.EdgeAppended(turn_id=turn_id, fence=fence):
            return StaleEpoch(turn_id, fence)
        case records.EdgeAppendedLate(turn_id=turn_id):
            return TurnNotFound(turn_id)
        case records.WaitStood(turn_id=turn_id, version=version):
            return VersionConflict(turn_id, version)
        case (
            records.ReceiptMoved(receipt_id=number)
            | records.SignalTaken(signal_id=number)
            | records.SignalRetired(signal_id=number)
        ):
            return VersionConflict(number, 0)
        case _:
            return None
