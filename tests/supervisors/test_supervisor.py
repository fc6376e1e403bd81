"""Supervisors: in order, in reverse, once; what falls comes back as often as is borne; nothing is left behind."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from looking import Said
from siblings import AT_ONCE, CRASHED, NORMAL, family, quiet

from turnkeeper.kernel.errors import (
    ChildNotStarted,
    ChildNotWanted,
    ChildQuarantined,
    InvalidName,
    ShuttingDown,
    StorageFailed,
    TooManyRestarts,
    UnknownChild,
    VerbRefused,
)
from turnkeeper.kernel.supervision.child import ChildSpec, Exit, Restart
from turnkeeper.kernel.supervision.desired import Desired, Verb
from turnkeeper.kernel.supervision.intensity import Exceeded, Intensity
from turnkeeper.kernel.supervision.noted import Note
from turnkeeper.supervisors.chronicle import Unrecorded
from turnkeeper.supervisors.service import Service
from turnkeeper.supervisors.supervisor import Supervisor


@pytest.mark.parametrize("slow", ["", "b", "abc"])
async def test_children_start_in_order_and_stop_in_reverse(slow: str) -> None:
    """Also where some take their time."""
    _, specs, log = family("abc", slow=slow)
    async with Supervisor(specs).running():
        assert log == ["start a", "start b", "start c"]
        log.clear()

    assert log == ["stop c", "stop b", "stop a"]


@pytest.mark.parametrize(
    ("restart", "exit_", "back"),
    [
        (Restart.PERMANENT, NORMAL, True),
        (Restart.TRANSIENT, NORMAL, False),
        (Restart.TRANSIENT, CRASHED, True),
        (Restart.TEMPORARY, CRASHED, False),
    ],
)
async def test_a_spec_says_who_comes_back(restart: Restart, exit_: Exit, back: bool) -> None:
    children, specs, _ = family("a", restart=restart)
    async with Supervisor(specs, intensity=AT_ONCE).running() as supervisor:
        children["a"].fall(exit_)
        await quiet()

        assert children["a"].up == back
        assert supervisor.view().children[0].why == exit_.reason


async def test_a_paused_child_goes_on_and_is_not_brought_back_before_it_is_resumed() -> None:
    """Nothing new starts."""
    children, specs, _ = family("a")
    async with Supervisor(specs, intensity=AT_ONCE).running() as supervisor:
        assert await supervisor.tell("a", Verb.PAUSE) is Desired.PAUSED
        assert children["a"].up == 1
        children["a"].fall()
        await quiet()
        assert children["a"].up == 0
        await supervisor.tell("a", Verb.RESUME)

        assert (children["a"].up, children["a"].starts) == (1, 2)


async def test_a_late_exit_of_an_older_incarnation_counts_for_nothing() -> None:
    children, specs, _ = family("a")
    async with Supervisor(specs, intensity=AT_ONCE).running():
        first = children["a"].exited
        children["a"].fall()
        first(CRASHED)
        first(CRASHED)
        await quiet()

        assert (children["a"].starts, children["a"].up) == (2, 1)


async def test_one_restart_too_many_goes_up_and_the_parent_starts_the_whole_subtree_anew() -> None:
    """The subtree stops in reverse first; its own window starts afresh."""
    children, specs, log = family("abc")
    inner = Supervisor(specs, intensity=Intensity(restarts_max=2, pauses_s=(0.0,)))
    outer = Supervisor([ChildSpec(name="inner", child=inner)], intensity=AT_ONCE)
    async with outer.running():
        for _ in range(3):
            log.clear()
            children["b"].fall()
            await quiet()

        assert log == ["fell b", "stop c", "stop a", "start a", "start b", "start c"]
        assert outer.view().children[0].incarnation == 2
        children["b"].fall()
        await quiet()
        assert outer.view().children[0].incarnation == 2


async def test_a_root_that_gives_up_says_so_when_its_block_is_left() -> None:
    children, specs, _ = family("ab")
    with pytest.raises(TooManyRestarts, match="more than 0 restarts within 600 s, the last of a"):  # noqa: PT012
        async with Supervisor(specs, intensity=Intensity(restarts_max=0)).running():
            children["a"].fall()
            await quiet()
            assert [child.up for child in children.values()] == [0, 0]


async def test_a_child_that_falls_too_often_is_put_away_and_its_neighbours_go_on() -> None:
    """Ended in quarantine, not in a loop; released it comes back, with a fresh window."""
    children, specs, _ = family("ab")
    intensity = Intensity(restarts_max=3, pauses_s=(0.0,))
    async with Supervisor(specs, intensity=intensity, exceeded=Exceeded.QUARANTINE).running() as supervisor:
        while children["a"].up:
            children["a"].fall()
        await quiet()

        assert (children["a"].starts, children["b"].up) == (4, 1)
        assert supervisor.view().children[0].desired == "quarantined"
        with pytest.raises(ChildQuarantined):
            await supervisor.ensure_running("a")
        with pytest.raises(VerbRefused):
            await supervisor.tell("a", Verb.RESUME)
        assert await supervisor.tell("a", Verb.RELEASE) is Desired.RUNNING
        children["a"].fall()
        await quiet()
        assert children["a"].up == 1


async def test_a_thousand_who_ensure_are_one_start() -> None:
    """While it is on its way up, too."""
    children, specs, _ = family("a", slow="a")
    children["a"].gate.clear()
    supervisor = Supervisor([], intensity=AT_ONCE)
    async with supervisor.running():
        supervisor.add(specs[0])
        asking = [asyncio.create_task(supervisor.ensure_running("a")) for _ in range(1_000)]
        await quiet()
        assert not any(asked.done() for asked in asking)
        children["a"].gate.set()
        await asyncio.gather(*asking)

        assert children["a"].starts == 1


async def test_a_stop_during_spawning_wins() -> None:
    """The start is taken back; who waits for it is told."""
    children, specs, _ = family("a", slow="a")
    children["a"].gate.clear()
    async with Supervisor().running() as supervisor:
        supervisor.add(specs[0])
        asking = asyncio.create_task(supervisor.ensure_running("a"))
        await quiet()
        assert await supervisor.tell("a", Verb.STOP) is Desired.STOPPED
        children["a"].gate.set()
        await quiet()

        assert children["a"].up == 0
        with pytest.raises(ChildNotWanted, match="a is stopped; resume it first"):
            await asking
        assert supervisor.view().children[0].state == "idle"


async def test_a_wish_while_it_stops_is_kept() -> None:
    """Resumed before it was down, it comes up anew once it is."""
    children, specs, log = family("a", slow="a")
    async with Supervisor(specs).running() as supervisor:
        stopping = asyncio.create_task(supervisor.tell("a", Verb.STOP))
        await asyncio.sleep(0)
        await supervisor.tell("a", Verb.RESUME)
        await stopping
        await quiet()

        assert log == ["start a", "stop a", "start a"]
        assert children["a"].up == 1


async def test_a_child_that_falls_while_it_is_being_stopped_is_down_once_the_stop_is() -> None:
    """Or the next incarnation would come up under the hands of who stops the last."""
    children, specs, log = family("a", slow="a")
    down = asyncio.Event()

    async def stop() -> None:
        await down.wait()
        children["a"].up = 0

    children["a"]._stop = stop  # type: ignore[method-assign]
    async with Supervisor(specs).running() as supervisor:
        stopping = asyncio.create_task(supervisor.tell("a", Verb.STOP))
        while "stop a" not in log:
            await checkpoint()
        children["a"].fall()
        await supervisor.tell("a", Verb.RESUME)
        await quiet()
        down.set()
        await stopping
        await quiet()

        assert log == ["start a", "stop a", "fell a", "start a"]
        assert children["a"].up == 1  # it would be 0, had the stop that was under way come after the start


@pytest.mark.parametrize("slow", ["", "abc"])
async def test_a_child_that_cannot_be_started_stops_those_before_it(slow: str) -> None:
    """A tree is up, or it is not."""
    children, specs, log = family("abc", slow=slow)
    children["c"].refuses = RuntimeError("no")
    with pytest.raises(ChildNotStarted, match="c could not be started: RuntimeError") as told:
        async with Supervisor(specs).running():
            raise AssertionError
    assert told.value.__cause__ is children["c"].refuses

    assert log == ["start a", "start b", "start c", "stop b", "stop a"]
    assert [child.up for child in children.values()] == [0, 0, 0]


async def test_a_child_that_cannot_be_started_again_counts_as_fallen_each_time() -> None:
    """And the stack does not grow with its tries."""
    children, specs, _ = family("ab")
    intensity = Intensity(restarts_max=2_000, pauses_s=(0.0,))
    async with Supervisor(specs, intensity=intensity, exceeded=Exceeded.QUARANTINE).running() as supervisor:
        children["a"].refuses = RuntimeError("no")
        children["a"].fall()
        while supervisor.view().children[0].desired != Desired.QUARANTINED:
            await checkpoint()

        assert children["a"].starts == 2_001
        assert children["b"].up == 1


async def test_pauses_are_kept_and_nobody_cuts_them_short(virtual_clock: Any) -> None:
    """0, 30, 60 s: a message that needs the child waits for the restart that is due anyway."""
    children, specs, _ = family("a")
    async with Supervisor(specs, intensity=Intensity(jitter=0.0)).running() as supervisor:
        loop = asyncio.get_running_loop()
        children["a"].fall()
        assert children["a"].up == 1
        children["a"].fall()
        began = loop.time()
        await asyncio.gather(*(supervisor.ensure_running("a") for _ in range(10)))
        assert loop.time() - began == pytest.approx(30.0)
        children["a"].fall()
        began = loop.time()
        await supervisor.ensure_running("a")

        assert loop.time() - began == pytest.approx(60.0)
        assert children["a"].starts == 4


async def test_a_pause_takes_back_a_restart_that_waits(virtual_clock: Any) -> None:
    """Or it would be brought back although nobody wants that; a resumption starts it at once."""
    children, specs, _ = family("a")
    async with Supervisor(specs, intensity=Intensity(pauses_s=(30.0,))).running() as supervisor:
        children["a"].fall()
        waiting = asyncio.create_task(supervisor.ensure_running("a"))
        await quiet()
        await supervisor.tell("a", Verb.PAUSE)
        with pytest.raises(ChildNotWanted, match="a is paused; resume it first"):
            await waiting
        await asyncio.sleep(100)
        assert children["a"].up == 0
        await supervisor.tell("a", Verb.RESUME)

        assert children["a"].up == 1


async def test_a_tree_that_is_cancelled_on_its_way_up_leaves_nothing(virtual_clock: Any) -> None:
    """Neither a child nor a task."""
    children, specs, _ = family("ab", slow="b")
    children["b"].gate.clear()
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), Supervisor(specs).running():
            raise AssertionError

    assert [child.up for child in children.values()] == [0, 0]
    assert asyncio.all_tasks() == before


class FullDisk(Unrecorded):
    """Keeps nothing as long as it is full."""

    full = True

    async def say(self, path: str, verb: Verb, note: Note) -> Desired:
        if self.full:
            raise StorageFailed("agents.db", "the disk is full")
        return await super().say(path, verb, note)


async def test_a_quarantine_that_could_not_be_kept_is_ended_by_a_release_alone() -> None:
    """What is wanted has one truth, whatever the disk does."""
    children, specs, _ = family("a")
    chronicle = FullDisk()
    supervisor = Supervisor(specs, intensity=Intensity(restarts_max=1, pauses_s=(0.0,)), exceeded=Exceeded.QUARANTINE)
    supervisor.adopt("tree", chronicle)
    async with supervisor.running():
        children["a"].fall()
        children["a"].fall()
        await quiet()
        chronicle.full = False
        with pytest.raises(VerbRefused):
            await supervisor.tell("a", Verb.RESUME)
        assert await supervisor.tell("a", Verb.RELEASE) is Desired.RUNNING

        assert children["a"].up == 1


async def test_a_child_that_is_removed_while_it_is_told_something_stays_removed() -> None:
    """And who told it hears so."""
    children, specs, _ = family("a")
    async with Supervisor(specs).running() as supervisor:
        await supervisor.tell("a", Verb.STOP)
        told = asyncio.create_task(supervisor.tell("a", Verb.RESUME))
        await asyncio.sleep(0)
        await supervisor.remove("a")
        with pytest.raises(UnknownChild):
            await told

        assert children["a"].up == 0


async def test_a_child_that_is_added_while_its_supervisor_comes_up_is_started() -> None:
    """Once the others are."""
    children, specs, log = family("ab", slow="a")
    children["a"].gate.clear()
    supervisor = Supervisor(specs[:1])
    starting = supervisor.start(lambda _: None)
    assert starting is not None
    up = asyncio.ensure_future(starting)
    await quiet()
    supervisor.add(specs[1])
    children["a"].gate.set()
    await up
    await quiet()

    assert log == ["start a", "start b"]
    assert children["b"].up == 1
    if (stopping := supervisor.stop(1.0)) is not None:
        await stopping


async def test_names_are_paths_and_unique() -> None:
    _, specs, _ = family("a")
    with pytest.raises(InvalidName, match="is taken"):
        Supervisor([*specs, *specs])
    with pytest.raises(InvalidName, match="slash"):
        Supervisor([ChildSpec(name="a/b", child=specs[0].child)])
    async with Supervisor(specs).running() as supervisor:
        with pytest.raises(UnknownChild, match="there are a"):
            await supervisor.ensure_running("b")


async def test_what_is_closed_starts_nothing() -> None:
    children, specs, _ = family("a")
    supervisor = Supervisor(specs)
    async with supervisor.running():
        pass
    with pytest.raises(ShuttingDown):
        await supervisor.ensure_running("a")

    assert children["a"].starts == 1


async def test_a_child_is_added_and_removed_while_the_others_go_on() -> None:
    children, specs, log = family("ab")
    async with Supervisor(specs[:1]).running() as supervisor:
        supervisor.add(specs[1])
        assert log == ["start a", "start b"]
        await supervisor.remove("b")

        assert (children["a"].up, children["b"].up) == (1, 0)
        with pytest.raises(UnknownChild):
            await supervisor.remove("b")


# ---------------------------------------------------------------- services


async def looped(work: Callable[[], Any]) -> tuple[Supervisor, Exception | None]:
    supervisor = Supervisor(
        [ChildSpec(name="work", child=Service(work))], intensity=Intensity(restarts_max=1, pauses_s=(0.0,))
    )
    try:
        async with supervisor.running():
            await quiet()
    except TooManyRestarts as error:
        return supervisor, error
    return supervisor, None


@pytest.mark.parametrize("raised", [RuntimeError("no"), asyncio.CancelledError(), None])
async def test_a_service_that_ends_by_itself_comes_back_until_it_is_enough(raised: BaseException | None) -> None:
    """By raising, by a cancellation of its own, by returning."""
    starts = []

    async def work() -> None:
        starts.append(1)
        if raised is not None:
            raise raised

    _, error = await looped(work)

    assert len(starts) == 2
    assert isinstance(error, TooManyRestarts)


async def test_a_service_that_crashes_is_named_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its function; what has no name, by its type."""
    said = Said()
    monkeypatch.setattr("turnkeeper.supervisors.service.logger", lambda: said)

    async def fetch(url: str = "") -> None:
        raise ValueError(url)

    await looped(fetch)
    await looped(partial(fetch, "https://example.org?key=secret"))

    assert [fields["work"].rpartition(".")[2] for fields in said.of("service.crashed")] == ["fetch"] * 2 + [
        "partial"
    ] * 2


async def test_a_service_is_cancelled_and_has_its_last_words() -> None:
    said = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await checkpoint()
            said.append("last words")

    before = asyncio.all_tasks()
    _, error = await looped(work)

    assert (error, said) == (None, ["last words"])
    assert asyncio.all_tasks() == before


async def test_a_service_that_will_not_stop_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and left."""
    released, said = asyncio.Event(), Said()
    monkeypatch.setattr("turnkeeper.supervisors.service.logger", lambda: said)

    async def deaf() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    try:
        async with Supervisor([ChildSpec(name="deaf", child=Service(deaf), shutdown_s=0.01)]).running():
            await quiet()
    finally:
        released.set()
        await quiet()

    (left,) = said.of("service.would_not_stop")
    assert left["work"].endswith("deaf")
