"""Oracles: what must hold at every moment of a run, watched at every commit, call, start and passing of time."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import NoReturn

from turnkeeper.actors.node import Node
from turnkeeper.actors.openturn import OpenTurn
from turnkeeper.actors.session import SessionAgent
from turnkeeper.actors.turn import Turn
from turnkeeper.kernel.edge import (
    TRANSITION_KINDS,
    Detail,
    Edge,
    EdgeKind,
    Resumed,
    StepFailure,
    StepIntent,
    StepResult,
    Suspended,
    chained,
    decode_detail,
    sealed,
)
from turnkeeper.kernel.errors import IllegalTransition
from turnkeeper.kernel.names import Address, StepName
from turnkeeper.kernel.records import EdgeAppended, EdgeAppendedLate, Record
from turnkeeper.kernel.step import Effect
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState, begin, evolve
from turnkeeper.supervisors.sweep import CAUGHT
from turnkeeper.testing.memory import Disk
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.wait_oracles import WaitOracles
from turnkeeper.testing.watched import WatchedRuntime

__all__ = ["Oracles"]

_MOVED_S = 0.001
"""Within this, floating-point seconds since the epoch are the same moment."""


class Oracles:
    """What watches one world. Each method is told of something that happens, and raises if it may not.

    Raises (everywhere):
        Violated: a promise of the contract was broken; names which, and where.
    """

    __slots__ = (
        "_called",
        "_disk",
        "_folds",
        "_inside",
        "_live",
        "_pruned",
        "_retrying",
        "_rings",
        "_tokens",
        "_touched",
        "_users",
        "_waits",
    )

    def __init__(self, disk: Disk) -> None:
        """Watch what happens on a disk."""
        self._disk = disk
        self._waits = WaitOracles(disk)
        self._folds: dict[int, TurnRow] = {}
        self._inside: dict[Address, Turn] = {}
        self._called: Counter[str] = Counter()
        self._touched: set[int] = set()
        self._live: defaultdict[int, set[int]] = defaultdict(set)
        self._rings: list[tuple[float, int]] = []
        self._users: defaultdict[str, set[int]] = defaultdict(set)
        self._tokens: dict[str, tuple[int, int]] = {}
        self._retrying: dict[int, dict[StepName, float]] = {}
        self._pruned = 0

    def booted(self) -> None:
        """Look at every actor that has live turns: a new boot owes them to go on."""
        self._live.clear()
        for turn in self._disk.turns.values():
            if turn.state not in TERMINAL:
                self._live[turn.actor_id].add(turn.turn_id)
        self._touched.update(self._live)
        self._waits.booted()

    def killed(self) -> None:
        """Forget what a killed process was doing; what it may have written is read anew."""
        self._inside.clear()
        self._folds.clear()
        self._touched.clear()
        self._rings.clear()

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
        self._waits.committed(turn_id)
        if row.state in TERMINAL:
            self._check_seal(turn_id, turn.digest)
            self._folds.pop(turn_id, None)
            self._live[turn.actor_id].discard(turn_id)
        else:
            self._folds[turn_id] = row
            self._live[turn.actor_id].add(turn_id)

    def _fold(self, turn_id: int, actor_id: int) -> TurnRow:
        """Return what a turn's edges amount to, going on from the last commit that touched it."""
        edges, where = self._disk.edges[turn_id], f"turn {turn_id}"
        folded = self._folds.get(turn_id)
        for ordinal in range(folded.edges if folded is not None else 0, len(edges)):
            if ordinal not in edges:
                raise Violated("edges without a gap", f"{where} has no edge {ordinal} of {len(edges)}")
            edge, before = edges[ordinal].edge, folded.digest if folded is not None else b""
            try:
                kind, detail = EdgeKind(edge.kind), decode_detail(edge)
                if folded is None:
                    folded, self._retrying[turn_id] = begin(turn_id, actor_id, edge.digest), {}
                else:
                    folded = evolve(folded, kind, detail, edge.digest)
            except (IllegalTransition, ValueError) as error:
                raise Violated("legal transitions", f"{where}: {error}") from error
            if edge.epoch != folded.epoch:
                raise Violated(
                    "epochs only rise", f"{where}: edge {ordinal} is of epoch {edge.epoch}, at {folded.epoch}"
                )
            if edge.digest != chained(before, turn_id, edge.kind, edge.at, edge.detail):
                raise Violated("digests", f"{where}: edge {ordinal} is not chained to those before it")
            self._note(edge, detail)
        if folded is None:
            raise Violated("fold of edges = row", f"{where} has a row and no edges")
        return folded

    def _check_seal(self, turn_id: int, seal: bytes | None) -> None:
        """Check that an ended turn is sealed: over its history up to its end, and over its deliverable."""
        edges, ended = self._disk.edges[turn_id], self._disk.deliverables[turn_id]
        last = max(ordinal for ordinal, (_, edge) in edges.items() if edge.kind in TRANSITION_KINDS)
        if seal != sealed(edges[last].edge.digest, ended.outcome, ended.body, ended.at):
            raise Violated("digests", f"turn {turn_id} has ended, and is not sealed")

    def _note(self, edge: Edge, detail: Detail | None) -> None:
        """Note who uses a key, and check that tokens are new and retries in their time."""
        retrying = self._retrying[edge.turn_id]
        match detail:
            case Suspended() as wait:
                where = (edge.turn_id, edge.ordinal)
                if wait.step is not None and self._tokens.setdefault(wait.token, where) != where:
                    raise Violated("a token for each doubt", f"turn {edge.turn_id} stands on {wait.token!r} again")
            case StepIntent() | StepResult() | StepFailure() as said:
                name = StepName(said.name, said.call_key)
                retry_at = retrying.pop(name, None)
                if retry_at is not None and edge.at < retry_at - _MOVED_S:
                    early_s = retry_at - edge.at
                    raise Violated("a retry waits for its time", f"turn {edge.turn_id}: {name}, {early_s:.3f} s early")
                if isinstance(said, StepIntent):
                    self._waits.intended(edge.turn_id, said)
                    self._users[said.idempotency_key].add(edge.turn_id)
                elif isinstance(said, StepFailure) and said.retry_at is not None:
                    self._waits.given_up(edge.turn_id, name)
                    retrying[name] = said.retry_at
            case Resumed(step=StepName() as name):
                retrying.pop(name, None)
            case _:
                pass

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
        inside = self._inside.get(address)
        if inside is not None and not inside.over:  # one that would not stop has lost its turn, and can do no step
            raise Violated("one running turn", f"{where} started inside turn {inside.turn_id} of {address}")
        if earlier := [live for live in self._live[stored.actor_id] if live < turn.turn_id]:
            raise Violated("order of acceptance", f"{where} started before turns {sorted(earlier)} of {address} ended")
        self._inside[address] = turn

    def left(self, turn: Turn) -> None:
        """Note that a handler is over."""
        address = Address(turn.tenant, turn.session_id, turn.agent_id)
        if self._inside.get(address) is turn:
            del self._inside[address]

    # ------------------------------------------------------------ at each point

    def reached(self, point: str, subject: str) -> None:
        """Check what a runtime passes a point with. What the sweep catches is a bug, of whoever lost it or its own."""
        if point == "effect.before":
            self.calling(subject)
        elif point == CAUGHT:
            raise Violated("the sweep catches nothing", subject)

    def calling(self, key: str) -> None:
        """Check that an effect about to be called has an intent of its own on disk, and no result.

        The key names the turn that the step was first called in. A fork calls it under the same one: what it took over
        is no intent of its own, and an effect that has its result in any of them is called in none.
        """
        self._called[key] += 1
        intents, ended = 0, False
        for turn_id in sorted({int(key.split("/")[1]), *self._users[key]}):
            own, over = self._intents(turn_id, key)
            intents, ended = intents + own, ended or over
        if intents < self._called[key]:
            said = f"{key} is called for the {self._called[key]}. time, with {intents} intents on disk"
            raise Violated("intent before effect", said)
        if ended:
            raise Violated("effects at most once", f"{key} is called again, and has its result")

    def _intents(self, turn_id: int, key: str) -> tuple[int, bool]:
        """Return how often a turn has itself intended the step with this key, and whether it may be called no more."""
        gone = self._disk.pruned.get(turn_id)
        edges = self._disk.edges.get(turn_id, {}) if gone is None else gone.edges
        keys: dict[StepName, str] = {}
        effects: set[str] = set()
        intents, ended = 0, False
        for ordinal in sorted(edges):
            edge = edges[ordinal].edge
            match decode_detail(edge):
                case StepIntent() as intent:
                    first = keys.setdefault(StepName(intent.name, intent.call_key), intent.idempotency_key)
                    if first != intent.idempotency_key:
                        raise Violated("one idempotency key a step", f"{first} became {intent.idempotency_key}")
                    intents += first == key and edge.epoch > 0
                    effects.update([first] if intent.effect == Effect.EFFECTFUL else [])
                case StepResult() as result if keys.get(StepName(result.name, result.call_key)) == key:
                    ended = key in effects
                case Resumed(step=StepName() as name, happened=True) if keys.get(name) == key:
                    ended = True
                case _:
                    pass
        return intents, ended

    # ------------------------------------------------------------ whenever time is about to pass

    def pruned(self, now: float) -> None:
        """Check what was pruned since time last passed: turns that were over, whose keys answered nothing any more."""
        for turn_id, gone in islice(self._disk.pruned.items(), self._pruned, None):
            if gone.turn.state not in TERMINAL:
                raise Violated("what is live is never pruned", f"turn {turn_id} was {gone.turn.state}")
            if gone.receipt.expires_at > now:
                left_s = gone.receipt.expires_at - now
                raise Violated("a key that answers is never pruned", f"turn {turn_id}, {left_s:.3f} s too early")
        self._pruned = len(self._disk.pruned)

    def writer_writes(self, node: Node, *, busy: bool) -> None:
        """Check that nothing waits for a writer that is not writing."""
        waiting = node.persistence.statistics().waiting
        if waiting and not busy:
            raise Violated("what is submitted is written", f"{waiting} commit points wait, and the writer does nothing")

    def lease_holds(self, node: Node, troubled_s: float) -> None:
        """Check that a boot's lease is renewed; for a beat after the disk was in trouble it may be late."""
        lease = self._disk.nodes.get(node.lease.boot_id)
        late = lease is not None and lease.lease_until < node.clock.time()
        if late and node.loop.time() > troubled_s + node.settings.beat_s:
            raise Violated("a lease outlives its boot", f"boot {node.lease.boot_id} works on after its lease ran out")

    def time_passes(self, node: Node, runtime: WatchedRuntime, writing: Collection[int], troubled_s: float) -> None:
        """Check that nothing that could be done is left undone while time passes.

        Looked at are the actors that a commit has touched since nothing was under way for them, and those whose
        timer has rung; `writing` are the turns in the commit that is being written.
        """
        self.pruned(node.clock.time())
        self._waits.time_passes(node, runtime, troubled_s)
        now_s = node.loop.time()
        while self._rings and self._rings[0][0] < now_s:
            self._touched.add(heapq.heappop(self._rings)[1])
        for actor_id in sorted(self._touched):
            address = self._disk.actors[actor_id]
            agent = runtime.session_agent(address)
            turns = agent.open_turns() if agent is not None else []
            if agent is not None and turns:
                if turns[0].row.turn_id in writing or self._under_way(node, agent, turns[0]):
                    continue
                if not _armed(turns[0], now_s):
                    self._complain(agent, turns[0])
                self._check_deadline(node, turns[0])
                if turns[0].timer is not None:
                    heapq.heappush(self._rings, (turns[0].timer.when(), actor_id))
            elif (lost := self._lost(actor_id, writing)) and runtime.declares(address.agent_id):
                said = f"{address}: turns {sorted(lost)} are live, and in nobody's hands"
                raise Violated("no idle actor has mail while time passes", said)
            self._touched.discard(actor_id)

    def _lost(self, actor_id: int, writing: Collection[int]) -> set[int]:
        """Return the live turns of an actor that has left memory: a suspended one, and what waits behind it, may."""
        lost = self._live[actor_id] - set(writing)
        stands = any(self._disk.turns[turn_id].state == TurnState.SUSPENDED for turn_id in self._live[actor_id])
        return set() if stands else lost

    def _check_deadline(self, node: Node, turn: OpenTurn) -> None:
        """Check that a turn that stands on a time stands until that time: no nudge, and no restart, moves it."""
        due_at, timer = turn.row.due_at, turn.timer
        if due_at is None or timer is None or turn.task is not None or turn.stumbles:
            return
        rings_at = node.clock.time() + timer.when() - node.loop.time()
        if abs(rings_at - max(due_at, node.clock.time())) > _MOVED_S:
            said = f"turn {turn.row.turn_id} is due at {due_at:.3f}, its timer rings at {rings_at:.3f}"
            raise Violated("a nudge moves no deadline", said)

    def _under_way(self, node: Node, agent: SessionAgent, turn: OpenTurn) -> bool:
        """Say whether something is being done about a turn: a commit of it, or reading it again after one failed."""
        if agent.current is None and agent.address.agent_id in node.resting:
            return True  # nothing starts, and it is looked at again until its agent goes on
        stored = self._disk.turns.get(turn.row.turn_id)
        if not turn.committed or stored is None or stored.version != turn.row.version:
            return True
        if turn.moving:
            return True
        reread = agent.current is turn or turn.broken is not None
        return bool(node.tasks) and reread and turn.task is None

    def _complain(self, agent: SessionAgent, turn: OpenTurn) -> NoReturn:
        where = f"{agent.address}: turn {turn.row.turn_id} is {turn.row.state}"
        if agent.current is None:
            raise Violated("no idle actor has mail while time passes", where)
        raise Violated("nothing live without a deadline", f"{where}, and has no timer")


def _armed(turn: OpenTurn, now_s: float) -> bool:
    if turn.row.state is TurnState.SUSPENDED:
        return turn.row.due_at is not None  # the alarm has no timer for each
    return turn.timer is not None and not turn.timer.cancelled() and turn.timer.when() >= now_s
