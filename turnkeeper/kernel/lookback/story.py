"""The story of a turn: what happened to it, one sentence for each thing, from its edges."""

from itertools import groupby
from typing import Final, NamedTuple

import msgspec

from turnkeeper.kernel.edge import (
    ANYTIME,
    Detail,
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    LeaseGranted,
    PolicyResolved,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    Wait,
)
from turnkeeper.kernel.ending import is_request
from turnkeeper.kernel.lookback.past import Past, cut, error_of, listed, span, under
from turnkeeper.kernel.lookback.waits import outcome_of, waited_for
from turnkeeper.kernel.names import StepName

__all__ = ["Happening", "story"]


class Happening(msgspec.Struct, frozen=True):
    """One thing that happened to a turn, in words; `at` is wall time, s, `ordinal` its edge's."""

    at: float
    ordinal: int
    what: str


class _Scene(NamedTuple):
    """Where an edge stands: in which attempt, how long a call took whose outcome it is, whether a fork took it over."""

    past: Past
    edge: Edge
    attempt: int
    took_s: float | None
    taken: bool


_POLICIES: Final = {
    ("probe", "happened"): "its tool's probe found that {step} happened",
    ("probe", "did_not_happen"): "its tool's probe found that {step} did not happen",
    ("retry", ""): "{step} is called again although in doubt: its tool says so",
    ("fail", ""): "{step} is not called again, because it is in doubt: its tool says so",
}


def story(past: Past) -> list[Happening]:
    """Return everything that happened, in order; a call and its outcome are one thing, and so are duplicates."""
    took, told_later = _calls(past)
    attempt, started = 1, False
    happened: list[Happening] = []
    both = zip(past.edges, past.details, strict=True)
    for anytime, group in groupby(both, lambda one: one[0].kind in ANYTIME):
        edges = list(group)
        if anytime:
            last = edges[-1][0]
            times = f"{len(edges)} times" if len(edges) > 1 else "once"
            happened.append(Happening(last.at, last.ordinal, f"came again {times}: a duplicate, answered and not run"))
            continue
        for edge, detail in edges:
            started = started or isinstance(detail, LeaseGranted)
            attempt += isinstance(detail, Requeued)
            if edge.ordinal not in told_later:
                taken = past.inbound.forked_from is not None and not started and not isinstance(detail, Inbound)
                scene = _Scene(past, edge, attempt, took.get(edge.ordinal), taken)
                happened.append(Happening(edge.at, edge.ordinal, _sentence(scene, detail)))
    return happened


def _calls(past: Past) -> tuple[dict[int, float], set[int]]:
    """Return how long calls took, by their outcomes' ordinals, and the calls that have one: it tells of both."""
    took: dict[int, float] = {}
    told_later: set[int] = set()
    under_way: dict[StepName, Edge] = {}
    for edge, detail in zip(past.edges, past.details, strict=True):
        match detail:
            case StepIntent():
                under_way[StepName(detail.name, detail.call_key)] = edge
            case StepResult() | StepFailure() | StepDoubt():
                call = under_way.pop(StepName(detail.name, detail.call_key), None)
                if call is not None:
                    took[edge.ordinal] = edge.at - call.at
                    told_later.add(call.ordinal)
            case _:
                pass
    return took, told_later


def _sentence(scene: _Scene, detail: Detail | None) -> str:
    match detail:
        case Inbound():
            said = f"accepted {under(detail.key)}"
            if detail.forked_from is not None:
                said += f", as a fork of turn {detail.forked_from} with {detail.steps_taken} of its steps"
        case LeaseGranted():
            said = _started(scene, detail)
        case Requeued():
            said = _requeued(detail)
        case Suspended():
            said = f"suspended ({detail.reason})"
            if detail.step is not None:
                said += f": waits for an answer about {detail.step}"
        case Resumed():
            said = _resumed(detail)
        case StepIntent() | StepResult() | StepFailure() | StepDoubt():
            said = _step(scene, detail)
        case PolicyResolved():
            said = _policy(detail)
        case _:
            said = _without_detail(scene)
    return f"{said}; taken from turn {scene.past.inbound.forked_from}" if scene.taken else said


def _policy(detail: PolicyResolved) -> str:
    if is_request(detail):
        by, why = f" by {cut(detail.by)}" if detail.by else "", f": {cut(detail.reason)}" if detail.reason else ""
        return f"is to end ({detail.policy}){by}{why}"
    policy = _POLICIES.get((detail.policy, detail.found), f"{{step}}: its tool's policy is {detail.policy}")
    return policy.replace("{step}", str(StepName(detail.name, detail.call_key)))


def _started(scene: _Scene, detail: LeaseGranted) -> str:
    again = f"started again, attempt {scene.attempt}," if scene.attempt > 1 else "started"
    version = f", under version {detail.version!r} of its handler" if detail.version else ""
    return f"{again} by boot {detail.boot_id}{version}"


def _requeued(detail: Requeued) -> str:  # noqa: PLR0911 - one line a reason
    anew = f"; {listed(detail.forgotten)} will be run anew" if detail.forgotten else ""
    match detail.reason:
        case "recovery" if isinstance(detail.failure, Failure):
            return f"taken back: {error_of(detail.failure)}{anew}"
        case "stuck":
            return f"taken back: its run did not get on for longer than its agent allows{anew}"
        case "recovery":
            return f"taken back: the process that ran it had ended{anew}"
        case "shutdown":
            return f"put back into its queue: its runtime was closing{anew}"
        case "resolved":
            return "put back into its queue, with the answer, for a runtime that has its agent"
        case _ if isinstance(detail.failure, Failure):
            return f"raised {error_of(detail.failure)}; to be tried again{anew}"
        case reason:
            return f"put back into its queue ({cut(reason)}){anew}"


def _resumed(detail: Resumed) -> str:
    if detail.step is None:
        return f"goes on under boot {detail.boot_id}"
    if detail.happened:
        return f"somebody said that {detail.step} happened; goes on under boot {detail.boot_id}"
    if detail.given_up:
        return f"somebody gave up finding out about {detail.step}; goes on under boot {detail.boot_id}"
    return f"somebody said that {detail.step} did not happen; goes on under boot {detail.boot_id}"


def _step(  # noqa: PLR0911 - one line an outcome
    scene: _Scene, detail: StepIntent | StepResult | StepFailure | StepDoubt
) -> str:
    step = StepName(detail.name, detail.call_key)
    took = f" after {span(scene.took_s)}" if scene.took_s is not None and not scene.taken else ""
    known = scene.past.steps.get(step)
    match detail:
        case StepIntent(wait=Wait() as wait) if known is not None:
            return f"{step} waits for {waited_for(known, wait)}"
        case StepResult() if known is not None and known.wait is not None:
            return f"{step} {outcome_of(known)}{took}"
        case StepIntent():
            return f"{step} was called ({detail.effect}); no outcome is recorded"
        case StepResult():
            return f"{step} answered{took}"
        case StepDoubt():
            return f"{step} is in doubt: {cut(detail.why)}{took}, and it may have happened"
        case StepFailure(retry_at=None):
            return f"{step} failed{took}: {error_of(detail.failure)}"
        case StepFailure(retry_at=retry_at):
            pause = span((retry_at or scene.edge.at) - scene.edge.at)
            return f"{step} failed{took}: {error_of(detail.failure)}; to be called again {pause} later"


def _without_detail(scene: _Scene) -> str:
    """Say a kind without a detail; a terminal one with what the turn ended with."""
    match scene.edge.kind:
        case EdgeKind.TURN_COMPLETED:
            return "completed"
        case EdgeKind.TURN_FAILED | EdgeKind.TURN_CANCELLED:
            end = scene.past.end()
            word = str(scene.edge.kind).removeprefix("turn_")
            return f"{word}: {error_of(end)}" if isinstance(end, Failure) else word
        case kind:
            return cut(str(kind).replace("_", " "))
