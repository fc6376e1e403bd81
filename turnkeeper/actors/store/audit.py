"""The audit: the contract's invariants proved from the file alone."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sql import objects
from turnkeeper.actors.store.wal import damage
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.history import Tally, Violation, check_rows
from turnkeeper.kernel.supervision.kept import check_noted

__all__ = ["Audit", "audit"]


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and everything found that may not be."""

    path: str
    actors: int
    turns: int
    edges: int
    live: int
    unsealed: int
    violations: list[Violation]


def audit(path: str | Path) -> Audit:
    """Check every invariant of a store, from its file alone; its owner may run meanwhile.

    Raises:
        StorageFailed: it is no store, or cannot be read at all.
        SchemaTooNew: a newer version wrote it.
    """
    ignored = list(damage(Path(path)))  # before connecting, which may bring the log's index up to date
    with Reader(path) as reader:
        return _Auditor(reader, ignored).run()


class _Auditor:
    def __init__(self, reader: Reader, ignored: list[str]) -> None:
        self._reader = reader
        self._ignored = ignored
        self._tally = Tally()

    def run(self) -> Audit:
        violations: list[Violation] = []
        try:
            violations.extend(self._check())
        except StorageFailed as error:  # damage that stops the reading is itself a finding
            violations.append(Violation("readable file", self._reader.path, error.reason))
        except Exception as error:  # noqa: BLE001 - a damaged row may hold any type where another is meant
            said = f"what is stored cannot be read: {type(error).__name__}: {error}"
            violations.append(Violation("readable rows", self._reader.path, said))
        return Audit(
            path=self._reader.path,
            violations=violations,
            **msgspec.structs.asdict(self._tally),
        )

    def _check(self) -> Iterator[Violation]:
        for found in self._ignored:
            yield Violation("sound log", self._reader.path, found)
        for found in self._reader.damage():
            yield Violation("sound file", self._reader.path, found)
        stored, expected = self._reader.schema(), objects()
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                yield Violation("schema", name, "is not as this version makes it")
        yield from check_rows(self._reader, self._tally)
        yield from check_noted(self._reader)
