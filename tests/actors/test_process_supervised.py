"""Workers under the runtime's supervisors: their ends are events, what is wanted of them holds, turns go to others."""

import asyncio
import os
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from looking import FAST as AT_ONCE
from looking import check_invariants, until
from working import AGAIN, FAST, OFTEN, children, of_worker, pid_of, python, quick

from turnkeeper import Effect, Runtime, Turn, TurnkeeperError, tool
from turnkeeper.actors.node import logger
from turnkeeper.actors.process import ProcessLimits, process_agent
from turnkeeper.actors.process.life import Command
from turnkeeper.actors.process.pool import Crew, Pool
from turnkeeper.kernel.errors import InvalidName
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity
from turnkeeper.kernel.supervision.noted import decode_note
from turnkeeper.supervisors.supervisor import Supervisor

ONCE = Intensity(restarts_max=0)
LATER = Intensity(pauses_s=(600.0,))
DIES = """
    import os
    def handle(turn):
        if turn.input == "die" and turn.attempt == 1: os.kill(os.getpid(), 9)
        return [turn.attempt, os.getpid()]
    run(handle)
"""


async def story(runtime: Runtime, path: str = "processes/w/1") -> list[str]:
    """What was noted of a worker."""
    return [str(event.kind) for event in await runtime.child_events(path)]


async def test_starts_and_ends_are_events_with_code_and_signal(path: Path) -> None:
    """Killed within a turn, ended before it was ready, brought down by the runtime; and the next runtime knows."""
    unready = 'if os.environ["TURNKEEPER_INCARNATION"] == "2": raise SystemExit(7)'
    agent = python(path.parent, f"import os\n{unready}\n{textwrap.dedent(DIES)}")
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", "die")
        events = await runtime.child_events("processes/w/1")
    notes = [decode_note(event) for event in events]

    assert [str(event.kind) for event in events] == [
        "started",
        "crashed",
        "restarted",
        "crashed",
        "restarted",
        "started",
    ]
    assert [event.incarnation for event in events] == [1, 1, 1, 2, 2, 3]
    assert (notes[1].reason, notes[1].signal, notes[1].code) == ("killed", signal.SIGKILL, None)
    assert (notes[3].reason, notes[3].signal, notes[3].code) == ("exited", None, 7)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await story(runtime))[6:] == ["ended"]
    check_invariants(path)


async def test_a_quarantine_holds_in_the_next_runtime_until_it_is_released(path: Path) -> None:
    """It fell too often: no runtime starts it again before somebody says so."""
    agent = python(path.parent, DIES, intensity=ONCE)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match=r"ChildQuarantined.*the last end: signal SIGKILL"):
            (await runtime.ask("s", "w", "die")).value  # noqa: B018 - it raises
        assert of_worker(runtime).desired == "quarantined"
        assert (await story(runtime)) == ["started", "crashed", "quarantined"]
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match=r"processes/w/1 is quarantined"):
            (await runtime.ask("s", "w", "")).value  # noqa: B018 - it raises
        assert of_worker(runtime).incarnation == 0
        await runtime.say("processes/w/1", "release")
        assert (await runtime.ask("s", "w", "")).value[0] == 1
        assert of_worker(runtime).desired == "running"
    check_invariants(path)


async def test_the_tree_shows_a_workers_process_and_loses_it_with_its_end(path: Path) -> None:
    """Pid, health and beats while it runs; none of them once it was killed, and its pause before the next start."""
    agent = python(path.parent, DIES, intensity=LATER)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.ask("s", "w", "")
        seen = of_worker(runtime)
        assert seen.kind == "worker"
        assert seen.state == "running"
        assert seen.look is not None
        assert (seen.look.pid, seen.look.health, seen.look.running) == (pid_of(agent), "alive", 0)
        assert seen.look.beat_age_s is not None
        assert seen.look.progress_age_s is not None
        assert 0 <= seen.look.beat_age_s <= seen.look.progress_age_s < 60
        os.kill(seen.look.pid or 0, signal.SIGKILL)
        await until(lambda: (look := of_worker(runtime).look) is not None and look.pid is None)
        await until(lambda: of_worker(runtime).state == "idle")
        seen = of_worker(runtime)

    assert seen.look is not None
    assert (seen.look.health, seen.look.beat_age_s, seen.look.running) == (None, None, None)
    assert (seen.why, seen.restarts) == ("killed", 1)


async def test_turns_go_to_the_workers_that_are_not_put_away(path: Path) -> None:
    """Two workers, one quarantined: the other serves; only when both are is that the turn's failure."""
    agent = python(path.parent, DIES, intensity=ONCE, workers_max=2)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", "die")).value[0] == 2
        assert [of_worker(runtime, number).desired for number in (1, 2)] == ["quarantined", "running"]
        ended = await asyncio.gather(*(runtime.ask(f"s{n}", "w", n) for n in range(9)))
        assert {tuple(result.value) for result in ended} == {(1, agent.workers()[1].pid)}
        with pytest.raises(TurnkeeperError, match="ChildQuarantined"):
            (await runtime.ask("s", "w", "die")).value  # noqa: B018 - it raises
        assert [of_worker(runtime, number).desired for number in (1, 2)] == ["quarantined", "quarantined"]
        failed = await asyncio.gather(*(runtime.ask(f"s{n}", "w", n) for n in range(9)))

    assert all("ChildQuarantined" in str(result.failure) for result in failed)
    check_invariants(path)


async def test_who_waits_for_a_worker_that_is_put_away_is_told(path: Path) -> None:
    """One worker, several turns: none of them waits for what will not come."""
    agent = quick(["sh", "-c", "sleep 0.05; exit 3"], intensity=ONCE)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        ended = await asyncio.gather(*(runtime.ask(f"s{n}", "w", n) for n in range(5)))

    assert all("the last end: exit code 3" in str(result.failure) for result in ended)


async def test_a_released_worker_is_given_to_whoever_waits_for_another(path: Path) -> None:
    """One of two is put away, the other busy: the turn that waits has the first one as soon as it is released."""
    agent = python(path.parent, 'run(lambda turn: turn.call("wait", n=turn.input))', tools=[wait], workers_max=2)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        going.clear()
        tellings = [await runtime.tell(f"s{n}", "w", n) for n in (1, 2)]
        await until(lambda: set(going) == {1, 2})
        going[1].set()
        await tellings[0].deliverable()
        away = next(worker.name for worker in agent.workers() if not worker.busy)
        await runtime.say(f"processes/w/{away}", "stop")
        waiting = await runtime.tell("s3", "w", 3)
        await until(lambda: runtime.statistics().running == 2)
        assert 3 not in going
        await runtime.say(f"processes/w/{away}", "resume")
        await until(lambda: 3 in going)
        going[3].set()
        assert (await waiting.deliverable()).value == 3
        going[2].set()
        assert (await tellings[1].deliverable()).value == 2


going: dict[int, asyncio.Event] = {}


@tool(effect=Effect.PURE)
async def wait(n: int) -> int:
    going[n] = asyncio.Event()
    await going[n].wait()
    return n


async def test_a_turn_of_a_worker_that_is_stopped_is_taken_back(path: Path) -> None:
    """Its end was not its own: the turn runs again from its top, on another, and nothing of it is done twice."""
    body = """
        import os, time
        def handle(turn):
            pid = turn.step("note", lambda: os.getpid(), effect="effectful")
            if turn.attempt == 1: time.sleep(60)
            return [turn.attempt, pid, os.getpid()]
        run(handle)
    """
    agent = python(path.parent, body, workers_max=2, limits={"shutdown_s": 0.1})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", "")
        await until(lambda: runtime.statistics().steps)
        first = pid_of(agent)
        assert await runtime.say("processes/w/1", "stop") is Desired.STOPPED
        attempt, noted, last = (await receipt.deliverable()).value
        assert (await story(runtime))[-2:] == ["stopped", "ended"]

    assert attempt == 2
    assert noted in {first, last}
    assert last != first
    check_invariants(path)


async def test_a_paused_worker_is_passed_over() -> None:
    """It is up, and stays so; turns go to the other, and to it again once it is resumed."""
    limits = ProcessLimits(shutdown_s=0.2)
    script = 'echo \'{"v":1,"type":"ready","incarnation":1}\'; while read -r l; do :; done'
    command = Command(agent_id="w", command=["sh", "-c", script], env={}, cwd=None, limits=limits)
    crew = Crew(name="w", command=command, steps={}, workers_max=2, intensity=OFTEN)
    staff, before = Supervisor(intensity=OFTEN, exceeded=Exceeded.QUARANTINE), children()
    staff.start(lambda _: None)
    pool = Pool(crew, staff, logger())
    one, _ = await pool._worker()
    pool._leave(one)
    await staff.tell(one.name, Verb.PAUSE)
    other, _ = await pool._worker()
    waiting = asyncio.ensure_future(pool._worker())
    await asyncio.sleep(0)

    assert (one.name, other.name) == ("1", "2")
    assert one.up
    assert not waiting.done()
    await staff.tell(one.name, Verb.RESUME)
    pool._leave(other)
    assert {(await waiting)[0].name, (await pool._worker())[0].name} == {"1", "2"}
    await staff.stop(0.0)
    await until(lambda: children() == before)


async def test_two_versions_of_an_agent_have_workers_of_their_own(path: Path) -> None:
    """A turn finishes under the version it was started under, beside turns of the newest."""
    body = """
        def handle(turn):
            turn.step("begin", lambda: 0)
            if turn.input == "wait" and turn.attempt == 1: turn.call("hang")
            return "{}"
        run(handle)
    """

    @tool(effect=Effect.PURE)
    async def hang() -> None:
        await asyncio.Event().wait()

    def of(version: str) -> Callable[[Turn], object]:
        folder = path.parent / version
        folder.mkdir()
        return python(folder, body.replace("{}", version), tools=[hang], version=version)

    older, newer = of("1"), of("2")
    async with Runtime(path, [older], settings=AT_ONCE) as runtime:
        await runtime.tell("s", "w", "wait", key="k")
        await until(lambda: older.workers() and older.workers()[0].busy)
        await until(lambda: runtime.statistics().steps)
    async with Runtime(path, [older, newer], settings=FAST) as runtime:
        assert (await runtime.ask("s2", "w", "")).value == "2"
        assert (await runtime.ask("s", "w", "wait", key="k")).value == "1"
        processes = next(part for part in runtime.tree().children if part.name == "processes")
        assert {child.name for child in processes.children} == {"w@1", "w@2"}
    check_invariants(path)


def test_a_name_that_no_path_can_hold_is_refused_where_it_is_declared() -> None:
    """Its workers' paths begin with it."""
    with pytest.raises(ValueError, match="no slash"):
        process_agent("team/w", ["true"])
    with pytest.raises(ValueError, match="no slash"):
        process_agent("w", ["true"], version="a/b")
    with pytest.raises(ValueError, match=r"no @"):  # "w" of version "2" has that path
        process_agent("w@2", ["true"])
    for version in ("v" * 5_000, "\ud800", "\0"):
        with pytest.raises(InvalidName, match="version"):
            process_agent("w", ["true"], version=version)


async def test_the_longest_version_runs(path: Path) -> None:
    """What is taken at its declaration can run."""
    agent = python(path.parent, "run(lambda turn: turn.input)", version="\U0001f9ea" * 512)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", 1)).value == 1


async def test_a_folder_that_there_is_not_is_named(path: Path) -> None:
    """A worker that cannot even be begun has fallen, and the turn says of what."""
    agent = quick(["true"], cwd="/nowhere", intensity=ONCE, retry=AGAIN)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        with pytest.raises(TurnkeeperError, match=r"ChildQuarantined.*FileNotFoundError.*/nowhere"):
            (await runtime.ask("s", "w", None)).value  # noqa: B018 - it raises
