"""Answering: what people, clients and programs tell turns that wait, and how they end turns."""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from turnkeeper.actors.children import check_not_within
from turnkeeper.actors.node import Node
from turnkeeper.actors.nudges import cancel_turn
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.receipt import Result, result_of
from turnkeeper.actors.values import encode
from turnkeeper.kernel.address import address, check_key, check_name, check_said, check_session
from turnkeeper.kernel.edge import NOTHING, Answer, PolicyResolved
from turnkeeper.kernel.errors import ContractViolation, TurnNotFound, WaitTokenInvalid
from turnkeeper.kernel.lookback.asking import QUESTIONS_MAX, Question, place_of, questions
from turnkeeper.kernel.step import StepRecord
from turnkeeper.kernel.turn import TurnState
from turnkeeper.kernel.wait import HUMAN, Outcome, WaitKind
from turnkeeper.supervisors.reception import Reception

__all__ = ["Answering"]


class _Said(NamedTuple):
    """What somebody says: who, why, with what, and what they have looked at."""

    by: str
    reason: str
    body: msgspec.Raw = NOTHING
    digest: str | None = None


class Answering(ABC):
    """What is told to turns from outside. Each call returns once it is durable, and can be sent again.

    The agents concerned need not be among those the runtime was given: their turns go on in one that has them.
    """

    _reception: Reception

    @abstractmethod
    def _open_node(self) -> Node:
        """Return the node; raise what says why there is none."""

    async def approvals(
        self,
        *,
        session_id: str | None = None,
        tenant: str | None = "",
        after: str = "",
        limit: int = QUESTIONS_MAX,
    ) -> list[Question]:
        """Return what people can answer now, approvals and escalations, in the order of acceptance of their turns.

        Args:
            session_id: only what turns of this session ask; None means of all the tenant's sessions.
            tenant: whose turns; "" is a tenant as well. None means everybody's: a token is all it takes to answer, so
                show none of another tenant to a client.
            after: the token of the last question of the page before, which may have been answered meanwhile.
            limit: at most so many.

        Raises:
            ContractViolation: `after` is no token, or `limit` no number.
            InvalidName: that is nobody's session.
            ShuttingDown, StorageFailed: they cannot be read.
        """
        node = self._open_node()
        current = [agent.current for agent in self._reception.agents()]
        running = [turn.row.turn_id for turn in current if turn is not None and _may_ask(turn)]
        now = node.clock.time()
        return await node.store.look(
            lambda rows: questions(
                rows, now, running=running, tenant=tenant, session_id=session_id, after=after, limit=limit
            )
        )

    async def approve(self, token: str, *, by: str, reason: str = "", digest: str | None = None) -> None:
        """Approve what a turn asks about. Applied once; whoever comes second, or too late, is refused.

        Args:
            token: of the approval (`approvals` lists them).
            by: who approves; one of those who may, where the turn says who that is.
            reason: why, for the record.
            digest: of what was looked at (`Question.digest`); where given, it must be that of what is being asked.

        Raises:
            WaitTokenInvalid: the token is missing, wrong, used or late, the digest is another, or they may not say it.
            ContractViolation: who says it, or why, is no text, or longer than 1,000 bytes.
        """
        await self._tell(token, WaitKind.APPROVAL, Outcome.APPROVED, _Said(by, reason, digest=digest))

    async def deny(self, token: str, *, by: str, reason: str = "") -> None:
        """Say no to what a turn asks about: `turn.approval` raises `ApprovalDenied` there.

        Raises:
            WaitTokenInvalid: as `approve`.
        """
        await self._tell(token, WaitKind.APPROVAL, Outcome.DENIED, _Said(by, reason))

    async def answer(self, token: str, value: Any, *, by: str, reason: str = "") -> None:
        """Answer an escalation: `turn.escalate` returns the value.

        Raises:
            WaitTokenInvalid: as `approve`.
            ContractViolation, PayloadTooLarge: the value cannot be stored.
        """
        body = encode(value, "the answer", self._open_node().settings.payload_bytes_max)
        await self._tell(token, WaitKind.ESCALATION, Outcome.ANSWERED, _Said(by, reason, msgspec.Raw(body)))

    async def _tell(self, token: str, kind: WaitKind, outcome: Outcome, said: _Said) -> None:
        node = self._open_node()
        check_said("by", said.by)
        check_said("reason", said.reason)
        if said.digest is not None:
            check_said("digest", said.digest)
        turn_id, issued = place_of(token) or (0, -1)
        if issued < 0:
            raise WaitTokenInvalid(turn_id, "the token is missing, or is none")

        def asked(steps: Collection[StepRecord]) -> StepRecord | None:
            of_kind = (step for step in steps if step.wait is not None and step.wait.kind == kind)
            return next((step for step in of_kind if step.issued == issued), None)

        def answer(step: StepRecord) -> Answer:
            now = node.clock.time()
            _check(turn_id, step, token, said, now)
            return Answer(outcome, now, said.by, said.reason, said.body)

        to = await node.store.waiting.address_of(turn_id)
        if to is None:
            raise WaitTokenInvalid(turn_id, "there is no such turn")
        async with node.hold(to, unserved=True) as agent:
            if not await agent.answer(turn_id, asked, answer):
                raise WaitTokenInvalid(turn_id, f"it does not stand on such an {kind}: it was answered, or is over")

    async def signal(
        self,
        session_id: str,
        agent_id: str,
        name: str,
        payload: Any = None,
        *,
        key: str | None = None,
        tenant: str = "",
    ) -> bool:
        """Send a named signal to an actor; say whether it is new. One that nobody waits for yet is kept until then.

        Idempotent under `key` within the actor: the same key with the same name and payload is answered, not sent.

        Raises:
            IdempotencyConflict: the key stands for another signal.
            MailboxFull: `signals_max` signals of the actor wait.
            ContractViolation, PayloadTooLarge, InvalidName, UnknownAgent: it cannot be accepted.
        """
        node = self._open_node()
        to = address(tenant, session_id, agent_id)
        check_name("the signal's name", name)
        if key is not None:
            check_key(key)
        body = encode(payload, f"the signal {name!r}", node.settings.payload_bytes_max)

        async def send() -> bool:
            async with node.hold(to, unserved=True) as agent:
                return await agent.signal(name, body, key)

        return await node.see_through(send())

    async def cancel(self, turn_id: int, *, by: str = "", reason: str = "") -> Result:
        """End a turn as cancelled, the turns it waits for first; return its deliverable, once that is durable.

        Legal wherever the turn stands. One that runs ends at its next safe point: no step starts any more, those that
        have an intent are waited for, others are cut. One that has ended stays as it is, and is returned. A wish that
        is on record is kept: also a turn whose handler comes to its own end meanwhile ends as cancelled.

        Raises:
            TurnNotFound: there is no such turn.
            Deadlock: it is asked for within a step that has an intent, of that very turn or of one below it: each
                would wait for the other. Nothing was done; its handler may, behind the step.
            ContractViolation: who says it, or why, is no text, or longer than 1,000 bytes; or `turn_id` no number.
            StorageFailed: it may go on.
        """
        node = self._open_node()
        check_said("by", by)
        check_said("reason", reason)
        if not isinstance(turn_id, int):
            raise ContractViolation("turn_id", f"must be a number, not {type(turn_id).__name__}")
        await check_not_within(node, [turn_id])
        await cancel_turn(node, turn_id, PolicyResolved("turn", "", "cancel", by=by, reason=reason))
        found = await node.store.deliverable(turn_id)
        if found is None:
            raise TurnNotFound(turn_id)
        return result_of(found)

    async def cancel_session(
        self, session_id: str, *, tenant: str = "", by: str = "", reason: str = ""
    ) -> list[Result]:
        """Cancel every live turn of a session, the latest first, so that none of them starts meanwhile.

        Messages that arrive meanwhile are accepted, and live on.

        Raises:
            InvalidName: that is nobody's session.
            TurnkeeperError: as `cancel`; some may have been cancelled then.
        """
        check_session(tenant, session_id)
        check_said("by", by)
        check_said("reason", reason)
        node = self._open_node()
        live = await node.store.waiting.live_turns_in(tenant, session_id)
        await check_not_within(node, live)
        return [await self.cancel(turn_id, by=by, reason=reason) for turn_id in reversed(live)]


def _may_ask(turn: OpenTurn) -> bool:
    """Say whether a turn that the store does not have as suspended may ask people."""
    if turn.row.state is TurnState.SUSPENDED and not turn.moving:
        return False
    if not turn.loaded:  # it goes on after a wait
        return turn.row.state is TurnState.RUNNING
    return any(step.wait is not None and step.wait.kind in HUMAN for step in turn.open_waits.values())


def _check(turn_id: int, step: StepRecord, token: str, said: _Said, now: float) -> None:
    wait = step.wait
    if wait is None or not hmac.compare_digest(wait.token.encode(), token.encode(errors="replace")):
        raise WaitTokenInvalid(turn_id, "the token is not its own")
    if now >= wait.due_at:
        raise WaitTokenInvalid(turn_id, "its time is over")
    if wait.who and said.by not in wait.who:
        raise WaitTokenInvalid(turn_id, f"{said.by!r} is none of those who may answer it")
    if said.digest is not None and said.digest != wait.digest.hex():
        raise WaitTokenInvalid(turn_id, "what was looked at is not what it asks about")
