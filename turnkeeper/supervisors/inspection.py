"""Inspection: what anybody may ask a running runtime about its turns, without changing anything."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeVar

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.values import decode
from turnkeeper.kernel.address import address
from turnkeeper.kernel.errors import ContractViolation, TurnkeeperError
from turnkeeper.kernel.lifecycle import failure_of
from turnkeeper.kernel.lookback.backlog import RECEIPTS_MAX, ReceiptView, receipts
from turnkeeper.kernel.lookback.checkpoint import Checkpoint, Doubt, Event, checkpoint, doubts, event_kind
from turnkeeper.kernel.lookback.compare import Difference, diff
from turnkeeper.kernel.lookback.explain import Explanation, explain
from turnkeeper.kernel.lookback.replay import ReplayPlan, plan_replay
from turnkeeper.kernel.ports import Happening
from turnkeeper.kernel.rows import Rows

__all__ = ["Inspection", "event_of"]

_PAGE: Final = 500
"""Events read at once: a slow reader holds so many in memory and no more."""

T = TypeVar("T")


class Inspection(ABC):
    """Questions about turns, answered from one consistent view of the rows, beside the writer and never in its way."""

    _agents: Mapping[str, Agent]

    @abstractmethod
    def _open_node(self) -> Node:
        """Return the node; raise what says why there is none."""

    async def _look(self, question: Callable[[Rows], T]) -> T:
        return await self._open_node().store.look(question)

    async def checkpoint(self, turn_id: int) -> Checkpoint:
        """Return a turn as it is committed: status, steps with arguments and outcomes, messages, what it stands on.

        Raises:
            TurnNotFound: there is no such turn.
            ShuttingDown, StorageFailed: it cannot be read.
        """
        return await self._look(lambda rows: checkpoint(rows, turn_id))

    async def explain(self, turn_id: int) -> Explanation:
        """Return what happened to a turn, what it waits for, and what would happen next and why: one screen.

        Raises:
            TurnNotFound: there is no such turn.
            ShuttingDown, StorageFailed: it cannot be read.
        """
        now = self._open_node().clock.time()
        return await self._look(lambda rows: explain(rows, turn_id, now))

    async def diff(self, a: int, b: int) -> Difference:
        """Return what two turns have in common and where they differ, the first difference first.

        Raises:
            TurnNotFound: there is no such turn.
            ShuttingDown, StorageFailed: one of them cannot be read.
        """
        return await self._look(lambda rows: diff(rows, a, b))

    async def receipts(
        self,
        *,
        older_than_s: float | None = None,
        stuck: bool = False,
        duplicated: bool = False,
        limit: int = RECEIPTS_MAX,
    ) -> list[ReceiptView]:
        """Return receipts in the order of acceptance: those not answered yet or, if `duplicated`, any that came again.

        Args:
            older_than_s: only those accepted or processing for longer.
            stuck: only those that nothing will move as things are; each says why.
            duplicated: only those whose inbound came more than once, answered ones too.
            limit: at most so many, the oldest ones.

        Raises:
            ShuttingDown, StorageFailed: they cannot be read.
        """
        now = self._open_node().clock.time()
        return await self._look(
            lambda rows: receipts(rows, now, older_than_s=older_than_s, stuck=stuck, duplicated=duplicated, limit=limit)
        )

    async def replay_plan(self, receipt_id: int) -> ReplayPlan:
        """Say what sending a receipt's work again would mean, without doing anything; a receipt has its turn's id.

        Raises:
            TurnNotFound: there is no such receipt.
            ShuttingDown, StorageFailed: it cannot be read.
        """
        now = self._open_node().clock.time()
        return await self._look(lambda rows: plan_replay(rows, receipt_id, now))

    async def doubts(self) -> list[Doubt]:
        """Return the doubt that each suspended turn stands on: its tool, arguments, idempotency key and token.

        A turn with several stands on one after another. The 500 oldest turns, if there are more.

        Raises:
            ShuttingDown, StorageFailed: they cannot be read.
        """
        return await self._look(doubts)

    async def state(self, session_id: str, agent_id: str, *, tenant: str = "") -> Any:
        """Return what an agent remembers in a session, as the last completed turn left it; None where there is nothing.

        No message to the agent, and no waiting for the turn that it may be running. It is of the type that the agent
        declares, brought forward in memory alone if it was stored under another version; of an agent that was not given
        to this runtime, or declares no state any more, it is plain data.

        Raises:
            ContractViolation, PayloadTooLarge: what is stored does not fit the agent's type, or its `migrate` raised
                something, which is the cause.
            InvalidName: that is nobody's address.
            ShuttingDown, StorageFailed: it cannot be read.
        """
        node = self._open_node()
        actor_id = await node.store.actor_id(address(tenant, session_id, agent_id))
        row = None if actor_id is None else await node.store.state(actor_id)
        if row is None:
            return None
        definition = self._agents.get(agent_id)
        if definition is None or definition.state is None:
            return decode(row.body, f"the state of {agent_id}")
        try:
            return definition.state.read(row, node.settings.payload_bytes_max)
        except (TurnkeeperError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit, too: it would end who only reads
            raised = failure_of(error)
            said = f"its migrate raised {raised.type}: {raised.message}"
            raise ContractViolation(definition.state.name, said) from error

    async def events(self, since: int = 0) -> AsyncIterator[Event]:
        """Yield what happens to checkpoints, from behind an offset on, and then as it is committed.

        Promises: in the order of commits, from committed rows only; nothing is skipped or repeated, also across
        restarts (hand in the last offset you have dealt with) and however slowly it is read. What was pruned is gone.

        Raises:
            ShuttingDown: the runtime closes; go on from the last offset in the next one.
            StorageFailed: the rows cannot be read.
        """
        node = self._open_node()
        while True:
            more = node.persistence.next_commit()  # before reading, or a commit in between would not be noticed
            if node.closed or node.failed is not None:
                raise node.gone
            page = await node.store.happened(since, _PAGE)
            for one in page:
                since = one.offset
                event = event_of(one)
                if event is not None:
                    yield event
            if not page:
                await more()


def event_of(one: Happening) -> Event | None:
    """Return what a committed edge means to its turn's checkpoint; None for a duplicate, which changes none."""
    kind = event_kind(one.kind)
    if kind is None:
        return None
    return Event(
        offset=one.offset,
        kind=kind.value,
        turn_id=one.turn_id,
        ordinal=one.ordinal,
        edge=one.kind,
        at=one.at,
        tenant=one.address.tenant,
        session_id=one.address.session_id,
        agent_id=one.address.agent_id,
    )
