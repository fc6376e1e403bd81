"""Arriving within limits: what waits is counted, wherever it waits, and what there is not is refused."""

import asyncio
from pathlib import Path

import pytest
from looking import kinds, rows, until
from staging import SETTINGS, Stage, answer, staged, states, tell, values

from turnkeeper import Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.arrival import Policy
from turnkeeper.kernel.errors import (
    ContractViolation,
    MailboxFull,
)

# ---------------------------------------------------------------- limits and names


async def test_what_joined_counts_against_the_mailbox(tmp_path: Path) -> None:
    """Until it is taken, or its turn begins: a full mailbox refuses before acceptance."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage, Settings(synchronous="OFF", mailbox_len_max=3)) as runtime:
        await tell(runtime, "first")
        await until(lambda: stage.started)
        for arrival in ("queue", "coalesce", "steer"):
            await tell(runtime, arrival, arrival)
        for policy in (Policy.QUEUE, Policy.COALESCE, Policy.STEER, Policy.INTERRUPT):
            with pytest.raises(MailboxFull):
                await tell(runtime, "one more", policy)
        stage.gate.set()
        await until(lambda: runtime.statistics().completed == 2)
        again = await tell(runtime, "one more", "steer")

    assert again.arrived == "started"
    assert rows(path, "SELECT count(*) FROM receipts") == [(5,)]


async def test_what_joined_before_a_restart_counts_as_well(tmp_path: Path) -> None:
    """Nobody has read yet what it was."""
    path, settings = tmp_path / "a.db", Settings(synchronous="OFF", mailbox_len_max=3, suspend_s=0.001)
    async with staged(path, Stage(stands=True), settings) as runtime:
        await tell(runtime, "first")
        await until(lambda: states(path) == ["suspended"])
        await tell(runtime, "second", "queue")
        await tell(runtime, "third", "coalesce")
    async with staged(path, Stage(stands=True), settings) as runtime:
        await tell(runtime, "fourth", "queue")
        with pytest.raises(MailboxFull):
            await tell(runtime, "fifth", "queue")

    assert rows(path, "SELECT arrived FROM receipts ORDER BY receipt_id")[2:] == [("coalesced",), ("queued",)]


async def test_an_agent_has_a_policy_and_a_message_may_have_another(tmp_path: Path) -> None:
    """By its name; there are no others."""
    stage, path = Stage(arrival="steer"), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stage.started)
        steered, queued = await tell(runtime, "second"), await tell(runtime, "third", "queue")
        with pytest.raises(ContractViolation, match="queue, reject, coalesce, interrupt, steer"):
            await tell(runtime, "fourth", "whenever")
        stage.gate.set()
        asked = await runtime.ask("s", "play", "fifth", arrival=Policy.QUEUE)
        await values(first, queued)

    assert (steered.arrived, queued.arrived) == ("steered", "queued")
    assert asked.value == answer("fifth")
    with pytest.raises(ContractViolation, match="queue, reject, coalesce, interrupt, steer"):
        agent("play", arrival="whenever")


async def test_an_interrupt_waits_for_an_effect_that_is_under_way(tmp_path: Path) -> None:
    """Its result is recorded, nothing more is called, and what was dropped is said."""
    called, gate, path = asyncio.Event(), asyncio.Event(), tmp_path / "a.db"

    @tool(effect=Effect.EFFECTFUL)
    async def charge(cents: int) -> str:
        called.set()
        await gate.wait()
        return "paid"

    @agent("play")
    async def play(turn: Turn) -> str:
        if turn.input == "first":
            await turn.call(charge, 5)
            await turn.call(charge, 6)
        return "done"

    async with Runtime(path, [play], settings=SETTINGS) as runtime:
        first = await tell(runtime, "first")
        await called.wait()
        second = await tell(runtime, "second", "interrupt")
        gate.set()
        ended, value = await first.deliverable(), await values(second)

    assert ended.failure is not None
    assert ended.failure.type == "Interrupted"
    assert kinds(path, first.turn_id)[2:] == ["step_intended", "policy_resolved", "step_succeeded", "turn_cancelled"]
    assert value == ["done"]
    assert audit(path).violations == []
