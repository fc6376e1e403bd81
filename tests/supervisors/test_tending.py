"""Tending: what is wanted of agents and children is recorded, takes effect, and holds for the next runtime."""

import asyncio
from pathlib import Path

import pytest
from looking import rows, until

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.kernel.errors import ChildQuarantined, UnknownChild, VerbRefused
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Intensity
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.supervisor import Supervisor
from turnkeeper.supervisors.view import ChildView

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
