"""The report of a replay, read from the store and the effects file: what is there, not what was meant."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.conversations import AGENT_ID, Conversation
from turnkeeper.cli.effects import read_effects
from turnkeeper.cli.replay import Ran
from turnkeeper.kernel.edge import EdgeKind, Requeued, decode_detail
from turnkeeper.kernel.history import Interval, out_of_order, overlaps, runs
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.rows import StoredTurn
from turnkeeper.kernel.step import Effect, StepStatus, fold_steps
from turnkeeper.kernel.turn import TurnState

__all__ = ["Report", "report"]


class Report(msgspec.Struct, kw_only=True):
    """All of the named conversations in the store, whichever runs brought them there.

    Args:
        conversations: named conversations that are in the store.
        turns: their turns that completed with the recorded answer.
        steps: recorded steps of theirs that succeeded.
        effects: lines of theirs in the effects file.
        lost: deliveries without their answer, and effects on record without their line.
        repeated: lines of an effect beyond its first, and turns of a delivery beyond its first.
        overlapping: pairs of turns of one conversation that ran at the same time.
        out_of_order: turns that started before an earlier one of their conversation.
        recovered: times a turn was taken back from a process that had died.
        in_doubt: effects that a crash had cut off, and that the probe then settled.
        escalations: times that people were asked to take over.
        answered: of them, those that they answered, each once.
        turns_per_s: of this run; 0 if it had nothing left to do.
        commits_per_turn: of this run; 0 if it had nothing left to do.
    """

    conversations: int = 0
    turns: int = 0
    steps: int = 0
    effects: int = 0
    lost: int = 0
    repeated: int = 0
    overlapping: int = 0
    out_of_order: int = 0
    recovered: int = 0
    in_doubt: int = 0
    escalations: int = 0
    answered: int = 0
    turns_per_s: float = 0.0
    commits_per_turn: float = 0.0

    @property
    def faultless(self) -> bool:
        """Say whether every promise was kept."""
        broken = self.lost or self.repeated or self.overlapping or self.out_of_order
        return not broken and self.answered == self.escalations


def report(conversations: Sequence[Conversation], db: Path, effects: Path, ran: Ran) -> Report:
    """Count what became of the conversations.

    Raises:
        StorageFailed, BadInput: a file cannot be read.
    """
    lines = Counter(line.key for line in read_effects(effects)[0])
    counted = Report()
    if ran.turns:
        counted.turns_per_s = round(ran.turns / ran.seconds, 1)
        counted.commits_per_turn = round(ran.commits / ran.turns, 3)
    with Reader(db) as reader:
        actors = {session.address: session.actor_id for session in reader.sessions()}
        for conversation in conversations:
            actor_id = actors.get(Address("", conversation.conversation_id, AGENT_ID))
            turns = [] if actor_id is None else reader.turns(actor_id)
            counted.conversations += actor_id is not None
            _count(counted, conversation, turns, reader, lines)
    return counted


def _count(
    counted: Report, conversation: Conversation, turns: Sequence[StoredTurn], reader: Reader, lines: Counter[str]
) -> None:
    """Add one conversation to the report."""
    by_key = Counter(turn.receipt.key for turn in turns if turn.receipt)
    answers: dict[str, bytes] = {}
    intervals: list[Interval] = []
    for turn in turns:
        numbered = reader.edges(turn.row.turn_id)
        intervals.extend(runs(turn.row.turn_id, ((number, edge.kind) for number, edge in numbered)))
        deliverable = reader.deliverable(turn.row.turn_id)
        if turn.receipt and deliverable is not None and deliverable.outcome == TurnState.COMPLETED:
            answers[turn.receipt.key] = deliverable.body
        edges = [edge for _, edge in numbered]
        details = map(decode_detail, edges)
        counted.recovered += sum(isinstance(one, Requeued) and one.reason == "recovery" for one in details)
        counted.in_doubt += sum(edge.kind == EdgeKind.STEP_UNKNOWN for edge in edges)
        resolved = sum(edge.kind == EdgeKind.ESCALATION_RESOLVED for edge in edges)
        for step in fold_steps(edges).values():
            counted.steps += step.status is StepStatus.SUCCEEDED
            if step.wait is not None:
                counted.escalations += 1
                resolved -= step.status is StepStatus.SUCCEEDED
                counted.answered += step.status is StepStatus.SUCCEEDED
            if step.effect == Effect.EFFECTFUL:
                counted.effects += lines[step.idempotency_key]
                counted.repeated += max(0, lines[step.idempotency_key] - 1)
                counted.lost += step.status is StepStatus.SUCCEEDED and not lines[step.idempotency_key]
        counted.repeated += max(0, resolved)
    for delivery in conversation.deliveries:
        answered = answers.get(delivery.key) == msgspec.msgpack.encode(delivery.answer)
        counted.turns += answered
        counted.lost += not answered
        counted.repeated += max(0, by_key[delivery.key] - 1)
    counted.overlapping += len(overlaps(intervals))
    counted.out_of_order += len(out_of_order([turn.row.turn_id for turn in turns], intervals))
