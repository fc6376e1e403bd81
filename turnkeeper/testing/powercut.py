"""Power cuts: what may be left on the disk when the machine stops, and whether it is what was promised.

A kill spares the kernel's page cache, so it never tests a sync. Here a run is traced, and its folder is made again
as it may stand after a cut at any place of the trace: everything synced before stands; of the rest an arbitrary
part, by file, by write or by sector, none and all included; sizes and names likewise. SQLite assumes no more of a
disk than that. What is left out: a sector that is torn in itself, and sectors that hold neither old nor new.

`python -m turnkeeper.testing.powercut MODULE:LIFE` does it from the command line.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import StorageError
from turnkeeper.kernel.history import Violation
from turnkeeper.testing.process import (
    ACKNOWLEDGED,
    EFFECTS,
    ENDS,
    ONCE,
    OPENS,
    STAYS,
    STORE,
    ProcessWorld,
    acknowledgements,
    check,
    command,
    live,
    load,
    origin,
    run,
)
from turnkeeper.testing.trace import FOLDER, Event, Naming, NotUnderstood, Resize, Sync, Write, available, read, strace
from turnkeeper.testing.violated import Violated

__all__ = ["Cut", "CutReport", "Recording", "available", "cut", "cuts", "rebuild", "record"]

SECTOR: Final = 512
"""Bytes that a disk writes together; SQLite's own assumption of the least."""

_LOG: Final = f"{STORE}-wal"
_EXAMPLES_MAX: Final = 10
_OUTSIDE: Final = (ACKNOWLEDGED, EFFECTS)
"""What stands for the world outside: the cut does not reach it, and what had begun to be told was true already."""

_RETURNS: Final = "a life returns"
_LOST: Final = frozenset({STAYS, ENDS})


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What one life did to its folder.

    Args:
        life: `MODULE:LIFE`.
        seed: what it drew from.
        synchronous: SQLite's setting.
        events: everything it did to files and names, in order.
        served: the line of the trace at which the first client was told something; before it, the store is made.
        told: what was acknowledged and delivered, acknowledgements in all.
        checkpoints: how often pages were moved from the log into the database.
        resets: how often the log was begun anew from its start.
    """

    life: str
    seed: int
    synchronous: str
    events: list[Event]
    served: int
    told: int
    checkpoints: int
    resets: int


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """One cut, by the seed that draws it, at a line of the trace, and what may not be after it.

    A seed draws the same cut from the same recording; another recording of the same life has other lines.
    """

    seed: int
    position: int
    recovered: bool
    violations: list[Violation]


class CutReport(msgspec.Struct, frozen=True, kw_only=True):
    """What many cuts came to.

    Args:
        cuts: how many there were.
        recoveries: after how many a life was run to its end as well.
        lost: after how many something was missing that had been acknowledged or delivered.
        broken: after how many the store could not be opened, an audit found something, or the life did not end.
        repeated: after how many an effect happened again that may happen once.
        examples: the first of those with a finding.
    """

    cuts: int
    recoveries: int
    lost: int
    broken: int
    repeated: int
    examples: list[Cut]


def record(life: str, folder: Path, *, seed: int = 0, synchronous: str = "FULL", timeout_s: float = 120.0) -> Recording:
    """Run a life once, under strace, and return what it did to its files.

    Args:
        life: `MODULE:LIFE`.
        folder: where the world and the trace are made; it must not hold them yet.
        seed: what the life draws from.
        synchronous: SQLite's setting, whatever the life's own settings say.
        timeout_s: how long it may take.

    Raises:
        Violated: the life raised or did not return.
        NotUnderstood: it did something to its folder that cannot be imagined half done.
        RuntimeError: runs cannot be traced here, see `available`.
        ValueError: the life does not exist.
    """
    path = origin(life)
    if reason := available():
        raise RuntimeError(reason)
    world, trace = folder.resolve() / "world", folder.resolve() / "trace"
    world.mkdir(parents=True)
    living = command(life, world, "--life", 1, "--seed", seed, "--synchronous", synchronous)
    try:
        ended = run([*strace(trace), *living], path=path, timeout_s=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise Violated(_RETURNS, f"it did not within {timeout_s:g} s") from error
    if ended.returncode != 0:
        raise Violated(_RETURNS, ended.stderr)
    events = read(trace, world)
    served, checkpoints, resets = _looked_through(events)
    return Recording(
        life=life,
        seed=seed,
        synchronous=synchronous,
        events=events,
        served=served,
        told=len(acknowledgements(world)),
        checkpoints=checkpoints,
        resets=resets,
    )


def _looked_through(events: Sequence[Event]) -> tuple[int, int, int]:
    """Return when clients were first told something, the checkpoints, and how often a log was begun anew."""
    names = {file: name for event in events if isinstance(event, Naming) for name, file in event.names if file}
    writes = [(names[event.file], event) for event in events if isinstance(event, Write)]
    served = next((event.started for name, event in writes if name == ACKNOWLEDGED), events[-1].ended)
    stored = [name for name, _ in writes if name in {STORE, _LOG}]
    checkpoints = sum((before, after) == (_LOG, STORE) for before, after in pairwise(stored))
    begun = [event.file for name, event in writes if name == _LOG and event.at == 0]
    return served, checkpoints, len(begun) - len(set(begun))


def cuts(
    recording: Recording,
    count: int,
    seed: int = 0,
    *,
    places: range | None = None,
    recover_every: int = 0,
    repeatable: Sequence[str] = (),
) -> CutReport:
    """Cut the power many times, each time look at what is left, and compare it with what was promised.

    Args:
        recording: the run.
        count: how many cuts.
        seed: the first cut's; the others have the numbers after it.
        places: the lines of the trace to cut at; anywhere where not given.
        recover_every: after each k-th cut the life is run to its end as well, in this process; 0 for never.
        repeatable: how effects begin that may happen more than once: those of idempotent tools.
    """
    found: list[Cut] = []
    for number in range(count):
        recover = recover_every > 0 and number % recover_every == 0
        found.append(cut(recording, seed + number, places=places, recover=recover, repeatable=repeatable))
    rules = [{violation.rule for violation in each.violations} for each in found]
    return CutReport(
        cuts=count,
        recoveries=sum(each.recovered for each in found),
        lost=sum(bool(broken & _LOST) for broken in rules),
        broken=sum(bool(broken - _LOST - {ONCE}) for broken in rules),
        repeated=sum(ONCE in broken for broken in rules),
        examples=[each for each in found if each.violations][:_EXAMPLES_MAX],
    )


def cut(
    recording: Recording,
    seed: int,
    *,
    places: range | None = None,
    recover: bool = False,
    repeatable: Sequence[str] = (),
) -> Cut:
    """Cut the power once, at a place and with a rest that follow from the seed, and look; see `cuts`."""
    chance = Random(f"cut {seed}")
    position = chance.choice(places or range(recording.events[0].started, recording.events[-1].ended + 2))
    with tempfile.TemporaryDirectory(prefix="turnkeeper-cut-") as made:
        folder = Path(made)
        rebuild(recording.events, position, chance, folder)
        violations = _opened(folder) or check(folder, repeatable=repeatable, ended=False)
        recovered = recover and not violations
        if recovered:
            violations = _recovered(recording, folder) or check(folder, repeatable=repeatable)
    return Cut(seed=seed, position=position, recovered=recovered, violations=violations)


def _opened(folder: Path) -> list[Violation]:
    """Open the store as a runtime does, which is when SQLite recovers it; nothing may stand in its way."""

    async def open_and_close() -> None:
        store = SqliteStore(folder / STORE, synchronous="OFF", store_id="made after the cut", created_at=0.0)
        await store.open()
        await store.close()

    try:
        asyncio.run(open_and_close())
    except StorageError as error:
        return [Violation(OPENS, STORE, str(error))]
    return []


def _recovered(recording: Recording, folder: Path) -> list[Violation]:
    """Run the life to its end in what is left."""
    life = load(recording.life)
    try:
        with ProcessWorld(folder, seed=recording.seed, life=2, synchronous="OFF") as world:
            live(life, world)
    except Exception as error:  # noqa: BLE001 - whatever a life raises after the cut is a finding
        return [Violation(_RETURNS, "after the cut", f"{type(error).__name__}: {error}")]
    return []


def rebuild(events: Sequence[Event], position: int, chance: Random, folder: Path) -> None:
    """Make a folder's files as they may stand after a cut before a line of the trace.

    What had ended before a sync of its file started, which itself had ended, stands. The rest that had started
    may stand, in any part.
    """
    begun = [event for event in events if event.started < position]
    synced: dict[int, int] = {}
    for event in begun:
        if isinstance(event, Sync) and event.ended < position:
            synced[event.file] = max(synced.get(event.file, -1), event.started)
    names: dict[str, int | None] = {}
    outside: set[int | None] = set()
    luck = _Luck(chance)
    for event in begun:
        if isinstance(event, Naming):
            of_world = all(name in _OUTSIDE for name, _ in event.names)
            outside |= {file for _, file in event.names if of_world}
            if of_world or event.ended < synced.get(FOLDER, -1) or luck.keeps():
                names.update(event.names)
    for name, file in names.items():
        if file is not None:
            of_file = [event for event in begun if isinstance(event, Write | Resize) and event.file == file]
            durable = sys.maxsize if file in outside else synced.get(file, -1)
            (folder / name).write_bytes(_rest(of_file, durable, luck))


def _rest(events: Sequence[Write | Resize], durable: int, luck: "_Luck") -> bytes:
    """Return what is left of a file: all that ended before `durable` started, and an arbitrary part of the rest."""
    image = bytearray()
    sure = [event for event in events if event.ended < durable]
    for event in sure:
        if isinstance(event, Write):
            _put(image, event.at, event.data)
        else:
            _resize(image, event.size)
    size = len(image)
    sizes = [size]
    luck.next_file()
    for event in events[len(sure) :]:
        if isinstance(event, Write):
            size = max(size, event.at + len(event.data))
            for start, end in luck.parts(event.at, event.at + len(event.data)):
                _put(image, start, event.data[start - event.at : end - event.at])
        else:
            size = event.size
            if luck.keeps():
                _resize(image, size)
        sizes.append(size)
    _resize(image, luck.size(sizes))
    return bytes(image)


class _Luck:
    """What a disk has kept of what was not synced: drawn once for a whole cut how, then again and again what."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._grain = chance.choice(("file", "write", "sector"))
        self._share = chance.choice((0.0, 1.0, chance.random(), chance.random()))
        self._file = self._share

    def next_file(self) -> None:
        """Draw again what is drawn by file."""
        self._file = float(self._chance.random() < self._share) if self._grain == "file" else self._share

    def keeps(self) -> bool:
        """Say whether one change stands."""
        return self._chance.random() < self._file

    def parts(self, start: int, end: int) -> Iterable[tuple[int, int]]:
        """Return the parts of a write that stand."""
        if self._file in {0.0, 1.0} or self._grain != "sector":
            return [(start, end)] if self.keeps() else []
        edges = [start, *range(start - start % SECTOR + SECTOR, end, SECTOR), end]
        return [part for part in pairwise(edges) if self.keeps()]

    def size(self, sizes: Sequence[int]) -> int:
        """Return the size that stands, of those the file had since it was synced."""
        if self._file in {0.0, 1.0}:
            return sizes[-int(self._file)]
        return self._chance.choice(sizes)


def _put(image: bytearray, at: int, data: bytes) -> None:
    """Write, with zeros in what is skipped."""
    if len(image) < at:
        _resize(image, at)
    image[at : at + len(data)] = data


def _resize(image: bytearray, size: int) -> None:
    """Cut off, or fill with zeros."""
    del image[size:]
    image.extend(bytes(size - len(image)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a life, cut its power, print what came of it; return 1 if something was lost or broken."""
    parser = argparse.ArgumentParser(
        prog="python -m turnkeeper.testing.powercut", description="Record a life, cut its power, and check."
    )
    parser.add_argument("life", metavar="MODULE:LIFE")
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL", "OFF"), default="FULL")
    parser.add_argument("--recover-every", type=int, default=25, help="run the life to its end after each k-th cut")
    parser.add_argument("--repeatable", action="append", default=[], help="how effects begin that may happen again")
    given = parser.parse_args(arguments)
    if given.cuts < 1 or given.recover_every < 0:
        parser.error("--cuts must be 1 or more, --recover-every 0 or more")
    with tempfile.TemporaryDirectory(prefix="turnkeeper-powercut-") as folder:
        try:
            recording = record(given.life, Path(folder), seed=given.seed, synchronous=given.synchronous)
        except (ValueError, RuntimeError, NotUnderstood) as error:
            parser.error(str(error))
        except Violated as violated:
            print(violated)  # noqa: T201
            return 1
    report = cuts(recording, given.cuts, given.seed, recover_every=given.recover_every, repeatable=given.repeatable)
    for line in table(recording, report):
        print(line)  # noqa: T201
    return int(bool(report.lost or report.broken or report.repeated))


def table(recording: Recording, report: CutReport) -> list[str]:
    """Return what was recorded and found, line by line."""
    kinds = [type(event) for event in recording.events]
    rows: list[tuple[str, object]] = [("synchronous", recording.synchronous)]
    rows += [("writes", kinds.count(Write)), ("syncs", kinds.count(Sync)), ("acknowledgements", recording.told)]
    rows += [("checkpoints", recording.checkpoints), ("log resets", recording.resets)]
    rows += [(name, getattr(report, name)) for name in ("cuts", "recoveries", "lost", "broken", "repeated")]
    lines = [f"{name:<18}{value!s:>8}" for name, value in rows]
    for example in report.examples:
        found = example.violations[0]
        lines.append(f"seed {example.seed}, line {example.position}: {found.rule}: {found.where}: {found.what}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
