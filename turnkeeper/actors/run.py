"""One run of a turn: a fresh task for its handler, and what its end means for the turn."""

import asyncio
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.steps import Steps
from turnkeeper.actors.turn import Turn
from turnkeeper.actors.values import decode, encode
from turnkeeper.kernel.edge import (
    EdgeKind,
    Failure,
    Inbound,
    Requeued,
    Suspended,
    decode_detail,
    encode_failure,
)
from turnkeeper.kernel.errors import DeadlineExceeded, Quarantined, StepFailed, TurnNotFound
from turnkeeper.kernel.lifecycle import Change, end, failure_of, requeue, suspend
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.step import Effect, StepRecord, fold_steps, version_of
from turnkeeper.kernel.verdict import Stop, Verdict, causes, judge, worth

__all__ = ["Recorded", "Run", "recorded"]

_INSIST_S = 1.0
"""How often a handler that swallows its cancellation is cancelled again."""


class Run:
    """One run of one turn under a committed lease.

    The handler has a task of its own: its context variables, its cancellation and its scopes are nobody else's,
    and a caller who goes away cannot kill it half-way. `ended` is called once, after the task is over, with the
    change that its end amounts to; None where that is not known here, because the store refused a write.
    """

    __slots__ = ("_address", "_agent", "_ended", "_node", "_steps", "_turn")

    def __init__(
        self,
        node: Node,
        address: Address,
        agent: Agent,
        turn: OpenTurn,
        ended: Callable[[OpenTurn, Change | None], None],
    ) -> None:
        """Prepare a run; nothing happens before `start`."""
        self._node = node
        self._address = address
        self._agent = agent
        self._turn = turn
        self._ended = ended
        self._steps: Steps | None = None

    def start(self) -> None:
        """Start the handler's task and the clock that bounds it."""
        turn = self._turn
        turn.reset()
        turn.started_s = self._node.loop.time()
        turn.task = self._node.loop.create_task(self._work())
        turn.task.add_done_callback(self._done)
        turn.timer = self._node.loop.call_later(self._limit_s, self._expire)

    @property
    def _limit_s(self) -> float:
        return self._node.settings.turn_s if self._agent.turn_s is None else self._agent.turn_s

    async def _work(self) -> None:
        """Run the handler and end the run in the same step, so that its last result and its end share a commit."""
        error: BaseException | None = None
        body = b""
        try:
            body = await self._handle()
        except GeneratorExit:  # the loop is gone, and the run with it; recovery finds the turn
            raise
        except BaseException as raised:  # noqa: BLE001 - every end of a handler is an end of the run; `judge` tells them apart
            error = raised
        if self._steps is not None:
            self._steps.end()
            await self._wait_for_steps(self._steps.beside)
        self._end(error, body)

    async def _wait_for_steps(self, beside: "dict[asyncio.Task[Any], Effect]") -> None:
        """End the steps that the handler left running beside it, as `asyncio.gather` does when one has raised.

        An effect under way is waited for: its result is the turn's, and cut off it would be a doubt. Others are
        cancelled, and so is everything once the run was told to stop.
        """
        while beside:
            for task, effect in beside.items():
                if self._turn.stop is not None or effect is not Effect.EFFECTFUL:
                    task.cancel()
            with suppress(asyncio.CancelledError):  # the reason stands in `stop`
                await asyncio.wait(set(beside))

    async def _handle(self) -> bytes:
        turn = self._turn
        if not turn.loaded:
            record = await recorded(self._node, turn.row.turn_id)
            if record.recoveries > self._node.settings.recoveries_max:
                raise Quarantined(turn.row.turn_id, record.recoveries)
            turn.payload, turn.steps, turn.failures = record.payload, record.steps, record.failures
            turn.loaded = True
            self._agent = self._agent.started_under(turn.row.turn_id, record.version, steps=len(turn.steps))
        self._steps = Steps(self._node, self._address, turn)
        handed = Turn(turn.row, self._address, self._agent, turn.arrival.key, turn.payload, self._steps)
        value = await self._agent.handler(handed)
        what = f"the deliverable of {self._agent.agent_id}"
        body = encode(value, what, self._node.settings.payload_bytes_max)
        decode(body, what)  # what nobody could read is no deliverable
        return body

    def _expire(self) -> None:
        """Stop a run that has gone past its limit, and insist: a handler may not swallow it for ever."""
        self._turn.halt(Stop.DEADLINE)
        self._turn.timer = self._node.loop.call_later(_INSIST_S, self._expire)

    def _done(self, task: "asyncio.Task[None]") -> None:
        """End a run that was cancelled before its first step: then none of its code has run."""
        if self._turn.task is task:
            self._end(asyncio.CancelledError(), b"")

    def _end(self, error: BaseException | None, body: bytes) -> None:
        turn = self._turn
        turn.disarm()
        turn.task = None
        try:
            change = self._concluded(turn.broken or error, body)
        except Exception as broken:  # noqa: BLE001 - an error that cannot be judged must not leave its turn running
            failure = Failure(type(error).__name__, f"could not be judged: {type(broken).__name__}")
            change = end(turn.row, EdgeKind.TURN_FAILED, encode_failure(failure), self._node.clock.time())
        self._ended(turn, change)

    def _concluded(self, error: BaseException | None, body: bytes) -> Change | None:
        """Return the change that the handler's end amounts to."""
        turn, now = self._turn, self._node.clock.time()
        if turn.stop is Stop.DEADLINE and turn.suspension is not None:
            turn.stop = Stop.SUSPEND  # somebody can still say what became of an effect; nobody could of a failed turn
        settings = self._node.settings
        retry = self._agent.retry or settings.retry
        failed = [cause for cause in causes(error) if isinstance(cause, StepFailed)]
        repeatable = all(cause.recoverable for cause in failed) and worth(retry, error)
        verdict = judge(error, turn.stop, failures=turn.failures, retries_max=retry.retries_max, repeatable=repeatable)
        if error is not None and verdict in {Verdict.FAIL, Verdict.RETRY}:
            self._node.log.warning(
                "turn.raised", turn_id=turn.row.turn_id, error=type(error).__name__, at=_place(error)
            )
        match verdict:
            case Verdict.COMPLETE:
                return end(turn.row, EdgeKind.TURN_COMPLETED, body, now)
            case Verdict.FAIL:
                if turn.stop is Stop.DEADLINE or error is None:
                    error = DeadlineExceeded(turn.row.turn_id, self._limit_s)
                return end(turn.row, EdgeKind.TURN_FAILED, encode_failure(self._failure(error)), now)
            case Verdict.RETRY if error is not None:
                turn.failures += 1
                self._node.counters.retried += 1
                pause_s = retry.pause_s(turn.failures, self._node.chance.random())
                forgotten = [*(cause.step for cause in failed), *turn.uncalled]
                why = Requeued("retry", now + pause_s, self._failure(error), forgotten)
                return requeue(turn.row, why, now)
            case Verdict.YIELD:
                return requeue(turn.row, Requeued("shutdown", forgotten=[*turn.uncalled]), now)
            case Verdict.SUSPEND if turn.suspension is not None:
                wait = msgspec.structs.replace(turn.suspension, forgotten=[*turn.uncalled])
                return suspend(turn.row, wait, now)
            case _:
                return None

    def _failure(self, error: BaseException) -> Failure:
        """Return what is recorded of an error: equal places in the code have equal digests."""
        frames = traceback.extract_tb(error.__traceback__)
        places = "\n".join(f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in frames)
        digest = blake2b(places.encode(errors="replace"), digest_size=8).hexdigest()
        return failure_of(error, digest)


def _place(error: BaseException) -> str:
    """Return where an error was raised: its message may hold what belongs into no log, its place does not."""
    raised = error.__cause__ if isinstance(error, StepFailed) and error.__cause__ is not None else error
    frames = traceback.extract_tb(raised.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


class Recorded(NamedTuple):
    """What the store has of a turn that is to run again."""

    payload: bytes
    steps: dict[StepName, StepRecord]
    failures: int
    recoveries: int
    suspension: Suspended | None
    version: str


async def recorded(node: Node, turn_id: int) -> Recorded:
    """Read a turn's payload and record from the store: what a rerun is answered from, and what it stands on.

    Raises:
        StorageFailed: the store cannot be read.
        TurnNotFound: it holds no such turn.
    """
    edges = await node.store.edges(turn_id)
    details = [decode_detail(edge) for edge in edges]
    if not details or not isinstance(details[0], Inbound):
        raise TurnNotFound(turn_id)
    reasons = [detail.reason for detail in details if isinstance(detail, Requeued)]
    return Recorded(
        payload=bytes(details[0].payload),
        steps=fold_steps(edges),
        failures=reasons.count("retry"),
        recoveries=reasons.count("recovery"),
        suspension=next((detail for detail in reversed(details) if isinstance(detail, Suspended)), None),
        version=version_of(details),
    )
