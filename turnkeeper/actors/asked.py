"""Asked: how a run asks time, people, signals and other agents for what its turn waits for."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import msgspec

from turnkeeper.actors.children import check_no_cycle
from turnkeeper.actors.journal import Call
from turnkeeper.actors.node import Node
from turnkeeper.actors.nudges import drop_child
from turnkeeper.actors.openturn import Child, OpenTurn, Parent
from turnkeeper.actors.steps import Steps
from turnkeeper.actors.values import encode
from turnkeeper.kernel.address import address
from turnkeeper.kernel.edge import NOTHING, Answer, Packet, Wait
from turnkeeper.kernel.errors import FanOutExceeded, HandoffRefused, RecursionDepthExceeded
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import HandedOff, Record
from turnkeeper.kernel.settings import Settings
from turnkeeper.kernel.step import StepRecord, StepStatus
from turnkeeper.kernel.verdict import Stop
from turnkeeper.kernel.wait import Outcome, WaitKind

__all__ = ["Asked"]


class Asked:
    """Opens the waits of one run. What it returns is what the record holds: the same in every run."""

    __slots__ = ("_address", "_chain", "_journal", "_node", "_turn", "steps")

    def __init__(self, node: Node, at: Address, turn: OpenTurn, steps: Steps, chain: Sequence[int]) -> None:
        """Ask for the run that begins now; `chain` are the turns that its turn descends from."""
        self._node = node
        self._address = at
        self._turn = turn
        self.steps = steps
        self._journal = steps.journal
        self._chain = [*chain, turn.row.turn_id]

    @property
    def settings(self) -> Settings:
        """Return the limits and durations of the runtime."""
        return self._node.settings

    def address_of(self, agent_id: str, session_id: str | None) -> Address:
        """Return where an agent of this session, or of another one of this tenant, is.

        Raises:
            InvalidName: it cannot be an address.
        """
        return address(self._address.tenant, session_id or self._address.session_id, agent_id)

    def _wait(self, kind: WaitKind, limit_s: float, **said: Any) -> Wait:
        return Wait(kind._value_, self._node.clock.time() + limit_s, **said)

    def has_answer(self, call: Call | Exception) -> bool:
        """Say whether a wait has its answer on record."""
        known = self._turn.steps.get(call.name) if isinstance(call, Call) else None
        return known is not None and known.status is StepStatus.SUCCEEDED

    async def until(self, call: Call | Exception, duration_s: float) -> Answer:
        """Wait for a moment."""

        async def opening(issued: Call) -> StepRecord:
            return self._journal.opened(issued, self._wait(WaitKind.TIMER, duration_s))

        return await self.steps.waits.stand(call, opening)

    async def approval(self, call: Call | Exception, who: Sequence[str], limit_s: float) -> tuple[Answer, bytes]:
        """Wait for one of those who may approve; return the digest of what they were asked about, too."""
        digest = payload_digest(bytes(_said(call).subject))
        return await self._person(call, WaitKind.APPROVAL, who, limit_s, digest), digest

    async def _person(
        self, call: Call | Exception, kind: WaitKind, who: Sequence[str], limit_s: float, digest: bytes
    ) -> Answer:
        async def opening(issued: Call) -> StepRecord:
            token = f"{self._turn.row.turn_id}.{issued.issued}.{self._node.chance.token()}"
            wait = self._wait(kind, limit_s, token=token, who=[*who], digest=digest)
            self._node.log.info("wait.opened", turn_id=self._turn.row.turn_id, kind=kind._value_)
            return self._journal.opened(issued, wait)

        return await self.steps.waits.stand(call, opening)

    async def escalation(
        self, call: Call | Exception, packet: Mapping[str, str], who: Sequence[str], limit_s: float
    ) -> Answer:
        """Hand the matter to people."""
        to = ", ".join(who) or "anybody"
        _check_packet(to, packet)
        if isinstance(call, Call) and call.name not in self._turn.steps:
            self._journal.check_live()
            self._journal.escalated(_packet(to, packet))
        digest = payload_digest(encode(packet, "the packet", self.settings.payload_bytes_max))
        return await self._person(call, WaitKind.ESCALATION, who, limit_s, digest)

    async def signal(self, call: Call | Exception, name: str, limit_s: float) -> Answer:
        """Wait for a signal; one that is there already is taken."""

        async def opening(issued: Call) -> StepRecord:
            return self._journal.opened(issued, self._wait(WaitKind.SIGNAL, limit_s, name=name))

        return await self.steps.waits.stand(call, opening)

    # ------------------------------------------------------------ other agents

    async def child(self, call: Call | Exception, to: Address, limit_s: float) -> tuple[Answer, int]:
        """Let another agent have a turn; return what it came to, and its number. One that is late is cancelled."""
        opening = partial(self._open_child, WaitKind.CHILD, to, bytes(_said(call).payload), limit_s, None)
        answer = await self.steps.waits.stand(call, opening)
        child_id = self._child_of(call)
        if answer.outcome == Outcome.EXPIRED:
            self._node.start(drop_child(self._node, child_id))
        return answer, child_id

    def _child_of(self, call: Call | Exception) -> int:
        wait = self._turn.steps[call.name].wait if isinstance(call, Call) else None
        return wait.child_id if wait is not None and wait.child_id is not None else 0

    async def handoff(self, call: Call | Exception, agent_id: str, packet: Mapping[str, str], limit_s: float) -> None:
        """Hand the turn to another agent; this run ends with what that one delivers. Returns where it was too late."""
        _check_packet(agent_id, packet)
        if agent_id == self._address.agent_id:
            raise HandoffRefused(agent_id, "it is this agent itself")
        to = self.address_of(agent_id, None)
        opening = partial(self._open_handoff, to, packet, limit_s)
        answer = await self.steps.waits.stand(call, opening)
        if answer.outcome == Outcome.EXPIRED:
            self._node.start(drop_child(self._node, self._child_of(call)))
            return
        if self._turn.handed is None and not self._turn.ending:
            self._turn.handed = answer
            self._turn.halt(Stop.HANDOFF)
        await self.steps.waits.stand_by()

    async def _open_handoff(self, to: Address, packet: Mapping[str, str], limit_s: float, call: Call) -> StepRecord:
        node, here = self._node, self._address
        handing_on = node.handing_on.setdefault((here.tenant, here.session_id), asyncio.Lock())
        async with handing_on:  # or two could both be the last that the session may have
            await node.persistence.flush()
            given, last_at = await node.store.waiting.handoffs(here.tenant, here.session_id, here.agent_id, to.agent_id)
            if given >= self.settings.handoffs_max:
                raise HandoffRefused(to.agent_id, f"the session has had its {given} handoffs (handoffs_max)")
            cooled_at = (last_at or 0.0) + self.settings.handoff_cooldown_s
            if last_at is not None and node.clock.time() < cooled_at:
                ago_s, left_s = node.clock.time() - last_at, cooled_at - node.clock.time()
                raise HandoffRefused(
                    to.agent_id, f"it was so {ago_s:.0f} s ago; it may be again in {left_s:.0f} s (handoff_cooldown_s)"
                )
            told = {"from": here.agent_id, **packet, "input": msgspec.Raw(self._turn.payload)}
            payload = encode(told, f"the payload for {to}", self.settings.payload_bytes_max)
            return await self._open_child(WaitKind.HANDOFF, to, payload, limit_s, packet, call)

    async def _open_child(
        self,
        kind: WaitKind,
        to: Address,
        payload: bytes,
        limit_s: float,
        packet: Mapping[str, str] | None,
        call: Call,
    ) -> StepRecord:
        """Have a child turn accepted, in one commit with the record of it.

        Raises:
            TurnkeeperError: nothing was sent.
        """
        node, turn, turn_id = self._node, self._turn, self._turn.row.turn_id
        if len(self._chain) > self.settings.depth_max:
            raise RecursionDepthExceeded(turn_id, self.settings.depth_max)
        async with AsyncExitStack() as held:
            agent = await held.enter_async_context(node.hold(to))
            await check_no_cycle(node, held, self._address, to)
            self._journal.check_live()
            children = turn.children if turn.children is not None else {}
            if len(children) >= self.settings.children_max:
                raise FanOutExceeded(turn_id, self.settings.children_max)

            def begin(child_id: int) -> list[Record]:
                wait = self._wait(kind, limit_s, child_id=child_id, to=[*to])
                passed = _packet(to.agent_id, packet, child_id) if packet is not None else None
                records: list[Record] = [*self._journal.opening(call, wait, passed)]
                if packet is not None:
                    here = self._address
                    now = node.clock.time()
                    records.append(HandedOff(child_id, here.tenant, here.session_id, here.agent_id, to.agent_id, now))
                self._journal.remember_open(call, wait)
                children[child_id] = to
                return records

            parent = Parent(turn_id, self._address)
            asked = Child(self._chain, parent, begin, self._journal.noted)
            await asyncio.shield(agent.admit(None, payload, payload_digest(payload), child=asked))
            return turn.steps[call.name]


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What others are told of a wait's arguments: as recorded, whatever became of the caller's objects since."""

    subject: msgspec.Raw = NOTHING
    payload: msgspec.Raw = NOTHING


_arguments: Final = msgspec.msgpack.Decoder(_Said)


def _said(call: Call | Exception) -> _Said:
    if isinstance(call, Exception):
        raise call
    return _arguments.decode(call.arguments)


def _check_packet(to: str, packet: Mapping[str, str]) -> None:
    """Refuse a packet with which nobody could do anything."""
    for name, said in packet.items():
        if not isinstance(said, str):
            raise HandoffRefused(to, f"its {name} must be text, not {type(said).__name__}")
        if not said.strip():
            raise HandoffRefused(to, f"its {name} is empty")


def _packet(to: str, said: Mapping[str, str], child_id: int | None = None) -> Packet:
    return Packet(to, said["reason"], said["summary"], said["goal"], child_id)
