"""The oracles: each finds the promise that is broken, names it, and finds nothing where none is."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from turnkeeper import Effect, Settings, agent, step_context, tool
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.edge import (
    Edge,
    EdgeKind,
    Failure,
    Requeued,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    Wait,
    encode_detail,
)
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Fork, accept, acquire, end, observe, requeue, suspend
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import ActorOpened, Deliverable, EdgeAppended, NodeStarted, Record, TurnInserted
from turnkeeper.kernel.turn import TurnRow
from turnkeeper.kernel.wait import OpenWait
from turnkeeper.testing import Disk, Fault, Faults, SimulatedWorld, Violated, run
from turnkeeper.testing.memory.transaction import prune, write
from turnkeeper.testing.oracles import Oracles
from turnkeeper.testing.runs import live_to_the_end

LEASE = Lease(1, 1e12)
PAYLOAD = msgspec.msgpack.encode("hello")


# ---------------------------------------------------------------- at each commit


class Scene:
    """A disk with one actor, whose turns are written with the library's own decisions, or against them."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.oracles = Oracles(self.disk)
        self.write([NodeStarted(1, 1, 0.0, 1e12), ActorOpened(1, "", "s", "a")])

    def write(self, records: list[Record]) -> None:
        refused = write(self.disk, [records])

        assert refused == {}

    def accept(self, turn_id: int = 1, *, lease: Lease | None = LEASE) -> TurnRow:
        arrival = Arrival(turn_id, 1, f"key {turn_id}", PAYLOAD, payload_digest(PAYLOAD), 1.0, 1e12)
        change = accept(arrival, lease)
        self.write(change.records)
        self.look(change.records)
        return change.row

    def look(self, records: list[Record], rejected: tuple[int, ...] = ()) -> None:
        """Tell the oracles of a commit."""
        self.oracles.committed([records], dict.fromkeys(rejected, "no"))

    def touch(self, turn_id: int = 1) -> None:
        self.look([EdgeAppended(0, "", 0, 0.0, b"", turn_id, 0)])

    def alter(self, turn_id: int = 1, **fields: Any) -> None:
        self.disk.turns[turn_id] = msgspec.structs.replace(self.disk.turns[turn_id], **fields)

    def alter_edge(self, ordinal: int, **fields: Any) -> None:
        numbered = self.disk.edges[1][ordinal]
        edge = msgspec.structs.replace(numbered.edge, **fields)
        self.disk.edges[1][ordinal] = numbered._replace(edge=edge)


def lose_the_row(scene: Scene) -> None:
    del scene.disk.turns[1]


def change_the_row(scene: Scene) -> None:
    scene.alter(attempt=7)


def lose_the_edges(scene: Scene) -> None:
    scene.oracles.killed()
    scene.disk.edges[1].clear()


def lose_the_last_edge(scene: Scene) -> None:
    scene.oracles.killed()
    del scene.disk.edges[1][1]


def lose_the_first_edge(scene: Scene) -> None:
    scene.oracles.killed()
    del scene.disk.edges[1][0]


def deliver_while_it_runs(scene: Scene) -> None:
    scene.disk.deliverables[1] = Deliverable(1, "completed", b"\xc0", 1.0)


def end_without_a_deliverable(scene: Scene) -> None:
    change = end(scene.disk.turn_row(scene.disk.turns[1]), EdgeKind.TURN_COMPLETED, b"\xc0", 2.0)
    scene.write(change.records)
    del scene.disk.deliverables[1]


def run_another_beside_it(scene: Scene) -> None:
    scene.disk.running[1] = 9


def take_it_twice(scene: Scene) -> None:
    number = scene.disk.edges[1][1].number
    again = msgspec.structs.replace(scene.disk.edges[1][1].edge, ordinal=2)
    scene.disk.edges[1][2] = scene.disk.edges[1][1]._replace(number=number + 1, edge=again)


def write_an_unknown_kind(scene: Scene) -> None:
    scene.oracles.killed()
    scene.alter_edge(1, kind="danced")


def write_what_cannot_be_read(scene: Scene) -> None:
    scene.oracles.killed()
    scene.alter_edge(1, detail=b"\xc1")


def write_an_old_epoch(scene: Scene) -> None:
    scene.oracles.killed()
    scene.alter_edge(1, epoch=0)


BROKEN = [
    (lose_the_row, "fold of edges = row", "has edges and no row"),
    (change_the_row, "fold of edges = row", "turn 1 is"),
    (lose_the_last_edge, "fold of edges = row", "turn 1 is"),
    (lose_the_edges, "fold of edges = row", "has a row and no edges"),
    (lose_the_first_edge, "edges without a gap", "has no edge 0 of 1"),
    (deliver_while_it_runs, "terminal = one deliverable", "turn 1 is running"),
    (end_without_a_deliverable, "terminal = one deliverable", "turn 1 is completed"),
    (run_another_beside_it, "one running turn", "runs beside turn 9"),
    (take_it_twice, "legal transitions", "turn 1"),
    (write_an_unknown_kind, "legal transitions", "danced"),
    (write_what_cannot_be_read, "legal transitions", "turn 1"),
    (write_an_old_epoch, "epochs only rise", "edge 1 is of epoch 0, at 1"),
]


@pytest.mark.parametrize(("breaking", "rule", "what"), BROKEN, ids=[breaking.__name__ for breaking, *_ in BROKEN])
def test_a_commit_that_leaves_a_turn_broken_is_found_out(
    breaking: Callable[[Scene], None], rule: str, what: str
) -> None:
    """Exactly the promise that is broken, with the turn it is broken for; before it, nothing."""
    scene = Scene()
    scene.accept()
    scene.touch()
    breaking(scene)

    with pytest.raises(Violated) as caught:
        scene.touch()

    assert caught.value.rule == rule
    assert what in caught.value.what


def test_a_turn_led_through_its_states_breaks_nothing() -> None:
    """Accepted, taken back, taken again, ended; and one that waits beside it."""
    scene = Scene()
    row = scene.accept()
    scene.accept(2, lease=None)
    change = requeue(row, Requeued("retry", 5.0), 2.0)
    scene.write(change.records)
    scene.look(change.records)
    scene.oracles.killed()
    scene.touch()
    change = end(change.row, EdgeKind.TURN_CANCELLED, msgspec.msgpack.encode(["E", "m", ""]), 3.0)
    scene.write(change.records)
    scene.look(change.records)

    assert scene.disk.turns[1].state == "cancelled"


def test_what_was_refused_is_not_looked_at() -> None:
    """A point that does not stand says nothing of its turn."""
    scene = Scene()
    scene.accept()
    change_the_row(scene)
    edge = EdgeAppended(0, "", 0, 0.0, b"", 1, 0)
    scene.look([edge], rejected=(0,))
    scene.look([TurnInserted(1, 1, "queued", 0, 0, 1, None)])

    with pytest.raises(Violated):
        scene.look([edge])


def test_a_turn_is_folded_on_from_where_it_was_seen_last() -> None:
    """What was altered behind the last commit is for the check at the end; a new life reads it all anew."""
    scene = Scene()
    scene.accept()
    scene.alter_edge(0, kind="danced")
    scene.touch()
    scene.oracles.killed()

    with pytest.raises(Violated, match="legal transitions"):
        scene.touch()


# ---------------------------------------------------------------- in a world


FAST = Settings(retries_max=1, retry_base_s=0.1, shutdown_s=1.0, recoveries_max=1_000)


@agent("echo")
async def echo(turn: Any) -> Any:
    await asyncio.sleep(0.1)
    return turn.input


@tool(effect=Effect.EFFECTFUL)
async def charge(cents: int) -> int:
    await asyncio.sleep(0.1)
    return cents


@agent("till")
async def till(turn: Any) -> Any:
    return [await turn.call(charge, cents) for cents in turn.input]


Tampering = Callable[[SimulatedWorld, pytest.MonkeyPatch], None]


def broken(tampering: Tampering, monkeypatch: pytest.MonkeyPatch, life: Any) -> Violated:
    """Return what is found in a life in a world that is tampered with when its first handler runs."""
    world = SimulatedWorld(0)
    world.tamper = lambda: tampering(world, monkeypatch)  # type: ignore[attr-defined]
    with pytest.raises(Violated) as caught:
        live_to_the_end(world, life)
    return caught.value


async def serve(world: Any, *, tamper: bool = True) -> None:
    """Ask three turns of one session at once, then a turn with effects."""
    if tamper:
        world.tamper()
    async with world.runtime([echo, till], settings=FAST) as runtime:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(runtime.ask("s", "echo", number, key=f"{number}"))
        await runtime.ask("s", "till", [1, 2], key="till")


async def serve_untouched(world: Any) -> None:
    await serve(world, tamper=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("faults", [None, Faults(crash_rate=0.03), Faults(at={3: Fault.TEAR, 6: Fault.DELAY})])
def test_a_world_that_nobody_tampers_with_breaks_nothing(seed: int, faults: Faults | None) -> None:
    """The same life, the same oracles."""

    async def life(world: Any) -> None:
        async with world.runtime([echo], settings=FAST) as runtime, asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(runtime.ask(f"s{number % 2}", "echo", number, key=f"{number}"))

    assert run(life, seed=seed, faults=faults).turns == 6
    assert run(serve_untouched, seed=seed).turns == 4


def start_before_the_commit(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a handler as soon as its turn is admitted."""
    admit = SessionAgent.admit

    def eager(self: Any, *args: Any, **options: Any) -> Any:
        done = admit(self, *args, **options)
        if self._current is not None and self._current.task is None:
            self._start(self._current)
        return done

    monkeypatch.setattr(SessionAgent, "admit", eager)


def start_at_another_address(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every turn as one of another session."""
    start = SessionAgent._start

    def elsewhere(self: Any, turn: Any) -> None:
        self.address = Address("", "elsewhere", "echo")
        start(self, turn)

    monkeypatch.setattr(SessionAgent, "_start", elsewhere)


def start_two_at_once(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a turn's handler twice."""
    start = SessionAgent._start

    def twice(self: Any, turn: Any) -> None:
        start(self, turn)
        start(self, turn)

    monkeypatch.setattr(SessionAgent, "_start", twice)


def start_the_last_first(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take turns from the end of the queue."""
    ready = SessionAgent._ready

    def last(self: Any) -> Any:
        if self._queue and self._queue[-1].committed:
            self._queue.rotate(1)
        return ready(self)

    monkeypatch.setattr(SessionAgent, "_ready", last)


def call_without_an_intent(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell of a step's intent before it is written."""

    def hasty(self: Any, kind: Any, detail: Any) -> Any:
        self._record(kind, detail)
        return asyncio.sleep(0)

    monkeypatch.setattr("turnkeeper.actors.journal.Journal._committed", hasty)


def forget_the_results(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide as if nothing had been recorded, so that a rerun calls again what has its result."""
    monkeypatch.setattr("turnkeeper.actors.steps.Steps._decided", lambda self, tool, call: self._run(tool, call, None))


def never_beat(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the heartbeat."""

    async def asleep(node: Any) -> None:
        await asyncio.sleep(10_000)

    monkeypatch.setattr("turnkeeper.supervisors.writer.beat", asleep)


def never_go_on(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the successor, and whoever waits, once a turn is over."""
    monkeypatch.setattr(SessionAgent, "_ready", lambda self: None)


def never_stop(world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the clock that bounds a run."""
    start = SessionAgent._start

    def unbounded(self: Any, turn: Any) -> None:
        start(self, turn)
        turn.disarm()

    monkeypatch.setattr(SessionAgent, "_start", unbounded)


WORLDS = [
    (start_before_the_commit, "a handler runs under a committed lease"),
    (start_at_another_address, "a turn runs at its address"),
    (start_two_at_once, "one running turn"),
    (start_the_last_first, "order of acceptance"),
    (call_without_an_intent, "intent before effect"),
    (never_go_on, "no idle actor has mail while time passes"),
    (never_stop, "nothing live without a deadline"),
]


@pytest.mark.parametrize(("tampering", "rule"), WORLDS, ids=[tampering.__name__ for tampering, _ in WORLDS])
def test_a_runtime_that_breaks_a_promise_is_found_out(
    tampering: Tampering, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs, and for what it does wrong."""

    assert broken(tampering, monkeypatch, serve).rule == rule


def test_a_boot_that_works_on_after_its_lease_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heartbeats have stopped, and it does not know; one that beats may go on for hours."""

    async def life(world: Any) -> None:
        world.tamper()
        async with world.runtime([echo], settings=FAST):
            for _ in range(120):
                await asyncio.sleep(60)

    found = broken(never_beat, monkeypatch, life)

    assert found.rule == "a lease outlives its boot"
    assert "boot 1" in found.what

    monkeypatch.undo()
    world = SimulatedWorld(0)
    world.tamper = lambda: None  # type: ignore[attr-defined]

    assert live_to_the_end(world, life).virtual_s > 7_200


def test_an_effect_called_again_though_it_has_its_result_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the latest when the run is over: the second intent follows a result, and no doubt."""

    @agent("twice")
    async def twice(turn: Any) -> None:
        await turn.call(charge, 1)
        if turn.attempt == 1:
            raise ConnectionError

    async def life(world: Any) -> None:
        world.tamper()
        async with world.runtime([twice], settings=FAST) as runtime:
            await runtime.ask("s", "twice", None, key="k")

    found = broken(forget_the_results, monkeypatch, life)

    assert found.rule == "effects at most once"


def test_an_effect_with_a_result_may_not_be_called() -> None:
    """With as many intents as calls, the result alone forbids it; an intent after it is another attempt's."""
    world = SimulatedWorld(0)
    keys: list[str] = []

    @tool(effect=Effect.EFFECTFUL)
    async def note() -> None:
        keys.append(step_context().idempotency_key)

    @agent("noting")
    async def noting(turn: Any) -> None:
        await turn.call(note)

    async def life(world: Any) -> None:
        async with world.runtime([noting]) as runtime:
            await runtime.ask("s", "noting", None, key="k")

    live_to_the_end(world, life)
    oracles = Oracles(world.disk)

    with pytest.raises(Violated, match="has its result") as caught:
        oracles.calling(keys[0])
    with pytest.raises(Violated, match=r"2. time, with 1 intents on disk") as again:
        oracles.calling(keys[0])

    assert (caught.value.rule, again.value.rule) == ("effects at most once", "intent before effect")


def test_a_handler_that_starts_for_a_turn_the_store_does_not_know_is_found_out() -> None:
    """Or for an attempt that the store has left."""
    scene = Scene()

    class Started:
        tenant, session_id, agent_id, turn_id, attempt = "", "s", "a", 1, 1

    with pytest.raises(Violated, match="is None in the store"):
        scene.oracles.entered(Started)  # type: ignore[arg-type]

    scene.accept()
    scene.oracles.entered(Started)  # type: ignore[arg-type]
    scene.oracles.left(Started)  # type: ignore[arg-type]
    Started.attempt = 2

    with pytest.raises(Violated, match="a handler runs under a committed lease"):
        scene.oracles.entered(Started)  # type: ignore[arg-type]


def test_a_handler_whose_turn_was_taken_from_it_is_inside_no_more() -> None:
    """It would not stop, and can do no step; when it ends at last, it is not the next one that has left."""
    scene = Scene()
    scene.accept()

    class Taken:
        tenant, session_id, agent_id, turn_id, attempt = "", "s", "a", 1, 1
        over = True

    class Next(Taken):
        over = False

    scene.oracles.entered(Taken)  # type: ignore[arg-type]
    scene.oracles.entered(Next)  # type: ignore[arg-type]
    scene.oracles.left(Taken)  # type: ignore[arg-type]

    with pytest.raises(Violated, match="started inside turn 1"):
        scene.oracles.entered(Next)  # type: ignore[arg-type]


def test_a_kill_lets_the_next_life_start_what_the_last_was_inside_of() -> None:
    """What a dead process was doing is forgotten; what it started first is not."""
    scene = Scene()
    scene.accept()

    class Started:
        tenant, session_id, agent_id, turn_id, attempt = "", "s", "a", 1, 1
        over = False

    scene.oracles.entered(Started)  # type: ignore[arg-type]
    with pytest.raises(Violated, match="started inside turn 1"):
        scene.oracles.entered(Started)  # type: ignore[arg-type]
    scene.oracles.killed()
    scene.oracles.entered(Started)  # type: ignore[arg-type]


# ---------------------------------------------------------------- digests, tokens, retries, forks, pruning


def unchain(scene: Scene) -> None:
    scene.oracles.killed()
    scene.alter_edge(1, digest=b"anything")


def unseal(scene: Scene) -> None:
    scene.write(end(scene.disk.turn_row(scene.disk.turns[1]), EdgeKind.TURN_COMPLETED, b"\xc0", 2.0).records)
    scene.alter(digest=None)


@pytest.mark.parametrize(("tampering", "what"), [(unchain, "edge 1 is not chained"), (unseal, "is not sealed")])
def test_a_history_without_its_digests_is_found(tampering: Callable[[Scene], None], what: str) -> None:
    """Each edge is chained to those before it, and the end is sealed; the untampered one is sound."""
    scene = Scene()
    scene.accept()
    scene.touch()
    tampering(scene)

    with pytest.raises(Violated, match=what) as caught:
        scene.touch()
    assert caught.value.rule == "digests"


STEP = StepName("pay", "#0")
KEY = "disk/1/pay/#0"
INTENT = StepIntent(0, *STEP, Effect.EFFECTFUL, msgspec.Raw(b"\x80"), KEY)
RAISED = StepFailure(0, *STEP, Failure("E", "m"), retry_at=20.0)


def observed(scene: Scene, row: TurnRow, *steps: tuple[EdgeKind, Any, float]) -> TurnRow:
    """Write what happens to a turn's steps, each at its time, and let the oracles look."""
    for kind, detail, at in steps:
        change = observe(row, kind, detail, at)
        scene.write(change.records)
        row = change.row
    scene.touch(row.turn_id)
    return row


def test_a_retry_before_its_time_is_found() -> None:
    """By the intent of the next call; at its time it may be called."""
    early, late = Scene(), Scene()
    failed = [(EdgeKind.STEP_INTENDED, INTENT, 10.0), (EdgeKind.STEP_FAILED, RAISED, 11.0)]

    observed(late, late.accept(), *failed, (EdgeKind.STEP_INTENDED, INTENT, 20.0))
    with pytest.raises(Violated, match=r"pay\[#0\], 1.000 s early") as caught:
        observed(early, early.accept(), *failed, (EdgeKind.STEP_INTENDED, INTENT, 19.0))
    assert caught.value.rule == "a retry waits for its time"


def test_a_retried_effect_is_called_once_for_each_intent() -> None:
    """Raising, it said that nothing had happened."""
    scene = Scene()
    row = observed(scene, scene.accept(), (EdgeKind.STEP_INTENDED, INTENT, 10.0))
    scene.oracles.calling(KEY)
    observed(scene, row, (EdgeKind.STEP_FAILED, RAISED, 11.0), (EdgeKind.STEP_INTENDED, INTENT, 20.0))
    scene.oracles.calling(KEY)

    with pytest.raises(Violated, match=r"called for the 3. time, with 2 intents"):
        scene.oracles.calling(KEY)


@pytest.mark.parametrize("stood", [[], [OpenWait(0, "timer", 800.0)]], ids=["on nothing", "until another time"])
def test_a_suspended_turn_that_does_not_stand_on_its_waits_is_found(stood: list[OpenWait]) -> None:
    """All of them, each with its deadline, and the turn with the first."""
    scene = Scene()
    row = scene.accept()
    scene.write(suspend(row, Suspended("timer", 900.0), 2.0, stood).records)

    with pytest.raises(Violated) as caught:
        scene.touch()
    assert caught.value.rule == "a suspended turn stands on its waits"


def test_a_wait_that_is_opened_again_until_another_time_is_found() -> None:
    """No rerun moves a deadline."""
    scene = Scene()
    until = [msgspec.structs.replace(INTENT, effect=Effect.PURE, wait=Wait("timer", due_at)) for due_at in (90.0, 91.0)]

    with pytest.raises(Violated, match=r"stood until 90.000, now until 91.000") as caught:
        observed(scene, scene.accept(), *((EdgeKind.STEP_INTENDED, intent, 10.0) for intent in until))
    assert caught.value.rule == "a nudge moves no deadline"


def test_a_token_that_comes_twice_is_found() -> None:
    """In another turn, or for another doubt of the same."""
    scene = Scene()
    for turn_id in (1, 2):
        row = scene.accept(turn_id)
        doubt = OpenWait(0, "doubt", 900.0)
        scene.write(suspend(row, Suspended("approval", 900.0, STEP, token="t"), 2.0, [doubt]).records)
        if turn_id == 1:
            scene.touch(turn_id)
            row = scene.disk.turn_row(scene.disk.turns[turn_id])
            scene.write(end(row, EdgeKind.TURN_FAILED, b"\x92\xa1E\xa1m", 3.0).records)
            scene.touch(turn_id)

    with pytest.raises(Violated, match="turn 2 stands on 't' again") as caught:
        scene.touch(2)
    assert caught.value.rule == "a token for each doubt"


def forked(scene: Scene, *steps: tuple[EdgeKind, Any]) -> TurnRow:
    """Accept turn 2 as a fork of turn 1, with these steps taken over."""
    taken = [Edge(1, 0, kind, 0, 0.0, encode_detail(detail)) for kind, detail in steps]
    arrival = Arrival(2, 1, "fork", PAYLOAD, payload_digest(PAYLOAD), 5.0, 1e12, Fork(1, 1, taken, []))
    change = accept(arrival, None)
    scene.write(change.records)
    scene.look(change.records)
    return change.row


def test_what_a_fork_took_over_is_no_intent_of_its_own() -> None:
    """It needs one before it calls the step, under its source's key; then it may."""
    scene = Scene()
    intended = (EdgeKind.STEP_INTENDED, INTENT)
    observed(scene, scene.accept(), (*intended, 2.0))
    scene.oracles.calling(KEY)
    fork = forked(scene, intended, (EdgeKind.STEP_UNKNOWN, StepDoubt(0, *STEP, "why")))

    with pytest.raises(Violated, match=r"2. time, with 1 intents"):
        scene.oracles.calling(KEY)

    scene.write(end(scene.disk.turn_row(scene.disk.turns[1]), EdgeKind.TURN_CANCELLED, b"\xc0", 6.0).records)
    observed(scene, acquired(scene, fork), (*intended, 7.0), (*intended, 8.0))
    scene.oracles.calling(KEY)


def acquired(scene: Scene, row: TurnRow) -> TurnRow:
    change = acquire(row, LEASE, 6.0)
    scene.write(change.records)
    return change.row


def test_an_effect_that_has_its_result_in_the_source_may_not_be_called_by_a_fork() -> None:
    """Whatever the fork itself has on record."""
    scene = Scene()
    intended = (EdgeKind.STEP_INTENDED, INTENT)
    row = observed(scene, scene.accept(), (*intended, 2.0))
    scene.oracles.calling(KEY)
    fork = forked(scene, intended, (EdgeKind.STEP_UNKNOWN, StepDoubt(0, *STEP, "why")))
    result = StepResult(0, *STEP, msgspec.Raw(b"\xc0"))
    row = observed(scene, row, (EdgeKind.STEP_SUCCEEDED, result, 3.0))
    scene.write(end(row, EdgeKind.TURN_COMPLETED, b"\xc0", 4.0).records)
    observed(scene, acquired(scene, fork), (*intended, 7.0))

    with pytest.raises(Violated, match="has its result"):
        scene.oracles.calling(KEY)


@pytest.mark.parametrize(
    ("now", "state", "rule"),
    [
        (10.0, "completed", "a key that answers is never pruned"),
        (2e12, "running", "what is live is never pruned"),
        (2e12, "completed", ""),
    ],
)
def test_what_may_not_be_pruned_is_found(now: float, state: str, rule: str) -> None:
    """A live turn, and one whose key still answers by the clock of the world; each once."""
    scene = Scene()
    scene.write(end(scene.accept(), EdgeKind.TURN_COMPLETED, b"\xc0", 2.0).records)
    scene.accept(2)

    assert prune(scene.disk, 1e13, 1e13, 10) == 1
    scene.disk.pruned[1] = msgspec.structs.replace(
        scene.disk.pruned[1], turn=msgspec.structs.replace(scene.disk.pruned[1].turn, state=state)
    )
    if rule:
        with pytest.raises(Violated) as caught:
            scene.oracles.pruned(now)
        assert caught.value.rule == rule
    else:
        scene.oracles.pruned(now)
