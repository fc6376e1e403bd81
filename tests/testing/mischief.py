"""Mischief: what runtimes submit to a store, and the same with something wrong in it; both by a seed."""

from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec

from turnkeeper.kernel import lifecycle, records
from turnkeeper.kernel.arrival import Arrived
from turnkeeper.kernel.edge import Answer, Edge, EdgeKind, Requeued, Resumed, StepIntent, Suspended, Wait
from turnkeeper.kernel.joining import joined_of
from turnkeeper.kernel.lease import Lease
from turnkeeper.kernel.lifecycle import Arrival, Change, answered
from turnkeeper.kernel.names import StepName
from turnkeeper.kernel.receipt import payload_digest
from turnkeeper.kernel.records import ActorOpened, EdgeAppended, NodeStarted, Record
from turnkeeper.kernel.signal import digested
from turnkeeper.kernel.state import state_set
from turnkeeper.kernel.step import Effect, StepRecord, fold_steps
from turnkeeper.kernel.supervision.desired import TRANSITIONS as VERBS
from turnkeeper.kernel.supervision.desired import Desired
from turnkeeper.kernel.supervision.noted import SAID, ChildEventKind, Note, noted, verb_noted
from turnkeeper.kernel.turn import TERMINAL, TurnRow, TurnState
from turnkeeper.kernel.wait import OpenWait, Outcome, WaitKind
from turnkeeper.testing.memory import Disk

PAYLOAD = b"\x01"
FAILURE = msgspec.msgpack.encode(["E", "m", ""])
KEYS = ["a", "b", "", "key\0a", "key\0b", "\U0001f9ea", "e\u0301", "\u00e9"]
ENDS = [EdgeKind.TURN_COMPLETED, EdgeKind.TURN_FAILED, EdgeKind.TURN_CANCELLED]
PATHS = ["agents/billing", "tree/shop/prices", "tree/shop", "\U0001f9ea"]
HAPPENING = [kind for kind in ChildEventKind if kind not in dict(SAID.values())]
INTS = [-1, 1, 2, 3, 4, 2**40, 2**63, -(2**63) - 1]
TIMES = [0.0, -1.5, 7, 1e300, float("inf"), float("nan"), 2**63]
STATES = [*(state.value for state in TurnState), "paused", ""]
KINDS = [*HAPPENING[:2], *Desired, *WaitKind]
NAMES = ["paid", "\u00e9"]
TEXTS = [*KEYS, *STATES, *(kind.value for kind in EdgeKind), "\ud800", "odd", *KINDS, "x" * 1_001]


class Traffic:
    """What runtimes may submit: lawful decisions on the rows as they are believed to be."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.rows: dict[int, TurnRow] = {}
        self.receipts: dict[int, tuple[int, str]] = {}
        self.old: list[TurnRow] = []
        self.actors: set[int] = set()
        self.open: dict[int, list[StepRecord]] = {}
        self.joined: dict[int, list[Arrival]] = {}
        self.signals: dict[int, int] = {}
        self.boot_id = 0
        self.turn_id = 0
        self.signal_id = 0

    def believe(self, disk: Disk) -> None:
        """Believe what stands."""
        self.rows = {turn_id: disk.turn_row(turn) for turn_id, turn in disk.turns.items()}
        self.receipts = {number: (row.actor_id, row.key) for number, row in disk.receipts.items() if not row.retired}
        self.actors = set(disk.actors)
        self.boot_id = max(disk.nodes, default=0)
        self.signals = {
            number: sent.actor_id for number, (sent, taken_by, _) in disk.signals.items() if taken_by is None
        }
        self.open, self.joined = {}, {}
        for turn_id, row in self.rows.items():
            if row.state not in TERMINAL:
                with suppress(msgspec.DecodeError, ValueError):  # a detail was bent
                    self._remember(row, [edge for _, (_, edge) in sorted(disk.edges[turn_id].items())])

    def _remember(self, row: TurnRow, edges: Iterable[Edge]) -> None:
        """Take note of what a turn waits for, and of what was steered to it, from its edges."""
        self.open[row.turn_id] = [step for step in fold_steps(edges).values() if step.open]
        joined = joined_of(row.actor_id, edges).values()
        self.joined[row.turn_id] = [one for one in joined if one.arrived == Arrived.STEERED]

    def point(self) -> list[Record]:  # noqa: PLR0911 - one line a case
        """Return the next lawful point."""
        draw = self.chance.random()
        if self.boot_id == 0 or draw < 0.02:
            self.boot_id += 1
            return [NodeStarted(self.boot_id, 4242, 100.0, 145.0)]
        if draw < 0.06:
            return [records.NodeBeat(150.0, self.boot_id) if draw < 0.05 else records.NodeStopped(151.0, self.boot_id)]
        if draw < 0.1:
            return self._supervise()
        if draw < 0.15 and self.actors:
            return self._signal()
        live = [row for row in self.rows.values() if row.state not in TERMINAL]
        if draw < 0.3 or not live:
            return self._accept()
        if draw < 0.35:
            return self._duplicate()
        if draw < 0.4:
            return self._join(self.chance.choice(live))
        return self._move(self.chance.choice(live))

    def _accept(self) -> list[Record]:
        """Accept an inbound under a key that may be taken, or is renewed; a turn may have asked for it."""
        actor_id = self.chance.randrange(1, 4)
        key, holder, retired = self._key(actor_id)
        opened: list[Record] = []
        if actor_id not in self.actors:
            self.actors.add(actor_id)
            opened = [ActorOpened(actor_id, "", f"session-{actor_id}", "billing")]
        chain = self.chance.choices([*self.rows], k=1) if self.rows and self.chance.random() < 0.3 else []
        arrival = Arrival(self.turn_id, actor_id, key, PAYLOAD, payload_digest(PAYLOAD), 100.0, 200.0, chain=chain)
        change = lifecycle.accept(arrival, None if self._live(actor_id) else self._lease(), retired)
        if chain:
            handed = records.HandedOff(
                self.turn_id, "", f"session-{actor_id}", self.chance.choice(NAMES), "billing", 1.0
            )
            change.records.append(handed)
        if holder is None or retired is not None:
            self.rows[self.turn_id] = change.row
            self.receipts.pop(holder or 0, None)
            self.receipts[self.turn_id] = (actor_id, key)
        return [*opened, *change.records]

    def _key(self, actor_id: int) -> tuple[str, int | None, int | None]:
        """Return the key of the next inbound, the receipt that has it, and the same if it is to be retired."""
        self.turn_id += 1
        key = self.chance.choice([*KEYS, f"key-{self.turn_id}"])
        holder = next((number for number, held in self.receipts.items() if held == (actor_id, key)), None)
        return key, holder, holder if self.chance.random() < 0.7 else None

    def _join(self, row: TurnRow) -> list[Record]:
        """Let an inbound join a live turn: before it has begun as a part of it, and else steered to it."""
        key, holder, retired = self._key(row.actor_id)
        arrived = Arrived.STEERED if row.epoch else Arrived.COALESCED
        facts = (PAYLOAD, payload_digest(PAYLOAD), 100.0, 200.0)
        arrival = Arrival(self.turn_id, row.actor_id, key, *facts, arrived=arrived._value_)
        change = lifecycle.join(row, arrival, retired)
        if holder is None or retired is not None:
            self.rows[row.turn_id] = change.row
            self.receipts.pop(holder or 0, None)
            self.receipts[self.turn_id] = (row.actor_id, key)
            self.joined.setdefault(row.turn_id, []).extend([arrival] if row.epoch else [])
        return change.records

    def _signal(self) -> list[Record]:
        """Send a signal under a key that may be taken, let a turn take one, or free its key."""
        if self.signal_id and self.chance.random() < 0.2:
            return [records.SignalRetired(self.chance.randint(1, self.signal_id))]
        if self.signals and self.chance.random() < 0.5:
            signal_id = self.chance.choice([*self.signals])
            turns = [row.turn_id for row in self.rows.values() if row.actor_id == self.signals[signal_id]]
            if turns:
                del self.signals[signal_id]
                return [records.SignalTaken(self.chance.choice(turns), signal_id)]
        self.signal_id += 1
        actor_id = self.signals[self.signal_id] = self.chance.choice([*self.actors])
        key = self.chance.choice([*KEYS, f"key-{self.signal_id}"])
        facts = (self.chance.choice(NAMES), key, b"\x2a", 104.0, self.chance.choice([150.0, 250.0]))
        return [digested(records.SignalSent(self.signal_id, actor_id, *facts))]

    def _supervise(self) -> list[Record]:
        """Say a verb to somebody, or note what became of him."""
        path, boot_id = self.chance.choice(PATHS), self.boot_id
        if self.chance.random() < 0.5:
            kind = self.chance.choice(HAPPENING)
            return [noted(path, kind, Note("why", code=1), incarnation=self.turn_id, at=103.0, boot_id=boot_id)]
        verb = self.chance.choice([verb for before, verb in VERBS if before is Desired.PAUSED])
        return list(verb_noted(path, Desired.PAUSED, verb, Note("why", by="who"), at=103.5, boot_id=boot_id)[1])

    def _duplicate(self) -> list[Record]:
        row = self.chance.choice(list(self.rows.values()))
        if row.state in TERMINAL:
            return lifecycle.drop_duplicate(None, row.turn_id, row.turn_id, 103.0)[1]
        after, dropped = lifecycle.drop_duplicate(row, row.turn_id, row.turn_id, 103.0)
        self.rows[row.turn_id] = after or row
        return dropped

    def _move(self, row: TurnRow) -> list[Record]:
        """Move the first live turn of a turn's actor; now and then fail or cancel one that waits behind it."""
        head = min(self._live(row.actor_id), key=lambda one: one.turn_id)
        if row is not head and self.chance.random() < 0.2:
            return self._take(lifecycle.end(row, self.chance.choice(ENDS[1:]), FAILURE, 102.0))
        return self._take(self._decide(head))

    def _decide(self, row: TurnRow) -> Change:  # noqa: PLR0911 - one line a case
        """Decide on a live turn: anything that is legal for it."""
        choice = self.chance.randrange(6)
        match row.state:
            case TurnState.QUEUED if choice:
                return lifecycle.acquire(row, self._lease(), 102.0)
            case TurnState.SUSPENDED if choice:
                return self._resume(row)
            case TurnState.RUNNING if choice == 1:
                return lifecycle.requeue(row, Requeued("retry", self.chance.choice([None, 130.0])), 102.0)
            case TurnState.RUNNING if choice == 2:
                return self._suspend(row)
            case TurnState.RUNNING if choice > 3:
                return lifecycle.observe(row, EdgeKind.MODEL_ATTEMPT, None, 102.0)
            case TurnState.RUNNING:
                return lifecycle.end(row, self.chance.choice(ENDS), FAILURE, 102.0)
            case _:
                return lifecycle.end(row, self.chance.choice(ENDS[1:]), FAILURE, 102.0)

    def _suspend(self, row: TurnRow) -> Change:
        """Let a turn stand on a thing or two, or on a doubt."""
        said: list[Record] = []
        stands: list[OpenWait] = []
        for kind in self.chance.sample([*WaitKind], k=self.chance.choice([1, 1, 2])):
            due_at = self.chance.choice([300.0, 600.0, 900.0])
            child_id = self.chance.choice([*self.rows]) if kind in {WaitKind.CHILD, WaitKind.HANDOFF} else None
            doubt = kind is WaitKind.DOUBT
            wait = None if doubt else Wait(kind._value_, due_at, child_id=child_id, name=self.chance.choice(NAMES))
            effect = Effect.EFFECTFUL if doubt else Effect.PURE
            name = StepName(kind._value_, str(row.edges))
            intent = StepIntent(row.edges, *name, effect._value_, msgspec.Raw(b"\x80"), "", wait=wait)
            stands.append(OpenWait(row.edges, kind._value_, due_at, child_id))
            row, told = lifecycle.observe(row, EdgeKind.STEP_INTENDED, intent, 102.0)
            said += told
        doubts = [StepName(one.kind, str(one.issued)) for one in stands if one.kind == WaitKind.DOUBT]
        why = Suspended("approval", min(one.due_at for one in stands), doubts[0] if doubts else None)
        row, told = lifecycle.suspend(row, why, 102.0, stands)
        return Change(row, [*said, *told])

    def _resume(self, row: TurnRow) -> Change:
        """Answer all that a turn stands on, and let it run again."""
        said: list[Record] = []
        for step in self.open.get(row.turn_id, []):
            row, told = answered(row, step, Answer(Outcome.ELAPSED._value_, 102.0), 102.0)
            said += told
        row, told = lifecycle.resume(row, self._lease(), Resumed(self.boot_id, 145.0), 102.0)
        return Change(row, [*said, *told])

    def _take(self, change: Change) -> list[Record]:
        """Believe a decision. What was steered to a turn that ends goes on as turns of its own."""
        self.old.append(self.rows[change.row.turn_id])
        row = self.rows[change.row.turn_id] = change.row
        told = [record for record in change.records if isinstance(record, EdgeAppended)]
        edges = [Edge(row.turn_id, one.ordinal, EdgeKind(one.kind), one.epoch, one.at, one.detail) for one in told]
        self.open[row.turn_id] = [step for step in fold_steps(edges).values() if step.open]
        said = change.records
        if row.state in TERMINAL:
            for arrival in self.joined.pop(row.turn_id, []):
                parted = lifecycle.part(arrival)
                self.rows[arrival.turn_id] = parted.row
                said = [*said, *parted.records]
        if row.state is TurnState.COMPLETED and self.chance.random() < 0.7:
            said = [*said, state_set(row.actor_id, 1, bytes([row.turn_id % 128]), turn_id=row.turn_id, at=102.0)]
        return said

    def stale(self) -> list[Record]:
        """Return a decision on a turn as it was, by somebody who does not know that it has moved."""
        return self._decide(self.chance.choice(self.old)).records if self.old else self.point()

    def _lease(self) -> Lease:
        return Lease(self.boot_id, 145.0)

    def _live(self, actor_id: int) -> list[TurnRow]:
        return [row for row in self.rows.values() if row.actor_id == actor_id and row.state not in TERMINAL]


class Mischief:
    """What nobody should submit: lawful points with something wrong in them."""

    def __init__(self, seed: int) -> None:
        self.traffic = Traffic(seed)
        self.chance = Random(f"mischief {seed}")
        self.said: list[list[Record]] = []

    def batch(self) -> list[list[Record]]:
        """Return the next batch."""
        points = [self._point() for _ in range(self.chance.choice([1, 1, 2, 3, 5, 8]))]
        if self.chance.random() < 0.1:
            self.chance.shuffle(points)
        return points

    def _point(self) -> list[Record]:
        chance = self.chance
        point = self.traffic.stale() if chance.random() < 0.1 else self.traffic.point()
        if self.said and chance.random() < 0.05:
            point = chance.choice(self.said)
        if self.traffic.receipts and chance.random() < 0.005:
            point = lifecycle.drop_duplicate(None, chance.choice([*self.traffic.receipts]), 2**40, 103.0)[1]
        self.said.append(point)
        if chance.random() < 0.4:
            point = chance.choice([self._shuffled, self._spliced, self._thinned, self._doubled, *[self._bent] * 4])(
                point
            )
        return point

    def _shuffled(self, point: list[Record]) -> list[Record]:
        return self.chance.sample(point, len(point))

    def _spliced(self, point: list[Record]) -> list[Record]:
        return [*point, *self.chance.choice(self.said)]

    def _thinned(self, point: list[Record]) -> list[Record]:
        return [record for record in point if self.chance.random() < 0.6]

    def _doubled(self, point: list[Record]) -> list[Record]:
        return [*point, self.chance.choice(point)]

    def _bent(self, point: list[Record]) -> list[Record]:
        """Give one field of one record another value of its type."""
        place = self.chance.randrange(len(point))
        record = point[place]
        field = self.chance.choice(msgspec.structs.fields(type(record)))
        bent = msgspec.structs.replace(record, **{field.name: self._value(field, getattr(record, field.name))})
        return [*point[:place], bent, *point[place + 1 :]]

    def _value(self, field: msgspec.structs.FieldInfo, before: Any) -> Any:
        chance = self.chance
        if field.type in {int | None, float | None} and before is not None and chance.random() < 0.4:
            return None
        if field.name in {"state", "outcome"}:
            return chance.choice(STATES)
        if field.type in {int, int | None}:
            near = [before + step for step in (-1, 1)] if before is not None and abs(before) < 2**32 else []
            return chance.choice([value for value in (*INTS, *near, *near, *near) if value])
        if field.type in {float, float | None}:
            return chance.choice(TIMES)
        return chance.choice(TEXTS if field.type is str else [b"", b"\xff\xc1", bytes(4_097)])
