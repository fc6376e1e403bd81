"""Waiting: what a suspended turn's answer amounts to, and what becomes of it when none comes."""

from contextlib import suppress

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.node import Node
from turnkeeper.actors.run import recorded
from turnkeeper.actors.tool import DidNotHappen, GiveUp, Happened
from turnkeeper.actors.values import encode
from turnkeeper.kernel.edge import NOTHING, Resumed
from turnkeeper.kernel.errors import (
    ContractViolation,
    DeadlineExceeded,
    EffectInDoubt,
    TurnkeeperError,
    VersionGone,
    WaitTokenInvalid,
)

__all__ = ["Finding", "check_finding", "found_out", "overdue"]

Finding = Happened | DidNotHappen | GiveUp
"""What somebody says about an effect in doubt."""

NO_DOUBT = "it does not stand on a step in doubt"


def check_finding(finding: Finding) -> None:
    """Refuse what is no finding: a forgotten argument must not repeat an effect.

    Raises:
        ContractViolation: it is something else.
    """
    if not isinstance(finding, Happened | DidNotHappen | GiveUp):
        said = f"must be Happened(...), DidNotHappen() or GiveUp(), not {finding!r}"  # type: ignore[unreachable]
        raise ContractViolation("the finding", said)


async def found_out(node: Node, turn_id: int, finding: Finding, token: str, definition: Agent) -> Resumed:
    """Return what an answer to a suspended turn is recorded as. Writes nothing.

    Args:
        node: where the turn stands.
        turn_id: the turn.
        finding: what somebody found out.
        token: of the doubt that they were asked about.
        definition: the turn's agent: a result must fit its tool, or the turn would fail of it.

    Raises:
        WaitTokenInvalid: the token is not that of the doubt the turn stands on now, or was for an earlier one.
        ContractViolation, PayloadTooLarge: the result does not fit its tool, or cannot be stored.
    """
    check_finding(finding)
    result = NOTHING
    if isinstance(finding, Happened):
        result = msgspec.Raw(encode(finding.result, "the result", node.settings.payload_bytes_max))
    record = await recorded(node, turn_id)
    suspension = record.suspension
    if suspension is None or suspension.step is None:
        raise WaitTokenInvalid(turn_id, NO_DOUBT)
    if node.clock.time() >= suspension.due_at:
        raise WaitTokenInvalid(turn_id, "its time is over")
    if token != suspension.token:  # the token of a doubt from before there were tokens is empty
        said = "the token is of another doubt, or was used already" if token else "the token is missing"
        raise WaitTokenInvalid(turn_id, f"{said}; `doubts` and `explain` show the present one")
    if isinstance(finding, Happened):
        with suppress(VersionGone, KeyError):  # its tool is not given here; what does not fit fails the turn
            agent = definition.started_under(turn_id, record.version, steps=len(record.steps))
            tool = agent.tools[suspension.step.name]
            result = msgspec.Raw(tool.fit_result(finding.result, node.settings.payload_bytes_max))
    return Resumed(
        node.lease.boot_id,
        node.lease.until,
        suspension.step,
        happened=isinstance(finding, Happened),
        result=result,
        given_up=isinstance(finding, GiveUp),
    )


async def overdue(node: Node, turn_id: int) -> TurnkeeperError:
    """Return why a turn fails whose wait nobody answered in time: it names the step that is in doubt.

    Raises:
        StorageFailed: the store cannot be read.
    """
    record = await recorded(node, turn_id)
    step = record.suspension.step if record.suspension is not None else None
    if step is None or step not in record.steps:
        return DeadlineExceeded(turn_id, node.settings.approval_s)
    return EffectInDoubt(step, record.steps[step].idempotency_key)
