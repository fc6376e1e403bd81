"""Approved: what is called is exactly what was approved, whoever changes it meanwhile."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from being_asked import FAST, Running, asked, settle
from looking import details

from turnkeeper import Effect, Runtime, Turn, agent, tool
from turnkeeper.kernel.errors import (
    ContractViolation,
)
from turnkeeper.kernel.receipt import payload_digest

# ---------------------------------------------------------------- exactly what was approved


class Till:
    """An agent `pay` that asks before it charges, and charges something else where it is told to."""

    def __init__(self, changed: int = 0) -> None:
        self.charged: list[int] = []

        @tool(effect=Effect.EFFECTFUL)
        async def charge(cents: int, currency: str = "EUR") -> str:
            self.charged.append(cents)
            return f"charged {cents} {currency}"

        @agent("pay", tools=[charge])
        async def pay(turn: Turn) -> str:
            ok = await turn.approval("charge", charge.proposed(turn.input))
            return await turn.call(charge.approved(ok), turn.input + changed)

        self.charge, self.pay = charge, pay


async def test_a_tool_is_called_with_exactly_what_was_approved(path: Path) -> None:
    """What people saw is the call as it is recorded, with its defaults."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as running:
        receipt = await running.tell("s", "pay", 5)
        (question,) = await asked(running)
        await running.approve(question.token, by="anna", digest=question.digest)
        assert (await receipt.deliverable()).value == "charged 5 EUR"

    assert question.subject == {"tool": "charge", "arguments": {"cents": 5, "currency": "EUR"}}
    assert [step.name for step in details(path, "step_intended")] == ["turn.approval", "charge"]


async def test_what_people_and_the_handler_are_given_is_one_digest(path: Path) -> None:
    """As text, so that both sides, and the record, can be compared as they are."""

    @agent("desk")
    async def desk(turn: Turn) -> str:
        return (await turn.approval("charge", turn.input)).digest

    async with Runtime(path, [desk], settings=FAST) as running:
        receipt = await running.tell("s", "desk", 5)
        (question,) = await asked(running)
        await running.approve(question.token, by="anna", digest=question.digest)

        assert (await receipt.deliverable()).value == question.digest


@pytest.mark.parametrize("restarted", [True, False])
async def test_arguments_that_change_after_the_approval_are_refused(path: Path, restarted: bool) -> None:
    """Before anything is recorded or called; also by a handler that was changed while people thought about it."""
    till, changed = Till(), Till(changed=1)
    async with Runtime(path, [till.pay if restarted else changed.pay], settings=FAST) as running:
        await running.tell("s", "pay", 5, key="k")
        (question,) = await asked(running)
        if not restarted:
            await running.approve(question.token, by="anna")
            ended = await running.ask("s", "pay", 5, key="k")
    if restarted:
        async with Runtime(path, [], settings=FAST) as running:
            await running.approve(question.token, by="anna")
        async with Runtime(path, [changed.pay], settings=FAST) as running:
            ended = await running.ask("s", "pay", 5, key="k")

    assert ended.failure is not None
    assert (ended.failure.type, changed.charged) == ("ContractViolation", [])
    assert "is not the one that was approved" in ended.failure.message
    assert [step.name for step in details(path, "step_intended")] == ["turn.approval"]


async def test_what_was_shown_is_what_was_approved_whatever_becomes_of_the_objects(path: Path) -> None:
    """The subject, and who may answer, are what they were as the approval was asked for."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        subject, who = {"cents": 5}, ["anna"]
        approval = turn.approval("refund", subject, who=who)
        subject["cents"] = 1_000_000
        who.append("mallory")
        return (await approval).digest

    async with Runtime(path, [desk], settings=FAST) as running:
        receipt = await running.tell("s", "desk", None)
        (question,) = await asked(running)
        await running.approve(question.token, by="anna")
        approved = (await receipt.deliverable()).value

    assert (question.subject, question.who) == ({"cents": 5}, ["anna"])
    assert question.digest == payload_digest(msgspec.msgpack.encode({"cents": 5})).hex() == approved


async def test_an_approved_tool_is_refused_outside_of_a_turn_as_well(runtime: Running) -> None:
    """Called as the plain function that it is."""
    till = Till()

    @agent("pay")
    async def pay(turn: Turn) -> str:
        ok = await turn.approval("charge", till.charge.proposed(cents=5))
        approved = till.charge.approved(ok)
        with pytest.raises(ContractViolation):
            await approved(6)
        with pytest.raises(ContractViolation):
            await approved(5, "USD")
        return await approved(5)

    async with runtime([pay]) as running:
        receipt = await running.tell("s", "pay", None)
        await settle()
        await running.approve((await running.approvals())[0].token, by="anna")

        assert ((await receipt.deliverable()).value, till.charged) == ("charged 5 EUR", [5])


async def test_another_tool_of_the_same_arguments_is_not_approved(runtime: Running) -> None:
    """Its name is part of what was approved; and so are the arguments' very values."""

    @tool(effect=Effect.PURE)
    async def one(value: float) -> float:
        return value

    @tool(effect=Effect.PURE)
    async def other(value: float) -> float:
        return value

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        ok = await turn.approval("call", one.proposed(1.5))
        for call in (turn.call(other.approved(ok), 1.5), turn.call(one.approved(ok), 1.25)):
            with pytest.raises(ContractViolation):
                await call
        return await turn.call(one.approved(ok).keyed("once"), 1.5)

    async with runtime([desk]) as running:
        receipt = await running.tell("s", "desk", None)
        await settle()
        await running.approve((await running.approvals())[0].token, by="anna")

        assert (await receipt.deliverable()).value == 1.5


async def test_names_of_people_are_a_list(runtime: Running) -> None:
    """Or one name would be as many people as it has letters."""

    @agent("desk")
    async def desk(turn: Turn) -> None:
        for how in ({"who": "anna"}, {"at_deadline": "escalate", "next_who": "anna"}):
            with pytest.raises(ContractViolation):
                await turn.approval("refund", **how)  # type: ignore[arg-type]
        with pytest.raises(ContractViolation):
            await turn.escalate(reason="r", summary="s", goal="g", who="anna")

    async with runtime([desk]) as running:
        assert (await running.ask("s", "desk", None)).outcome == "completed"
