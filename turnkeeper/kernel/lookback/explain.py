"""Explain: one turn on one screen: what happened, what it waits for, what would happen next and why."""

from collections.abc import Iterator
from typing import Final

import msgspec

from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.lookback.checkpoint import Doubt, checkpoint
from turnkeeper.kernel.lookback.past import Past, call_of, error_of, listed, past_of, readable, span
from turnkeeper.kernel.lookback.standing import Standing, ahead_of, standing
from turnkeeper.kernel.lookback.story import Happening, story
from turnkeeper.kernel.lookback.waits import answering
from turnkeeper.kernel.receipt import FRESH_KEY
from turnkeeper.kernel.rows import Rows
from turnkeeper.kernel.step import Effect, StepDecision, StepRecord, StepStatus, decide
from turnkeeper.kernel.turn import TurnState

__all__ = ["Explanation", "Happening", "Rerun", "explain", "resolving"]

_FIRST: Final = 3
_LAST: Final = 9
"""Happenings shown, of a turn to which more happened: how it began, and how it came to where it stands."""

_RETRYING_MAX: Final = 3
"""Steps that are called again, each with a line of its own."""


class Rerun(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn's recorded steps would do, ran its handler again from the top: the steps' names, in issue order.

    `waiting` are waits without an answer: their turn would stand on them again.
    """

    answered: list[str]
    run: list[str]
    in_doubt: list[str]
    waiting: list[str] = []


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A turn as it stands at a moment (`now`, wall time, s).

    `happened` is its beginning and its latest; `left_out` things between them are not shown, from index `gap_at` on.
    `waits_for` and `next` are sentences; `until` (wall time, s), `behind` (a turn), `doubt` and `rerun` are the facts
    in them. `stuck` says why nothing will move it as things are.
    """

    turn_id: int
    tenant: str
    session_id: str
    agent_id: str
    key: str
    state: str
    attempt: int
    version: str
    duplicates: int
    now: float
    happened: list[Happening]
    left_out: int
    gap_at: int
    waits_for: str
    next: list[str]
    until: float | None = None
    behind: int | None = None
    doubt: Doubt | None = None
    rerun: Rerun | None = None
    forked_from: int | None = None
    stuck: str = ""


def explain(rows: Rows, turn_id: int, now: float) -> Explanation:
    """Say what happened to a turn, what it waits for, and what would happen next and why.

    Args:
        rows: where it is stored.
        turn_id: the turn.
        now: the moment for which it is said (wall time, s).

    Raises:
        TurnNotFound: there is no such turn.
        StorageFailed: what is stored of it cannot be read.
    """
    past = past_of(rows, turn_id)
    with readable(f"turn {turn_id}"):
        told = story(past)
        left_out = max(len(told) - _FIRST - _LAST, 0)
        if past.ended:
            stands, doubt, rerun = Standing(waits_for=f"nothing: it has {_outcome(past)}"), None, None
        else:
            stands = standing(rows, past.row, ahead_of(rows, past.row), now)
            doubt = checkpoint(rows, turn_id).doubt if past.row.state == TurnState.SUSPENDED else None
            rerun = _rerun(past)
        return Explanation(
            turn_id=turn_id,
            tenant=past.address.tenant,
            session_id=past.address.session_id,
            agent_id=past.address.agent_id,
            key=past.inbound.key,
            state=str(past.row.state),
            attempt=past.row.attempt,
            version=past.version,
            duplicates=past.receipt.duplicate_count if past.receipt is not None else 0,
            now=now,
            happened=[*told[:_FIRST], *told[_FIRST + left_out :]],
            left_out=left_out,
            gap_at=_FIRST if left_out else 0,
            waits_for=stands.waits_for if doubt is None else _asked(past, doubt, stands),
            next=list(_next(past, stands, doubt, now)),
            until=stands.until,
            behind=stands.behind,
            doubt=doubt,
            rerun=rerun,
            forked_from=past.inbound.forked_from,
            stuck=stands.stuck,
        )


def _outcome(past: Past) -> str:
    return "been cancelled" if past.row.state == TurnState.CANCELLED else str(past.row.state)


def _asked(past: Past, doubt: Doubt, stands: Standing) -> str:
    """Say what somebody is asked about an effect in doubt, with what they need to find out."""
    call = next((call_of(step) for step in past.steps.values() if str(step.name) == doubt.step), doubt.tool)
    facts = f"{call}, idempotency key {doubt.idempotency_key}, token {doubt.token or '(none)'}"
    return f"{stands.waits_for}: did {doubt.step} happen? It was {doubt.why or 'cut off'}: {facts}"


def resolving(doubt: Doubt) -> str:
    """Return the command that answers a doubt; DB stands for the store."""
    token = doubt.token or "''"
    return f"turnkeeper resolve DB {doubt.turn_id} --token {token} (--happened JSON | --did-not-happen | --give-up)"


# ---------------------------------------------------------------- next


def _next(past: Past, stands: Standing, doubt: Doubt | None, now: float) -> Iterator[str]:
    if stands.stuck:
        yield f"nothing, as things are: {stands.stuck}"
    match past.row.state:
        case TurnState.RUNNING:
            yield from _after_running(past, stands, now)
        case TurnState.SUSPENDED:
            yield from _after_suspended(past, doubt, now)
        case TurnState.QUEUED:
            yield from _after_queued(past, stands, now)
        case _:
            yield from _after_the_end(past, now)
            return
    yield from _from_its_top(_rerun(past), doubt)


def _after_running(past: Past, stands: Standing, now: float) -> Iterator[str]:
    retrying = [step for step in past.steps.values() if step.status == StepStatus.RETRYING]
    for step in retrying[:_RETRYING_MAX]:
        calls = f"{step.failures} failed call{'' if step.failures == 1 else 's'}"
        when = "once the turn runs again" if stands.stuck else _when(step.retry_at or now, now)
        yield f"{step.name}, after {calls} ({error_of(step.failure)}), is called again {when}"
    if len(retrying) > _RETRYING_MAX:
        yield f"so are {len(retrying) - _RETRYING_MAX} more steps"
    if stands.stuck:
        yield "the runtime that opens this store next takes it back and runs it from its top"
    else:
        yield "its handler goes on; were its process killed now, the next runtime would run it from its top"


def _when(at: float, now: float) -> str:
    return f"in {span(at - now)}" if at > now else "now"


def _after_suspended(past: Past, doubt: Doubt | None, now: float) -> Iterator[str]:
    left = (past.row.due_at or 0.0) - now
    stands = list(past.stands())
    waits = (stand.wait for stand in stands)
    for command in filter(None, (answering(wait.kind, wait.token, wait.digest.hex()) for wait in waits)):
        yield f"somebody answers: {command}"
    if doubt is None and stands:
        when = f"in {span(left)} at the latest" if left > 0 else "now, because its time is over"
        yield f"its handler goes on once one of them has its answer, and {when}"
        return
    if doubt is None:
        yield (
            f"unanswered, it fails in {span(left)} with DeadlineExceeded" if left > 0 else "it fails: DeadlineExceeded"
        )
        return
    if left <= 0:
        yield "the runtime that has this store open, or opens it next, fails it with EffectInDoubt"
        return
    yield f"somebody says what became of it: {resolving(doubt)}"
    yield (
        f"happened: {doubt.step} answers with that JSON; did not happen: it is called, with the same key; given up: it"
        " raises EffectInDoubt in the handler"
    )
    yield f"unanswered, the turn fails in {span(left)} with EffectInDoubt, and its effect is not repeated"


def _after_queued(past: Past, stands: Standing, now: float) -> Iterator[str]:
    retries = sum(isinstance(one, Requeued) and one.reason == "retry" for one in past.details)
    again = f" (retry {retries})" if retries else ""
    if stands.behind is not None:
        yield f"when what is ahead of it has ended, it starts: a turn ends before the next of {past.address} begins"
    elif stands.until is not None and stands.until > now:
        yield f"in {span(stands.until - now)} it is started again{again}"
    else:
        agent = f"agent {past.address.agent_id!r}"
        if past.version:
            agent += f" in version {past.version!r}, under which it began, or in one that adopts it"
        yield f"the runtime that has this store open, or opens it next, starts it{again}, if it was given {agent}"


def _after_the_end(past: Past, now: float) -> Iterator[str]:
    receipt, key = past.receipt, past.inbound.key
    yield "nothing: it is over, and stays as it is"
    if receipt is None or key.startswith(FRESH_KEY):
        yield "it came without a key, so whatever is sent is a new turn"
    elif receipt.retired or receipt.expires_at <= now:
        yield f"its key answers for it no more: what is sent under {key!r} is not answered with this deliverable"
    else:
        left = span(receipt.expires_at - now)
        yield f"the same payload under key {key!r} is answered with this deliverable for another {left}"
    if past.row.state != TurnState.COMPLETED:
        yield f"whether it can be tried anew: turnkeeper replay-plan DB {past.row.turn_id}"


def _from_its_top(rerun: Rerun, doubt: Doubt | None) -> Iterator[str]:
    """Say what the record answers; a step that somebody is asked about is settled by then."""
    in_doubt = [name for name in rerun.in_doubt if doubt is None or name != doubt.step]
    parts = [
        f"{listed(rerun.answered)} answered from the record" if rerun.answered else "",
        f"{listed(rerun.run)} run again" if rerun.run else "",
        f"{listed(rerun.waiting)} waited for still" if rerun.waiting else "",
        f"{listed(in_doubt)} in doubt, so its tool's on_doubt decides (ask, unless it says else)" if in_doubt else "",
    ]
    if any(parts):
        yield f"run from its top: {'; '.join(filter(None, parts))}; whatever is not recorded runs for real"


def _rerun(past: Past) -> Rerun:
    decided = [(str(step.name), _decided(step)) for step in past.steps.values() if not step.open]
    return Rerun(
        answered=[name for name, how in decided if how in {StepDecision.ANSWER, StepDecision.RAISE}],
        run=[name for name, how in decided if how is StepDecision.RUN],
        in_doubt=[name for name, how in decided if how is StepDecision.DOUBT],
        waiting=[str(step.name) for step in past.steps.values() if step.open],
    )


def _decided(step: StepRecord) -> StepDecision:
    return decide(step, Effect(step.effect))
