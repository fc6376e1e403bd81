"""A batch: many commit points written in one transaction, in one hop to the connection's thread.

The staged batch is applied by `commit()`, the one method of a connection that takes no arguments and that
aiosqlite passes through untouched: so a whole transaction costs one hop through its public interface.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from turnkeeper.actors.store.sql import queries
from turnkeeper.kernel import records
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

__all__ = ["ORDER", "BatchConnection", "statement_name"]

ORDER: Final[tuple[type[Record], ...]] = (
    records.NodeStarted,
    records.Deliverable,  # before the turn that points to it
    records.TurnReleased,  # first out of running: it frees the actor's one running slot
    records.ActorOpened,
    records.ReceiptRetired,  # frees the key
    records.TurnInserted,
    records.ReceiptAccepted,
    records.TurnAcquired,
    records.EdgeAppended,  # after the moves: an edge is fenced by the epoch its own commit point leads to
    records.EdgeAppendedLate,
    records.ReceiptSeen,
    records.NodeBeat,
    records.NodeStopped,
)
"""The order of kinds within a batch; within a kind, rows keep the order of their commit points."""

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
_PLACE: Final[Mapping[type[Record], int]] = MappingProxyType({kind: place for place, kind in enumerate(ORDER)})


class BatchConnection(sqlite3.Connection):
    """A connection whose `commit()` writes the staged commit points, all or none of each."""

    staged: Sequence[Sequence[Record]] = ()
    rejected: Mapping[int, TurnkeeperError] = MappingProxyType({})

    def commit(self) -> None:
        """Write the staged commit points in one transaction; `rejected` says which were refused, and why.

        Raises:
            sqlite3.Error: the store failed, nothing of the batch was written.
        """
        points, self.staged, self.rejected = self.staged, (), {}
        if not points:
            super().commit()
            return
        try:
            if not self._write_together(points):
                self.rejected = self._write_one_by_one(points)
        finally:
            if self.in_transaction:
                self.rollback()

    def _write_together(self, points: Sequence[Sequence[Record]]) -> bool:
        """Write all points, one `executemany` a kind; False, and nothing written, if any is to be refused."""
        rows: list[list[tuple[object, ...]]] = [[] for _ in ORDER]
        place, astuple = _PLACE, msgspec.structs.astuple
        for point in points:
            for record in point:
                rows[place[type(record)]].append(astuple(record))
        self.execute("BEGIN IMMEDIATE")
        try:
            for kind, of_kind in zip(ORDER, rows, strict=True):
                if of_kind and self.executemany(_STATEMENTS[kind], of_kind).rowcount != len(of_kind):
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
            try:
                if self.execute(_STATEMENTS[type(record)], msgspec.structs.astuple(record)).rowcount != 1:
                    return _refusal(record, None)
            except _GUILTY as error:
                if isinstance(record, records.TurnAcquired) and _unique(error):
                    return LeaseHeld(self.execute(queries()["turn"], (record.turn_id,)).fetchone()[1])
                return _refusal(record, error)
        return None


def _unique(error: Exception | None) -> bool:
    return isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error)


def _refusal(record: Record, error: Exception | None) -> TurnkeeperError:  # noqa: PLR0911 - one line a case
    """Return what a refused row means to the one who wrote it: `error` is None where a guard said no."""
    unique = _unique(error)
    match record:
        case records.ReceiptAccepted(key=key) if unique:
            return KeyTaken(key)
        case records.TurnInserted(actor_id=actor_id) if unique:
            return LeaseHeld(actor_id)
        case records.Deliverable(turn_id=turn_id) if unique:
            return DeliverableRecorded(turn_id)
        case records.EdgeAppended(turn_id=turn_id, ordinal=ordinal) if unique:
            return VersionConflict(turn_id, ordinal)
        case records.TurnReleased() | records.TurnAcquired() if error is None:
            return StaleEpoch(record.turn_id, record.epoch_before)
        case records.EdgeAppended() if error is None:
            return StaleEpoch(record.turn_id, record.fence)
        case records.EdgeAppendedLate(turn_id=turn_id) if error is None:
            return TurnNotFound(turn_id)
        case records.ReceiptSeen(receipt_id=receipt_id) | records.ReceiptRetired(receipt_id=receipt_id):
            return VersionConflict(receipt_id, 0)
        case _:
            return StorageFailed("store", f"{statement_name(type(record))} was refused: {error}")
