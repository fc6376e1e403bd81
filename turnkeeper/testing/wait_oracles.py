"""Wait oracles: what must hold of turns that wait, of their deadlines, and of child turns and their parents."""

import heapq
from collections.abc import Iterator

from turnkeeper.actors.node import Node
from turnkeeper.kernel.edge import StepIntent, decode_detail
from turnkeeper.kernel.ending import is_request
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.step import StepRecord, fold_steps
from turnkeeper.kernel.turn import TERMINAL, TurnState
from turnkeeper.testing.memory import Disk
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.watched import WatchedRuntime

__all__ = ["WaitOracles"]


class WaitOracles:
    """What watches those who wait, by what is on the disk.

    Raises (everywhere):
        Violated: a promise of the contract was broken; names which, and where.
    """

    __slots__ = ("_disk", "_due", "_node", "_owed", "_since", "_until")

    def __init__(self, disk: Disk) -> None:
        """Watch what happens on a disk."""
        self._disk = disk
        self._due: list[tuple[float, int]] = []
        self._owed: list[tuple[float, int]] = []
        self._node: Node | None = None
        self._since = 0.0
        self._until: dict[tuple[int, StepName], float] = {}

    def booted(self) -> None:
        """Look at everybody who waits: a new boot owes them what the last one owed."""
        self._due = [
            (turn.due_at or 0.0, turn.turn_id)
            for turn in self._disk.turns.values()
            if turn.state == TurnState.SUSPENDED
        ]
        self._owed = [
            (self._disk.deliverables[turn_id].at, turn_id)
            for turn_id, turn in self._disk.turns.items()
            if turn_id in self._disk.deliverables and turn.state in TERMINAL
        ]
        heapq.heapify(self._due)
        heapq.heapify(self._owed)

    def given_up(self, turn_id: int, name: StepName) -> None:
        """Take note that a handler did not want an answer any more; it may ask for it anew."""
        self._until.pop((turn_id, name), None)

    def intended(self, turn_id: int, intent: StepIntent) -> None:
        """Check that a wait is opened once, and stands until one time."""
        if intent.wait is None:
            return
        name = turn_id, StepName(intent.name, intent.call_key)
        if self._until.setdefault(name, intent.wait.due_at) != intent.wait.due_at:
            said = f"turn {turn_id}: {name[1]} stood until {self._until[name]:.3f}, now until {intent.wait.due_at:.3f}"
            raise Violated("a nudge moves no deadline", said)

    def committed(self, turn_id: int) -> None:
        """Check that a turn stands on all that it waits for while it is suspended, and on nothing otherwise."""
        disk, where = self._disk, f"turn {turn_id}"
        turn, waits = disk.turns[turn_id], disk.waits.get(turn_id, {})
        if (turn.state == TurnState.SUSPENDED) != bool(waits):
            raise Violated("a suspended turn stands on its waits", f"{where} is {turn.state}, with {len(waits)} waits")
        if turn.state in TERMINAL:
            heapq.heappush(self._owed, (disk.deliverables[turn_id].at, turn_id))
        if turn.state != TurnState.SUSPENDED:
            return
        asked = {step.issued: step for step in self._open(turn_id)}
        for issued, step in asked.items():
            due_at = step.wait.due_at if step.wait is not None else None
            if issued not in waits or waits[issued].due_at != due_at:
                said = f"{where} waits for {step.name} until {due_at}, and stands on {waits.get(issued)}"
                raise Violated("a suspended turn stands on its waits", said)
        first = min(wait.due_at for wait in waits.values())
        if turn.due_at != first:
            said = f"{where} is due at {turn.due_at}, the first of its waits at {first}"
            raise Violated("a suspended turn stands on its waits", said)
        heapq.heappush(self._due, (first, turn_id))

    def _open(self, turn_id: int) -> Iterator[StepRecord]:
        """Yield the waits of a turn that have no answer."""
        edges = self._disk.edges.get(turn_id, {})
        steps = fold_steps(edges[ordinal].edge for ordinal in sorted(edges))
        return (step for step in steps.values() if step.wait is not None and step.open)

    def time_passes(self, node: Node, runtime: WatchedRuntime, troubled_s: float) -> None:
        """Check that no turn stands past its deadline, and that the ends of turns are heard where they matter.

        Each of these takes a moment; what is not done within a beat is not being done at all. A disk in trouble, and a
        boot, begin the beat anew.
        """
        now = node.clock.time()
        if node is not self._node:
            self._node, self._since = node, now
        calm_since = max(self._since, now - node.loop.time() + troubled_s)
        if now <= calm_since + node.settings.beat_s:
            return
        before = now - node.settings.beat_s
        while self._due and self._due[0][0] < before:
            self._check_due(runtime, *heapq.heappop(self._due))
        while self._owed and self._owed[0][0] < before:
            self._check_heard(runtime, heapq.heappop(self._owed)[1])

    def _serves(self, runtime: WatchedRuntime, turn_id: int) -> bool:
        return runtime.declares(self._disk.actors[self._disk.turns[turn_id].actor_id].agent_id)

    def _check_due(self, runtime: WatchedRuntime, due_at: float, turn_id: int) -> None:
        turn = self._disk.turns.get(turn_id)
        if turn is None or (turn.state, turn.due_at) != (TurnState.SUSPENDED, due_at):
            return
        if self._serves(runtime, turn_id):
            raise Violated("nothing overdue is left standing", f"turn {turn_id} was due at {due_at:.3f}")

    def _check_heard(self, runtime: WatchedRuntime, turn_id: int) -> None:
        """Check that a turn's end was told to its parent, and that it has ended those turns that it had asked for."""
        turn = self._disk.turns.get(turn_id)
        if turn is None:
            return
        parent = self._disk.turns.get(turn.parent_id) if turn.parent_id is not None else None
        if parent is not None and parent.state not in TERMINAL and self._serves(runtime, parent.turn_id):
            said = f"turn {parent.turn_id} was not told that turn {turn_id} has ended"
            if any(step.wait is not None and step.wait.child_id == turn_id for step in self._open(parent.turn_id)):
                raise Violated("a child's end is told", said)
        for child in self._disk.turns.values():
            lost = child.parent_id == turn_id and child.state not in TERMINAL and not self._is_to_end(child.turn_id)
            if lost and self._serves(runtime, child.turn_id):
                raise Violated("nobody's child goes on", f"turn {child.turn_id} of turn {turn_id}, which has ended")

    def _is_to_end(self, turn_id: int) -> bool:
        return any(is_request(decode_detail(edge.edge)) for edge in self._disk.edges[turn_id].values())
