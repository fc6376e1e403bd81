"""The simulated world: what outlives a life, what ends a run, and what is checked between lives."""

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from turnkeeper import Effect, Settings, agent, tool
from turnkeeper.actors.receipt import Result
from turnkeeper.actors.run import Run
from turnkeeper.kernel.edge import chained, sealed
from turnkeeper.kernel.errors import ShuttingDown, StorageFailed
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.rows import NumberedEdge
from turnkeeper.testing import (
    Deadlocked,
    Fault,
    Faults,
    SimulatedWorld,
    Violated,
    World,
    assert_no_violations,
    each_crash,
    run,
)
from turnkeeper.testing.runs import live_to_the_end
from turnkeeper.testing.violated import Killed

FAST = Settings(shutdown_s=1.0, retry_base_s=0.1)


@agent("echo")
async def echo(turn: Any) -> Any:
    await asyncio.sleep(0.1)
    return turn.input


@agent("stay")
async def stay(turn: Any) -> None:
    await asyncio.Event().wait()


async def serve(world: World) -> None:
    async with world.runtime([echo], settings=FAST) as runtime:
        for number in range(2):
            await runtime.ask("s", "echo", number, key=f"{number}")


def lived(life: Any, seed: int = 0, **faults: Any) -> SimulatedWorld:
    world = SimulatedWorld(seed, Faults(**faults))
    live_to_the_end(world, life)
    return world


def found(life: Any, **faults: Any) -> Violated:
    with pytest.raises(Violated) as caught:
        run(life, faults=Faults(**faults))
    return caught.value


# ---------------------------------------------------------------- lives


def test_a_life_is_lived_again_after_each_kill_in_the_same_world() -> None:
    """It counts its lives, draws what it drew before, and finds what has happened."""
    seen: list[tuple[int, float, int]] = []

    async def life(world: World) -> None:
        seen.append((world.life, world.chance.random(), world.happened("visit 1")))
        world.happen(f"visit {world.life}")
        if world.life < 4:
            world.kill()

    world = lived(life)

    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    assert len({draw for _, draw, _ in seen}) == 1
    assert [visited for _, _, visited in seen] == [0, 1, 1, 1]
    assert world.happened("visit 4") == 1
    assert world.happened("visit 5") == 0


def test_nothing_of_a_killed_life_has_any_effect() -> None:
    """Not in the last words of its tasks, not in what it still tries to write, not in what it catches."""
    tried: list[str] = []

    async def life(world: World) -> None:
        async def last_words() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                tried.append("words")
                world.happen("after the kill")

        async def deaf() -> None:
            try:
                world.kill()
            except BaseException:  # noqa: BLE001 - what a deaf handler would do
                tried.append("caught")
            world.report(Violated("too late", "a dead process says nothing"))
            await asyncio.sleep(0)
            tried.append("went on")

        if world.life == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(last_words())
                await asyncio.sleep(1)
                group.create_task(deaf())

    with pytest.raises(Violated, match="too late"):  # said in the very step of the kill, by the living
        run(life)

    assert tried == ["caught", "words"]


def test_effects_of_a_dead_process_do_not_happen() -> None:
    """What a killed process still says in its `finally` blocks, nobody hears; between lives a test may arrange."""

    async def life(world: SimulatedWorld) -> None:
        try:
            if world.life == 1:
                world.kill()
        finally:
            if world.life == 1:
                await asyncio.sleep(0)
                world.happen("late")

    world = SimulatedWorld()
    world.happen("arranged")
    live_to_the_end(world, life)

    assert (world.happened("late"), world.happened("arranged"), world.life) == (0, 1, 2)
    with pytest.raises(Killed):
        world.reached("effect.before", "late")
    with pytest.raises(Violated, match="mine"):
        world.report(Violated("mine", "said between two lives"))


def test_an_effect_that_happens_twice_is_a_violation_also_in_another_life() -> None:
    """The world remembers what a process cannot."""

    async def twice(world: World) -> None:
        world.happen("charge")
        world.happen("charge")

    async def once_a_life(world: World) -> None:
        world.happen("charge")
        if world.life == 1:
            world.kill()

    for life in (twice, once_a_life):
        violation = found(life)

        assert violation.rule == "effects at most once"
        assert violation.what == "charge happened twice"


def test_a_world_can_begin_anew() -> None:
    """As if nothing had happened in it: the same run again, to the byte."""
    world = lived(serve, 3, crash_rate=0.1)
    before = world.disk.digest(), world.now_s, world.life
    world.reset()

    assert (world.now_s, world.life, world.passed.total(), world.disk.turns) == (0, 0, 0, {})

    live_to_the_end(world, serve)

    assert (world.disk.digest(), world.now_s, world.life) == before


def test_pythons_own_chance_follows_from_the_seed_and_is_put_back() -> None:
    """Also where the run fails."""
    drawn: list[float] = []

    async def life(world: World) -> None:
        drawn.append(random.random())
        if world.seed == 2:
            raise KeyError

    state = random.getstate()
    for seed in (1, 1, 3):
        run(life, seed=seed)
    with pytest.raises(KeyError):
        run(life, seed=2)

    assert random.getstate() == state
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_virtual_clock_goes_on_from_life_to_life() -> None:
    """Rows are written in one time, which no restart puts back."""
    moments: list[tuple[float, float]] = []

    async def life(world: Any) -> None:
        moments.append((world.clock.now_s, world.clock.time()))
        await world.clock.advance(50)
        moments.append((world.clock.now_s, world.clock.time()))
        if world.life == 1:
            world.kill()

    lived(life, restart_s=10.0)

    assert [now for now, _ in moments] == [0, 50, 60, 110]
    assert [time - 1_700_000_000 for _, time in moments] == [0, 50, 60, 110]


def test_crash_points_are_counted_by_name() -> None:
    """Before and after each commit, and each effect that is not pure."""

    @tool(effect=Effect.IDEMPOTENT)
    async def act() -> None: ...

    @tool(effect=Effect.PURE)
    async def look() -> None: ...

    @agent("acting")
    async def acting(turn: Any) -> None:
        await turn.call(act)
        await turn.call(look)

    async def life(world: World) -> None:
        async with world.runtime([acting]) as runtime:
            await runtime.ask("s", "acting", None, key="k")

    passed = lived(life).passed

    assert passed["effect.before"] == passed["effect.after"] == 1
    assert passed["commit.before"] == passed["commit.after"] >= 4
    assert set(passed) == {"effect.before", "effect.after", "commit.before", "commit.after"}


# ---------------------------------------------------------------- how a run ends


def test_a_report_from_inside_a_handler_ends_the_run_though_its_runtime_would_catch_it() -> None:
    """At once, after this step; what raises in a handler is its turn's failure and nothing more."""
    went_on: list[int] = []

    async def life(world: World) -> None:
        @agent("spy")
        async def spy(turn: Any) -> None:
            if turn.input == "raise":
                raise Violated("raised", "the turn's own")
            try:
                world.report(Violated("reported", "first"))
                world.report(Violated("reported", "second"))
            finally:
                went_on.append(1)
            await asyncio.sleep(0)
            went_on.append(2)

        async with world.runtime([spy], settings=Settings(retries_max=0)) as runtime:
            raised = await runtime.ask("s", "spy", "raise", key="1")

            assert raised.outcome == "failed"

            await runtime.ask("s", "spy", "report", key="2")
            went_on.append(3)

    violation = found(life)

    assert str(violation) == "reported: first"
    assert went_on == [1]


def test_an_oracle_ends_the_run_from_inside_a_tool() -> None:
    """Where the library would make a failed step of it."""

    async def life(world: World) -> None:
        @tool(effect=Effect.EFFECTFUL)
        async def charge() -> None:
            world.happen("charge")

        @agent("greedy")
        async def greedy(turn: Any) -> None:
            await turn.call(charge)
            await turn.call(charge)

        async with world.runtime([greedy]) as runtime:
            await runtime.ask("s", "greedy", None, key="k")

    assert found(life).rule == "effects at most once"


def test_a_life_that_raises_ends_the_run_with_what_it_raised() -> None:
    """As it is: it may be an assertion of the test's own."""

    async def life(world: World) -> None:
        async with world.runtime([echo]) as runtime:
            await runtime.ask("s", "echo", 1, key="k")
            raise LookupError("the life's own")

    with pytest.raises(LookupError, match="the life's own"):
        run(life)


def test_a_reported_violation_counts_for_more_than_what_was_raised_after_it() -> None:
    """What was found first is what is told."""

    async def life(world: World) -> None:
        world.report(Violated("first", "first"))
        raise LookupError

    with pytest.raises(Violated, match="first") as caught:
        run(life)

    assert isinstance(caught.value, Violated)


def test_a_life_that_forgets_to_close_its_runtime_is_found_out() -> None:
    """Its tasks are named."""

    async def life(world: World) -> None:
        runtime = await world.runtime([echo]).__aenter__()
        await runtime.ask("s", "echo", 1, key="k")

    violation = found(life)

    assert violation.rule == "no task is left behind"
    assert "after the life returned" in violation.what
    assert "turnkeeper" in violation.what


def test_a_runtime_that_leaves_a_task_behind_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed is closed: nothing of the library's own goes on."""

    async def linger(self: Any) -> None:
        await asyncio.sleep(1_000)

    linger.__code__ = linger.__code__.replace(co_filename=Run.__init__.__code__.co_filename, co_name="_linger")
    start = Run.start

    def littered(self: Any) -> None:
        litters.append(asyncio.create_task(linger(self)))
        start(self)

    litters: list[Any] = []
    monkeypatch.setattr(Run, "start", littered)
    violation = found(serve)

    assert violation.rule == "no task is left behind"
    assert "after closing" in violation.what


def test_a_runtime_that_closes_and_leaves_a_turn_running_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It should have handed it back; where the disk may refuse its last words, it is not blamed."""
    monkeypatch.setattr("turnkeeper.actors.session.SessionAgent._ended", lambda self, turn, change: None)

    async def life(world: World) -> None:
        async with world.runtime([stay], settings=FAST) as runtime:
            await runtime.tell("s", "stay", None, key="k")
            await asyncio.sleep(1)

    violation = found(life)

    assert violation.rule == "closing hands back what it cuts off"
    assert violation.what == "turns [1] are left running"
    assert run(life, faults=Faults(at={3: Fault.FAIL})).live == 1  # the node's last words


def test_a_waiter_of_the_lifes_own_is_not_blamed_on_the_runtime() -> None:
    """Who waits for a deliverable when the runtime closes is told, and is nobody's litter."""

    async def life(world: World) -> None:
        async with world.runtime([stay], settings=FAST) as runtime:
            receipts = [await runtime.tell(f"{number}", "stay", None, key="k") for number in range(3)]
            waiting = asyncio.gather(*(one.deliverable() for one in receipts), return_exceptions=True)
            await asyncio.sleep(1)
        told = await waiting

        assert all(isinstance(one, ShuttingDown) for one in told)

    for seed in range(8):
        assert run(life, seed=seed).live == 3


def test_what_fails_unheard_fails_the_run() -> None:
    """A task whose exception nobody retrieves, or a callback that raises."""

    async def task(world: World) -> None:
        async def fail() -> None:
            raise ArithmeticError("alone")

        asyncio.create_task(fail())  # noqa: RUF006 - that is the point
        await asyncio.sleep(1)

    async def callback(world: World) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    for life, said in ((task, "alone"), (callback, "ZeroDivisionError")):
        violation = found(life)

        assert violation.rule == "nothing fails unheard"
        assert said in violation.what


def test_a_life_that_waits_for_nothing_is_deadlocked_and_named() -> None:
    """The scenario itself, too, is bound to end."""

    async def life(world: World) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlocked, match=r"_lived-1 waits in .*life \(test_simulated.py:"):
        run(life)


def test_a_life_may_end_by_a_failing_disk_only_where_the_disk_may_fail() -> None:
    """Then it is started again, like any process that ended so."""

    async def life(world: World) -> None:
        async with world.runtime([echo]) as runtime:
            await runtime.ask("s", "echo", 1, key="k")

    async def raising(world: World) -> None:
        raise StorageFailed("memory", "of its own making")

    assert run(life, faults=Faults(at={2: Fault.FAIL})).lives == 2

    with pytest.raises(StorageFailed):
        run(raising)


def test_a_life_may_end_by_a_failing_disk_in_a_task_group_too() -> None:
    """The group's exception says the same."""

    async def life(world: World) -> None:
        async with world.runtime([echo]) as runtime, asyncio.TaskGroup() as group:
            group.create_task(runtime.ask("s", "echo", 1, key="k"))

    assert run(life, faults=Faults(at={2: Fault.FAIL})).lives == 2


def test_a_violation_raised_in_a_task_group_ends_the_run_as_what_it_is() -> None:
    """Scenarios raise in the tasks of their clients, as the one of the kernel does."""

    async def life(world: World) -> None:
        async def client() -> None:
            raise Violated("its own rule", "seen by a client")

        async with asyncio.TaskGroup() as group:
            group.create_task(client())

    with pytest.raises(Violated, match="its own rule"):
        run(life)


# ---------------------------------------------------------------- what clients were told


async def told(world: World) -> Any:
    async with world.runtime([echo], settings=FAST) as runtime:
        return await runtime.ask("s", "echo", 1, key="k")


def test_an_acknowledgement_is_remembered_across_lives() -> None:
    """A key that is another turn in a later life is a violation, although the store is sound."""

    async def life(world: Any) -> None:
        await told(world)
        if world.life == 1:
            for table in (world.disk.turns, world.disk.receipts, world.disk.edges, world.disk.deliverables):
                table[9] = table.pop(1)
            world.disk.keys.clear()
            world.kill()

    violation = found(life)

    assert violation.rule == "one receipt a key"
    assert violation.what == "s/echo k was receipt 1, and is receipt 10 now"


def test_a_deliverable_is_remembered_across_lives() -> None:
    """Byte for byte."""

    async def life(world: Any) -> None:
        await told(world)
        if world.life == 1:
            world.disk.deliverables[1] = msgspec.structs.replace(world.disk.deliverables[1], body=b"\x02")
            seal(world)
            world.kill()

    violation = found(life)

    assert violation.rule == "the same deliverable, byte for byte"
    assert violation.what == "turn 1"


def test_a_key_that_comes_again_after_its_time_to_live_is_no_violation() -> None:
    """By the contract it gets a new receipt then."""

    async def life(world: World) -> None:
        async with world.runtime([echo], settings=Settings(idempotency_s=10.0)) as runtime:
            await runtime.ask("s", "echo", 1, key="k")
            await asyncio.sleep(20)
            await runtime.ask("s", "echo", 1, key="k")

    assert run(life).turns == 2


def seal(world: SimulatedWorld) -> None:
    """Make the digests of turn 1 anew, so that they do not give away what was done to it."""
    disk, before = world.disk, b""
    for ordinal, (number, edge) in sorted(disk.edges[1].items()):
        before = chained(before, 1, edge.kind, edge.at, edge.detail)
        disk.edges[1][ordinal] = NumberedEdge(number, msgspec.structs.replace(edge, digest=before))
    ended = disk.deliverables[1]
    digest = sealed(before, ended.outcome, ended.body, ended.at)
    disk.turns[1] = msgspec.structs.replace(disk.turns[1], digest=digest)


def lose_the_receipt(world: SimulatedWorld) -> None:
    world.disk.receipts[1] = msgspec.structs.replace(world.disk.receipts[1], key="another")
    inbound = world.disk.edges[1][0].edge
    detail = inbound.detail.replace(b"\xa1k", b"\xa7another")
    world.disk.edges[1][0] = world.disk.edges[1][0]._replace(edge=msgspec.structs.replace(inbound, detail=detail))
    seal(world)


def lose_everything(world: SimulatedWorld) -> None:
    for table in (world.disk.turns, world.disk.receipts, world.disk.edges, world.disk.deliverables):
        table.clear()


def move_to_another_actor(world: SimulatedWorld) -> None:
    world.disk.actors[1] = Address("", "another", "echo")


def change_the_deliverable(world: SimulatedWorld) -> None:
    world.disk.deliverables[1] = msgspec.structs.replace(world.disk.deliverables[1], body=b"\x02")
    seal(world)


def lose_the_turns_receipt(world: SimulatedWorld) -> None:
    world.disk.receipts.clear()


def lose_the_deliverable(world: SimulatedWorld) -> None:
    world.disk.deliverables.clear()


@pytest.mark.parametrize(
    ("tampering", "rule"),
    [
        (lose_the_receipt, "what was acknowledged is never lost"),
        (lose_everything, "what was acknowledged is never lost"),
        (move_to_another_actor, "what was acknowledged is never lost"),
        (change_the_deliverable, "what was delivered is never lost"),
        (lose_the_turns_receipt, "no orphans"),
        (lose_the_deliverable, "terminal = one deliverable"),
    ],
)
def test_the_check_finds_what_was_told_and_is_not_there(tampering: Any, rule: str) -> None:
    """On the disk as it is, whoever has altered it; the untouched one is sound."""
    world = lived(told)

    assert world.check().turns == 1

    tampering(world)
    with pytest.raises(Violated) as caught:
        world.check()

    assert caught.value.rule == rule


def test_a_result_that_was_delivered_and_is_not_stored_at_all_is_found() -> None:
    """Also where nobody was given a receipt for it."""
    world = lived(told)
    world.delivered(Result(turn_id=77, outcome="completed", body=b"\x01", at=1.0))

    with pytest.raises(Violated, match="the deliverable of turn 77"):
        world.check()


# ---------------------------------------------------------------- the check for the end of a test


def test_the_check_for_the_end_of_a_test_asks_the_world() -> None:
    """While the runtime runs, and after it has closed."""
    seen: list[str] = []

    async def life(world: Any) -> None:
        async with world.runtime([echo], settings=FAST) as runtime:
            await runtime.ask("s", "echo", 1, key="k")
            assert_no_violations(runtime)
        assert_no_violations(runtime)
        change_the_deliverable(world)
        with pytest.raises(Violated):
            assert_no_violations(runtime)
        world.disk.deliverables[1] = msgspec.structs.replace(world.disk.deliverables[1], body=b"\x01")
        seal(world)
        seen.append("asked")

    run(life)

    assert seen == ["asked"]


def test_the_check_for_the_end_of_a_test_says_what_is_no_store(tmp_path: Path) -> None:
    """A file that holds something else cannot be checked."""
    (tmp_path / "note.txt").write_text("no database, and long enough to be read as one" * 40)

    with pytest.raises((Violated, StorageFailed)):
        assert_no_violations(tmp_path / "note.txt")


def test_each_crash_of_a_session_ends_with_an_untouched_run() -> None:
    """One outcome a point, two lives each, and the last in one."""
    outcomes = each_crash(serve, seed=2)

    assert [outcome.lives for outcome in outcomes[:-1]] == [2] * (len(outcomes) - 1)
    assert outcomes[-1].lives == 1
    assert outcomes[-1].points == len(outcomes) - 1
    assert all((outcome.turns, outcome.live) == (2, 0) for outcome in outcomes)
