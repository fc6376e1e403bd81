"""The reader: a store's file as anybody may read it, while its owner runs or after it died."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from turnkeeper.actors.store.file import check_file, explained, half_made, resolve
from turnkeeper.actors.store.sql import queries
from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import Deliverable
from turnkeeper.kernel.rows import NumberedEdge, OpeningReceipt, SessionRow, StoredTurn
from turnkeeper.kernel.turn import TurnRow

__all__ = ["Reader"]


_BEING_MADE = "is being made, or its process died while making it: then a runtime on it mends it"


class Reader:
    """One consistent view of a store, from the moment it is entered. Reads only; takes no ownership."""

    def __init__(self, path: str | Path) -> None:
        """Name the file; nothing is opened before the reader is entered."""
        self._file = resolve(path)
        self.path = str(self._file)
        self._connection: sqlite3.Connection

    def __enter__(self) -> Self:
        """Open the file read-only and hold one snapshot.

        Raises:
            StorageFailed: it does not exist, or is no store.
            SchemaTooNew: a newer version wrote it.
        """
        if not self._file.exists():
            raise StorageFailed(self.path, "does not exist")
        if not check_file(self._file):
            said = _BEING_MADE if half_made(self._file) else "not a turnkeeper store (an empty file)"
            raise StorageFailed(self.path, said)
        try:
            self._connection = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True, isolation_level=None)
            try:
                self._begin()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            if half_made(self._file):
                raise StorageFailed(self.path, _BEING_MADE) from error
            raise explained(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._connection.close()

    def _begin(self) -> None:
        self._connection.execute("BEGIN")
        self._connection.execute("SELECT store_id FROM store").fetchone()  # the snapshot begins with a read

    def sessions(self) -> Iterator[SessionRow]:
        """Yield every session agent, in the order in which they were first spoken to."""
        for row in self._rows("sessions"):
            yield SessionRow(row[0], Address(*row[1:4]), *row[4:])

    def turns(self, actor_id: int) -> list[StoredTurn]:
        """Return an actor's turns in the order of acceptance."""
        return [
            StoredTurn(TurnRow(*row[:9]), OpeningReceipt(*row[9:12]) if row[9] is not None else None, row[12])
            for row in self._rows("turns_of_actor", actor_id)
        ]

    def turn(self, turn_id: int) -> TurnRow | None:
        """Return one turn as stored."""
        return next((TurnRow(*row) for row in self._rows("turn", turn_id)), None)

    def edges(self, turn_id: int) -> list[NumberedEdge]:
        """Return a turn's edges in order. Kinds are as stored, known or not."""
        return [NumberedEdge(row[0], Edge(*row[1:])) for row in self._rows("edges_numbered", turn_id)]

    def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable."""
        return next((Deliverable(*row) for row in self._rows("deliverable_of", turn_id)), None)

    def turns_completed(self) -> int:
        """Return how many turns have a deliverable."""
        return int(next(self._rows("turns_completed"))[0])

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Yield rows that nothing leads to, as (where, what)."""
        yield from self._rows("orphans")

    def damage(self) -> Iterator[str]:
        """Yield what SQLite's own checks find: pages, indexes, references."""
        for (found,) in self._all("PRAGMA integrity_check"):
            if found != "ok":
                yield f"integrity_check: {found}"
        for table, row, parent, _ in self._all("PRAGMA foreign_key_check"):
            yield f"row {row} of {table} refers to no row of {parent}"

    def schema(self) -> dict[str, str]:
        """Return the tables, indexes, triggers and views by name, as SQL."""
        return dict(self._all("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))

    def _rows(self, name: str, *parameters: object) -> Iterator[Any]:
        return self._all(queries()[name], parameters)

    def _all(self, sql: str, parameters: tuple[object, ...] = ()) -> Iterator[Any]:
        try:
            yield from self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise explained(self.path, error) from error
