"""The sweep: what a bug has left to nobody goes on, in its order and without new traffic; what is slow is let be."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from looking import FakeClock, Said, check_invariants, kinds, rows, until

from turnkeeper import Receipt, Runtime, Settings, Turn, agent
from turnkeeper.actors.store.batch import BatchConnection
from turnkeeper.kernel import lifecycle
from turnkeeper.kernel.errors import StorageFailed
from turnkeeper.kernel.records import Record
from turnkeeper.supervisors.sweep import PAGE_MAX, Sweep
from turnkeeper.testing import SeededLoop, SeededSchedule, Violated, World, run
from turnkeeper.testing.conformance.world import ACTOR, OTHER_ACTOR, WORLD, accepted, address
from turnkeeper.testing.memory import Disk, MemoryStore

FAST = Settings(synchronous="OFF", shutdown_s=0.02, sweep_s=0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the runtimes of this test say."""
    said = Said()
    monkeypatch.setattr("turnkeeper.actors.node.logger", lambda: said)
    return said


def sweep_of(runtime: Runtime) -> Sweep:
    """Return a sweep in the test's hand; the runtime's own is off."""
    return Sweep(runtime._node, runtime._reception)


def resting(runtime: Runtime, *agent_ids: str) -> None:
    runtime._node.resting.clear()
    runtime._node.resting.update(agent_ids)


def lose(runtime: Runtime, receipt: Receipt) -> None:
    """Take a queued turn from its actor, as a bug would that forgets to put it back."""
    queue = runtime._reception.agent(receipt.address)._queue
    queue.remove(next(turn for turn in queue if turn.row.turn_id == receipt.turn_id))


def written(path: Path, points: Sequence[Sequence[Record]]) -> None:
    """Write commit points behind the back of the runtime that owns the store."""
    with closing(BatchConnection(path, isolation_level=None)) as connection:
        connection.prepare()
        connection.write(points)
        assert connection.rejected == {}


async def looks(sweep: Sweep, times: int) -> None:
    for _ in range(times):
        await sweep.look()


class Billing:
    """An agent that says in which order its turns ran, each at which attempt."""

    def __init__(self, name: str = "billing") -> None:
        self.ran: list[tuple[int, int]] = []
        self.agent = agent(name)(self.handle)

    async def handle(self, turn: Turn) -> int:
        self.ran.append((turn.turn_id, turn.attempt))
        return turn.turn_id


class Points:
    """What is told to a test about the points that a runtime passes."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, str]] = []

    def reached(self, point: str, subject: str) -> None:
        self.passed.append((point, subject))


# ---------------------------------------------------------------- orphans


async def test_a_turn_that_its_actor_has_lost_goes_on_after_two_looks(path: Path, said: Said) -> None:
    """Not after one: it might have been on its way."""
    billing, points = Billing(), Points()
    async with Runtime(path, [billing.agent], settings=FAST, points=points) as runtime:
        resting(runtime, "billing")
        receipt = await runtime.tell("s", "billing", None)
        lose(runtime, receipt)
        resting(runtime)
        sweep = sweep_of(runtime)
        await sweep.look()
        assert (sweep.orphaned, said.of("turn.orphaned")) == (0, [])

        await sweep.look()
        assert (await asyncio.wait_for(runtime.ask("s", "billing", None), 5)).value == 2
        await looks(sweep, 3)

    assert billing.ran == [(1, 1), (2, 1)]
    assert (sweep.orphaned, sweep.stalled) == (1, 0)
    assert said.of("turn.orphaned") == [{"turn_id": 1, "address": "s/billing", "state": "queued"}]
    assert points.passed == [("sweep.caught", "turn.orphaned 1 of s/billing, queued")]
    check_invariants(path)


async def test_turns_whose_actor_is_gone_come_back_in_the_order_of_acceptance(path: Path, said: Said) -> None:
    """Every one of them, of every actor."""
    billing = Billing()
    async with Runtime(path, [billing.agent], settings=FAST) as runtime:
        resting(runtime, "billing")
        for number in range(6):
            await runtime.tell(f"s{number % 2}", "billing", None)
        runtime._reception._agents.clear()
        resting(runtime)
        sweep = sweep_of(runtime)
        await looks(sweep, 2)
        await until(lambda: len(billing.ran) == 6)

    assert sweep.orphaned == len(said.of("turn.orphaned")) == 6
    assert [turn_id for turn_id, _ in billing.ran if turn_id % 2] == [1, 3, 5]
    assert [turn_id for turn_id, _ in billing.ran if not turn_id % 2] == [2, 4, 6]
    check_invariants(path)


async def test_what_an_older_boot_left_running_is_taken_back_first(path: Path, clock: FakeClock, said: Said) -> None:
    """And so are those behind it, in their order. One that is suspended needs nobody: it stands in the store."""
    clock.now = 150.0
    billing = Billing()
    async with Runtime(path, [], settings=FAST, clock=clock):
        pass
    async with Runtime(path, [billing.agent], settings=FAST, clock=clock) as runtime:
        written(path, [*WORLD[1:], accepted(5, ACTOR)])
        sweep = sweep_of(runtime)
        await looks(sweep, 2)
        await until(lambda: len(billing.ran) == 3)
        await looks(sweep, 2)

    assert billing.ran == [(1, 2), (2, 1), (5, 1)]
    assert (sweep.orphaned, sweep.stalled) == (3, 0)
    assert rows(path, "SELECT turn_id FROM turns JOIN waits USING (turn_id) WHERE state = 'suspended'") == [(4,)]
    assert kinds(path)[:4] == ["inbound_received", "lease_acquired", "turn_requeued", "lease_acquired"]
    assert {one["turn_id"] for one in said.of("turn.orphaned")} == {1, 2, 5}
    check_invariants(path)


async def test_turns_of_agents_that_the_runtime_was_not_given_stay(path: Path, clock: FakeClock) -> None:
    """They are nobody's here."""
    clock.now = 150.0
    async with Runtime(path, [], settings=FAST, clock=clock):
        pass
    async with Runtime(path, [Billing("other").agent], settings=FAST, clock=clock) as runtime:
        written(path, WORLD[1:])
        before = rows(path, "SELECT * FROM turns")
        sweep = sweep_of(runtime)
        await looks(sweep, 3)

        assert rows(path, "SELECT * FROM turns") == before
        assert (sweep.orphaned, sweep.stalled) == (0, 0)


async def test_a_suspended_turn_does_not_come_back_into_the_run_of_another(path: Path, clock: FakeClock) -> None:
    """Where its actor has lost it, it would be current beside that one. It comes back once that has ended."""
    clock.now = 150.0
    gate = asyncio.Event()

    @agent("billing")
    async def billing(_: Turn) -> None:
        await gate.wait()

    async with Runtime(path, [], settings=FAST, clock=clock):
        pass
    written(path, [*WORLD[1:], accepted(1_000)])  # later turns have higher numbers
    async with Runtime(path, [billing], settings=FAST, clock=clock) as runtime:
        runtime._reception.restored(address(OTHER_ACTOR), OTHER_ACTOR)
        receipt = await runtime.tell("session-20", "billing", None)
        sweep = sweep_of(runtime)
        await looks(sweep, 3)
        assert sweep.orphaned == 0

        gate.set()
        await receipt.deliverable()
        await looks(sweep, 2)
        assert (sweep.orphaned, runtime.statistics().suspended) == (1, 1)
        assert (await runtime.cancel(4)).outcome == "cancelled"
        assert runtime.statistics().suspended == 0


async def test_a_commit_that_can_be_read_before_its_writer_says_so_is_waited_for(path: Path, said: Said) -> None:
    """On a disk that stalls in a checkpoint, say: the lease stands, and the actor has not heard of it yet."""
    begun: list[int] = []

    @agent("billing")
    async def billing(turn: Turn) -> int:
        begun.append(turn.attempt)
        return turn.turn_id

    async with Runtime(path, [billing], settings=FAST) as runtime:
        sweep, apply, gate, seen = sweep_of(runtime), runtime._store.apply, asyncio.Event(), asyncio.Event()

        async def late(points: Any) -> Any:
            rejected = await apply(points)
            seen.set()
            await gate.wait()
            return rejected

        runtime._store.apply = late  # type: ignore[method-assign]
        telling = asyncio.create_task(runtime.ask("s", "billing", 1))
        await seen.wait()
        await sweep.look()
        looking = asyncio.create_task(looks(sweep, 3))
        for _ in range(50):
            await asyncio.sleep(0.001)
        gate.set()
        await looking

        assert (await telling).value == 1
        assert begun == [1]
        assert "turn.stalled" not in said.events
        assert "turn.orphaned" not in said.events


async def test_one_that_moves_between_two_looks_is_let_be(path: Path, said: Said) -> None:
    """Its version says so, also where it is in nobody's hands again at the second look."""
    billing = Billing()
    async with Runtime(path, [billing.agent], settings=FAST) as runtime:
        resting(runtime, "billing")
        receipt = await runtime.tell("s", "billing", None)
        lose(runtime, receipt)
        sweep = sweep_of(runtime)
        await sweep.look()
        row = await runtime._store.turn(1)
        running = lifecycle.acquire(row, runtime._node.lease, 0.0)
        back = lifecycle.requeue(running.row, lifecycle.Requeued("retry"), 0.0)
        written(path, [running.records, back.records])
        await sweep.look()

        assert sweep.orphaned == 0
        await sweep.look()
        assert sweep.orphaned == 1


# ---------------------------------------------------------------- held, and standing on nothing


async def test_a_queue_whose_head_waits_for_nothing_goes_on(path: Path, said: Said) -> None:
    """A timer of a backoff that never rings, say."""
    tried: list[int] = []

    @agent("play")
    async def play(turn: Turn) -> int:
        tried.append(turn.attempt)
        if turn.attempt == 1:
            raise ValueError
        return turn.attempt

    settings = Settings(synchronous="OFF", shutdown_s=0.02, sweep_s=0, retry_base_s=0.2)
    async with Runtime(path, [play], settings=settings) as runtime:
        receipt = await runtime.tell("s", "play", None)
        held = runtime._reception.agent(receipt.address)
        await until(lambda: held.current is None and held.open_turns()[0].timer is not None)
        held.open_turns()[0].disarm()
        sweep = sweep_of(runtime)
        await sweep.look()
        assert sweep.stalled == 0
        await looks(sweep, 2)

        assert (await asyncio.wait_for(receipt.deliverable(), 5)).value == 2
    assert (sweep.orphaned, sweep.stalled) == (0, 1)
    assert [one["turn_id"] for one in said.of("turn.stalled")] == [1]


async def test_a_suspended_turn_that_the_alarm_has_passed_over_wakes_at_the_deadline_that_it_had(
    path: Path, clock: FakeClock, said: Said
) -> None:
    """It is not in trouble before."""
    clock.now = 150.0
    async with Runtime(path, [], settings=FAST, clock=clock):
        pass
    written(path, WORLD[1:])
    async with Runtime(path, [Billing().agent], settings=FAST, clock=clock) as runtime:
        due = rows(path, "SELECT due_at FROM turns WHERE turn_id = 4")
        sweep, alarm = sweep_of(runtime), runtime._node.on_due.__self__
        async with runtime._node.hold(address(OTHER_ACTOR)) as actor:
            alarm._place, alarm._until = (due[0][0] + 1_000, -1), math.inf
            await looks(sweep, 3)
            assert (sweep.orphaned, sweep.stalled, actor.current.row.due_at) == (0, 0, due[0][0])

            clock.now = due[0][0] + 61
            await looks(sweep, 2)
            await until(lambda: "turn_resumed" in kinds(path, 4))

        assert (sweep.orphaned, sweep.stalled) == (0, 1)
    assert [one["turn_id"] for one in said.of("turn.stalled")] == [4]
    check_invariants(path)


# ---------------------------------------------------------------- what is merely slow, in virtual time


def now_s() -> float:
    return asyncio.get_running_loop().time()


class LoopClock:
    """Wall time that is the loop's."""

    def time(self) -> float:
        return 1_000_000.0 + now_s()


class SlowStore(MemoryStore):
    """A store whose disk takes its time over every commit."""

    commit_s = 0.0

    async def apply(self, points: Any) -> Any:
        await asyncio.sleep(self.commit_s)
        return await super().apply(points)


def swept(life: Any, *, seconds: float, commit_s: float = 0.0, settings: Settings = FAST) -> Sweep:
    """Run a life in a runtime that is looked through every second; return the sweep."""

    async def main() -> Sweep:
        store = SlowStore(Disk("slow"))
        handlers = [agent(name)(handler) for name, handler in HANDLERS.items()]
        async with Runtime(store, handlers, settings=settings, clock=LoopClock()) as runtime:
            store.commit_s = commit_s
            sweep = sweep_of(runtime)
            begun = asyncio.create_task(life(runtime))
            while now_s() < seconds:
                await asyncio.sleep(1)
                await sweep.look()
            store.commit_s = 0.0
            begun.cancel()
            await asyncio.wait([begun])
        return sweep

    loop = SeededLoop(SeededSchedule(0), limit_s=2 * seconds + 1_000)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.abandon()


async def quick(turn: Turn) -> int:
    return turn.turn_id


async def hour(_: Turn) -> None:
    await asyncio.sleep(3600)


async def failing(_: Turn) -> None:
    raise ValueError


HANDLERS = {"quick": quick, "hour": hour, "failing": failing}


@pytest.mark.parametrize("commit_s", [0.7, 1.5, 30])
def test_a_commit_on_a_disk_that_stalls_is_waited_for(commit_s: float) -> None:
    """Arrivals, starts, ends, and the next turn, whose lease rides in the commit that ends the one before."""

    async def life(runtime: Runtime) -> None:
        await asyncio.gather(*[runtime.ask(f"s{number % 3}", "quick", number) for number in range(12)])

    sweep = swept(life, seconds=900, commit_s=commit_s)

    assert (sweep.orphaned, sweep.stalled) == (0, 0)


def test_a_renewed_key_does_not_make_an_orphan_of_the_turn_that_had_it() -> None:
    """Not even while its lease rides in a commit that takes long."""

    async def life(runtime: Runtime) -> None:
        first = [await runtime.tell("s", "quick", None, key="k"), await runtime.tell("s", "quick", None, key="l")]
        await asyncio.sleep(5)
        await asyncio.gather(*[runtime.tell("s", "quick", None, key=key) for key in "kl"])
        await asyncio.gather(*[one.deliverable() for one in first])

    sweep = swept(life, seconds=600, commit_s=20, settings=Settings(sweep_s=0, idempotency_s=1.0))

    assert (sweep.orphaned, sweep.stalled) == (0, 0)


@pytest.mark.parametrize("agent_id", ["hour", "failing", "quick"])
def test_a_long_run_a_backoff_and_an_agent_that_rests_are_let_be(agent_id: str) -> None:
    """And whatever waits behind them."""

    async def life(runtime: Runtime) -> None:
        await runtime.say("agents/quick", "pause")
        for _ in range(3):
            await runtime.tell("s", agent_id, None)

    settings = Settings(sweep_s=0, retries_max=5, retry_base_s=20, retry_cap_s=300, turn_s=9_000)
    sweep = swept(life, seconds=4_000, settings=settings)

    assert (sweep.orphaned, sweep.stalled) == (0, 0)


# ---------------------------------------------------------------- what a look costs, and when there is none


async def test_a_look_reads_a_page_however_many_turns_are_live(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look goes on behind it, and the last of a round is followed by the first of the next."""
    clock.now = 150.0
    async with Runtime(path, [], settings=FAST, clock=clock):
        pass
    written(path, [*WORLD[1:4], *[accepted(100 + number, ACTOR) for number in range(2 * PAGE_MAX + 10)]])
    async with Runtime(path, [Billing("other").agent], settings=FAST, clock=clock) as runtime:
        sweep, seen = sweep_of(runtime), list[list[int]]()
        read = runtime._store.live_turns_after

        async def noted(actor_id: int, turn_id: int, limit: int) -> Any:
            page = await read(actor_id, turn_id, limit)
            seen.append([live.row.turn_id for live in page])
            return page

        monkeypatch.setattr(runtime._store, "live_turns_after", noted)
        await looks(sweep, 4)

    assert [len(page) for page in seen] == [PAGE_MAX, PAGE_MAX, 10, PAGE_MAX]
    assert [turn_id for page in seen[:3] for turn_id in page] == list(range(100, 2 * PAGE_MAX + 110))
    assert seen[3] == seen[0]


async def test_a_look_that_fails_is_said_and_the_next_tries_again(
    path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk in trouble ends no sweep, and nothing that was suspected is forgotten."""
    billing = Billing()
    async with Runtime(path, [billing.agent], settings=FAST) as runtime:
        resting(runtime, "billing")
        lose(runtime, await runtime.tell("s", "billing", None))
        resting(runtime)
        runtime._node.settings = Settings(sweep_s=0.01)
        read, failing = runtime._store.turn, [3]

        async def fails(turn_id: int) -> Any:
            if failing[0]:
                failing[0] -= 1
                raise StorageFailed("agents.db", "disk I/O error")
            return await read(turn_id)

        monkeypatch.setattr(runtime._store, "turn", fails)
        sweep = sweep_of(runtime)
        sweeping = asyncio.create_task(sweep.run())
        await until(lambda: billing.ran)
        sweeping.cancel()

    assert billing.ran == [(1, 1)]
    assert [one["error"] for one in said.of("sweep.failed")] == ["agents.db: disk I/O error"] * 3
    assert sweep.orphaned == 1


async def test_a_runtime_that_closes_is_not_looked_through(path: Path) -> None:
    """What it hands back is the next one's."""
    async with Runtime(path, [Billing().agent], settings=FAST) as runtime:
        resting(runtime, "billing")
        lose(runtime, await runtime.tell("s", "billing", None))
        sweep = sweep_of(runtime)
        await sweep.look()
        runtime._node.closing = True
        await looks(sweep, 2)
        assert sweep.orphaned == 0
        runtime._node.closing = False


async def test_none_is_made_where_the_setting_is_zero(path: Path) -> None:
    """Nothing looks."""
    async with Runtime(path, [], settings=FAST) as runtime:
        upkeep = next(part for part in runtime.tree().children if part.name == "upkeep")

        assert "sweep" not in [child.name for child in upkeep.children]


def test_in_a_simulated_world_whatever_is_caught_ends_the_run() -> None:
    """The net is for bugs alone: no scenario, seed or fault may need it."""

    async def life(world: World) -> None:
        world.reached("sweep.caught", "turn.orphaned 17 of s/billing, queued")  # type: ignore[attr-defined]

    with pytest.raises(Violated, match=r"turn\.orphaned 17 of s/billing, queued"):
        run(life)
