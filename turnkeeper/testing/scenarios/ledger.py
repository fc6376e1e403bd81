"""Ledger: what a simulated disk says of turns, forks and events, for those who compare it with what they know.

In other worlds there is no disk to look at, and nothing is found.
"""

from collections.abc import Mapping

from turnkeeper.kernel.edge import ANYTIME, Inbound, Resumed, StepDoubt, StepFailure, decode_detail
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.rows import NumberedEdge
from turnkeeper.kernel.step import Effect, StepRecord, StepStatus, fold_steps
from turnkeeper.kernel.turn import TERMINAL
from turnkeeper.testing.scenarios.doubtful import RETRIES
from turnkeeper.testing.simulated import SimulatedWorld
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.world import World

__all__ = ["check_fork", "check_turn", "given_up", "has_ended", "lateness_s", "unread"]


def _edges(world: World, turn_id: int) -> list[NumberedEdge]:
    """Return a turn's edges; none where they cannot be looked at, or were pruned."""
    return list(world.disk.rows().edges(turn_id)) if isinstance(world, SimulatedWorld) else []


def given_up(world: World, turn_id: int) -> bool:
    """Say whether somebody gave up on a step of a turn."""
    details = [decode_detail(edge) for _, edge in _edges(world, turn_id)]
    return any(isinstance(detail, Resumed) and detail.given_up for detail in details)


def has_ended(world: World, turn_id: int) -> bool | None:
    """Say whether a turn has ended, or is gone; None where nobody can say."""
    if not isinstance(world, SimulatedWorld):
        return None
    turn = world.disk.turns.get(turn_id)
    return turn is None or turn.state in TERMINAL


def check_turn(world: World, turn_id: int) -> None:
    """Check how often each step was tried and, where nothing was killed, that only what hangs came into doubt."""
    tried: dict[StepName, int] = {}
    doubted: list[StepName] = []
    for _, edge in _edges(world, turn_id):
        match decode_detail(edge):
            case StepFailure(retry_at=float()) as failed:
                name = StepName(failed.name, failed.call_key)
                tried[name] = tried.get(name, 0) + 1
                if tried[name] > RETRIES.get(name.name.lstrip("_"), 0):
                    said = f"turn {turn_id}: {name} is to be called again for the {tried[name]}. time"
                    world.report(Violated("a step is retried as often as said", said))
            case Resumed(step=StepName() as name):
                tried.pop(name, None)
            case StepDoubt() as doubt if edge.epoch and doubt.name != "_hang":  # a fork takes over what is under way
                doubted.append(StepName(doubt.name, doubt.call_key))
            case _:
                pass
    undisturbed = isinstance(world, SimulatedWorld) and world.life == 1 and not world.faults.disk_fails
    left = [step.name for step in fold_steps(edge for _, edge in _edges(world, turn_id)).values() if _left(step)]
    if left and undisturbed:
        world.report(Violated("an effect under way is waited for", f"turn {turn_id} has ended, and {left} had not"))
    if doubted and undisturbed and not world.load.hang_rate:
        said = f"turn {turn_id}: {doubted} came into doubt, and nothing was killed"
        world.report(Violated("an effect under way is waited for", said))


def _left(step: StepRecord) -> bool:
    return step.effect == Effect.EFFECTFUL and step.status is StepStatus.INTENDED


def check_fork(world: World, turn_id: int, *, over: bool) -> None:
    """Check that a fork began with the record of its source: each step before the fork's, under its own key.

    `over`: the source had ended before the fork was asked for; otherwise it may have gone on meanwhile.
    """
    edges = _edges(world, turn_id)
    inbound = decode_detail(edges[0].edge) if edges else None
    if not isinstance(inbound, Inbound) or inbound.forked_from is None:
        return
    of_source = _edges(world, inbound.forked_from)
    if not of_source:
        return
    taken = fold_steps(edge for _, edge in edges if not edge.epoch)
    began = edges[0].number
    before = {
        name: step
        for name, step in fold_steps(edge for number, edge in of_source if number < began).items()
        if step.issued < inbound.steps_taken
    }
    where = f"turn {turn_id}, a fork of {inbound.forked_from} from step {inbound.steps_taken}"
    _check_taken(world, where, before, taken, over=over)
    for name, step in fold_steps(edge for _, edge in edges).items():
        own = step.idempotency_key.split("/")[1:2] == [str(turn_id)]
        if step.idempotency_key and own == (name in taken):
            said = f"{where}: {name} has the key {step.idempotency_key}"
            world.report(Violated("a fork's own steps have keys of their own, and no others", said))


def _check_taken(
    world: World,
    where: str,
    before: Mapping[StepName, StepRecord],
    taken: Mapping[StepName, StepRecord],
    *,
    over: bool,
) -> None:
    """Compare what a fork took over with its source, which may have gone on meanwhile if it was not over."""
    if over and before.keys() != taken.keys():
        world.report(Violated("a fork takes over each step before its own", f"{where}: {[*taken]} of {[*before]}"))
    for name, step in taken.items():
        source = before.get(name)
        same = source is not None and _call(step) == _call(source)
        if source is None or not same or (over and _outcome(step) != _outcome(source)):
            world.report(Violated("a fork takes over what is recorded", f"{where}: {step}, not {source}"))


def _call(step: StepRecord) -> tuple[str, bytes]:
    return step.idempotency_key, step.arguments


def _outcome(step: StepRecord) -> tuple[str, bytes, object]:
    """Return what a step came to. An effect that nobody knows the end of is in doubt, whatever it is called."""
    unsettled = {StepStatus.INTENDED, StepStatus.UNKNOWN, StepStatus.ABANDONED}
    doubted = step.effect == Effect.EFFECTFUL and step.status in unsettled
    return StepStatus.UNKNOWN if doubted else step.status, step.result, step.failure


def lateness_s(world: World, at: float) -> float:
    """Return how long ago a moment of wall time was; 0 where the disk, or a kill, may be to blame."""
    if not isinstance(world, SimulatedWorld) or world.life > 1 or world.faults.disk_fails:
        return 0.0
    return world.clock.time() - at


def unread(world: World, before: int | None) -> int:
    """Return the first event before an offset that nobody has read, 0 if there is none; of None, the last one read."""
    if not isinstance(world, SimulatedWorld):
        return 0
    offsets = sorted(
        number
        for edges in world.disk.edges.values()
        for number, edge in edges.values()
        if edge.kind not in ANYTIME and (before is None or number < before)
    )
    if before is None:
        return max((offset for offset in offsets if world.happened(f"event {offset} was read")), default=0)
    return next((offset for offset in offsets if not world.happened(f"event {offset} was read")), 0)
