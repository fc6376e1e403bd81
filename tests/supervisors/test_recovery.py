"""Recovery: what SIGKILL leaves in the file, a later runtime finishes, without new traffic and without repetition."""

import asyncio
import json
import os
import runpy
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import msgspec
import pytest
from looking import check_invariants, rows, token, until

from turnkeeper import Agent, DidNotHappen, Effect, Happened, Runtime, Settings, Turn, agent, step_context, tool
from turnkeeper.kernel.errors import (
    ContractViolation,
    IdempotencyConflict,
    PayloadTooLarge,
    ShuttingDown,
    StorageFailed,
    TurnNotFound,
    UnknownAgent,
    WaitTokenInvalid,
)
from turnkeeper.testing import Fault, Faults, SimulatedWorld, run

FAST = Settings(synchronous="OFF", shutdown_s=0.02)

WORLD = '''
"""The same agents for two processes: the owner that is killed, and the one that comes after it."""
import asyncio, faulthandler, json, os, sqlite3, sys
from contextlib import closing
from pathlib import Path
from turnkeeper import DidNotHappen, Effect, Happened, OnDoubt, Runtime, agent, step_context, tool

ACTS = Path(__file__).with_name("acts")  # what was done to the world: name, attempt, idempotency key
HOLD = os.environ.get("HOLD", "")  # the step in which this process stays until it is killed


async def stay(word):
    print(word, flush=True)
    await asyncio.Event().wait()


async def recorded(turn_id):
    """Wait until what was done is on disk: results are not waited for, so a pure step may overtake them."""
    count = "SELECT sum(kind = 'step_intended') - sum(kind = 'step_succeeded') FROM edges WHERE turn_id = ?"
    with closing(sqlite3.connect(sys.argv[1])) as connection:
        while connection.execute(count, [turn_id]).fetchone()[0]:
            await asyncio.sleep(0.01)


async def act(name):
    context = step_context()
    with ACTS.open("a") as file:
        file.write(f"{name} {context.attempt} {context.idempotency_key or '-'}\\n")
    if HOLD == "no":
        print("act", flush=True)
    if HOLD == name == "pure":
        await recorded(context.turn_id)
    if HOLD == name:
        await stay("held")
    return f"{name} {context.attempt}"


def acting(name, effect, on_doubt=OnDoubt.ASK):
    async def run() -> str:
        return await act(name)

    return tool(effect=effect, name=name, on_doubt=on_doubt)(run)


async def happened():
    return Happened("found")


async def did_not_happen():
    return DidNotHappen()


async def look_up():
    done = [line.split()[2] for line in ACTS.read_text().splitlines()]
    return Happened("found") if step_context().idempotency_key in done else DidNotHappen()


TOOLS = {
    made.name: made
    for made in (
        acting("before", Effect.EFFECTFUL),
        acting("pure", Effect.PURE),
        acting("idempotent", Effect.IDEMPOTENT),
        acting("ask", Effect.EFFECTFUL),
        acting("fail", Effect.EFFECTFUL, OnDoubt.FAIL),
        acting("retry", Effect.EFFECTFUL, OnDoubt.RETRY),
        acting("probe_yes", Effect.EFFECTFUL, happened),
        acting("probe_no", Effect.EFFECTFUL, did_not_happen),
        acting("look_up", Effect.EFFECTFUL, look_up),
        acting("after", Effect.EFFECTFUL),
    )
}


@agent("walk")
async def walk(turn):
    return [await turn.call(TOOLS[name]) for name in turn.input]


@agent("stroll")
async def stroll(turn):
    return await walk.handler(turn)


async def own():
    async with Runtime(sys.argv[1], [walk, stroll]) as runtime:
        apply = runtime._store.apply

        async def caught(points):
            if HOLD == "before the commit":
                await stay("held")
            await apply(points)
            await stay("held")

        if HOLD.endswith("the commit"):
            runtime._store.apply = caught
        for number, (session, agent_id, steps) in enumerate(json.loads(sys.argv[2])):
            await runtime.tell(session, agent_id, steps, key=str(number))
        await stay("told")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(20, exit=True)
    asyncio.run(own())
'''


class World:
    """A store in a folder, an owner to be killed, and what both did to the world."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._script = path.with_name("world.py")
        self._script.write_text(WORLD)

    def kill(self, *tells: tuple[str, str, list[str]], hold: str, **said: int) -> None:
        """Run an owner that tells these, and kill it once it has said each word so many times."""
        command = [sys.executable, self._script, self.path, json.dumps(tells)]
        environment = {**os.environ, "HOLD": hold}
        awaited = Counter(said or {"held": 1, "told": 1})
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as owner:
            while +awaited and (line := owner.stdout.readline()):
                awaited[line.strip()] -= 1
            owner.kill()

        assert not +awaited
        assert owner.returncode == -signal.SIGKILL

    def runtime(self, *, only: tuple[str, ...] = ("walk", "stroll"), **settings: object) -> Runtime:
        there = runpy.run_path(str(self._script))
        return Runtime(self.path, [there[name] for name in only], settings=Settings(**settings))

    async def finish(self, **settings: object) -> Runtime:
        """Let a runtime do what is left to do, without a word to it."""
        async with self.runtime(**settings) as runtime:
            await until(lambda: runtime.statistics().running + runtime.statistics().queued == 0)
        check_invariants(self.path)
        return runtime

    def acts(self) -> list[str]:
        """Return what was done, as `name attempt`."""
        return [line.rsplit(" ", 1)[0] for line in self._lines()]

    def keys(self, name: str) -> list[str]:
        return [line.split()[2] for line in self._lines() if line.startswith(f"{name} ")]

    def values(self) -> list:
        """Return what the turns came to, in the order of their acceptance."""
        found = rows(self.path, "SELECT outcome, body FROM deliverables ORDER BY turn_id")
        return [
            msgspec.msgpack.decode(body)[:1] if outcome == "failed" else msgspec.msgpack.decode(body)
            for outcome, body in found
        ]

    def _lines(self) -> list[str]:
        acts = self.path.with_name("acts")
        return acts.read_text().splitlines() if acts.exists() else []


@pytest.fixture
def world(path: Path) -> World:
    return World(path)


# ---------------------------------------------------------------- killed


async def test_what_was_queued_and_running_finishes_without_new_traffic(world: World) -> None:
    """All acknowledged turns end, once each and in order, with nobody asking (10.10)."""
    tells = [(f"s{n % 32}", "walk", ["before", "pure", "after"]) for n in range(64)]
    world.kill(*tells, hold="pure", held=32, told=1)

    assert rows(world.path, "SELECT state, count(*) FROM turns GROUP BY 1 ORDER BY 1") == [
        ("queued", 32),
        ("running", 32),
    ]

    runtime = await world.finish()

    assert (runtime.statistics().recovered, runtime.statistics().completed, runtime.statistics().accepted) == (
        32,
        64,
        0,
    )
    assert Counter(world.acts()) == {
        **dict.fromkeys(("before 1", "pure 1"), 64),
        **dict.fromkeys(("pure 2", "after 1", "after 2"), 32),
    }
    assert len(set(world.keys("before"))) == len(set(world.keys("after"))) == 64


@pytest.mark.parametrize(
    ("step", "acts", "value"),
    [
        ("pure", ["pure 1", "pure 2"], "pure 2"),
        ("idempotent", ["idempotent 1", "idempotent 2"], "idempotent 2"),
        ("retry", ["retry 1", "retry 2"], "retry 2"),
        ("probe_no", ["probe_no 1", "probe_no 2"], "probe_no 2"),
        ("probe_yes", ["probe_yes 1"], "found"),
        ("look_up", ["look_up 1"], "found"),
    ],
)
async def test_a_step_that_was_cut_off_is_settled_by_its_effect_class(
    world: World, step: str, acts: list, value
) -> None:
    """Recorded steps are not run again; the one cut off runs again, under its key, only where it may."""
    world.kill(("s", "walk", ["before", step, "after"]), hold=step)
    intended = [(step,)] if step != "pure" else []
    found = rows(world.path, "SELECT detail FROM edges WHERE kind = 'step_intended' ORDER BY ordinal")

    assert [msgspec.msgpack.decode(detail)[1] for (detail,) in found] == ["before", *(step for (step,) in intended)]

    await world.finish()

    assert world.acts() == ["before 1", *acts, "after 2"]
    assert world.values() == [["before 1", value, "after 2"]]
    assert len(set(world.keys(step))) == 1
    assert (world.keys(step) == ["-"] * 2) == (step == "pure")


async def test_an_effect_in_doubt_whose_tool_says_fail_fails_its_turn(world: World) -> None:
    """`on_doubt=FAIL`: not repeated, `EffectInDoubt`, and the next turn of the session runs."""
    world.kill(("s", "walk", ["before", "fail", "after"]), ("s", "walk", ["pure"]), hold="fail")
    await world.finish()

    assert world.acts() == ["before 1", "fail 1", "pure 1"]
    assert world.values() == [["EffectInDoubt"], ["pure 1"]]


@pytest.mark.parametrize("happened", [True, False])
async def test_an_effect_in_doubt_is_asked_about_by_default(world: World, happened: bool) -> None:
    """The intent was on disk when the owner died (10.11), so the turn stands until somebody says what happened."""
    world.kill(("s", "walk", ["before", "ask", "after"]), ("s", "walk", ["pure"]), hold="ask")
    async with world.runtime() as runtime:
        await until(lambda: runtime.statistics().suspended == 1)

        assert world.acts() == ["before 1", "ask 1"]
        live = "SELECT state FROM turns WHERE deliverable_id IS NULL ORDER BY turn_id"
        assert (rows(world.path, live), runtime.statistics().running) == ([("suspended",), ("queued",)], 0)

    async with world.runtime() as runtime:
        await runtime.resolve(1, Happened("said so") if happened else DidNotHappen(), token=await token(runtime, 1))
        await until(lambda: runtime.statistics().completed == 2)

    check_invariants(world.path)
    assert world.acts() == ["before 1", "ask 1", *([] if happened else ["ask 2"]), "after 2", "pure 1"]
    assert world.values()[0][1] == ("said so" if happened else "ask 2")
    assert len(set(world.keys("ask"))) == 1


async def test_every_kill_is_an_attempt_and_an_epoch(world: World) -> None:
    """Attempt and epoch only grow; the idempotency key is the same on every attempt, the last allowed one included."""
    world.kill(("s", "walk", ["before", "idempotent"]), hold="idempotent")
    for _ in range(2):
        world.kill(hold="idempotent")
    await world.finish(recoveries_max=3)
    epochs = [
        epoch for (epoch,) in rows(world.path, "SELECT epoch FROM edges WHERE kind = 'lease_acquired' ORDER BY ordinal")
    ]

    assert world.acts() == ["before 1", *(f"idempotent {n}" for n in (1, 2, 3, 4))]
    assert len(set(world.keys("idempotent"))) == 1
    assert len(epochs) == 4
    assert epochs == sorted(set(epochs))


async def test_no_kill_at_any_moment_repeats_or_loses_an_effect(world: World) -> None:
    """Killed again and again, in the middle of whatever it does: each effect happens exactly once."""
    world.kill(*((f"s{n}", "walk", ["look_up"] * 40) for n in range(5)), hold="no", told=1, act=3)
    for acts in (1, 7, 13):
        check_invariants(world.path)
        world.kill(hold="no", act=acts)
    await world.finish()

    assert sorted(Counter(world.keys("look_up")).values()) == [1] * 200
    assert [len(value) for value in world.values()] == [40] * 5


async def test_a_kill_between_commit_and_acknowledgement_leaves_a_turn_that_runs_once(world: World) -> None:
    """Redelivered under its key it is a duplicate, not lost (10.8), and not run twice (10.2)."""
    world.kill(("s", "walk", ["before"]), hold="after the commit", held=1)
    async with world.runtime() as runtime:
        receipt = await runtime.tell("s", "walk", ["before"], key="0")
        value = (await receipt.deliverable()).value

    assert (receipt.duplicate, len(world.acts())) == (True, 1)
    assert value == world.acts()


async def test_a_kill_before_the_commit_leaves_nothing(world: World) -> None:
    """What was not acknowledged and not committed may be sent again, as new."""
    world.kill(("s", "walk", ["before"]), hold="before the commit", held=1)

    assert rows(world.path, "SELECT count(*) FROM receipts") == [(0,)]

    async with world.runtime() as runtime:
        receipt = await runtime.tell("s", "walk", ["before"], key="0")
        await receipt.deliverable()

    assert (receipt.duplicate, world.acts()) == (False, ["before 1"])


async def test_turns_of_an_unknown_agent_are_taken_back_and_stay_queued(world: World) -> None:
    """Nothing is running for ever, and nothing is lost: it runs once its agent is back (10.10)."""
    world.kill(("s", "walk", ["pure"]), ("s", "stroll", ["pure"]), hold="pure", held=2, told=1)
    async with world.runtime(only=("walk",)) as runtime:
        await until(lambda: runtime.statistics().completed == 1)
        receipt = await runtime.receipt("s", "stroll", "1")

        assert rows(world.path, "SELECT state, attempt, epoch FROM turns WHERE turn_id = 2") == [("queued", 2, 2)]
        with pytest.raises(UnknownAgent):
            await receipt.deliverable()
        with pytest.raises(UnknownAgent):
            await runtime.tell("s", "stroll", ["pure"], key="1")

    await world.finish()
    assert world.values() == [["pure 2"], ["pure 2"]]


async def test_a_turn_that_takes_its_process_down_is_quarantined(world: World) -> None:
    """After being taken back more than `recoveries_max` times it fails without being run, and its session goes on."""
    world.kill(("s", "walk", ["pure"]), ("s", "walk", ["idempotent"]), hold="pure")
    world.kill(hold="pure", held=1)
    async with world.runtime(recoveries_max=1) as runtime:
        await until(lambda: runtime.statistics().completed + runtime.statistics().failed == 2)

    check_invariants(world.path)
    assert world.acts() == ["pure 1", "pure 2", "idempotent 1"]
    assert world.values() == [["Quarantined"], ["idempotent 1"]]


# ---------------------------------------------------------------- standing on a step in doubt


class Till:
    """An agent `pay` whose effect is cut off by its timeout, as often as `hangs` says."""

    def __init__(self, hangs: int = 1) -> None:
        self.hangs = hangs
        self.charged: list[str] = []

        @tool(effect=Effect.EFFECTFUL, timeout_s=0.01)
        async def charge(cents: int) -> str | None:
            self.charged.append(step_context().idempotency_key)
            if len(self.charged) <= self.hangs:
                await asyncio.Event().wait()
            return f"charged {cents}"

        @agent("pay")
        async def pay(turn: Turn) -> str | None:
            return await turn.call(charge, turn.input)

        self.pay: Agent = pay


async def suspended(runtime: Runtime, session: str = "s", **options: object) -> int:
    """Bring a turn to stand on its step, and return its id."""
    before = runtime.statistics().suspended
    receipt = await runtime.tell(session, "pay", 5, **options)
    await until(lambda: runtime.statistics().suspended == before + 1)
    return receipt.turn_id


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("finding", "value", "charges"),
    [(Happened("said so"), "said so", 1), (Happened(None), None, 1), (DidNotHappen(), "charged 5", 2)],
)
async def test_a_finding_is_applied_once(path: Path, restarted: bool, finding, value: object, charges: int) -> None:
    """`resolve` lets the turn go on, before or after a restart; a second answer, or a later one, is refused."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        waiting = asyncio.create_task(runtime.ask("s", "pay", 5, key="k"))
        await until(lambda: runtime.statistics().suspended == 1)
        if not restarted:
            await runtime.resolve(1, finding, token=await token(runtime, 1))
            with pytest.raises(WaitTokenInvalid):
                await runtime.resolve(1, DidNotHappen(), token=await token(runtime, 1))
            assert (await waiting).value == value
    if restarted:
        with pytest.raises(ShuttingDown):
            await waiting
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        if restarted:
            await runtime.resolve(1, finding, token=await token(runtime, 1))
            with pytest.raises(WaitTokenInvalid):
                await runtime.resolve(1, DidNotHappen(), token=await token(runtime, 1))
        assert (await runtime.ask("s", "pay", 5, key="k")).value == value
        with pytest.raises(WaitTokenInvalid):
            await runtime.resolve(1, DidNotHappen(), token=await token(runtime, 1))

    check_invariants(path)
    assert len(till.charged) == charges
    assert len(set(till.charged)) == 1


@pytest.mark.parametrize(
    ("first", "second", "value", "charges"),
    [(Happened("one"), DidNotHappen(), "one", 1), (DidNotHappen(), Happened("two"), "charged 5", 2)],
)
async def test_two_findings_at_once_have_one_winner(path: Path, first, second, value: str, charges: int) -> None:
    """The loser, still reading when the winner is written, is refused and changes nothing: applied once."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        turn_id = await suspended(runtime, key="k")
        known = await token(runtime, turn_id)
        read, write = runtime._store.edges, runtime._store.apply

        async def late_read(turn: int) -> object:
            found = await read(turn)
            if asyncio.current_task() is loser:
                await until(lambda: runtime.statistics().suspended == 0)
            return found

        async def late_write(points: list) -> object:
            await asyncio.wait([loser])
            return await write(points)

        runtime._store.edges, runtime._store.apply = late_read, late_write  # type: ignore[method-assign]
        winner, loser = (
            asyncio.create_task(runtime.resolve(turn_id, finding, token=known)) for finding in (first, second)
        )
        outcomes = await asyncio.gather(winner, loser, return_exceptions=True)
        with anyio.fail_after(5):
            assert (await runtime.ask("s", "pay", 5, key="k")).value == value

    assert outcomes[0] is None
    assert isinstance(outcomes[1], WaitTokenInvalid)
    assert len(till.charged) == charges


async def test_a_finding_for_a_turn_that_stands_on_nothing_is_refused(path: Path) -> None:
    """Unknown, queued and ended turns take no finding; the suspended one is left as it was."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        turn_id = await suspended(runtime)
        ended = await runtime.ask("other", "pay", 7)
        queued = await runtime.tell("s", "pay", 6)
        with pytest.raises(TurnNotFound):
            await runtime.resolve(99, DidNotHappen(), token=await token(runtime, 99))
        for wrong in (ended.turn_id, queued.turn_id):
            with pytest.raises(WaitTokenInvalid):
                await runtime.resolve(wrong, DidNotHappen(), token=await token(runtime, wrong))

        assert runtime.statistics().suspended == 1
        assert rows(path, "SELECT state FROM turns WHERE deliverable_id IS NULL") == [("suspended",), ("queued",)]

        await runtime.resolve(turn_id, Happened("said so"), token=await token(runtime, turn_id))
        assert (await queued.deliverable()).value == "charged 6"


async def test_a_finding_that_cannot_be_stored_leaves_the_turn_standing(path: Path) -> None:
    """It is refused with the reason, and a good one may follow."""
    till = Till()
    settings = Settings(synchronous="OFF", payload_bytes_max=1000, shutdown_s=0.02)
    async with Runtime(path, [till.pay], settings=settings) as runtime:
        turn_id = await suspended(runtime, key="k")
        with pytest.raises(ContractViolation):
            await runtime.resolve(turn_id, Happened(object()), token=await token(runtime, turn_id))
        with pytest.raises(PayloadTooLarge):
            await runtime.resolve(turn_id, Happened("x" * 1000), token=await token(runtime, turn_id))
        await runtime.resolve(turn_id, Happened("good"), token=await token(runtime, turn_id))

        assert (await runtime.ask("s", "pay", 5, key="k")).value == "good"


async def test_a_turn_that_nobody_answers_fails_at_its_deadline(path: Path) -> None:
    """After `approval_s` the turn fails for its doubt, late answers are refused, and its session goes on."""
    till = Till()
    settings = Settings(synchronous="OFF", approval_s=0.05, shutdown_s=0.02)
    async with Runtime(path, [till.pay], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "pay", 5)
        with pytest.raises(WaitTokenInvalid):
            await runtime.resolve(result.turn_id, DidNotHappen(), token=await token(runtime, result.turn_id))

        assert result.failure.type == "EffectInDoubt"
        assert "step charge[#0]" in result.failure.message
        assert (await runtime.ask("s", "pay", 6)).value == "charged 6"
    check_invariants(path)


async def test_a_deadline_passes_while_nobody_runs_and_nothing_moves_it(path: Path, clock) -> None:
    """Neither duplicates nor restarts move the deadline (10.1); who comes too late fails the turn at once."""
    till = Till()
    due = "SELECT due_at FROM turns"
    settings = Settings(synchronous="OFF", approval_s=100, shutdown_s=0.02)
    async with Runtime(path, [till.pay], settings=settings, clock=clock) as runtime:
        await suspended(runtime, key="k")
        clock.now += 60
        await runtime.tell("s", "pay", 5, key="k")
        assert rows(path, due) == [(1_000_100.0,)]
    async with Runtime(path, [till.pay], settings=settings, clock=clock) as runtime:
        assert runtime.statistics().suspended == 1
        assert rows(path, due) == [(1_000_100.0,)]
    clock.now += 40
    async with Runtime(path, [till.pay], settings=settings, clock=clock) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "pay", 5, key="k")

    assert result.failure.type == "EffectInDoubt"
    assert "step charge[#0]" in result.failure.message
    assert len(till.charged) == 1
    check_invariants(path)


async def test_a_standing_turn_holds_up_its_own_session_only(path: Path) -> None:
    """Others run; what waits behind it starts after it, also in the next runtime."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await suspended(runtime, key="k")
        await runtime.tell("s", "pay", 6)
        assert (await runtime.ask("other", "pay", 7)).value == "charged 7"
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        with pytest.raises(IdempotencyConflict):
            await runtime.tell("s", "pay", 9, key="k")
        assert (await runtime.ask("other", "pay", 8)).value == "charged 8"
        assert rows(path, "SELECT turn_id, state FROM turns WHERE deliverable_id IS NULL") == [
            (1, "suspended"),
            (2, "queued"),
        ]
        await runtime.resolve(1, DidNotHappen(), token=await token(runtime, 1))
        await until(lambda: runtime.statistics().completed == 3)

    check_invariants(path)
    order = "SELECT turn_id FROM edges WHERE kind IN ('turn_resumed', 'lease_acquired') ORDER BY edge_id"
    assert rows(path, order) == [(1,), (3,), (4,), (1,), (2,)]


def test_a_recovery_that_cannot_be_written_starts_nothing() -> None:
    """The process is killed inside a turn; taking it back is refused once: the start fails, and the next one serves."""
    started = []

    async def life(world: SimulatedWorld) -> None:
        @agent("fragile")
        async def fragile(turn: Turn) -> str:
            started.append(turn.attempt)
            if world.life == 1:
                world.kill()
            return "done"

        if world.life == 2:
            with pytest.raises(StorageFailed):
                await world.runtime([fragile]).__aenter__()
            assert started == [1]
        async with world.runtime([fragile]) as runtime:
            assert (await runtime.ask("s", "fragile", None, key="k")).value == "done"

    run(life, faults=Faults(at={4: Fault.FAIL}))  # node, turn | node, the turn taken back

    assert started == [1, 2]
