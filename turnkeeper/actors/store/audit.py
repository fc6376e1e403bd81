"""The audit: the contract's invariants proved from the file alone."""

from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec

from turnkeeper.actors.store.reader import Reader, SessionRow, StoredTurn
from turnkeeper.actors.store.sql import objects
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.history import Interval, Violation, check_turn, out_of_order, overlaps, runs
from turnkeeper.kernel.turn import TERMINAL

__all__ = ["Audit", "audit"]


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and everything found that may not be."""

    path: str
    actors: int
    turns: int
    edges: int
    live: int
    violations: list[Violation]


def audit(path: str | Path) -> Audit:
    """Check every invariant of a store, from its file alone; its owner may run meanwhile.

    Raises:
        StorageFailed: it is no store, or cannot be read at all.
        SchemaTooNew: a newer version wrote it.
    """
    with Reader(path) as reader:
        return _Auditor(reader).run()


class _Auditor:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._turns = self._edges = self._live = self._actors = 0

    def run(self) -> Audit:
        violations: list[Violation] = []
        try:
            violations.extend(self._check())
        except StorageFailed as error:  # damage that stops the reading is itself a finding
            violations.append(Violation("readable file", self._reader.path, error.reason))
        return Audit(
            path=self._reader.path,
            actors=self._actors,
            turns=self._turns,
            edges=self._edges,
            live=self._live,
            violations=violations,
        )

    def _check(self) -> Iterator[Violation]:
        for found in self._reader.damage():
            yield Violation("sound file", self._reader.path, found)
        stored, expected = self._reader.schema(), objects()
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                yield Violation("schema", name, "is not as this version makes it")
        for where, what in self._reader.orphans():
            yield Violation("no orphans", where, what)
        for session in self._reader.sessions():
            self._actors += 1
            yield from self._check_actor(session)

    def _check_actor(self, session: SessionRow) -> Iterator[Violation]:
        intervals: list[Interval] = []
        started: list[int] = []
        for turn in self._reader.turns(session.actor_id):
            found = yield from self._check_turn(turn)
            intervals.extend(found)
            if found or turn.row.state not in TERMINAL:
                started.append(turn.row.turn_id)
        where = str(session.address)
        for one, other in overlaps(intervals):
            yield Violation("one running turn", where, f"turns {one.turn_id} and {other.turn_id} ran at once")
        for later, earlier in out_of_order(started, intervals):
            yield Violation("order of acceptance", where, f"turn {later} started before turn {earlier}")

    def _check_turn(self, turn: StoredTurn) -> Generator[Violation, None, list[Interval]]:
        """Yield what is wrong with a turn; return its runs."""
        numbered = self._reader.edges(turn.row.turn_id)
        self._turns += 1
        self._edges += len(numbered)
        self._live += turn.row.state not in TERMINAL
        deliverable = self._reader.deliverable(turn.row.turn_id)
        yield from check_turn(turn.row, [edge for _, edge in numbered], deliverable, turn.receipt)
        return runs(turn.row.turn_id, ((number, edge.kind) for number, edge in numbered))
