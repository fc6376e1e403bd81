"""The reader: a store's file as anybody may read it, while its owner runs or after it died."""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from turnkeeper.actors.store.file import BEING_MADE, UNREADABLE, check_store, explained, half_made, resolve
from turnkeeper.actors.store.sql import migrations, queries
from turnkeeper.kernel.edge import Edge
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.ports import Happening
from turnkeeper.kernel.receipt import STATE_OF, ReceiptRow
from turnkeeper.kernel.records import Deliverable, SignalSent, StateSet
from turnkeeper.kernel.rows import AgentRow, NumberedEdge, SessionRow, SignalRow, StoredTurn
from turnkeeper.kernel.supervision.noted import ChildEvent, DesiredRow
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait

__all__ = ["Reader"]


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
            StorageFailed: it does not exist, is no store, or an older version wrote it.
            SchemaTooNew: a newer version wrote it.
        """
        check_store(self._file)
        try:
            self._connection = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True, isolation_level=None)
            try:
                self._begin()
            except BaseException:
                self._connection.close()
                raise
        except UNREADABLE as error:
            if half_made(self._file):
                raise StorageFailed(self.path, BEING_MADE) from error
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
        (found,), known = self._connection.execute("PRAGMA user_version").fetchone(), len(migrations())
        if found < known:
            said = f"has schema {found}, this version reads {known}; a runtime that opens it brings it up to date"
            raise StorageFailed(self.path, said)

    def sessions(self) -> Iterator[SessionRow]:
        """Yield every session agent, in the order in which they were first spoken to."""
        for row in self._rows("sessions"):
            yield SessionRow(row[0], Address(*row[1:4]), *row[4:])

    def agents(self) -> list[AgentRow]:
        """Return every agent that was ever spoken to, by name."""
        return [AgentRow(*row) for row in self._rows("agents")]

    def histories(self) -> Iterator[tuple[SessionRow, list[StoredTurn]]]:
        """Yield every session agent with its turns, in one walk over the turns."""
        turns = map(_stored, self._rows("turns_by_actor"))
        grouped = groupby(turns, key=lambda turn: turn.row.actor_id)
        actor_id, found = next(grouped, (None, iter(())))
        for session in self.sessions():
            while actor_id is not None and actor_id < session.actor_id:  # of an actor that is not there
                actor_id, found = next(grouped, (None, iter(())))
            if actor_id == session.actor_id:
                yield session, list(found)
                actor_id, found = next(grouped, (None, iter(())))
            else:
                yield session, []

    def turns(self, actor_id: int) -> list[StoredTurn]:
        """Return an actor's turns in the order of acceptance."""
        return [_stored(row) for row in self._rows("turns_of_actor", actor_id)]

    def turn(self, turn_id: int) -> StoredTurn | None:
        """Return one turn as stored."""
        return next((_stored(row) for row in self._rows("stored_turn", turn_id)), None)

    def address(self, actor_id: int) -> Address | None:
        """Return where an actor is."""
        return next((Address(*row) for row in self._rows("address_of", actor_id)), None)

    def live(self) -> list[int]:
        """Return the ids of the live turns, in the order of acceptance."""
        return [turn_id for (turn_id,) in self._rows("live_turn_ids")]

    def live_of(self, actor_id: int) -> list[int]:
        """Return the ids of an actor's live turns, in the order of acceptance."""
        return [turn_id for (turn_id,) in self._rows("live_turn_ids_of", actor_id)]

    def running(self) -> list[int]:
        """Return the ids of the running turns, in the order of acceptance."""
        return [turn_id for (turn_id,) in self._rows("running_turn_ids")]

    def waits(
        self,
        kind: str,
        after: tuple[int, int],
        limit: int,
        *,
        tenant: str | None = None,
        session_id: str | None = None,
    ) -> list[tuple[int, int]]:
        """Return waits of a kind on which suspended turns stand; see `kernel.rows.Rows`."""
        return list(self._rows("waits_of_kind", kind, *after, tenant, session_id, limit))

    def stands(self, turn_id: int) -> list[OpenWait]:
        """Return what a turn stands on, by the places of its steps."""
        return [OpenWait(*row[:4]) for row in self._rows("waits_of", turn_id)]

    def signals(self) -> Iterator[SignalRow]:
        """Yield every signal, in the order in which they were sent."""
        for row in self._rows("signals"):
            yield SignalRow(SignalSent(*row[:-2]), row[-2], retired=bool(row[-1]))

    def duplicated(self) -> list[int]:
        """Return the ids of the turns whose inbound came more than once, in the order of acceptance."""
        return [turn_id for (turn_id,) in self._rows("duplicated_turn_ids")]

    def lease_until(self, boot_id: int) -> float | None:
        """Return until when a boot may run turns (wall time, s); None if it has stopped, or never was."""
        return next((until for (until,) in self._rows("lease_of", boot_id)), None)

    def edges(self, turn_id: int) -> list[NumberedEdge]:
        """Return a turn's edges in order. Kinds are as stored, known or not."""
        return [NumberedEdge(row[0], Edge(*row[1:])) for row in self._rows("edges_numbered", turn_id)]

    def deliverable(self, turn_id: int) -> Deliverable | None:
        """Return a turn's deliverable."""
        return next((Deliverable(*row) for row in self._rows("deliverable_of", turn_id)), None)

    def joined(self, turn_id: int) -> list[ReceiptRow]:
        """Return the receipts of the messages that have joined a turn, in the order of acceptance."""
        return [_receipt(row) for row in self._rows("joined_receipts", turn_id)]

    def state(self, actor_id: int) -> StateSet | None:
        """Return what an actor remembers."""
        return next((StateSet(*row) for row in self._rows("state_of", actor_id)), None)

    def happened(self, since: int, limit: int) -> list[Happening]:
        """Return at most `limit` committed edges after an offset; see `Store.happened`."""
        return [Happening(*[*row[:5], Address(*row[5:])]) for row in self._rows("edges_since", since, limit)]

    def desired(self) -> list[DesiredRow]:
        """Return what is wanted of whom, by path; values are as stored, known or not."""
        return [DesiredRow(*row) for row in self._rows("desired")]

    def child_events(self, path: str | None = None, after: int = 0, limit: int = 1_000) -> list[ChildEvent]:
        """Return events of supervision, see `Store.child_events`; values are as stored, known or not."""
        if path is None:
            return [ChildEvent(*row) for row in self._rows("child_events", after, limit)]
        return [ChildEvent(*row) for row in self._rows("child_events_of", path, after, limit)]

    def prunable(self, ended_before: float, now: float, limit: int) -> list[int]:
        """Return the ids of turns that may go; see `Store.prune`."""
        return [turn_id for (turn_id,) in self._rows("prunable", ended_before, now, limit)]

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
        except (OverflowError, UnicodeEncodeError):  # what could not be stored is in no row
            return
        except UNREADABLE as error:
            raise explained(self.path, error) from error


def _stored(row: Sequence[Any]) -> StoredTurn:
    turn, sealed, receipt = row[:10], row[10], row[11:]
    if receipt[0] is None:
        return StoredTurn(TurnRow(*turn), sealed, None)
    state = STATE_OF.get(turn[2], turn[2])  # a state that nobody knows is shown as it is
    return StoredTurn(TurnRow(*turn), sealed, _receipt([*receipt[:5], state, *receipt[5:]]))


def _receipt(row: Sequence[Any]) -> ReceiptRow:
    return ReceiptRow(*[*row[:11], bool(row[11])])
