"""Workers that die: noticed at once, replaced, and no effect repeated, at whatever moment it was."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import check_invariants, kinds, until
from working import AGAIN, FAST, alive, children, descriptors, gone, of_worker, pid_of, python, quick, shell, state

from turnkeeper import DidNotHappen, Effect, Happened, Runtime, TurnkeeperError, step_context, tool
from turnkeeper.actors.process import worker_step
from turnkeeper.actors.process.spawned import Identity
from turnkeeper.kernel.step import OnDoubt
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.slot import SlotState

KILLS = int(os.environ.get("KILLS", "200"))
"""The environment may ask for more, or fewer."""
NOTICED_S = 0.05

PAYER = """
    import os, time

    def handle(turn):
        def pay(n):
            with open(os.environ["PAID"], "a") as book:
                book.write(turn.idempotency_key + "\\n")
            time.sleep(0.002)
            return n
        first = turn.step("look", lambda n: n, {"n": turn.input})
        time.sleep(0.001)
        paid = turn.step("pay", pay, {"n": first}, effect="effectful")
        noted = turn.call("note", n=paid)
        time.sleep(0.001)
        return noted

    run(handle)
"""


def payer(path: Path):
    """A worker that pays by itself; what it has paid can be looked up."""
    paid = path.with_name("paid")
    paid.touch()

    async def look_up(arguments: Any) -> Happened | DidNotHappen:
        key = step_context().idempotency_key
        return Happened(arguments["n"]) if key in paid.read_text().split() else DidNotHappen()

    @tool(effect=Effect.EFFECTFUL)
    async def note(n: int) -> int:
        noted.append(n)
        return n

    noted: list[int] = []
    steps = [worker_step("pay", Effect.EFFECTFUL, on_doubt=look_up)]
    env = {"PAID": str(paid)}
    agent = python(path.parent, PAYER, tools=[note], steps=steps, env=env, retry=AGAIN)
    return agent, paid, noted


def serving(runtime: Runtime, pid: int) -> bool:
    """Whether a process is still taken for running, or its slot is."""
    worker = of_worker(runtime)
    shown = worker.look.pid if worker.look is not None else None
    return shown == pid or (worker.state == SlotState.RUNNING and shown is None)


async def test_a_worker_killed_at_any_moment_is_noticed_at_once_and_repeats_nothing(path: Path) -> None:
    """kill -9 in the middle of a turn, again and again: its slot is free within 50 ms, and no effect is repeated."""
    agent, paid, noted = payer(path)
    chance, noticed = random.Random(7), []
    async with Runtime(path, [agent], settings=FAST) as runtime:
        turns = [asyncio.ensure_future(runtime.ask("s0", "w", 0))]
        await until(agent.workers)
        while len(noticed) < KILLS:
            if turns[-1].done():
                turns.append(asyncio.ensure_future(runtime.ask(f"s{len(turns)}", "w", len(turns))))
            await until(lambda: agent.workers()[0].busy or turns[-1].done())
            await anyio.sleep(chance.random() * 0.009)
            (worker,) = agent.workers()
            if not worker.busy or worker.pid is None:
                continue
            began = time.perf_counter()
            os.kill(worker.pid, signal.SIGKILL)
            while serving(runtime, worker.pid):  # noqa: ASYNC110 - it is timed
                await asyncio.sleep(0)
            noticed.append(time.perf_counter() - began)
        ended = [await turn for turn in turns]
    noticed.sort()
    print(f"noticed: median {noticed[KILLS // 2]:.4f} s, worst {noticed[-1]:.4f} s; {len(turns)} turns")

    assert noticed[KILLS * 19 // 20] < NOTICED_S  # the rest may fall upon a machine that does something else
    assert noticed[-1] < NOTICED_S * 10
    assert [result.value for result in ended] == list(range(len(turns)))
    assert set(Counter(paid.read_text().split()).values()) == {1}
    assert sorted(noted) == list(range(len(turns)))
    check_invariants(path)


@pytest.mark.parametrize("on_doubt", [OnDoubt.FAIL, OnDoubt.RETRY])
async def test_an_effect_that_died_with_its_worker_is_in_doubt(path: Path, on_doubt: OnDoubt) -> None:
    """What was told to go and never said how it ended follows the rules of its declaration."""
    body = """
        import os, sys
        def die(): os.kill(os.getpid(), 9)
        def fine(): return "second time"
        def handle(turn):
            return turn.step("act", die if turn.attempt == 1 else fine, effect="effectful")
        run(handle)
    """
    steps = [worker_step("act", Effect.EFFECTFUL, on_doubt=on_doubt)]
    agent = python(path.parent, body, steps=steps, retry=AGAIN)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        result = await runtime.ask("s", "w", None)
        if on_doubt is OnDoubt.RETRY:
            assert result.value == "second time"
        else:
            with pytest.raises(TurnkeeperError, match="EffectInDoubt"):
                result.value  # noqa: B018 - it raises

    assert "step_unknown" in kinds(path)
    check_invariants(path)


async def test_a_doubt_that_nobody_declared_waits_for_somebody(path: Path) -> None:
    """Without a declaration an effectful step asks; the answer is what the worker's rerun is told."""
    body = """
        import os
        def handle(turn):
            return turn.step("act", lambda: os.kill(os.getpid(), 9), effect="effectful")
        run(handle)
    """
    agent = python(path.parent, body, retry=AGAIN)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", None)
        await until(lambda: runtime.statistics().suspended == 1)
        await until(lambda: not agent.workers()[0].busy)
        (doubt,) = await runtime.doubts()
        await runtime.resolve(doubt.turn_id, Happened("it did"), token=doubt.token)
        result = await receipt.deliverable()

    assert result.value == "it did"
    await until(lambda: not agent.workers())


async def test_pure_and_idempotent_steps_of_a_dead_worker_run_again(path: Path) -> None:
    """The idempotent one with the same key; what was recorded is not run again."""
    body = """
        import os
        def handle(turn):
            def note(name, die):
                with open(os.environ["NOTES"], "a") as notes:
                    notes.write(f"{name} {turn.idempotency_key or '-'}\\n")
                if die == turn.attempt: os.kill(os.getpid(), 9)
                return name
            turn.step("pure", note, {"name": "pure", "die": 1})
            return turn.step("same", note, {"name": "same", "die": 2}, effect="idempotent")
        run(handle)
    """
    notes = path.with_name("notes")
    agent = python(path.parent, body, retry=AGAIN, env={"NOTES": str(notes)})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", None)).value == "same"

    (key,) = {line.split()[1] for line in notes.read_text().splitlines()} - {"-"}
    assert notes.read_text().split() == ["pure", "-", "pure", "-", "same", key, "same", key]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "exit code 0"),
        ("exit 3", "exit code 3"),
        ("kill -TERM $$", "signal SIGTERM"),
        ("exec >&-; sleep 60", "closed its stdout, signal SIGKILL"),
    ],
)
async def test_an_end_within_a_turn_is_reported_with_its_code_or_signal(path: Path, script: str, said: str) -> None:
    """Whatever the exit code: without a result the worker has died under its turn, and somebody can read how."""
    agent = shell(script)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", None)
        await until(lambda: agent.workers() and agent.workers()[0].last_exit is not None)
        (worker,) = agent.workers()
        last = worker.last_exit
        assert last is not None
        assert last.error == said
        assert not last.normal
        assert receipt is not None


async def test_what_a_worker_said_before_it_died_counts(path: Path) -> None:
    """A result and an exit in one breath: the turn is completed, and the exit is a good one."""
    agent = shell("result done; exit 0")
    async with Runtime(path, [agent], settings=FAST) as runtime:
        results = [(await runtime.ask("s", "w", None)).value for _ in range(20)]
        await until(lambda: agent.workers()[0].pid is None)
        (worker,) = agent.workers()
        shown = of_worker(runtime)

    assert results == ["done"] * 20
    assert worker.last_exit is not None
    assert worker.last_exit.normal
    assert worker.incarnation == 20
    assert shown.restarts == 0


async def test_a_worker_that_falls_too_often_is_put_away_until_it_is_released(path: Path) -> None:
    """More restarts than its intensity bears: quarantined, said so to the turn, and started again once released."""
    mended = path.with_name("mended")
    body = f"""
        import os, sys
        sys.exit(7) if not os.path.exists({str(mended)!r}) else run(lambda turn: "ok")
    """
    agent = python(path.parent, body, intensity=Intensity(restarts_max=3, pauses_s=(0.0, 0.01)))
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match=r"ChildQuarantined.*more than 3 restarts.*exit code 7"):
            (await runtime.ask("s", "w", None)).value  # noqa: B018 - it raises
        (worker,) = agent.workers()
        assert worker.incarnation == 4
        mended.touch()
        await runtime.say("processes/w/1", "release")
        assert (await runtime.ask("s", "w", None)).value == "ok"


async def test_a_command_that_there_is_not_is_named(path: Path) -> None:
    """Neither the runtime nor the turn hangs."""
    agent = quick(["/nowhere/worker"], intensity=Intensity(restarts_max=0))
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match="exit code 127"):
            (await runtime.ask("s", "w", None)).value  # noqa: B018 - it raises


async def test_a_worker_that_is_never_ready_is_killed(path: Path) -> None:
    """It has its time to start, and not more."""
    agent = quick(["sleep", "60"], intensity=Intensity(restarts_max=0), limits={"start_s": 0.05})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match=r"not ready within 0.05 s"):
            (await runtime.ask("s", "w", None)).value  # noqa: B018 - it raises


async def test_a_stopped_worker_is_suspect_first_and_then_dead(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGSTOP: nothing ends, nothing is said; silence makes it suspect, then it is killed, and the turn runs again."""
    body = """
        import os, signal
        def handle(turn):
            if turn.attempt == 1: os.kill(os.getpid(), signal.SIGSTOP)
            return turn.attempt
        run(handle)
    """
    agent = python(path.parent, body, retry=AGAIN, limits={"silent_s": 0.15, "grace_s": 0.15})
    with caplog.at_level("INFO", "turnkeeper"):
        async with Runtime(path, [agent], settings=FAST) as runtime:
            assert (await runtime.ask("s", "w", None)).value >= 2
    said = [event for record in caplog.records if (event := getattr(record, "event", "")).startswith("process.")]

    assert said[:3] == ["process.suspect", "process.dead", "process.exited"]


async def test_a_suspect_that_beats_is_alive_again(path: Path) -> None:
    """Continued within its grace, it goes on with its turn."""
    body = """
        import os, signal
        def handle(turn):
            os.kill(os.getpid(), signal.SIGSTOP)
            return turn.attempt
        run(handle)
    """
    agent = python(path.parent, body, limits={"silent_s": 0.15, "grace_s": 10.0})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", None)
        await until(lambda: agent.workers() and agent.workers()[0].health == "suspect")
        await until(lambda: state(pid_of(agent) or 0) == "T")  # a busy machine's may be suspect before it has stopped
        os.kill(pid_of(agent) or 0, signal.SIGCONT)
        with anyio.fail_after(10):
            assert (await receipt.deliverable()).value == 1


async def test_a_worker_without_progress_is_killed_though_it_answers(path: Path) -> None:
    """Alive is not progressing: pongs do not count, progress does."""
    body = """
        import time
        def handle(turn):
            for _ in range(6):
                time.sleep(0.05); turn.progress()
            if turn.attempt == 1: time.sleep(60)
            return turn.attempt
        run(handle)
    """
    agent = python(path.parent, body, idle_s=0.2, limits={"silent_s": 0.3})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", None)).value == 2
        last = agent.workers()[0].last_exit

    assert last is not None
    assert last.reason == "deaf"


async def test_grandchildren_do_not_survive_their_worker(path: Path) -> None:
    """Killed, gone by itself, or stopped: nobody of its group is left."""
    pids = path.with_name("pids")
    agent = shell(
        f"sleep 300 & echo $! >>{pids}; sh -c 'sleep 300 & echo $! >>{pids}; wait' & "
        f"until [ $(wc -l <{pids}) = 2 ]; do sleep 0.01; done; result ok; exit 0"
    )
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", None)).value == "ok"
        found = [int(pid) for pid in pids.read_text().split()]
        await gone(*found)

    assert len(found) == 2


async def test_closing_leaves_no_process_no_descriptor_and_no_task(path: Path) -> None:
    """The pid is cleared, the workers and their guard are reaped, every pipe is closed."""
    agent, _, _ = payer(path)
    before = children(), descriptors(), len(asyncio.all_tasks())
    for _ in range(2):
        async with Runtime(path, [agent], settings=FAST) as runtime:
            await runtime.ask("s", "w", 1)
            (worker,) = agent.workers()
            pid = worker.pid or 0
            assert Identity.of(pid) == Identity(pid, worker.started or 0)
            assert worker.started
        await until(lambda: not agent.workers())

    assert not alive(pid)
    await until(lambda: (children(), descriptors(), len(asyncio.all_tasks())) == before)


async def test_a_hundred_deaths_leak_nothing(path: Path) -> None:
    """Descriptors and children stay as many as they were."""
    agent = shell("kill -KILL $$")
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.tell("s", "w", None)
        await until(lambda: agent.workers() and agent.workers()[0].incarnation > 5)
        before = descriptors()
        await until(lambda: agent.workers()[0].incarnation > 105)

        assert descriptors() <= before + 8
        assert len(children()) <= 3
