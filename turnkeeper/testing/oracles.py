"""Oracles: what must hold at every moment of a run, watched at every commit, call, start and passing of time."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.session import SessionAgent
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.edge import EdgeKind, StepIntent, StepResult, decode_detail
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.records import EdgeAppended, EdgeAppendedLate, Record
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState, begin, evolve
from turnkeeper.testing.memory import Disk
from turnkeeper.testing.violated import Violated

__all__ = ["Oracles"]


class Oracles:
    """What watches one world. Each method is told of something that happens, and raises if it may not.

    Raises (everywhere):
        Violated: a promise of the contract was broken; names which, and where.
    """

    __slots__ = ("_called", "_disk", "_disk_fails", "_folds", "_inside", "_started", "_touched")

    def __init__(self, disk: Disk, *, disk_fails: bool = False) -> None:
        """Watch what happens on a disk; one that fails may keep a heartbeat from being written."""
        self._disk = disk
        self._disk_fails = disk_fails
        self._folds: dict[int, TurnRow] = {}
        self._inside: dict[Address, int] = {}
        self._started: dict[Address, int] = {}
        self._called: Counter[str] = Counter()
        self._touched: set[int] = set()

    def killed(self) -> None:
        """Forget what a killed process was doing; what it may have written is read anew."""
        self._inside.clear()
        self._folds.clear()
        self._touched.clear()

    # ------------------------------------------------------------ at each commit

    def committed(self, points: Sequence[Sequence[Record]], rejected: Mapping[int, object]) -> None:
        """Check every turn that a commit has touched: fold = row, epochs only rise, terminal = one deliverable."""
        touched: dict[int, None] = {}
        for number, point in enumerate(points):
            for record in point:
                if isinstance(record, EdgeAppended | EdgeAppendedLate) and number not in rejected:
                    touched[record.turn_id] = None
        for turn_id in touched:
            self._check_turn(turn_id)

    def _check_turn(self, turn_id: int) -> None:
        disk, where = self._disk, f"turn {turn_id}"
        turn = disk.turns.get(turn_id)
        if turn is None:
            raise Violated("fold of edges = row", f"{where} has edges and no row")
        self._touched.add(turn.actor_id)
        folded = self._fold(turn_id, turn.actor_id)
        row = disk.turn_row(turn)
        if folded != row:
            raise Violated("fold of edges = row", f"{where} is {row}, its edges say {folded}")
        if (row.state in TERMINAL) != (turn_id in disk.deliverables):
            raise Violated("terminal = one deliverable", f"{where} is {row.state}")
        if row.state is TurnState.RUNNING and disk.running.get(turn.actor_id) != turn_id:
            raise Violated("one running turn", f"{where} runs beside turn {disk.running.get(turn.actor_id)}")
        if row.state in TERMINAL:
            self._folds.pop(turn_id, None)
        else:
            self._folds[turn_id] = row

    def _fold(self, turn_id: int, actor_id: int) -> TurnRow:
        """Return what a turn's edges amount to, going on from the last commit that touched it."""
        edges, where = self._disk.edges[turn_id], f"turn {turn_id}"
        folded = self._folds.get(turn_id)
        for ordinal in range(folded.edges if folded is not None else 0, len(edges)):
            if ordinal not in edges:
                raise Violated("edges without a gap", f"{where} has no edge {ordinal} of {len(edges)}")
            edge = edges[ordinal].edge
            try:
                kind = EdgeKind(edge.kind)
                folded = begin(turn_id, actor_id) if folded is None else evolve(folded, kind, decode_detail(edge))
            except (IllegalTransition, ValueError) as error:
                raise Violated("legal transitions", f"{where}: {error}") from error
            if edge.epoch != folded.epoch:
                raise Violated(
                    "epochs only rise", f"{where}: edge {ordinal} is of epoch {edge.epoch}, at {folded.epoch}"
                )
        if folded is None:
            raise Violated("fold of edges = row", f"{where} has a row and no edges")
        return folded

    # ------------------------------------------------------------ at each start of a handler

    def entered(self, turn: Turn) -> None:
        """Check that a handler may start: under a committed lease, alone, and in its order."""
        address, where = Address(turn.tenant, turn.session_id, turn.agent_id), f"turn {turn.turn_id}"
        stored = self._disk.turns.get(turn.turn_id)
        if stored is None or stored.state != TurnState.RUNNING or stored.attempt != turn.attempt:
            raise Violated("a handler runs under a committed lease", f"{where} started, and is {stored} in the store")
        if self._disk.actors[stored.actor_id] != address:
            owner = self._disk.actors[stored.actor_id]
            raise Violated("a turn runs at its address", f"{where} of {owner} started at {address}")
        if address in self._inside:
            raise Violated("one running turn", f"{where} started inside turn {self._inside[address]} of {address}")
        if self._started.get(address, 0) > turn.turn_id and turn.attempt == 1:
            raise Violated("order of acceptance", f"{where} started after turn {self._started[address]} of {address}")
        self._inside[address] = turn.turn_id
        self._started[address] = max(turn.turn_id, self._started.get(address, 0))

    def left(self, turn: Turn) -> None:
        """Note that a handler is over."""
        self._inside.pop(Address(turn.tenant, turn.session_id, turn.agent_id), None)

    # ------------------------------------------------------------ at each effect

    def calling(self, key: str) -> None:
        """Check that an effect about to be called has an intent of its own on disk, and no result."""
        self._called[key] += 1
        edges = self._disk.edges.get(int(key.split("/")[1]), {})
        intents, result = 0, ""
        intent: StepIntent | None = None
        for ordinal in sorted(edges):
            match decode_detail(edges[ordinal].edge):
                case StepIntent(idempotency_key=other) as found if other == key:
                    intents, result, intent = intents + 1, "", found
                case StepResult() as ended if intent and (ended.name, ended.call_key) == (intent.name, intent.call_key):
                    result = "its result"
                case _:
                    pass
        if intents < self._called[key]:
            said = f"{key} is called for the {self._called[key]}. time, with {intents} intents on disk"
            raise Violated("intent before effect", said)
        if result:
            raise Violated("effects at most once", f"{key} is called again, and has its result")

    # ------------------------------------------------------------ whenever time is about to pass

    def time_passes(
        self, node: Node, agents: Callable[[Address], SessionAgent | None], writing: Collection[int]
    ) -> None:
        """Check that nothing that could be done is left undone while time passes.

        Looked at are the actors that a commit has touched since nothing was under way for them; `writing` are the
        turns in the commit that is being written.
        """
        lease = self._disk.nodes.get(node.lease.boot_id)
        may_be_late = self._disk_fails or writing
        if lease is not None and lease.lease_until < node.clock.time() and not may_be_late:
            raise Violated("a lease outlives its boot", f"boot {lease.boot_id} works on after its lease ran out")
        if node.tasks:  # what the store refused is being read again
            return
        for actor_id in list(self._touched):
            agent = agents(self._disk.actors[actor_id])
            turns = agent.open_turns() if agent is not None else []
            if agent is not None and turns and (turns[0].row.turn_id in writing or self._under_way(turns[0])):
                continue
            self._touched.discard(actor_id)
            if agent is not None and turns and not _armed(turns[0], node.loop.time()):
                self._complain(agent, turns[0])

    def _under_way(self, turn: OpenTurn) -> bool:
        """Say whether a commit of the turn is under way: what is in memory is ahead of what is stored."""
        stored = self._disk.turns.get(turn.row.turn_id)
        return not turn.committed or stored is None or stored.version != turn.row.version

    def _complain(self, agent: SessionAgent, turn: OpenTurn) -> NoReturn:
        where = f"{agent.address}: turn {turn.row.turn_id} is {turn.row.state}"
        if agent.current is None:
            raise Violated("no idle actor has mail while time passes", where)
        raise Violated("nothing live without a deadline", f"{where}, and has no timer")


def _armed(turn: OpenTurn, now_s: float) -> bool:
    return turn.timer is not None and not turn.timer.cancelled() and turn.timer.when() >= now_s
