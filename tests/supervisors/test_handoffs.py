"""Handoffs: a turn is handed on with its packet, within limits, and its answer is the caller's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from families import STANDING, SUSPENDED, asking, both, handing, leaf, parents, refused
from looking import check_invariants, details, kinds, rows, until
from msgspec import structs

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.kernel.errors import (
    FanOutExceeded,
    HandoffRefused,
    MailboxFull,
    PayloadTooLarge,
    TurnkeeperError,
    UnknownAgent,
)

# ---------------------------------------------------------------- handed on


@both
async def test_the_deliverable_of_a_turn_that_was_handed_on_is_the_other_agents(path: Path, settings: Settings) -> None:
    """Who asked does not see the handoff; who takes it has the packet, and the input."""

    @agent("b")
    async def b(turn: Turn) -> Any:
        return turn.input

    async with Runtime(path, [handing("a", "b"), b], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", {"order": 7})

    said = {"reason": "yours", "summary": "from a", "goal": "an end"}
    assert (result.turn_id, result.outcome) == (1, "completed")
    assert result.value == {"from": "a", **said, "input": {"order": 7}}
    assert [packet.to for packet in details(path, "handoff_initiated")] == ["b"]
    assert "handoff_completed" in kinds(path)
    check_invariants(path)


@both
async def test_a_turn_that_was_handed_on_fails_as_the_other_agents_does(path: Path, settings: Settings) -> None:
    """With the same failure, byte for byte."""

    @agent("b")
    async def b(turn: Turn) -> Any:
        raise ValueError("no")

    failure = await refused(path, [handing("a", "b"), b], settings=settings)

    assert (failure.type, failure.message) == ("ValueError", "no")
    assert len({body for (body,) in rows(path, "SELECT body FROM deliverables")}) == 1


@pytest.mark.parametrize(
    ("to", "packet", "what"),
    [
        ("a", {}, "this agent itself"),
        ("b", {"reason": ""}, "its reason is empty"),
        ("b", {"summary": "  "}, "its summary is empty"),
        ("b", {"goal": None}, "its goal must be text, not NoneType"),
    ],
)
async def test_a_handoff_to_oneself_or_without_a_packet_is_refused(
    path: Path, to: str, packet: dict[str, Any], what: str
) -> None:
    """Before anything is written."""
    failure = await refused(path, [handing("a", to, **packet), asking("b")])

    assert failure.type == "HandoffRefused"
    assert what in failure.message
    assert len(parents(path)) == 1
    assert "step_intended" not in kinds(path)


async def test_a_session_has_so_many_handoffs_and_a_pair_its_cooldown(path: Path) -> None:
    """Other sessions have their own."""
    settings = structs.replace(STANDING, handoffs_max=2, handoff_cooldown_s=3_600.0)
    agents = [handing("a", "c"), handing("b", "c"), handing("d", "c"), asking("c")]
    async with Runtime(path, agents, settings=settings) as runtime:
        ends = [await runtime.ask(*to, None) for to in (("s", "a"), ("s", "a"), ("s", "b"), ("s", "d"), ("t", "a"))]

    said = [end.failure and end.failure.message for end in ends]
    assert [end.outcome for end in ends] == ["completed", "failed", "completed", "failed", "completed"]
    assert "handoff_cooldown_s" in str(said[1])
    assert "handoffs_max" in str(said[3])
    assert all(end.failure.type == HandoffRefused.__name__ for end in ends if end.failure)


@both
async def test_others_get_what_is_recorded_whatever_becomes_of_the_objects(path: Path, settings: Settings) -> None:
    """What is asked with, and the input that a handoff tells, are nobody's to change any more."""

    @agent("a")
    async def a(turn: Turn) -> None:
        payload = {"n": 1}
        asked = turn.ask("b", payload)
        payload["n"] = 2
        turn.input.clear()
        await asked
        await turn.handoff("b", reason="yours", summary="all", goal="an end")

    @agent("b")
    async def b(turn: Turn) -> Any:
        return turn.input

    async with Runtime(path, [a, b], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "a", {"order": 7})

    assert details(path, "inbound_received", 2)[0].payload == msgspec.Raw(msgspec.msgpack.encode({"n": 1}))
    assert result.value["input"] == {"order": 7}


def _asked_beside(turn: Turn) -> Any:
    calls = [turn.ask("leaf", "wait", session_id=session_id) for session_id in ("t", "u")]
    return turn.gather(*calls, fail_fast=True)


def _handed(turn: Turn, to: str, goal: str = "an end") -> Any:
    return turn.handoff(to, reason="yours", summary="all", goal=goal)


REFUSING: dict[str, tuple[type[TurnkeeperError], dict[str, Any], Callable[[Turn], Any]]] = {
    "cooldown": (HandoffRefused, {"handoff_cooldown_s": 3_600.0}, lambda turn: _handed(turn, "leaf")),
    "fan-out": (FanOutExceeded, {"children_max": 1}, _asked_beside),
    "mailbox": (MailboxFull, {"mailbox_len_max": 1}, lambda turn: turn.ask("full")),
    "agent": (UnknownAgent, {}, lambda turn: turn.ask("late")),
    "size": (PayloadTooLarge, {"payload_bytes_max": 260}, lambda turn: _handed(turn, "leaf", "g" * 150)),
}
"""How a wait is refused: with which error, under which settings, and what was asked for."""


@pytest.mark.parametrize(("error", "limits", "ask"), REFUSING.values(), ids=REFUSING)
async def test_what_was_refused_once_is_refused_in_every_run(
    path: Path, error: type[TurnkeeperError], limits: dict[str, Any], ask: Callable[[Turn], Any]
) -> None:
    """With the same facts, also where nothing stands in its way any more."""
    said: list[tuple[type[TurnkeeperError], dict[str, Any]]] = []

    @agent("play")
    async def play(turn: Turn) -> str:
        try:
            await ask(turn)
        except TurnkeeperError as refusal:
            said.append((type(refusal), dict(vars(refusal))))
        await turn.step("fallback", lambda: "done")
        await turn.signal("go")
        return "fallen back"

    @agent("full")
    async def full(turn: Turn) -> None:
        await turn.signal("go")

    agents = [play, full, leaf]
    async with Runtime(path, agents, settings=structs.replace(SUSPENDED, **limits)) as runtime:
        if error is HandoffRefused:
            first = await runtime.tell("s", "play", None)
            await first.deliverable()
            said.clear()
        for _ in range(2 if error is MailboxFull else 0):
            await runtime.tell("s", "full", None)
        receipt = await runtime.tell("s", "play", "i" * 100, key="k")
        suspended = "SELECT state FROM turns WHERE turn_id = ?"
        await until(lambda: rows(path, suspended, receipt.turn_id) == [("suspended",)])
    async with Runtime(path, [*agents, asking("late")], settings=SUSPENDED) as runtime:
        await runtime.signal("s", "play", "go")
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", "i" * 100, key="k")

    assert (result.value, len(said)) == ("fallen back", 2)
    assert said[0] == said[1]
    assert said[0][0] is error
    check_invariants(path)
