"""Faults: what goes wrong in a simulated run, by plan or by chance, and the store that it happens to."""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final, NoReturn, Protocol

import msgspec

from turnkeeper.kernel.errors import StorageFailed, StoreInUse, TurnkeeperError
from turnkeeper.kernel.ports import Points
from turnkeeper.kernel.records import EdgeAppended, Record
from turnkeeper.testing.memory import Disk, MemoryStore
from turnkeeper.testing.stopping import POINTS, PointedStore
from turnkeeper.testing.violated import Violated

__all__ = ["Fault", "Faults", "FaultyStore", "PlannedBug", "Trouble", "Witness"]


class Fault(StrEnum):
    """What can happen to a commit."""

    FAIL = "fail"  # the disk refuses it once; nothing is written
    FULL = "full"  # the disk is full, for this commit and the next few
    DELAY = "delay"  # it takes long
    TEAR = "tear"  # the process is killed in it: only its first points stand
    CRASH_BEFORE = "crash_before"  # the process is killed, nothing of it stands
    CRASH_AFTER = "crash_after"  # the process is killed, all of it stands, nobody was told
    BUG_BEFORE = "bug_before"  # the writer crashes, nothing of it stands; it is started anew in the same process
    BUG_AFTER = "bug_after"  # the writer crashes, all of it stands, nobody was told
    SECOND_OWNER = "second_owner"  # another process tries to take the store; it must be refused


class PlannedBug(Exception):
    """What no store should raise: a bug in it, as planned."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong in a run. Nothing does by default.

    Args:
        at: faults by the number of the commit in the whole run, from 1.
        crash_at: the number of the crash point (before and after each commit and each effect), from 1, at which
            the process is killed; 0 for none.
        crash_point: the one name that counts for `crash_at`, `effect.after` say; empty for every point.
        crash_rate: how likely the process is killed at any one crash point.
        fault_rate: how likely a commit has a fault other than a crash.
        crashes_max: kills in one run after which chance leaves it in peace, so that it ends.
        latency_s: the longest that reading or committing takes, in virtual seconds; most take less.
        delay_s: how long a delayed commit takes.
        full_commits: how many commits in a row find the disk full.
        restart_s: virtual time between a kill and the next life.
    """

    at: Mapping[int, Fault] = MappingProxyType({})
    crash_at: int = 0
    crash_point: str = ""
    crash_rate: float = 0.0
    fault_rate: float = 0.0
    crashes_max: int = 1_000
    latency_s: float = 0.005
    delay_s: float = 5.0
    full_commits: int = 3
    restart_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what would quietly do nothing.

        Raises:
            ValueError: a rate that is no probability, or a crash point that does not exist; names it.
        """
        for name in ("crash_rate", "fault_rate"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must be between 0 and 1, not {getattr(self, name)!r}"
                raise ValueError(msg)
        for name, least in (
            ("full_commits", 1),
            ("latency_s", 0),
            ("delay_s", 0),
            ("restart_s", 0),
            ("crashes_max", 0),
        ):
            if getattr(self, name) < least:
                msg = f"{name} must be at least {least}, not {getattr(self, name)!r}"
                raise ValueError(msg)
        if self.crash_at < 0:
            msg = f"crash_at must be the number of a crash point, from 1, not {self.crash_at!r}"
            raise ValueError(msg)
        for number, fault in self.at.items():
            if number < 1 or fault not in set(Fault):
                msg = (
                    f"at must have the numbers of commits, from 1, and what happens to them, not {number!r}: {fault!r}"
                )
                raise ValueError(msg)
        if self.crash_point not in {"", *POINTS}:
            msg = f"crash_point must be one of {', '.join(POINTS)}, not {self.crash_point!r}"
            raise ValueError(msg)

    def counted(self, passed: Counter[str]) -> int:
        """Return how many of the points passed count for `crash_at`."""
        return passed[self.crash_point] if self.crash_point else passed.total()

    @property
    def disk_fails(self) -> bool:
        """Say whether a commit may be refused, so that a life may end with `StorageFailed`."""
        return bool(self.fault_rate) or not {Fault.FAIL, Fault.FULL, *_BUGS}.isdisjoint(self.at.values())


_BY_CHANCE: Final = (
    *(Fault.FAIL, Fault.FULL, Fault.DELAY, Fault.SECOND_OWNER) * 2,
    Fault.BUG_BEFORE,
    Fault.BUG_AFTER,
)
_BUGS: Final = frozenset({Fault.BUG_BEFORE, Fault.BUG_AFTER})
_INSTANT: Final = 0.5
"""How many reads and commits take no time at all: races of what is instant are the narrowest."""


class Trouble:
    """The faults of one run as they come: it counts commits, and draws what chance decides."""

    __slots__ = ("_commits", "_draw", "_faults", "_full")

    def __init__(self, faults: Faults, seed: int) -> None:
        """Begin a run's count."""
        self._faults = faults
        self._draw = Random(f"faults {seed}").random
        self._commits = 0
        self._full = 0

    def fault(self) -> Fault | None:
        """Return what happens to the next commit."""
        self._commits += 1
        fault = self._faults.at.get(self._commits)
        if self._full:
            self._full -= 1
            return fault or Fault.FAIL
        if fault is None and self._faults.fault_rate and self._draw() < self._faults.fault_rate:
            fault = _BY_CHANCE[int(self._draw() * len(_BY_CHANCE))]
        if fault is Fault.FULL:
            self._full = self._faults.full_commits - 1
        return fault

    def crashes(self, passed: Counter[str], point: str, crashed: int) -> bool:
        """Say whether the process is killed at the point that was just passed; `crashed` is how often it has been."""
        faults = self._faults
        if faults.crash_point in {"", point} and faults.crash_at == faults.counted(passed):
            return True
        return bool(faults.crash_rate) and crashed < faults.crashes_max and self._draw() < faults.crash_rate

    def part(self, points: int) -> int:
        """Return how many of a torn commit's points stand."""
        return int(self._draw() * points)

    async def pause(self) -> None:
        """Let a read or a commit take its time."""
        draw = self._draw()
        await asyncio.sleep(0 if draw < _INSTANT else (draw - _INSTANT) * self._faults.latency_s)


class Witness(Points, Protocol):
    """Who is told what happens to a faulty store."""

    def committed(self, points: Sequence[Sequence[Record]], rejected: Mapping[int, TurnkeeperError]) -> None:
        """Be told that a commit stands."""

    def kill(self) -> NoReturn:
        """Kill the process, here."""

    def report(self, violation: Violated) -> None:
        """Be told of what may not be."""


class FaultyStore(PointedStore):
    """A store in memory to which a run's trouble happens. `troubled_s` is when a commit last failed, or was late."""

    __slots__ = ("_disk", "_faults", "_memory", "_trouble", "_witness", "_writing", "troubled_s")

    def __init__(self, disk: Disk, witness: Witness, faults: Faults, trouble: Trouble) -> None:
        """Take the disk, whom to tell, and the trouble."""
        self._memory = MemoryStore(disk, pause=trouble.pause)
        super().__init__(self._memory, witness)
        self._disk = disk
        self._witness = witness
        self._faults = faults
        self._trouble = trouble
        self._writing: Sequence[Sequence[Record]] = ()
        self.troubled_s = -math.inf

    @property
    def busy(self) -> bool:
        """Say whether a commit is being written."""
        return bool(self._writing)

    def writing(self) -> set[int]:
        """Return the turns in the commit that is being written."""
        edges = (record for point in self._writing for record in point if isinstance(record, EdgeAppended))
        return {edge.turn_id for edge in edges}

    def die(self) -> None:
        """See `MemoryStore.die`."""
        self._memory.die()

    async def apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        """Write, with what happens to this commit; see `Store.apply`."""
        self._writing = points
        try:
            return await self._apply(points)
        finally:
            self._writing = ()

    async def _apply(self, points: Sequence[Sequence[Record]]) -> Mapping[int, TurnkeeperError]:
        witness = self._witness
        witness.reached("commit.before", "")
        fault = self._trouble.fault()
        match fault:
            case Fault.FAIL | Fault.FULL:
                await self._trouble.pause()
                self.troubled_s = asyncio.get_running_loop().time()
                raise StorageFailed(self.path, f"planned: {fault}")
            case Fault.DELAY:
                await asyncio.sleep(self._faults.delay_s)
                self.troubled_s = asyncio.get_running_loop().time()
            case Fault.SECOND_OWNER:
                await self._refuse_second_owner()
            case Fault.CRASH_BEFORE:
                witness.kill()
            case Fault.BUG_BEFORE:
                self._crash_writer()
            case Fault.TEAR:
                await self._memory.apply(points[: self._trouble.part(len(points))])
                witness.kill()
            case _:
                pass
        rejected = await self._memory.apply(points)
        if fault is Fault.CRASH_AFTER:
            witness.kill()
        witness.committed(points, rejected)
        if fault is Fault.BUG_AFTER:
            self._crash_writer()
        witness.reached("commit.after", "")
        return rejected

    def _crash_writer(self) -> NoReturn:
        self.troubled_s = asyncio.get_running_loop().time()
        raise PlannedBug

    async def _refuse_second_owner(self) -> None:
        try:
            await MemoryStore(self._disk).open()
        except StoreInUse:
            return
        self._witness.report(Violated("one owner a store", "a second one could open it"))
