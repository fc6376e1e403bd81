"""The sweep: a net under the turns, for a live one that nobody holds, or that stands on nothing."""

import asyncio
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import groupby
from typing import Final

import msgspec

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.session import SessionAgent
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.ports import LiveTurn
from turnkeeper.kernel.turn import TERMINAL, TurnState
from turnkeeper.supervisors.reception import Reception
from turnkeeper.supervisors.recovery import bring_back

__all__ = ["CAUGHT", "Sweep"]

CAUGHT: Final = "sweep.caught"
"""The point (`kernel.ports.Points`) that is passed where a turn is caught; its subject says which one, and why."""

PAGE_MAX: Final = 500
"""Live turns of one look (measured: 7 ms of a core, 3 of them the loop's), however many there are in all."""


_OVERDUE_S: Final = 60.0
"""How late the alarm may be before a suspended turn that is in memory is taken for one that nothing wakes."""


class Trouble(StrEnum):
    """What is wrong with a live turn: the event that the log has of it."""

    ORPHANED = "turn.orphaned"  # no session agent holds it
    STALLED = "turn.stalled"  # its actor has come to it, and nothing will ever wake it


class Sweep:
    """Looks through the store's live turns, a page at a time, for what a bug has left to nobody.

    Every turn in a backoff has a timer of the event loop, every turn that is suspended its place in the alarm's order,
    and every turn that runs a watch: they see to it that each one ends. This is the net below them. Whatever it catches
    is a bug, so it is logged as an error and counted, and the turn goes on.

    What was read may be out of date by the time it is looked at, so only a turn is touched that is found in trouble
    twice in a row, at one version. What is merely slow is in no trouble: a commit on a disk that stalls, a long run, a
    backoff, an agent that rests.
    """

    __slots__ = ("_node", "_place", "_reception", "_suspects", "orphaned", "stalled")

    def __init__(self, node: Node, reception: Reception) -> None:
        """Watch the turns of a node that has recovered what was left to it: before that they are nobody's."""
        self._node = node
        self._reception = reception
        self._place = (0, 0)
        self._suspects: list[LiveTurn] = []
        self.orphaned = self.stalled = 0

    async def run(self) -> None:
        """Look every `sweep_s`, until cancelled."""
        while True:
            await asyncio.sleep(self._node.settings.sweep_s)
            try:
                await self.look()
            except TurnkeeperError as error:
                self._node.log.warning("sweep.failed", error=str(error))

    async def look(self) -> None:
        """See to those that the last look suspects, and look through the next page.

        Raises:
            TurnkeeperError: the store cannot be read, or a turn not be taken back; the next look tries again.
        """
        node = self._node
        if node.closing:
            return
        if self._suspects:
            await self._see_to(self._suspects)
        page = await node.store.live_turns_after(*self._place, PAGE_MAX)
        self._place = (page[-1].row.actor_id, page[-1].row.turn_id) if len(page) == PAGE_MAX else (0, 0)
        self._suspects = [live for live, _ in self._in_trouble(page)]

    async def _unchanged(self, suspects: list[LiveTurn]) -> list[LiveTurn]:
        """Return those that are live at the version at which they were seen, as they are stored now."""
        rows = [await self._node.store.turn(seen.row.turn_id) for seen in suspects]
        return [
            msgspec.structs.replace(seen, row=row)
            for seen, row in zip(suspects, rows, strict=True)
            if row is not None and row.version == seen.row.version
        ]

    async def _see_to(self, suspects: list[LiveTurn]) -> None:
        """Let go on what is in trouble still; orphans first, because a later turn must not overtake them.

        A commit can be read before its writer has said that it stands, and who waits for that is in no trouble: so the
        writer is heard first. Then they are looked at before they are read again, and behind that: what has ended
        meanwhile is held by nobody, and is not live.
        """
        await self._node.persistence.flush()
        turns = await self._unchanged([live for live, _ in self._in_trouble(suspects)])
        asleep = {live.row.actor_id for live in turns if await self._asleep(live)}
        if self._node.closing:
            return
        caught = [live for live, trouble in self._in_trouble(turns) if trouble is Trouble.ORPHANED]
        orphans = [live for live in caught if live.row.actor_id not in asleep]
        self.orphaned += self._say(orphans, Trouble.ORPHANED)
        await bring_back(self._node, self._reception, orphans)
        stalled = [live for live, trouble in self._in_trouble(turns) if trouble is Trouble.STALLED]
        self.stalled += self._say(stalled, Trouble.STALLED)
        for live in stalled:
            self._go_on(live)

    async def _asleep(self, live: LiveTurn) -> bool:
        """Say whether a turn's actor is out of memory with all its turns, because one of them is suspended."""
        if self._reception.agent(live.address) is not None:
            return False
        turns = await self._node.store.live_turns_of(live.row.actor_id)
        return any(turn.row.state is TurnState.SUSPENDED for turn in turns)

    def _go_on(self, live: LiveTurn) -> None:
        agent = self._reception.agent(live.address)
        if agent is None:
            return
        if agent.current is None:
            agent.proceed()
        else:
            self._node.start(agent.resync_turn(agent.current))

    def _say(self, caught: list[LiveTurn], trouble: Trouble) -> int:
        """Log and tell what was caught; return how many."""
        node = self._node
        for live in caught:
            turn_id, address, state = live.row.turn_id, str(live.address), live.row.state.value
            node.log.error(trouble.value, turn_id=turn_id, address=address, state=state)
            if node.points is not None:
                node.points.reached(CAUGHT, f"{trouble} {turn_id} of {address}, {state}")
        return len(caught)

    # ------------------------------------------------------------ what is wrong

    def _in_trouble(self, turns: Iterable[LiveTurn]) -> Iterator[tuple[LiveTurn, Trouble]]:
        """Yield those in trouble of the turns this runtime answers for; an actor's stand one behind the other."""
        for address, of_actor in groupby(turns, key=lambda live: live.address):
            if not self._reception.serves(address.agent_id):
                continue
            agent = self._reception.agent(address)
            held = {turn.row.turn_id: turn for turn in agent.open_turns()} if agent is not None else {}
            for live in of_actor:
                turn = held.get(live.row.turn_id)
                if turn is None:
                    if self._lost(agent, live):
                        yield live, Trouble.ORPHANED
                elif agent is not None and self._stalled(agent, turn, live):
                    yield live, Trouble.STALLED

    @staticmethod
    def _lost(agent: SessionAgent | None, live: LiveTurn) -> bool:
        """Say whether a turn that is not its actor's current one, and not in its queue, is in nobody's hands.

        While the current turn ends, the lease of the next one rides in the same commit, and the turn with it. One that
        is suspended needs nobody's: it stands in the store, and the alarm sees to its deadline. But where its actor is
        in memory without it, nobody could answer it.
        """
        if live.row.state is TurnState.SUSPENDED:
            return agent is not None and agent.current is None
        current = agent.current if agent is not None else None
        return current is None or current.row.state not in TERMINAL

    def _stalled(self, agent: SessionAgent, turn: OpenTurn, live: LiveTurn) -> bool:
        """Say whether a turn waits for nothing: neither for a task or a timer, nor for a commit, nor for another turn.

        One that is being read again, or ended by somebody, is in their hands.
        """
        node = self._node
        if turn.task is not None or turn.row.version != live.row.version:
            return False
        if turn.resyncing or turn.rereading or turn.request is not None:
            return False
        if turn.row.state is TurnState.SUSPENDED:
            return turn.row.due_at is not None and turn.row.due_at + _OVERDUE_S < node.clock.time()
        if turn.timer is not None and not turn.timer.cancelled() and turn.timer.when() >= node.loop.time():
            return False
        if agent.current is None:
            return agent.open_turns()[0] is turn and live.address.agent_id not in node.resting
        return agent.current is turn
