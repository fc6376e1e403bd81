"""Tending: what is wanted of agents and children is recorded, takes effect, and holds for the next runtime."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from looking import rows, until

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import ChildQuarantined, UnknownChild, VerbRefused
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.kernel.supervision.noted import verb_noted
from turnkeeper.kernel.supervision.view import ChildView
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.supervisor import Supervisor

QUICK = Settings(synchronous="OFF", shutdown_s=0.02)


@agent("echo")
async def echo(turn: Turn) -> object:
    return turn.input


def of(view: ChildView, *names: str) -> ChildView:
    for name in names:
        view = next(child for child in view.children if child.name == name)
    return view


async def test_a_paused_agent_accepts_and_starts_nothing_until_it_is_resumed(path: Path) -> None:
    """The others go on."""
    other = agent("other")(echo.handler)
    async with Runtime(path, [echo, other], settings=QUICK) as runtime:
        assert await runtime.say("agents/echo", Verb.PAUSE, "a bad release", by="ops") is Desired.PAUSED
        receipt = await runtime.tell("s", "echo", 1)
        assert (await runtime.ask("s", "other", 2)).value == 2
        seen = of(runtime.tree(), "agents", "echo")
        assert (seen.desired, seen.look.mailbox_len, seen.look.running) == ("paused", 1, 0)
        assert rows(path, "SELECT state FROM turns WHERE turn_id = ?", receipt.turn_id) == [("queued",)]
        assert await runtime.say("agents/echo", "resume") is Desired.RUNNING

        assert (await receipt.deliverable()).value == 1


async def test_what_was_paused_is_paused_in_the_next_runtime(path: Path) -> None:
    """Also what it had accepted; a resumption goes on with it, without new traffic."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        await runtime.say("agents/echo", Verb.PAUSE)
        await runtime.tell("s", "echo", 1, key="k")
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        assert runtime.statistics().queued == 1
        await runtime.say("agents/echo", Verb.RESUME)
        await until(lambda: runtime.statistics().completed == 1)


async def test_a_stopped_agents_running_turns_go_back_to_their_queues(path: Path) -> None:
    """And run again, once, when it is resumed."""
    started = []
    released = asyncio.Event()

    @agent("slow")
    async def slow(turn: Turn) -> int:
        started.append(turn.attempt)
        await released.wait()
        return turn.attempt

    async with Runtime(path, [slow], settings=QUICK) as runtime:
        receipt = await runtime.tell("s", "slow", None)
        await until(lambda: started)
        await runtime.say("agents/slow", Verb.STOP)
        await until(lambda: runtime.statistics().running == 0)
        assert runtime.statistics().queued == 1
        released.set()
        await runtime.say("agents/slow", Verb.RESUME)
        assert (await receipt.deliverable()).value == 2
    assert started == [1, 2]


async def test_verbs_and_what_becomes_of_children_are_events(path: Path) -> None:
    """In the order of commits, with who said it and why."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        await runtime.say("agents/echo", Verb.QUARANTINE, "it lies", by="ops")
        with pytest.raises(VerbRefused):
            await runtime.say("agents/echo", Verb.RESUME)
        await runtime.say("agents/echo", Verb.RELEASE)
        events = await runtime.child_events("agents/echo")

        assert [event.kind for event in events] == ["quarantined", "released"]
        with pytest.raises(UnknownChild, match="agents/echo"):
            await runtime.say("agents/nobody", Verb.PAUSE)
        with pytest.raises(ValueError, match="dance"):
            await runtime.say("agents/echo", "dance")


async def test_of_an_agent_that_the_store_knows_it_can_be_said_what_is_wanted(path: Path) -> None:
    """Though the runtime was not given it; the next one that is has it so. Nobody else's name is taken."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        await runtime.ask("s", "echo", 1)
    async with Runtime(path, [], settings=QUICK) as runtime:
        assert await runtime.say("agents/echo", Verb.PAUSE, "a bad release", by="ops") is Desired.PAUSED
        assert runtime.desired("agents/echo") is Desired.PAUSED
        with pytest.raises(UnknownChild, match=r"'agents/ech'; there are none; the store knows agents/echo$"):
            await runtime.say("agents/ech", Verb.PAUSE)
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        await runtime.tell("s", "echo", 2)

        assert of(runtime.tree(), "agents", "echo").desired == "paused"
        assert (runtime.statistics().queued, runtime.statistics().running) == (1, 0)


@pytest.mark.parametrize("child", ["tree/feed", "processes/echo/1"])
async def test_of_a_child_that_was_put_away_it_can_be_said_before_it_is_there(path: Path, child: str) -> None:
    """If something was said of it before: it is released, and comes up with the runtime that is given it."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        for unknown in (child, "tree", "echo", ""):
            with pytest.raises(UnknownChild, match="the store knows"):
                await runtime.say(unknown, Verb.RELEASE)
    store = SqliteStore(path, synchronous="OFF", store_id="s", created_at=1.0)
    marks = await store.open()
    _, point = verb_noted(child, Desired.RUNNING, Verb.QUARANTINE, at=1.0, boot_id=marks.boot_id)
    assert await store.apply([point]) == {}
    await store.close()
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        with pytest.raises(VerbRefused):
            await runtime.say(child, Verb.RESUME)
        assert await runtime.say(child, Verb.RELEASE, by="ops") is Desired.RUNNING
        assert [event.kind for event in await runtime.child_events(child)] == ["quarantined", "released"]


async def test_of_many_names_an_unknown_one_is_told_a_few(path: Path) -> None:
    """However many agents there are."""
    many = [agent(f"echo-{number:03}")(echo.handler) for number in range(100)]
    async with Runtime(path, many, settings=QUICK) as runtime:
        with pytest.raises(UnknownChild, match=r"agents/echo-005 and 94 more; the store knows none$"):
            await runtime.say("agents/ech", Verb.PAUSE)


async def test_children_of_the_runtime_are_started_brought_back_and_stopped_with_it(path: Path) -> None:
    """A child that falls too often is put away, in the next runtime too, until it is released."""
    starts, before = [], asyncio.all_tasks()
    falls = True

    async def fragile() -> None:
        starts.append(1)
        if falls:
            raise RuntimeError("no")
        await asyncio.Event().wait()

    async def sturdy() -> None:
        await asyncio.Event().wait()

    def children() -> list[ChildSpec]:
        inner = Supervisor([ChildSpec(name="sturdy", child=Service(sturdy))])
        return [ChildSpec(name="fragile", child=Service(fragile)), ChildSpec(name="inner", child=inner)]

    borne = Intensity(restarts_max=2, pauses_s=(0.0,))
    async with Runtime(path, [echo], settings=QUICK, children=children(), intensity=borne) as runtime:
        await until(lambda: of(runtime.tree(), "tree", "fragile").desired == "quarantined")
        assert len(starts) == 3
        assert of(runtime.tree(), "tree", "inner", "sturdy").state == "running"
        await until_noted(runtime, "tree/fragile", "quarantined")
    async with Runtime(path, [echo], settings=QUICK, children=children(), intensity=borne) as runtime:
        assert len(starts) == 3
        with pytest.raises(ChildQuarantined):
            await runtime.ensure_running("tree/fragile")
        falls = False
        await runtime.say("tree/fragile", Verb.RELEASE)
        await runtime.ensure_running("tree/fragile")
        await until(lambda: len(starts) == 4)
        await runtime.say("tree/inner/sturdy", Verb.STOP)
        assert of(runtime.tree(), "tree", "inner", "sturdy").state == "idle"

    assert asyncio.all_tasks() == before


async def test_a_verb_whose_caller_goes_away_is_said_and_done(path: Path) -> None:
    """Memory and store never say different things: what comes next is judged by what stands."""
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        apply, gate, asked = runtime._store.apply, asyncio.Event(), asyncio.Event()

        async def slow(points: object) -> object:
            asked.set()
            await gate.wait()
            return await apply(points)

        runtime._store.apply = slow
        saying = asyncio.create_task(runtime.say("agents/echo", Verb.PAUSE))
        await asked.wait()
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        gate.set()
        assert await runtime.say("agents/echo", Verb.RESUME) is Desired.RUNNING
        kinds = [event.kind for event in await runtime.child_events("agents/echo")]

        assert kinds == ["paused", "resumed"]
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "echo", 1)).value == 1


async def test_a_persons_verb_and_a_quarantine_that_cross_end_in_one_truth(path: Path) -> None:
    """What is shown, what is kept and what runs are the same, whoever came first."""
    falling = asyncio.Event()

    async def fragile() -> None:
        await falling.wait()
        raise RuntimeError("no")

    children = [ChildSpec(name="feed", child=Service(fragile))]
    borne = Intensity(restarts_max=1, pauses_s=(0.0,))
    for verb in (Verb.RESUME, Verb.PAUSE, Verb.STOP, Verb.RELEASE):
        falling.clear()
        async with Runtime(path, [echo], settings=QUICK, children=children, intensity=borne) as runtime:
            apply = runtime._store.apply

            async def slow(points: object, apply: Any = apply) -> object:
                await asyncio.sleep(0.01)
                return await apply(points)

            runtime._store.apply = slow
            falling.set()
            await until(lambda: runtime.desired("tree/feed") == "quarantined")
            falling.clear()
            with suppress(VerbRefused):
                await runtime.say("tree/feed", verb)
            runtime._store.apply = apply
            await until(lambda: not runtime._tree._giving_up)
            shown = of(runtime.tree(), "tree", "feed")
            kept = dict(rows(path, "SELECT path, desired FROM desired"))

            assert kept.get("tree/feed", "running") == shown.desired
            assert (shown.state == "running") == (shown.desired == "running")
            if shown.desired == "quarantined":
                await runtime.say("tree/feed", Verb.RELEASE)
            else:
                await runtime.say("tree/feed", Verb.RESUME)


async def test_a_verb_about_a_child_that_comes_meanwhile_is_done(path: Path) -> None:
    """It was known by its path alone when it was said, and is there by the time that it stands."""

    async def work() -> None:
        await asyncio.Event().wait()

    spec = ChildSpec(name="late", child=Service(work))
    async with Runtime(path, [echo], settings=QUICK, children=[spec]) as runtime:
        await runtime.say("tree/late", Verb.PAUSE)
        await runtime.say("tree/late", Verb.RESUME)
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        saying = asyncio.create_task(runtime.say("tree/late", Verb.STOP))
        while not runtime._chronicle._saying.locked():  # noqa: ASYNC110 - for one commit alone: each turn must look
            await asyncio.sleep(0)
        runtime._tree.add(spec)
        await saying

        assert of(runtime.tree(), "tree", "late").desired == "stopped"
        assert of(runtime.tree(), "tree", "late").state == "idle"


async def until_noted(runtime: Runtime, path: str, kind: str) -> None:
    for _ in range(1_000):
        if any(event.kind == kind for event in await runtime.child_events(path)):
            return
        await asyncio.sleep(0.001)
    raise AssertionError(kind)


async def test_a_child_that_cannot_be_started_keeps_the_runtime_from_opening(path: Path) -> None:
    """And leaves the file free."""

    class Broken:
        def start(self, exited: object) -> None:
            raise RuntimeError("no")

        def stop(self, shutdown_s: float) -> None:
            pass

    with pytest.raises(RuntimeError, match="no"):
        async with Runtime(path, [echo], settings=QUICK, children=[ChildSpec(name="broken", child=Broken())]):
            raise AssertionError
    async with Runtime(path, [echo], settings=QUICK) as runtime:
        assert (await runtime.ask("s", "echo", 1)).value == 1
