"""The scenarios: clean under fixed seeds, with and without faults; and they do look at their totals."""

import asyncio
from importlib import import_module
from typing import Any

import pytest
from looking import said_under_two_hash_seeds

from turnkeeper import DidNotHappen, agent
from turnkeeper.actors.volatile import ActorRef
from turnkeeper.kernel.errors import StaleEpoch, StorageFailed
from turnkeeper.testing import Fault, Faults, Load, SimulatedWorld, Violated, World, each_crash, explore, run
from turnkeeper.testing.memory import MemoryStore
from turnkeeper.testing.runs import live_to_the_end
from turnkeeper.testing.scenarios import BUILT_IN, desk, doubtful, doubts, kernel, programs

KINDS = {
    "no faults": None,
    "kills": Faults(crash_rate=0.02),
    "a failing disk": Faults(fault_rate=0.03),
    "both, slowly": Faults(crash_rate=0.01, fault_rate=0.02, latency_s=1.0, restart_s=0.0),
}
BUSY = Load(hours=0.001, hang_rate=0.1, slow_rate=0.2, duplicate_rate=0.3)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_scenario_has_a_life(name: str) -> None:
    """As a scenario file of one's own."""

    assert callable(import_module(f"turnkeeper.testing.scenarios.{name}").life)


@pytest.mark.parametrize("faults", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_few_seeds_of_each_scenario_break_nothing(name: str, faults: Faults | None) -> None:
    """Under each boldness of schedules."""
    life = import_module(f"turnkeeper.testing.scenarios.{name}").life
    seeds = 3 if name in {"clients", "doubts"} else 6  # one of theirs takes as long as many others
    outcomes = explore(life, range(100, 100 + seeds), faults=faults, load=BUSY)

    assert all(outcome.live == 0 for outcome in outcomes)
    assert len({outcome.steps for outcome in outcomes}) > 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_scenario_is_the_same_in_every_run(name: str) -> None:
    """All of its outcome, with everything going wrong that can."""
    life = import_module(f"turnkeeper.testing.scenarios.{name}").life
    faults = Faults(crash_rate=0.01, fault_rate=0.02)

    assert run(life, seed=11, faults=faults, load=BUSY) == run(life, seed=11, faults=faults, load=BUSY)


def test_the_desk_is_the_same_in_two_processes() -> None:
    """Whatever the hashes of strings are."""
    program = """
from turnkeeper.testing import Fault, Faults, Load, run
from turnkeeper.testing.scenarios.desk import life
print(run(life, seed=5, faults=Faults(crash_rate=0.01), load=Load(hours=0.002, hang_rate=0.1, duplicate_rate=0.2)))
"""
    said = said_under_two_hash_seeds(program)

    assert len(said) == 1
    assert "digest=" in said.pop()


def test_each_crash_of_a_program_breaks_nothing() -> None:
    """Every point of one program."""
    outcomes = each_crash(programs.life, seed=23)

    assert outcomes[-1].lives == 1
    assert all(outcome.live == 0 for outcome in outcomes)


def test_each_crash_of_a_doubt_and_its_fork_breaks_nothing() -> None:
    """Every point of a turn that stands on a doubt, beside an effect under way, and of its fork."""
    outcomes = each_crash(doubts.small)

    assert outcomes[-1].lives == 1
    assert len(outcomes) > 50
    assert all(outcome.live == 0 for outcome in outcomes)


# ---------------------------------------------------------------- what was known


def test_the_desks_messages_are_the_same_in_every_life() -> None:
    """And follow from the seed and the load."""
    one, same, other = (SimulatedWorld(seed, load=Load(hours=0.01)) for seed in (1, 1, 2))
    given = SimulatedWorld(1, load=Load(arrivals=(0.0, 5.0)))

    assert desk.messages(one) == desk.messages(same) != desk.messages(other)
    assert [message.number for _, message in desk.messages(one)] == list(range(len(desk.messages(one))))
    assert [at_s for at_s, _ in desk.messages(given)] == [0.0, 5.0]


def test_a_program_knows_its_total() -> None:
    """The sums of the parts from outside, and of those that are only told."""
    for seed in range(50):
        parts = programs.program(seed)

        assert parts == programs.program(seed)
        assert programs.total(parts) >= sum(part.sum for part in parts) > 0


class Forgetful(SimulatedWorld):
    """A world that loses, or makes up, what has happened to the effects of a kind."""

    def __init__(self, kind: str, times: int, **options: Any) -> None:
        super().__init__(**options)
        self._kind, self._times = kind, times

    def happened(self, effect: str) -> int:
        happened = super().happened(effect)
        return self._times if happened and effect.startswith(self._kind) else happened


@pytest.mark.parametrize("times", [0, 2])
@pytest.mark.parametrize("kind", ["refund", "rebook"])
def test_the_desk_finds_what_did_not_happen_once(kind: str, times: int) -> None:
    """Every refund and every rebooking that was asked for, and each once."""
    world = Forgetful(kind, times, seed=3, load=Load(hours=0.005))
    with pytest.raises(Violated) as caught:
        live_to_the_end(world, desk.life)

    assert caught.value.rule == "the known total"
    assert caught.value.what.startswith(f"{kind} ")
    assert caught.value.what.endswith(f"happened {times} times")


@pytest.mark.parametrize("times", [0, 2])
def test_a_program_finds_units_that_are_missing_or_too_many(times: int) -> None:
    """What is counted out in the world is the total."""
    world = Forgetful("units of part 0", times, seed=3)
    with pytest.raises(Violated, match="units were added, of"):
        live_to_the_end(world, programs.life)


def test_a_program_finds_an_answer_that_is_not_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn's own."""
    monkeypatch.setattr(programs.Part, "sum", property(lambda part: -1))

    with pytest.raises(Violated, match="the known answer: part"):
        run(programs.life, seed=3)


def test_the_desk_finds_an_answer_that_is_not_the_messages_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refund to another."""

    async def another(self: Any, number: int) -> str:
        self._world.happen(f"refund {number}")
        return "refund 0"

    monkeypatch.setattr(desk._Desk, "_refund", another)

    with pytest.raises(Violated, match="the known answer: message"):
        run(desk.life, seed=3, load=Load(hours=0.005))


def test_the_kernel_finds_a_letter_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent, and neither done nor dead."""
    tell = ActorRef.tell
    lost: list[int] = []

    def lossy(self: Any, letter: Any) -> None:
        if letter[1] == 3 and not lost:
            lost.append(1)
            return
        tell(self, letter)

    monkeypatch.setattr(ActorRef, "tell", lossy)

    with pytest.raises(Violated, match="every letter is done or dead"):
        explore(kernel.life, range(5))


def test_the_kernel_finds_two_letters_inside_one_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that is entered beside itself."""
    handler = kernel._Crowd.handler

    def doubled(self: Any, actor: int) -> Any:
        return handler(self, 0 if actor else actor)  # two actors that say they are one

    monkeypatch.setattr(kernel._Crowd, "handler", doubled)

    with pytest.raises(Violated, match=r"one letter at a time|order of each sender"):
        explore(kernel.life, range(20))


def test_the_kernel_finds_a_reply_that_is_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ask has its own."""
    handler = kernel._Crowd.handler

    def confused(self: Any, actor: int) -> Any:
        handle = handler(self, actor)

        async def other(letter: Any) -> Any:
            await handle(letter)
            return "another's"

        return other

    monkeypatch.setattr(kernel._Crowd, "handler", confused)

    with pytest.raises(Violated, match="every ask has its own reply"):
        explore(kernel.life, range(5))


def under(life: Any, seeds: range) -> None:
    """Run a life under seeds, one after the other; a failing schedule stays as large as it is."""
    for seed in seeds:
        run(life, seed=seed)


def test_doubts_find_an_answer_that_is_not_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another act's result."""
    repeated = doubtful.Work._repeated

    async def another(self: Any, effect: str, times: int) -> str:
        await repeated(self, effect, times)
        return "another"

    monkeypatch.setattr(doubtful.Work, "_repeated", another)

    with pytest.raises(Violated, match="the known answer:"):
        under(doubts.life, range(10))


def test_doubts_find_an_end_that_is_not_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never fails for good has failed."""

    async def failing(self: Any, effect: str, times: int) -> str:
        raise ArithmeticError(effect)

    monkeypatch.setattr(doubtful.Work, "_act", failing)

    with pytest.raises(Violated, match="the known end:"):
        under(doubts.life, range(10))


def test_doubts_find_an_untruthful_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says of everything that it did not happen: the effects that had, happen twice."""
    monkeypatch.setattr(doubtful.Operator, "_finding", lambda self, doubt: DidNotHappen())

    with pytest.raises(Violated, match="effects at most once"):
        under(doubts.life, range(20))


def test_a_reader_of_events_that_skips_or_repeats_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is on the disk, and by what it has read."""
    happened = MemoryStore.happened

    async def skipping(self: Any, since: int, limit: int) -> Any:
        return (await happened(self, since, limit))[1:]

    async def repeating(self: Any, since: int, limit: int) -> Any:
        return await happened(self, since - 1, limit)

    for wrong, rule in ((skipping, "no event is skipped"), (repeating, "effects at most once: event")):
        monkeypatch.setattr(MemoryStore, "happened", wrong)
        with pytest.raises(Violated, match=rule):
            run(doubts.life, seed=1)


def test_ends_are_known_by_the_script_and_by_who_gave_up() -> None:
    """Completed, or StepFailed for what fails for good, or EffectInDoubt once somebody gave up."""
    fine, failing = [[doubtful.Act("a", "act")]], [[doubtful.Act("a", "act"), doubtful.Act("b", "raises")]]

    assert doubtful.ends(fine, given_up=False) == {"completed"}
    assert doubtful.ends(failing, given_up=False) == {"StepFailed"}
    assert doubtful.ends(fine, given_up=True) == {"EffectInDoubt"}
    assert doubtful.ends(failing, given_up=True) == {"StepFailed", "EffectInDoubt"}


def test_a_scenario_takes_any_world() -> None:
    """They say what they need of a world, and no more."""

    assert issubclass(Forgetful, World)
    assert live_to_the_end(SimulatedWorld(4), kernel.life).turns == 0


# ---------------------------------------------------------------- what many seeds have found


@agent("slow")
async def slow(turn: Any) -> Any:
    await asyncio.sleep(1.0)
    return turn.input


async def send(world: World, deliveries: list[tuple[float, int]]) -> None:
    """Deliver messages to one session at their times, each again under its key while the disk fails."""
    async with world.runtime([slow]) as runtime, asyncio.TaskGroup() as clients:

        async def deliver(after_s: float, number: int) -> None:
            await asyncio.sleep(after_s)
            while True:
                try:
                    await runtime.ask("s", "slow", number, key=f"{number}")
                except StorageFailed:
                    await asyncio.sleep(0.3)
                except StaleEpoch as error:
                    world.report(Violated("what `tell` may raise", str(error)))
                else:
                    return

        for after_s, number in deliveries:
            clients.create_task(deliver(after_s, number))


def test_a_duplicate_of_the_next_turn_in_a_refused_commit_leaves_no_gap() -> None:
    """The duplicate's edge and the successor's lease are refused together: both are taken back."""

    async def life(world: World) -> None:
        await send(world, [(0.0, 1), (0.1, 2), (1.0, 2)])

    for seed in range(24):
        run(life, seed=seed, faults=Faults(at={4: Fault.FAIL}, latency_s=0.0))


def test_a_duplicate_is_answered_although_its_turn_is_being_read_again() -> None:
    """`StaleEpoch` is the writer's, and none of a client's business."""

    async def life(world: World) -> None:
        await send(world, [(number * 0.2, 1) for number in range(20)])

    for seed in range(24):
        run(life, seed=seed, faults=Faults(at={7: Fault.FAIL}, latency_s=1.0))


def test_a_duplicate_that_meets_the_last_write_of_a_resync_is_chained_to_it() -> None:
    """It came between the row's reading and its use; the one after it was chained to an edge that was never stored."""

    async def life(world: World) -> None:
        await send(world, [(0.9 + number * 0.05, 1) for number in range(40)] + [(0.0, 1)])

    for seed in range(24):
        run(life, seed=seed, faults=Faults(at={7: Fault.FAIL}, latency_s=0.1))
