"""Workers that are to rest: their turns wait, end in time, or go to others; none of them fails."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from looking import check_invariants, until
from working import FAST, of_worker, python, shell

from turnkeeper import Effect, Runtime, Settings, TurnkeeperError, tool
from turnkeeper.kernel.supervision.desired import Desired

ECHO = "run(lambda turn: turn.input)"
STEPS = """
    import time
    def handle(turn):
        turn.call("begun")
        time.sleep(0.3)
        return [turn.attempt, turn.step("pay", lambda: "paid", effect="effectful")]
    run(handle)
"""


@tool(effect=Effect.PURE)
async def begun() -> None:
    pass


@pytest.mark.parametrize("verb", ["pause", "stop"])
@pytest.mark.parametrize("child", ["processes/w/1", "processes/w"])
async def test_turns_wait_while_every_worker_rests(path: Path, verb: str, child: str) -> None:
    """In this runtime and the next, until somebody resumes; a staff that is paused while it is up goes on."""
    agent = python(path.parent, ECHO)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", 0)).value == 0
        await runtime.say(child, verb)
        if (verb, child) != ("pause", "processes/w"):
            waiting = [await runtime.tell(f"s{n}", "w", n) for n in range(3)]
            await until(lambda: runtime.statistics().running == 3)
            await runtime.say(child, "resume")
            async with asyncio.timeout(5):
                assert [(await one.deliverable()).value for one in waiting] == [0, 1, 2]
            await runtime.say(child, verb)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", 4)
        await until(lambda: runtime.statistics().running == 1)
        await until(agent.workers)
        await runtime.say(child, "resume")
        async with asyncio.timeout(5):
            assert (await receipt.deliverable()).value == 4
    check_invariants(path)


async def test_a_turn_waits_for_a_resting_worker_no_longer_than_it_may_last(path: Path) -> None:
    """Its own limit ends it, and its wait is no idleness."""
    agent = python(path.parent, ECHO, turn_s=0.8, idle_s=0.1)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", 0)
        await runtime.say("processes/w/1", "stop")
        with pytest.raises(TurnkeeperError, match="DeadlineExceeded"):
            (await runtime.ask("s", "w", 1)).value  # noqa: B018 - it raises


async def test_a_worker_that_is_paused_while_it_is_up_gets_no_turn(path: Path) -> None:
    """All turns go to the other; with that one quarantined they wait, and fail only once both are put away."""
    body = "import os\nrun(lambda turn: os.getpid())"
    agent = python(path.parent, body, workers_max=2)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", 0)
        first = agent.workers()[0].pid
        await runtime.say("processes/w/1", "pause")
        served = Counter([(await runtime.ask(f"s{n}", "w", n)).value for n in range(5)])
        assert len(served) == 1
        assert first not in served
        assert of_worker(runtime, 1).state == "running"
        await runtime.say("processes/w/2", "quarantine")
        waiting = await runtime.tell("s", "w", 1)
        await until(lambda: runtime.statistics().running == 1)
        await runtime.say("processes/w/1", "resume")
        async with asyncio.timeout(5):
            assert (await waiting.deliverable()).value == first
        await runtime.say("processes/w/1", "quarantine")
        with pytest.raises(TurnkeeperError, match="ChildQuarantined"):
            (await runtime.ask("s", "w", 1)).value  # noqa: B018 - it raises


@pytest.mark.parametrize("child", ["processes/w/1", "processes/w"])
async def test_a_turn_ends_within_shutdown_s_of_a_stop_and_no_other_begins(path: Path, child: str) -> None:
    """It is answered meanwhile, and the worker ends of itself then; the next turn waits for a resume."""
    agent = python(path.parent, STEPS, tools=[begun], limits={"shutdown_s": 10.0})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", 0)
        await until(lambda: runtime.statistics().steps)
        next_ = await runtime.tell("s2", "w", 0)
        async with asyncio.timeout(5):
            assert await runtime.say(child, "stop") is Desired.STOPPED
            assert (await receipt.deliverable()).value == [1, "paid"]
        last = agent.workers()[0].last_exit
        assert last is not None
        assert (last.reason, last.code) == ("stopped", 0)
        assert runtime.statistics().completed == 1
        await runtime.say(child, "resume")
        async with asyncio.timeout(5):
            assert (await next_.deliverable()).value == [1, "paid"]
    check_invariants(path)


async def test_a_turn_that_closing_finds_has_its_time_too(path: Path) -> None:
    """Closing waits for what runs, as long as `Settings.shutdown_s`."""
    agent = python(path.parent, STEPS, tools=[begun])
    async with Runtime(path, [agent], settings=Settings(synchronous="OFF", shutdown_s=10.0)) as runtime:
        receipt = await runtime.tell("s", "w", 0)
        await until(lambda: runtime.statistics().steps)
    assert (await receipt.deliverable()).value == [1, "paid"]


async def test_closing_does_not_wait_for_a_turn_that_it_has_cancelled(path: Path) -> None:
    """It has gone back to its queue; what its worker still does is nobody's."""
    body = "import time\nrun(lambda turn: [turn.call('begun'), time.sleep(60)])"
    agent = python(path.parent, body, tools=[begun], limits={"shutdown_s": 20.0, "cancel_s": 20.0})
    loop = asyncio.get_running_loop()
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.tell("s", "w", 0)
        await until(lambda: runtime.statistics().steps)
        began = loop.time()
    assert loop.time() - began < 8.0


async def test_a_program_that_ends_at_bye_has_its_turn_ended_first(path: Path) -> None:
    """It is told so behind its turn: no program need know of it within one."""
    script = """
        say '"type":"call","turn":'$turn',"id":1,"tool":"begun"'
        while read -r line; do case $(field type) in
            answer) sleep 0.2; result done;;
            bye) exit 0;;
        esac; done
    """
    agent = shell(script, tools=[begun], limits={"shutdown_s": 10.0})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", 0)
        await until(lambda: runtime.statistics().running)
        await until(lambda: agent.workers() and agent.workers()[0].busy)
        async with asyncio.timeout(5):
            await runtime.say("processes/w/1", "stop")
            assert (await receipt.deliverable()).value == "done"


async def test_what_a_program_does_behind_run_is_done(path: Path) -> None:
    """A worker that is told to end between turns ends as every program does, its clean-up included."""
    mark = path.with_name("cleaned")
    agent = python(path.parent, f"{ECHO}\nimport time; time.sleep(0.1)\nopen({str(mark)!r}, 'w').close()")
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", 0)
    assert mark.exists()


@pytest.mark.parametrize("idle_s", [None, 60.0])
async def test_a_process_agent_that_is_broken_is_paused_with_an_idle_limit_or_without(
    path: Path, idle_s: float | None
) -> None:
    """To wait for a worker is no progress."""
    agent = python(path.parent, "def handle(turn): raise ValueError('broken')\nrun(handle)", idle_s=idle_s)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        for n in range(5):
            await runtime.ask(f"s{n}", "w", n)
        await until(lambda: runtime.desired("agents/w") is Desired.PAUSED)


async def test_turns_of_workers_that_are_put_away_are_no_storm(path: Path) -> None:
    """The agent is as sound as it was; somebody has put its workers away."""
    agent = python(path.parent, ECHO)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", 0)
        await runtime.say("processes/w/1", "quarantine")
        failed = [await runtime.ask(f"s{n}", "w", n) for n in range(9)]
        assert all("ChildQuarantined" in str(one.failure) for one in failed)
        assert runtime.desired("agents/w") is Desired.RUNNING


async def test_turns_that_a_stop_cuts_off_are_no_storm(path: Path) -> None:
    """Five at once, none of which got on: they run again once somebody resumes."""
    body = """
        import time
        def handle(turn):
            if turn.attempt == 1: time.sleep(60)
            return turn.attempt
        run(handle)
    """
    agent = python(path.parent, body, workers_max=5, limits={"shutdown_s": 0.05})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipts = [await runtime.tell(f"s{n}", "w", n) for n in range(5)]
        await until(lambda: [worker.busy for worker in agent.workers()] == [True] * 5)
        await runtime.say("processes/w", "stop")
        await runtime.say("processes/w", "resume")
        async with asyncio.timeout(10):
            assert [(await one.deliverable()).value for one in receipts] == [2] * 5
        assert runtime.desired("agents/w") is Desired.RUNNING
    check_invariants(path)
