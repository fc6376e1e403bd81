"""Asks: what a handler can wait for without holding anything: time, people, signals, other agents' turns."""

import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, NoReturn

import msgspec

from turnkeeper.actors.asked import Asked
from turnkeeper.actors.steps import Steps
from turnkeeper.actors.values import decode
from turnkeeper.kernel.address import check_name
from turnkeeper.kernel.edge import Answer, Failure
from turnkeeper.kernel.errors import ApprovalDenied, ContractViolation, TurnUnsuccessful, WaitExpired
from turnkeeper.kernel.wait import Approval, AtDeadline, Outcome

__all__ = ["Asks"]

_failures: Final = msgspec.msgpack.Decoder(Failure)


class Asks:
    """The waits of a turn.

    Each is a recorded step, issued where it is called and awaited where it is awaited: side by side in `turn.gather`,
    or one after another. Once the run does nothing else its turn is suspended, which costs rows and no memory, and its
    handler runs again from its top when an answer comes: so what it does between steps may be done more than once, and
    what it awaits beside a wait should be a step. An answer that comes early is kept. None of them may be asked for
    within a step. A wait is the n-th of its kind in its turn; where branches of your own may ask in another order, give
    it a `key`, as a tool with `keyed`.
    """

    __slots__ = ("_asked", "_steps")

    _steps: Steps
    _asked: Asked

    def sleep(self, duration_s: float, *, key: str | None = None) -> Coroutine[Any, Any, None]:
        """Wait until so many seconds from its first call are over, across restarts.

        Raises:
            ContractViolation: the duration is negative, or no number.
        """
        _check_time("turn.sleep", duration_s)
        call = self._steps.issue_wait("turn.sleep", {"duration_s": duration_s}, key)

        async def slept() -> None:
            await self._asked.until(call, duration_s)

        return slept()

    def signal(self, name: str, *, timeout_s: float | None = None, key: str | None = None) -> Coroutine[Any, Any, Any]:
        """Wait for the next signal of a name to this session and agent (`Runtime.signal`), and return what it brings.

        One that came before is taken at once, the oldest first. Each is given to one wait.

        Args:
            name: of the signal.
            timeout_s: how long; None means the setting `wait_s`.
            key: of this wait, in place of its number.

        Raises:
            WaitExpired: none came in time.
            InvalidName: that is no signal's name.
        """
        check_name("the signal's name", name)
        limit_s = self._limit("turn.signal", timeout_s)
        call = self._steps.issue_wait("turn.signal", {"name": name, "timeout_s": timeout_s}, key)

        async def signalled() -> Any:
            answer = await self._asked.signal(call, name, limit_s)
            _check_expired(answer, f"signal {name!r}", limit_s)
            return decode(bytes(answer.body), f"signal {name!r}")

        return signalled()

    def approval(  # noqa: PLR0913 - each is said by its name
        self,
        what: str,
        subject: Any = None,
        *,
        who: Sequence[str] = (),
        timeout_s: float | None = None,
        at_deadline: AtDeadline | str = AtDeadline.DENY,
        next_who: Sequence[str] = (),
        key: str | None = None,
    ) -> Coroutine[Any, Any, Approval]:
        """Wait until somebody approves, and return who did, and why.

        What they approve is exactly this subject as it is at this call: its digest is theirs to compare, and
        `tool.approved(approval)` calls the tool with nothing else. A rerun that asks for another subject is refused
        (`ReplayDivergence`).

        Args:
            what: is to be done, in words.
            subject: all that the decision depends on; `tool.proposed(...)` for a call.
            who: may answer; empty for everybody.
            timeout_s: how long; None means the setting `approval_s`.
            at_deadline: what no answer comes to: `deny`, `fail`, or `escalate`: then `next_who` are asked, for as long
                again, and no answer of theirs denies it.
            next_who: see there.
            key: of this wait, in place of its number.

        Raises:
            ApprovalDenied: somebody said no, or nobody answered and that counts as no.
            WaitExpired: nobody answered, and `at_deadline` is `fail`.
            ContractViolation, InvalidName: an argument is none of those.
        """
        limit_s = self._limit("turn.approval", timeout_s, self._asked.settings.approval_s)
        if at_deadline not in set(AtDeadline):
            said = f"at_deadline must be one of {', '.join(AtDeadline)}, not {at_deadline!r}"
            raise ContractViolation("turn.approval", said)
        if not isinstance(what, str):
            raise ContractViolation("turn.approval", f"what must be text, not {type(what).__name__}")
        people, next_people = _people(who), _people(next_who)
        asked = {"what": what, "subject": subject, "who": people, "timeout_s": timeout_s}
        call = self._steps.issue_wait("turn.approval", asked, key)
        escalates = at_deadline == AtDeadline.ESCALATE  # its place is given here: at the deadline others may come first
        next_asked, next_key = asked | {"who": next_people}, None if key is None else f"{key}, next"
        following = self._steps.issue_wait("turn.approval", next_asked, next_key) if escalates else None

        async def decided() -> Approval:
            answer, digest = await self._asked.approval(call, people, limit_s)
            if answer.outcome == Outcome.EXPIRED and following is not None:
                answer, digest = await self._asked.approval(following, next_people, limit_s)
            elif at_deadline == AtDeadline.FAIL:
                _check_expired(answer, f"approval of {what!r}", limit_s)
            if answer.outcome != Outcome.APPROVED:
                reason = answer.reason if answer.outcome == Outcome.DENIED else "nobody answered in time"
                raise ApprovalDenied(what, answer.by, reason)
            return Approval(by=answer.by, reason=answer.reason, at=answer.at, digest=digest.hex())

        return decided()

    def escalate(
        self,
        *,
        reason: str,
        summary: str,
        goal: str,
        who: Sequence[str] = (),
        timeout_s: float | None = None,
        key: str | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Hand the matter to people, and return what they answer (`Runtime.answer`).

        Args:
            reason: why.
            summary: of what has happened so far.
            goal: what they are to bring about.
            who: may answer; empty for everybody.
            timeout_s: how long; None means the setting `approval_s`.
            key: of this wait, in place of its number.

        Raises:
            HandoffRefused: the packet lacks something.
            WaitExpired: nobody answered in time.
            ContractViolation, InvalidName: `who` is no list of names.
        """
        limit_s = self._limit("turn.escalate", timeout_s, self._asked.settings.approval_s)
        packet, people = {"reason": reason, "summary": summary, "goal": goal}, _people(who)
        call = self._steps.issue_wait("turn.escalate", packet | {"who": people}, key)

        async def resolved() -> Any:
            answer = await self._asked.escalation(call, packet, people, limit_s)
            _check_expired(answer, "the escalation", limit_s)
            return decode(bytes(answer.body), "the answer")

        return resolved()

    def ask(
        self,
        agent_id: str,
        payload: Any = None,
        *,
        session_id: str | None = None,
        timeout_s: float | None = None,
        key: str | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Let another agent have a turn, and return its deliverable's value.

        The child turn is accepted once, in one commit with this turn's record of it, whatever crashes. Cancelling the
        wait, its deadline, and the end of this turn cancel the child.

        Args:
            agent_id: whose turn; it queues there, whatever the agent's policy for arrivals is.
            payload: its input.
            session_id: in which session; None means this one.
            timeout_s: how long to wait; None means the setting `wait_s`.
            key: of this wait, in place of its number.

        Raises:
            TurnUnsuccessful: the child failed, or was cancelled.
            WaitExpired: it did not end in time.
            Deadlock: the agent waits, over however many others, for this one.
            RecursionDepthExceeded, FanOutExceeded, MailboxFull, UnknownAgent, PayloadTooLarge: nothing was sent.
        """
        limit_s = self._limit("turn.ask", timeout_s)
        to = self._asked.address_of(agent_id, session_id)
        call = self._steps.issue_wait("turn.ask", {"to": [*to], "payload": payload, "timeout_s": timeout_s}, key)

        async def answered() -> Any:
            answer, child_id = await self._asked.child(call, to, limit_s)
            _check_expired(answer, f"turn {child_id} of {to}", limit_s)
            if answer.outcome != Outcome.COMPLETED:
                failure = _failures.decode(answer.body)
                raise TurnUnsuccessful(child_id, answer.outcome, f"{failure.type}: {failure.message}")
            return decode(bytes(answer.body), "the child's deliverable")

        return answered()

    def handoff(
        self, agent_id: str, *, reason: str, summary: str, goal: str, timeout_s: float | None = None
    ) -> Coroutine[Any, Any, NoReturn]:
        """Hand this turn to another agent of the session: what that one delivers is this turn's deliverable.

        Whoever asked this turn does not see that. The other agent's input is the packet, with `from` (this agent) and
        `input` (this turn's). The handler does not go on behind it.

        Raises:
            HandoffRefused: the packet lacks something, it is the same agent, or the session's limits are reached.
            Deadlock: the agent waits, over however many others, for this one: a loop of handoffs.
            WaitExpired: it did not end in time.
        """
        limit_s = self._limit("turn.handoff", timeout_s)
        packet = {"reason": reason, "summary": summary, "goal": goal}
        call = self._steps.issue_wait("turn.handoff", packet | {"to": agent_id}, None)

        async def handed() -> NoReturn:
            await self._asked.handoff(call, agent_id, packet, limit_s)
            raise WaitExpired(f"the handoff to {agent_id}", limit_s)

        return handed()

    def _limit(self, what: str, timeout_s: float | None, usual_s: float | None = None) -> float:
        if timeout_s is None:
            return self._asked.settings.wait_s if usual_s is None else usual_s
        _check_time(what, timeout_s)
        return timeout_s


def _check_time(what: str, seconds: float) -> None:
    if not (isinstance(seconds, int | float) and 0 <= seconds <= sys.float_info.max):  # an int may be larger than that
        raise ContractViolation(what, f"a time must be zero or more seconds, and finite; got {seconds!r}")


def _people(who: Sequence[str]) -> list[str]:
    if isinstance(who, str) or not isinstance(who, Iterable):
        raise ContractViolation("who", f"must be a list of names, not {who!r}")
    people = [*who]
    for name in people:
        check_name("who", name)
    return people


def _check_expired(answer: Answer, what: str, limit_s: float) -> None:
    if answer.outcome == Outcome.EXPIRED:
        raise WaitExpired(what, limit_s)
