"""The replay plan: what sending a receipt's work again would mean, found out without doing anything."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from turnkeeper.kernel.edge import (
    PolicyResolved,
    Requeued,
    Resumed,
    StepDoubt,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
)
from turnkeeper.kernel.lookback.past import Past, error_of, past_of, readable, span
from turnkeeper.kernel.lookback.standing import ahead_of, standing
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import FRESH_KEY
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import Effect
from turnkeeper.kernel.turn import TurnState

__all__ = ["Blocker", "ReplayPlan", "ReplayVerdict", "plan_replay"]


class ReplayVerdict(StrEnum):
    """What sending a receipt's work again would mean."""

    BLOCKED_PROCESSING = "blocked_processing"  # it is live, or a new turn would repeat what may have happened
    TERMINAL_COMPLETED = "terminal_completed"  # it is done: its deliverable is the answer
    SAFE_RETRY = "safe_retry"  # it ended without a result, and a new turn repeats nothing


class Blocker(msgspec.Struct, frozen=True):
    """What stands in the way: the turn itself, one ahead of it, or a step of it (`step` is its name then)."""

    why: str
    turn_id: int
    step: str | None = None


class ReplayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What sending a receipt's work again would mean, at a moment. Nothing was changed to find out.

    Only `safe_retry` is a yes. `advice` are sentences. `fork_from_step` is set where steps of an ended turn stand in
    the way: a fork from there does the rest of the work and takes those steps from the record. `answers_until` (wall
    time, s) is how long the key answers with what there is; None once it answers no more.
    """

    receipt_id: int
    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    key: str
    state: str
    verdict: ReplayVerdict
    blocked_by: list[Blocker]
    advice: list[str]
    answers_until: float | None = None
    fork_from_step: int | None = None


def plan_replay(rows: Rows, receipt_id: int, now: float) -> ReplayPlan:
    """Say what sending a receipt's work again would mean; a receipt has the id of the turn that it opened.

    - `blocked_processing`: its turn is live, and the blockers say what it stands on. Or the turn failed or was
      cancelled, and the blockers are steps that may have happened: a new turn would do them once more, under other
      idempotency keys.
    - `terminal_completed`: the deliverable is the answer; under its key it is given again until `answers_until`.
    - `safe_retry`: it failed or was cancelled, and no effect of it can have happened.

    Raises:
        TurnNotFound: there is no such receipt.
        StorageFailed: what is stored of it cannot be read.
    """
    past = past_of(rows, receipt_id)
    with readable(f"turn {receipt_id}"):
        blockers, fork_from = _blockers(rows, past, now)
        if past.row.state == TurnState.COMPLETED:
            verdict = ReplayVerdict.TERMINAL_COMPLETED
        else:
            verdict = ReplayVerdict.BLOCKED_PROCESSING if blockers else ReplayVerdict.SAFE_RETRY
        receipt = past.receipt
        answers = receipt is not None and not receipt.retired and receipt.expires_at > now
        until = receipt.expires_at if receipt is not None and answers else None
        return ReplayPlan(
            receipt_id=receipt_id,
            turn_id=past.row.turn_id,
            tenant=past.address.tenant,
            session_id=past.address.session_id,
            agent_id=past.address.agent_id,
            key=past.inbound.key,
            state=str(past.row.state),
            verdict=verdict,
            blocked_by=blockers,
            advice=list(_advice(past, verdict, until, fork_from, now)),
            answers_until=until,
            fork_from_step=fork_from,
        )


def _blockers(rows: Rows, past: Past, now: float) -> tuple[list[Blocker], int | None]:
    turn_id = past.row.turn_id
    if past.row.state == TurnState.COMPLETED:
        return [], None
    if not past.ended:
        ahead = ahead_of(rows, past.row)
        stands = standing(rows, past.row, ahead, now)
        own = Blocker(f"it is {past.row.state}, and waits for {stands.waits_for}", turn_id)
        return [
            own,
            *(Blocker(f"turn {one.turn_id} is {one.state} and ahead of it", one.turn_id) for one in ahead),
        ], None
    risky = _Effects(past).may_have_happened()
    issued = [place for place, _ in risky.values()]
    found = [Blocker(f"{name} {why}", turn_id, str(name)) for name, (_, why) in risky.items()]
    return found, max(issued) + 1 if issued else None


def _advice(
    past: Past, verdict: ReplayVerdict, until: float | None, fork_from: int | None, now: float
) -> Iterator[str]:
    fresh = past.inbound.key.startswith(FRESH_KEY)
    match verdict:
        case ReplayVerdict.BLOCKED_PROCESSING if fork_from is not None:
            yield "a new turn would do that once more, under other idempotency keys"
            yield (
                f"to do the rest: turnkeeper fork DB {past.row.turn_id} --from-step {fork_from}; what was done is"
                " answered from the record then, and what is in doubt is asked about again"
            )
        case ReplayVerdict.BLOCKED_PROCESSING:
            yield f"wait for it, or see what holds it up: turnkeeper explain DB {past.row.turn_id}"
        case ReplayVerdict.TERMINAL_COMPLETED:
            yield "nothing is to be done: its deliverable is there"
        case ReplayVerdict.SAFE_RETRY:
            yield "nothing of it can have happened: send it again under a new key"
    if fresh:
        yield "it came without a key: whatever is sent is a new turn"
    elif until is not None and past.ended:
        yield f"under its key {past.inbound.key!r} it is answered with this same end for another {span(until - now)}"
    elif past.ended:
        yield f"its key {past.inbound.key!r} answers for it no more: sent under it, it would be a new turn"


_CALLED: Final = "was called, and nobody recorded how it ended"


class _Effects:
    """What a turn did to the world, as far as its edges say; an effectful call that raised did nothing."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._effects: dict[StepName, str] = {}
        self._issued: dict[StepName, int] = {}
        self._repeated: set[StepName] = set()  # in doubt, and called again all the same
        self._may: dict[StepName, str] = {}

    def may_have_happened(self) -> dict[StepName, tuple[int, str]]:
        """Return the steps that may have changed the world, with their places and why, in issue order."""
        for detail in self._past.details:
            match detail:
                case StepIntent() | StepResult() | StepFailure() | StepDoubt():
                    self._step(StepName(detail.name, detail.call_key), detail)
                case PolicyResolved():
                    self._policy(StepName(detail.name, detail.call_key), detail)
                case Resumed(step=StepName() as name):
                    self._answer(name, detail)
                case Requeued(forgotten=names) | Suspended(forgotten=names):
                    for name in names:
                        if self._may.get(name) == _CALLED:  # it was intended, and then never called
                            del self._may[name]
                case _:
                    pass
        return dict(sorted(((name, (self._issued[name], why)) for name, why in self._may.items()), key=_place))

    def _step(self, name: StepName, detail: StepIntent | StepResult | StepFailure | StepDoubt) -> None:
        if isinstance(detail, StepIntent):
            self._issued[name], self._effects[name] = detail.issued, detail.effect
            if detail.effect != Effect.PURE:
                self._may.setdefault(name, _CALLED)
        if self._effects.get(name, Effect.PURE) == Effect.PURE:
            return
        match detail:
            case StepResult():
                self._may[name] = "happened"
            case StepDoubt():
                self._may[name] = f"is in doubt ({detail.why}), and may have happened"
            case StepFailure() if self._effects[name] != Effect.EFFECTFUL:
                self._may[name] = f"failed ({error_of(detail.failure)}), and may have happened under its key"
            case StepFailure(returned=True):
                self._may[name] = f"happened, and returned what does not fit ({error_of(detail.failure)})"
            case StepFailure() if name not in self._repeated:
                self._may.pop(name, None)
            case _:
                pass

    def _policy(self, name: StepName, detail: PolicyResolved) -> None:
        if detail.policy == "retry":
            self._repeated.add(name)
        elif detail.found == "did_not_happen":
            self._settled(name)

    def _answer(self, name: StepName, found: Resumed) -> None:
        if not (found.happened or found.given_up):
            self._settled(name)
        elif name in self._issued:
            told = "happened, as somebody said" if found.happened else "was given up, and may have happened"
            self._may[name] = told

    def _settled(self, name: StepName) -> None:
        """Take note that a step in doubt did not happen."""
        self._may.pop(name, None)
        self._repeated.discard(name)


def _place(item: tuple[StepName, tuple[int, str]]) -> tuple[int, StepName]:
    return item[1][0], item[0]
