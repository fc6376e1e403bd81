"""One run of a turn: a fresh task for its handler, and what its end means for the turn."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.asked import Asked
from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.places import digest, raised_at, stands_at
from turnkeeper.actors.state import RunState
from turnkeeper.actors.steering import Steering
from turnkeeper.actors.steps import Steps
from turnkeeper.actors.turn import Turn
from turnkeeper.actors.values import decode, encode
from turnkeeper.actors.watch import Watch
from turnkeeper.kernel.edge import (
    Edge,
    EdgeKind,
    Failure,
    Inbound,
    PolicyResolved,
    Requeued,
    Suspended,
    Wait,
    decode_detail,
    encode_failure,
)
from turnkeeper.kernel.ending import HANDED_OVER, cancelled, is_request
from turnkeeper.kernel.errors import (
    ContractViolation,
    DeadlineExceeded,
    PayloadTooLarge,
    Quarantined,
    StepFailed,
    TurnNotFound,
)
from turnkeeper.kernel.lifecycle import Change, end, failure_of, requeue, suspend
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.retry import Retry
from turnkeeper.kernel.step import Effect, StepRecord, fold_steps, version_of
from turnkeeper.kernel.supervision.storm import is_fruitless
from turnkeeper.kernel.turn import TurnState, ran_s
from turnkeeper.kernel.verdict import Stop, Verdict, causes, judge, worth
from turnkeeper.kernel.wait import OpenWait

__all__ = ["Recorded", "Run", "recorded"]

_RAISED = frozenset({Verdict.FAIL, Verdict.RETRY, Verdict.RECOVER})
"""Verdicts on what a handler raised."""

_TAKEN_BACK = ("recovery", "stuck")
"""Why a turn was requeued whose run was cut off; `recoveries_max` is of these."""


class Run:
    """One run of one turn under a committed lease.

    The handler has a task of its own: its context variables, its cancellation and its scopes are nobody else's,
    and a caller who goes away cannot kill it half-way. `ended` is called once, when the run is over, with the
    change that its end amounts to; None where that is not known here, because the store refused a write.

    The run is over when its task is, but for a handler that would not stop (`give_up`): its turn is taken from it, and
    the actor goes on. What the promise of one turn at a time is about, steps and all that is written, that task can do
    no more: its journal is closed. Code of its own may still run in it.
    """

    __slots__ = ("_address", "_agent", "_ended", "_node", "_over", "_state", "_steps", "_turn", "_watch")

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
        self._state: RunState | None = None
        self._watch: Watch | None = None
        self._over = False

    def start(self) -> None:
        """Start the handler's task and the watch that bounds it."""
        turn = self._turn
        turn.reset()
        turn.storm = self._node.storms[self._agent.agent_id]
        turn.started_s = turn.progress_s = self._node.loop.time()
        turn.task = self._node.loop.create_task(self._work())
        turn.task.add_done_callback(self._done)
        idle_s = self._node.settings.idle_s if self._agent.idle_s is None else self._agent.idle_s
        self._watch = Watch(self._node, turn, self._limit_s, idle_s, self.give_up)
        self._watch.begin()
        turn.run = self
        turn.settled()

    def has(self, task: "asyncio.Task[Any]") -> bool:
        """Say whether a task is the run's: its handler's own, or one in which a step of it runs."""
        return task is self._turn.task or (self._steps is not None and task in self._steps.beside)

    def insist(self) -> None:
        """See to it that a run that was told to stop does, or is given up."""
        if self._watch is not None:
            self._watch.insist()

    def wind_up(self) -> None:
        """End the run at its next safe point: somebody wants the turn to end."""
        if self._steps is None:
            self._turn.halt(Stop.CANCEL)
        else:
            self._node.start(self._steps.wind_up())

    def give_up(self) -> None:
        """Take the turn from a handler that would not stop: the run is over for it, whatever its task still does.

        Effects under way in it are doubts, as after a crash.
        """
        turn, task = self._turn, self._turn.task
        if self._over or task is None:
            return
        beside = [*self._steps.beside] if self._steps is not None else []
        address, why, at = str(self._address), str(turn.stop), [stands_at(deaf) for deaf in (task, *beside)]
        self._node.log.error(
            "turn.would_not_stop", turn_id=turn.row.turn_id, address=address, why=why, at=" | ".join(at)
        )
        for deaf in (*beside, task):
            self._node.let_go(deaf)
        if self._steps is not None:
            self._steps.abandon()
        self._end(asyncio.CancelledError(), b"")

    @property
    def _retry(self) -> Retry:
        return self._agent.retry or self._node.retry

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
            turn.request = turn.request or record.request
            turn.read(record.edges)
            if record.recoveries > self._node.settings.recoveries_max:
                raise Quarantined(turn.row.turn_id, record.recoveries)
            turn.payload, turn.steps = record.payload, record.steps
            turn.failures, turn.recoveries, turn.chain = record.failures, record.recoveries, record.chain
            turn.open_waits = {step.issued: step for step in record.steps.values() if step.open}
            waits = [step.wait for step in turn.open_waits.values() if step.wait is not None]
            turn.children = {wait.child_id: Address(*wait.to) for wait in waits if wait.child_id is not None}
            turn.loaded = True
            turn.settled()
            if record.ran_s and self._watch is not None and turn.stop is None:
                self._watch.shorten(record.ran_s)
            self._agent = self._agent.started_under(turn.row.turn_id, record.version, steps=len(turn.steps))
        if turn.request is not None:
            turn.stop = Stop.CANCEL
            raise asyncio.CancelledError
        self._steps = Steps(self._node, self._address, turn)
        self._steps.waits.drop_given_up()
        bytes_max = self._node.settings.payload_bytes_max
        steering = Steering(turn, bytes_max)
        if self._agent.state is not None:
            row = await self._node.store.state(turn.row.actor_id)
            self._state = RunState(self._agent.state, row, bytes_max)
        arrived = turn.arrival.key, turn.payload
        asked = Asked(self._node, self._address, turn, self._steps, turn.chain)
        handed = Turn(turn.row, self._address, self._agent, *arrived, asked, steering=steering, state=self._state)
        value = await self._agent.handle(self._node, handed)
        what = f"the deliverable of {self._agent.agent_id}"
        body = encode(value, what, bytes_max)
        decode(body, what)  # what nobody could read is no deliverable
        if self._state is not None:
            self._state.close()
        return body

    def _done(self, task: "asyncio.Task[None]") -> None:
        """End a run that was cancelled before its first step: then none of its code has run."""
        if self._turn.task is task:
            self._end(asyncio.CancelledError(), b"")

    def _end(self, error: BaseException | None, body: bytes) -> None:
        if self._over:  # it was given up
            return
        self._over = True
        if self._steps is not None:
            self._steps.close()
        turn = self._turn
        turn.disarm()
        turn.task = turn.run = None
        try:
            change = self._concluded(turn.broken or error, body)
        except Exception as broken:  # noqa: BLE001 - an error that cannot be judged must not leave its turn running
            failure = Failure(type(error).__name__, f"could not be judged: {type(broken).__name__}")
            change = end(turn.row, EdgeKind.TURN_FAILED, encode_failure(failure), self._node.clock.time())
        self._ended(turn, change)

    def _concluded(self, error: BaseException | None, body: bytes) -> Change | None:
        """Return the change that the handler's end amounts to."""
        verdict = self._judged(error)
        self._weather(verdict, error)
        if error is not None and self._turn.stop is not Stop.STUCK and verdict in _RAISED:
            self._node.log.warning(
                "turn.raised", turn_id=self._turn.row.turn_id, error=type(error).__name__, at=raised_at(error)
            )
        return self._change(verdict, error, body)

    def _judged(self, error: BaseException | None) -> Verdict:
        """Return what becomes of the turn. A wait, and a wish that it end, outlast whatever its run came to."""
        turn = self._turn
        if turn.stop in {Stop.DEADLINE, Stop.STUCK} and turn.suspension is not None:
            turn.stop = Stop.SUSPEND  # somebody can still say what became of an effect; nobody could of a failed turn
        if turn.request is not None and turn.stop is not Stop.SHUTDOWN:
            turn.stop = Stop.CANCEL  # it is on record: after a crash the same record would come to that
        if error is None and turn.stop is None:
            return Verdict.COMPLETE
        retry = self._retry
        repeatable = all(cause.recoverable for cause in _failed_steps(error)) and worth(retry, error)
        return judge(error, turn.stop, failures=turn.failures, retries_max=retry.retries_max, repeatable=repeatable)

    def _change(  # noqa: PLR0911 - one for each verdict
        self, verdict: Verdict, error: BaseException | None, body: bytes
    ) -> Change | None:
        turn, now = self._turn, self._node.clock.time()
        match verdict:
            case Verdict.COMPLETE:
                return self._finished(EdgeKind.TURN_COMPLETED, body, now)
            case Verdict.FAIL:
                if turn.stop is Stop.DEADLINE or error is None:
                    error = DeadlineExceeded(turn.row.turn_id, self._limit_s)
                return end(turn.row, EdgeKind.TURN_FAILED, encode_failure(self._failure(error)), now)
            case Verdict.RETRY if error is not None:
                return requeue(turn.row, self._again(error), now)
            case Verdict.RECOVER:
                return requeue(turn.row, self._taken_back(error), now)
            case Verdict.YIELD:
                return requeue(turn.row, Requeued("shutdown", forgotten=[*turn.uncalled]), now)
            case Verdict.SUSPEND if turn.suspension is not None:
                return self._suspended(turn.suspension, now)
            case Verdict.CANCEL if turn.request is not None:
                return cancelled(turn.row, turn.request, turn.dropped, now)
            case Verdict.HAND_OVER if turn.handed is not None:
                return self._finished(HANDED_OVER[turn.handed.outcome], bytes(turn.handed.body), now)
            case _:
                return None

    def _finished(self, kind: EdgeKind, body: bytes, now: float) -> Change:
        """End the turn; if it completes, with what its agent remembers from now on."""
        row = self._turn.row
        change = end(row, kind, body, now)
        if self._state is not None and change.row.state is TurnState.COMPLETED:
            try:
                change.records.extend(self._state.records(change.row, now))
            except (ContractViolation, PayloadTooLarge) as error:  # its handler was cut off, and has not returned
                return end(row, EdgeKind.TURN_FAILED, encode_failure(self._failure(error)), now)
        return change

    def _suspended(self, suspension: Suspended, now: float) -> Change:
        """Let the turn stand on all of its waits that have no answer, and on its doubt, if it has one."""
        turn = self._turn
        turn.stands = [
            OpenWait(step.issued, step.wait.kind, step.wait.due_at, step.wait.child_id, _at(step.wait))
            for step in turn.open_waits.values()
            if step.wait is not None
        ]
        if turn.doubt is not None:
            turn.stands.append(turn.doubt)
        if not turn.stands or (turn.roused and turn.doubt is None):  # it was answered while it was being stopped
            return requeue(turn.row, Requeued("resolved", forgotten=[*turn.uncalled]), now)
        due_at = min(wait.due_at for wait in turn.stands)
        wait = msgspec.structs.replace(suspension, due_at=due_at, forgotten=[*turn.uncalled])
        return suspend(turn.row, wait, now, turn.stands)

    def _weather(self, verdict: Verdict, error: BaseException | None) -> None:
        """Tell the agent's storm guard how a run has ended. A paused agent's ends tell nothing new."""
        turn, node, agent_id = self._turn, self._node, self._agent.agent_id
        if verdict is Verdict.COMPLETE:
            turn.storm.get_on()
            return
        counts = turn.fruitless and is_fruitless(verdict, error, turn.stop) and agent_id not in node.resting
        if counts and turn.storm.end(node.settings, turn.row.turn_id, node.loop.time()):
            node.on_storm(agent_id, str(turn.stop or type(error).__name__))

    def _again(self, error: BaseException) -> Requeued:
        """Return why a turn that raised runs again, after a backoff; the steps that it failed of are run anew."""
        turn, node = self._turn, self._node
        turn.failures += 1
        node.counters.retried += 1
        due_at = node.clock.time() + self._retry.pause_s(turn.failures, node.chance.random())
        failed = [cause.step for cause in _failed_steps(error)]
        return Requeued("retry", due_at, self._failure(error), [*failed, *turn.uncalled])

    def _taken_back(self, error: BaseException | None) -> Requeued:
        """Return why a turn runs again whose run was cut off: at once, and with a backoff if it was so before."""
        turn, node = self._turn, self._node
        node.counters.recovered += 1
        due_at = None
        if turn.recoveries:
            due_at = node.clock.time() + node.settings.backoff_s(turn.recoveries, node.chance.random())
        if turn.stop is Stop.STUCK or error is None:
            return Requeued("stuck", due_at, forgotten=[*turn.uncalled])
        return Requeued("recovery", due_at, self._failure(error), [*turn.uncalled])

    def _failure(self, error: BaseException) -> Failure:
        """Return what is recorded of an error: equal places in the code have equal digests."""
        return failure_of(error, digest(error))


class Recorded(NamedTuple):
    """What the store has of a turn that is to run again."""

    payload: bytes
    steps: dict[StepName, StepRecord]
    failures: int
    recoveries: int
    suspension: Suspended | None
    version: str
    chain: list[int]
    request: PolicyResolved | None
    ran_s: float
    edges: list[Edge]


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
        recoveries=sum(reason in _TAKEN_BACK for reason in reasons),
        suspension=next((detail for detail in reversed(details) if isinstance(detail, Suspended)), None),
        version=version_of(details),
        chain=details[0].chain,
        request=next((detail for detail in details if is_request(detail)), None),
        ran_s=ran_s(edges),
        edges=edges,
    )


def _failed_steps(error: BaseException | None) -> list[StepFailed]:
    return [cause for cause in causes(error) if isinstance(cause, StepFailed)]


def _at(wait: Wait) -> Address | None:
    return Address(*wait.to) if wait.to else None
