"""Storms: an agent whose turns end without getting on is paused; nothing accepted is lost, and a resumption goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from looking import Said, rows, until

from turnkeeper import Agent, Retry, Runtime, Settings, Turn, agent
from turnkeeper.kernel.errors import ProcessDied, StorageFailed
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.noted import decode_note
from turnkeeper.kernel.turn import TERMINAL
from turnkeeper.supervisors.chronicle import Unrecorded
from turnkeeper.supervisors.storms import BY, Storms
from turnkeeper.testing import Faults, SimulatedWorld, Violated
from turnkeeper.testing.scenarios.patience import patiently

ONCE = Retry(retries_max=0)
Running = Callable[..., Any]


class Release:
    """An agent `play` whose handler is broken from its first line until it is mended."""

    def __init__(self, **options: Any) -> None:
        self.broken = True
        self.runs = 0

        async def play(turn: Turn) -> Any:
            self.runs += 1
            if self.broken:
                raise KeyError("SECRET")
            return turn.input

        self.agent = agent("play", **{"retry": ONCE, **options})(play)


def playing(handler: Callable, **options: object) -> Agent:
    return agent("play", **{"retry": ONCE, **options})(handler)


def said_of(running: Any) -> Said:
    """Return what a runtime logs from now on."""
    running.node.log = said = Said()
    return said


def wanted(running: Any) -> str:
    view = running.tree()
    agents = next(child for child in view.children if child.name == "agents")
    return next(str(child.desired) for child in agents.children if child.name == "play")


async def fail(running: Any, *sessions: str, payload: object = None) -> None:
    """Ask in each of these sessions, one after another; every turn fails."""
    for session in sessions:
        assert (await running.ask(session, "play", payload)).outcome == "failed"


async def settle(seconds: float = 1.0) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


# ---------------------------------------------------------------- five ends, and what comes then


async def test_an_agent_that_fails_five_turns_in_a_row_is_paused(runtime: Running) -> None:
    """As if a person had said it: in the tree, as an event with who and why, and in one line of the log."""
    release = Release()
    async with runtime([release.agent]) as running:
        said = said_of(running)
        await fail(running, "a", "b", "c", "d")
        assert wanted(running) == "running"
        await fail(running, "e")
        await settle()

        assert wanted(running) == "paused"
        (event,) = await running.child_events("agents/play")
        note = decode_note(event)

    assert (event.kind, note.by, note.error) == ("paused", BY, "KeyError")
    assert note.reason == "5 turns ended within 30 s without progress, last: KeyError"
    assert said.of("agent.storm") == [{"agent_id": "play", "ends": 5, "within_s": 30.0, "error": "KeyError"}]


async def test_nothing_accepted_is_lost_and_a_resumption_goes_on_with_a_fresh_count(runtime: Running) -> None:
    """Of twenty turns in one session five run; the others wait, and end well once the release is mended."""
    release = Release()
    async with runtime([release.agent]) as running:
        receipts = [await running.tell("s", "play", number) for number in range(20)]
        await settle()
        assert (release.runs, running.statistics().failed, running.statistics().queued) == (5, 5, 15)

        await running.say("agents/play", Verb.RESUME)
        await settle()
        assert (release.runs, running.statistics().queued) == (10, 10)

        release.broken = False
        await running.say("agents/play", Verb.RESUME)
        results = [await receipt.deliverable() for receipt in receipts]

    assert [result.value for result in results[10:]] == list(range(10, 20))
    assert {result.outcome for result in results[:10]} == {"failed"}


async def test_a_pause_holds_for_the_next_runtime(path: Path) -> None:
    """A respawn loop around the runtime does not go on for ever."""
    release = Release()
    settings = Settings(synchronous="OFF", shutdown_s=0.02)
    async with Runtime(path, [release.agent], settings=settings) as runtime:
        await fail(runtime, *"abcde")
        await until(lambda: rows(path, "SELECT desired FROM desired WHERE path = 'agents/play'") == [("paused",)])
        receipt = await runtime.tell("s", "play", "kept", key="k")
    release.broken = False
    async with Runtime(path, [release.agent], settings=settings) as runtime:
        assert (runtime.statistics().queued, wanted(runtime)) == (1, "paused")
        await runtime.say("agents/play", Verb.RESUME)
        again = await runtime.tell("s", "play", "kept", key="k")
        assert (again.turn_id, (await again.deliverable()).value) == (receipt.turn_id, "kept")


async def test_what_runs_goes_on_and_other_agents_do_not_notice(runtime: Running) -> None:
    """A pause takes nothing back."""
    opened = asyncio.Event()

    async def play(turn: Turn) -> str:
        if turn.input != "slow":
            raise ValueError
        await opened.wait()
        return "done"

    async def other(turn: Turn) -> Any:
        return turn.input

    async with runtime([playing(play), agent("other")(other)]) as running:
        slow = await running.tell("slow", "play", "slow")
        await fail(running, *"abcde")
        await settle()
        assert wanted(running) == "paused"
        assert (await running.ask("s", "other", 7)).value == 7
        opened.set()

        assert (await slow.deliverable()).value == "done"


# ---------------------------------------------------------------- what counts, and what does not


@pytest.mark.parametrize("how", ["dies", "hangs", "beyond its time"])
async def test_runs_that_are_taken_back_or_past_their_time_count(runtime: Running, how: str) -> None:
    """A worker that dies, a run that is stuck, and one that made nothing of all its time."""

    async def play(_: Turn) -> None:
        if how == "dies":
            raise ProcessDied("play", 41, "signal 9")
        await asyncio.Event().wait()

    limits = {"turn_s": 5.0} if how == "beyond its time" else {"idle_s": 5.0}
    async with runtime([playing(play, **limits)]) as running:
        said = said_of(running)
        for session in "abcde":
            await running.tell(session, "play", None)
        await settle(20)

        assert wanted(running) == "paused"
    expected = {"dies": "ProcessDied", "hangs": "stuck", "beyond its time": "deadline"}[how]
    assert [fields["error"] for fields in said.of("agent.storm")] == [expected]


async def test_one_bad_turn_with_all_its_retries_pauses_nobody(runtime: Running) -> None:
    """Its own limits are for it: a turn counts once."""
    release = Release(retry=Retry(retries_max=20, base_s=0.01, cap_s=0.1))
    async with runtime([release.agent]) as running:
        await fail(running, "a", "b", "c", "d")

        assert (release.runs, wanted(running)) == (84, "running")


@pytest.mark.parametrize("how", ["a turn that completes", "a step", "a heartbeat", "a step of a turn that fails"])
async def test_progress_of_others_keeps_an_agent_running(runtime: Running, how: str) -> None:
    """One client's bad inbounds, however many, and now and then something of somebody else's that gets on."""

    async def play(turn: Turn) -> str:
        match turn.input:
            case "bad":
                raise ValueError
            case "a turn that completes":
                return "done"
            case "a heartbeat":
                while True:
                    await asyncio.sleep(1)
                    turn.heartbeat()
            case _:
                for number in range(60):
                    await turn.step(f"step {number}", asyncio.sleep, 1)
                raise ValueError

    async with runtime([playing(play)]) as running:
        for number in range(20):
            if not number or how == "a turn that completes":
                await running.tell(f"good {number}", "play", how)
            await settle()
            await fail(running, f"bad {number}", f"worse {number}", payload="bad")

        assert wanted(running) == "running"


async def test_turns_that_get_on_before_they_fail_are_no_storm(runtime: Running) -> None:
    """One after another or all at once: the guard is for what is broken from its first line."""

    async def play(turn: Turn) -> None:
        await turn.step("look", int)
        await asyncio.sleep(1)
        raise ValueError

    async with runtime([playing(play)]) as running:
        await fail(running, *"abcdef")
        await asyncio.gather(*(fail(running, session) for session in "abcdefghij"))

        assert wanted(running) == "running"


async def test_ends_that_are_far_apart_are_no_storm(runtime: Running) -> None:
    """Four within the window, again and again."""
    release = Release()
    async with runtime([release.agent]) as running:
        for number in range(20):
            await fail(running, f"session {number}")
            await settle(7.6)

        assert wanted(running) == "running"


async def test_with_zero_ends_an_agent_is_never_paused(runtime: Running) -> None:
    """The guard is a setting."""
    release = Release()
    async with runtime([release.agent], settings=Settings(storm_ends_max=0)) as running:
        await fail(running, *"abcdefghij")

        assert wanted(running) == "running"


async def test_turns_that_closing_takes_back_count_for_nothing(runtime: Running) -> None:
    """Nor do those whose tasks are cancelled from outside, as a program does that is being ended."""

    async def play(_: Turn) -> None:
        await asyncio.Event().wait()

    agents = [playing(play, retry=Retry(retries_max=20, base_s=0.01))]
    async with runtime(agents, settings=Settings(shutdown_s=1.0)) as running:
        for session in "abcdef":
            await running.tell(session, "play", None)
        await settle()
        for held in running._reception.agents():
            held.current.task.cancel()
        await settle()
        assert (wanted(running), running.statistics().retried) == ("running", 6)
    async with runtime(agents) as running:
        assert wanted(running) == "running"


# ---------------------------------------------------------------- when the pause itself goes wrong


class Refusing(Unrecorded):
    """A chronicle of a store that is full; what is wanted stays as it was."""

    async def say(self, path: str, verb: Verb, note: object) -> Desired:
        raise StorageFailed("agents.db", "the disk is full")


async def test_a_pause_that_cannot_be_recorded_holds_in_this_runtime(runtime: Running) -> None:
    """It is logged, and a resumption ends it all the same."""
    release = Release()
    async with runtime([release.agent]) as running:
        said = said_of(running)
        running.node.on_storm = Storms(running.node, running._reception, Refusing()).pause
        await fail(running, *"abcde")
        receipt = await running.tell("s", "play", "kept")
        await settle()
        assert (release.runs, wanted(running)) == (5, "running")
        assert said.events.count("agent.storm") == said.events.count("agent.storm_not_recorded") == 1

        release.broken = False
        await running.say("agents/play", Verb.RESUME)
        assert (await receipt.deliverable()).value == "kept"


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.STOP, Verb.QUARANTINE])
async def test_of_an_agent_that_rests_already_nothing_more_is_said(runtime: Running, verb: Verb) -> None:
    """Turns that were running when it was told to rest may fail as they like."""
    opened = asyncio.Event()

    async def play(_: Turn) -> None:
        try:
            await opened.wait()
        except asyncio.CancelledError:
            raise ValueError from None
        raise ValueError

    async with runtime([playing(play)]) as running:
        said = said_of(running)
        for number in range(10):
            await running.tell(f"session {number}", "play", None)
        await settle()
        await running.say("agents/play", verb)
        opened.set()
        await settle()

        assert running.statistics().running == 0
        assert [event.kind for event in await running.child_events("agents/play")] == [f"{wanted(running)}"]
    assert "agent.storm" not in said.events


async def test_a_verb_that_is_said_meanwhile_is_kept(world: SimulatedWorld, runtime: Running) -> None:
    """Stopped while the pause is on its way to the disk, the agent stays stopped, and no task fails for it."""
    release = Release()
    async with runtime([release.agent]) as running:
        said = said_of(running)
        stopping: list[asyncio.Task[Desired]] = []

        def stop_first(agent_id: str, error: str) -> None:
            stopping.append(asyncio.ensure_future(running.say("agents/play", Verb.STOP)))
            storms = Storms(running.node, running._reception, running._chronicle)

            def pause_behind() -> None:
                if running._chronicle._saying.locked():  # the verb is on its way
                    storms.pause(agent_id, error)
                else:
                    asyncio.get_running_loop().call_soon(pause_behind)

            asyncio.get_running_loop().call_soon(pause_behind)

        running.node.on_storm = stop_first
        await fail(running, *"abcde")
        await settle()

        assert (await stopping[0], wanted(running)) == (Desired.STOPPED, "stopped")
        assert [event.kind for event in await running.child_events("agents/play")] == ["stopped"]
    assert "agent.storm_not_recorded" not in said.events
    assert world.violation is None


async def test_a_resumption_that_is_said_before_the_pause_is_recorded_does_not_part_wish_and_deed(
    runtime: Running,
) -> None:
    """Of two verbs the later one holds, in the tree and for turns alike."""
    release = Release()
    async with runtime([release.agent]) as running:
        storms = Storms(running.node, running._reception, running._chronicle)

        def resume_first(agent_id: str, error: str) -> None:
            running.node.start(resume())
            storms.pause(agent_id, error)

        async def resume() -> None:
            await running.say("agents/play", Verb.RESUME)

        running.node.on_storm = resume_first
        await fail(running, *"abcde")
        await settle()
        release.broken = False
        receipt = await running.tell("s", "play", "kept")
        await settle()

        assert (wanted(running), running.statistics().queued) in {("paused", 1), ("running", 0)}
        await running.say("agents/play", Verb.RESUME)
        assert (await receipt.deliverable()).value == "kept"


# ---------------------------------------------------------------- under kills, and on a disk that fails


@pytest.mark.seeds(25, faults=Faults(crash_rate=0.02, fault_rate=0.1, crashes_max=8))
async def test_whatever_is_killed_or_refused_a_storm_is_a_pause_and_nothing_accepted_is_lost(
    world: SimulatedWorld, runtime: Running
) -> None:
    """After five ends no handler begins before somebody resumes the agent; then every turn has its one deliverable."""
    ends: dict[tuple[int, int], float] = {}

    async def play(turn: Turn) -> Any:
        if world.happened("mended"):
            return turn.input
        boot = running.node.lease.boot_id  # a new boot counts anew
        if sum(of == boot and at > world.now_s - 30 for (of, _), at in ends.items()) >= 5:
            world.report(Violated("a storm is a pause", f"turn {turn.turn_id} began after five ends"))
        ends[boot, turn.turn_id] = world.now_s
        raise KeyError("SECRET")

    running = runtime([playing(play)])  # handlers need it while it is entered: it recovers
    async with running:
        asked = [asyncio.ensure_future(_asked(running, number)) for number in range(12)]
        while not world.happened("mended"):
            await settle()
            if "play" in running.node.resting or all(ask.done() for ask in asked):
                world.happen("mended")
        await patiently(lambda: running.say("agents/play", Verb.RESUME))
        results = await asyncio.gather(*asked)

    assert [result.value for result in results if result.failure is None] == [
        number for number, result in enumerate(results) if result.failure is None
    ]
    assert {result.failure.type for result in results if result.failure is not None} <= {"KeyError"}
    assert sum(world.disk.turns[result.turn_id].state in TERMINAL for result in results) == 12


async def _asked(running: Any, number: int) -> Any:
    return await patiently(lambda: running.ask("s", "play", number, key=f"key {number}"))


# ---------------------------------------------------------------- on a real disk, at full speed


@pytest.mark.anyio
async def test_a_thousand_sessions_of_a_broken_release_burn_only_the_turns_that_ran(path: Path) -> None:
    """Turns side by side that had begun may end; every other stays queued, and completes under the mended release."""
    release = Release()
    settings = Settings(synchronous="OFF", shutdown_s=0.02)
    async with Runtime(path, [release.agent], settings=settings) as runtime:
        with anyio.fail_after(30):
            for batch in range(10):
                await asyncio.gather(
                    *(runtime.tell(f"session {batch} {number}", "play", number) for number in range(100))
                )
            await until(lambda: runtime.statistics().running == 0)
            burnt = runtime.statistics().failed
            assert release.runs == burnt <= 100
            assert runtime.statistics().queued == 1_000 - burnt

            release.broken = False
            await runtime.say("agents/play", Verb.RESUME)
            await until(lambda: runtime.statistics().completed == 1_000 - burnt)
