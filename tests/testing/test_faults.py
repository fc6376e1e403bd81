"""Faults: each does to the commit it is planned for what it says, and to nothing else."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from turnkeeper import Settings, agent
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.records import NodeStarted, Record
from turnkeeper.testing import Disk, Fault, Faults, SeededLoop, SeededSchedule, Violated, World, run
from turnkeeper.testing.faults import FaultyStore, PlannedBug, Trouble
from turnkeeper.testing.violated import Killed


class Seen:
    """A witness that writes down what it is told."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.commits: list[int] = []
        self.reports: list[Violated] = []
        self.at_point: Callable[[str], None] = lambda _: None

    def reached(self, point: str, subject: str) -> None:
        self.points.append(point)
        self.at_point(point)

    def committed(self, points: Sequence[Sequence[Record]], rejected: Mapping[int, object]) -> None:
        self.commits.append(len(points))

    def kill(self) -> NoReturn:
        raise Killed

    def report(self, violation: Violated) -> None:
        self.reports.append(violation)


class Bench:
    """A faulty store with its disk and its witness; commits of five points, each one a node."""

    def __init__(self, seed: int = 0, **faults: Any) -> None:
        self.disk, self.seen = Disk(), Seen()
        planned = Faults(latency_s=0.0, **faults)
        self.store = FaultyStore(self.disk, self.seen, planned, Trouble(planned, seed))
        self.loop = SeededLoop(SeededSchedule(0))
        self._numbers = iter(range(1, 100_000))

    async def commit(self) -> str:
        """Commit five points; return what became of them."""
        points = [[NodeStarted(next(self._numbers), 1, 0.0, 0.0)] for _ in range(5)]
        before = len(self.disk.nodes)
        try:
            await self.store.apply(points)
        except StorageFailed as error:
            return f"{error.reason} {len(self.disk.nodes) - before}"
        except PlannedBug:
            return f"crashed {len(self.disk.nodes) - before}"
        except Killed:
            return f"killed {len(self.disk.nodes) - before}"
        return f"stands {len(self.disk.nodes) - before}"

    def commits(self, count: int) -> list[str]:
        async def main() -> list[str]:
            await self.store.open()
            return [await self.commit() for _ in range(count)]

        try:
            return self.loop.run_until_complete(main())
        finally:
            self.loop.abandon()


# ---------------------------------------------------------------- by plan


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize(
    ("fault", "said", "points"),
    [
        (Fault.FAIL, "planned: fail 0", ["commit.before"]),
        (Fault.BUG_BEFORE, "crashed 0", ["commit.before"]),
        (Fault.BUG_AFTER, "crashed 5", ["commit.before"]),
        (Fault.CRASH_BEFORE, "killed 0", ["commit.before"]),
        (Fault.CRASH_AFTER, "killed 5", ["commit.before"]),
        (Fault.DELAY, "stands 5", ["commit.before", "commit.after"]),
        (Fault.SECOND_OWNER, "stands 5", ["commit.before", "commit.after"]),
    ],
)
def test_a_fault_happens_to_its_commit_and_to_no_other(fault: Fault, said: str, points: list[str], at: int) -> None:
    """Commits are numbered from 1; those before and after it stand."""
    bench = Bench(at={at: fault})
    others = ["stands 5"]

    assert bench.commits(5) == others * (at - 1) + [said] + others * (5 - at)
    assert bench.seen.points == ["commit.before", "commit.after"] * (at - 1) + points + [
        "commit.before",
        "commit.after",
    ] * (5 - at)
    told = said == "stands 5" or fault is Fault.BUG_AFTER  # what stands is looked at, whoever is told
    assert bench.seen.commits == [5] * (4 + told)
    assert bench.seen.reports == []


def test_nothing_goes_wrong_without_a_plan() -> None:
    """The default of every fault is none."""

    assert Bench().commits(50) == ["stands 5"] * 50


@pytest.mark.parametrize("seed", range(8))
def test_a_torn_commit_leaves_its_first_points_and_never_all(seed: int) -> None:
    """A prefix, whose length follows from the seed."""
    bench = Bench(seed, at={2: Fault.TEAR})
    said = bench.commits(2)[1]
    left = int(said.split()[1])

    assert said.startswith("killed")
    assert 0 <= left < 5
    assert list(bench.disk.nodes) == list(range(1, 6 + left))


def test_commits_are_torn_at_every_place() -> None:
    """Some seed leaves none of them, some all but one."""

    assert {Bench(seed, at={1: Fault.TEAR}).commits(1)[0] for seed in range(60)} == {
        f"killed {left}" for left in range(5)
    }


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_full_disk_refuses_so_many_commits_in_a_row(count: int) -> None:
    """Then there is room again."""
    said = Bench(at={2: Fault.FULL}, full_commits=count).commits(8)

    assert [word.split()[0] for word in said] == ["stands"] + ["planned:"] * count + ["stands"] * (7 - count)
    assert all(word.endswith(" 0") for word in said[1 : 1 + count])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"full_commits": 0}, "full_commits must be at least 1, not 0"),
        ({"latency_s": -1.0}, "latency_s must be at least 0, not -1.0"),
        ({"crash_rate": 1.5}, "crash_rate must be between 0 and 1, not 1.5"),
        ({"crash_point": "effect.befor"}, "crash_point must be one of commit.before, commit.after, effect.before"),
    ],
    ids=str,
)
def test_faults_that_would_quietly_do_nothing_are_refused(fault: dict[str, Any], said: str) -> None:
    """A plan with a slip of the pen says so, and passes no test."""
    with pytest.raises(ValueError, match=said):
        Faults(**fault)


def test_a_planned_kill_happens_although_the_disk_is_full() -> None:
    """What is planned for a commit happens to it."""

    assert Bench(at={1: Fault.FULL, 2: Fault.CRASH_BEFORE}).commits(2)[1] == "killed 0"


def test_a_delay_takes_its_virtual_time() -> None:
    """Others go on meanwhile; the commit stands after it."""
    bench = Bench(at={1: Fault.DELAY}, delay_s=7.0)
    stood: list[tuple[float, int]] = []

    async def main() -> float:
        await bench.store.open()
        bench.loop.call_later(6.9, lambda: stood.append((bench.loop.time(), len(bench.disk.nodes))))
        await bench.commit()
        return bench.loop.time()

    assert bench.loop.run_until_complete(main()) == 7.0
    assert stood == [(6.9, 0)]

    bench.loop.abandon()


def test_a_second_owner_that_is_let_in_is_a_violation() -> None:
    """The store is tried at the fault; who gets it tells on it."""
    bench = Bench(at={2: Fault.SECOND_OWNER})

    def lose(point: str) -> None:
        if point == "commit.before" and len(bench.seen.points) == 3:
            bench.disk.owner = None

    bench.seen.at_point = lose
    bench.commits(2)

    assert [violation.rule for violation in bench.seen.reports] == ["one owner a store"]


# ---------------------------------------------------------------- by chance


def test_faults_by_chance_come_as_often_as_their_rate_says_and_kill_nobody() -> None:
    """Every kind but the crashes; which ones follows from the seed."""
    said = [word.split()[0] for word in Bench(3, fault_rate=0.2, full_commits=1, delay_s=0.0).commits(2_000)]

    assert set(said) == {"stands", "planned:", "crashed"}
    assert said.count("planned:") / 2_000 == pytest.approx(0.2 * 4 / 10, abs=0.03)
    assert said.count("crashed") / 2_000 == pytest.approx(0.2 * 2 / 10, abs=0.03)
    assert said == [word.split()[0] for word in Bench(3, fault_rate=0.2, full_commits=1, delay_s=0.0).commits(2_000)]


def test_reading_and_writing_take_up_to_their_latency_and_often_no_time() -> None:
    """Half of it is instant: there the narrowest races are."""
    faults = Faults(latency_s=10.0)
    trouble, loop = Trouble(faults, 0), SeededLoop(SeededSchedule(0))

    async def main() -> list[float]:
        taken = []
        for _ in range(600):
            begun = loop.time()
            await trouble.pause()
            taken.append(loop.time() - begun)
        return taken

    taken = loop.run_until_complete(main())
    loop.abandon()

    assert max(taken) <= 10.0 / 2 + 1e-6
    assert sum(time == 0 for time in taken) / 600 == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("faults", "fails"),
    [
        ({}, False),
        ({"crash_rate": 1.0}, False),
        ({"fault_rate": 0.1}, True),
        ({"at": {1: Fault.FAIL}}, True),
        ({"at": {9: Fault.FULL}}, True),
        ({"at": {1: Fault.DELAY, 2: Fault.TEAR, 3: Fault.SECOND_OWNER}}, False),
    ],
)
def test_a_disk_fails_where_a_commit_may_be_refused(faults: dict[str, Any], fails: bool) -> None:
    """Only there may a life end with `StorageFailed`."""

    assert Faults(**faults).disk_fails is fails


# ---------------------------------------------------------------- in a world


@agent("echo")
async def echo(turn: Any) -> Any:
    return turn.input


async def ask_twice(world: World) -> None:
    async with world.runtime([echo], settings=Settings(recoveries_max=1_000)) as runtime:
        for number in range(2):
            await runtime.ask("s", "echo", number, key=f"{number}")


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("at", range(1, 7))
def test_a_life_gets_over_any_fault_at_any_of_its_commits(fault: Fault, at: int) -> None:
    """Killed or refused, it is lived again; delayed, it takes longer."""

    async def life(world: World) -> None:
        while not world.happened("done"):
            try:
                await ask_twice(world)
                world.happen("done")
            except StorageFailed:
                await asyncio.sleep(1)

    outcome = run(life, faults=Faults(at={at: fault}))

    assert (outcome.turns, outcome.live) == (2, 0)
    assert outcome.lives == 1 + (fault in {Fault.TEAR, Fault.CRASH_BEFORE, Fault.CRASH_AFTER})


def test_the_process_is_killed_at_exactly_the_planned_point() -> None:
    """Points of the whole run are counted; the point itself is the last that the first life passes."""
    points = run(ask_twice).points

    for at in range(1, points + 1):
        seen: list[tuple[int, int]] = []

        async def life(world: World, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((world.life, world.passed.total()))  # type: ignore[attr-defined]
            await ask_twice(world)

        outcome = run(life, faults=Faults(crash_at=at))

        assert seen == [(1, 0), (2, at)]
        assert outcome.points > at


def test_a_point_beyond_the_run_kills_nobody() -> None:
    """So a search for the last point ends."""

    assert run(ask_twice, faults=Faults(crash_at=10_000)).lives == 1


@pytest.mark.parametrize("most", [0, 1, 5])
def test_kills_by_chance_end_after_their_number(most: int) -> None:
    """Then the run is left in peace, however likely they are."""

    assert run(ask_twice, faults=Faults(crash_rate=1.0, crashes_max=most)).lives == 1 + most


def test_a_restart_takes_its_virtual_time() -> None:
    """The next life begins so much later."""
    moments: list[float] = []

    async def life(world: World) -> None:
        moments.append(asyncio.get_running_loop().time())
        if world.life < 4:
            world.kill()

    run(life, faults=Faults(restart_s=100.0))

    assert moments == [0, 100, 200, 300]
