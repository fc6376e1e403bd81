"""Cancelling by session, and by accident: what goes, and what a client that disconnects leaves alone."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from cancelling import STANDING, SUSPENDED, Gate, acting, states
from looking import check_invariants, kinds, until

from turnkeeper import Runtime, Settings, Turn, agent
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import StorageFailed

# ---------------------------------------------------------------- by session, and by accident


async def test_a_session_is_cancelled_and_nothing_of_it_starts_meanwhile(path: Path) -> None:
    """Other sessions, and those of other tenants, go on."""
    gate, started = Gate(), []

    @agent("play")
    async def play(turn: Turn) -> str:
        started.append((turn.tenant, turn.session_id))
        return await turn.step("pure", gate.stay)

    async with Runtime(path, [play], settings=STANDING) as runtime:
        mine = [await runtime.tell("s", "play", None) for _ in range(4)]
        others = [await runtime.tell("t", "play", None), await runtime.tell("s", "play", None, tenant="other")]
        await until(lambda: len(started) == 3)
        with anyio.fail_after(5):
            ends = await runtime.cancel_session("s", by="ann")
        gate.opened.set()
        left = [(await receipt.deliverable()).outcome for receipt in others]

    assert [end.turn_id for end in ends] == [receipt.turn_id for receipt in reversed(mine)]
    assert {end.outcome for end in ends} == {"cancelled"}
    assert left == ["completed", "completed"]
    assert len(started) == 3
    check_invariants(path)


async def test_a_client_that_goes_away_cancels_nothing(path: Path) -> None:
    """Whoever waits for a deliverable may stop waiting."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=STANDING) as runtime:
        asking = asyncio.create_task(runtime.ask("s", "play", "pure", key="k"))
        await gate.entered.wait()
        asking.cancel()
        await asyncio.wait([asking])
        gate.opened.set()
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", "pure", key="k")

    assert result.outcome == "completed"


@pytest.mark.parametrize("turns_of_the_loop", [0, 1, 2, 3, 5, 8, 13, 21])
@pytest.mark.parametrize("settings", [STANDING, SUSPENDED], ids=["standing", "suspended"])
async def test_one_who_cancels_and_goes_away_leaves_no_turn_half_cancelled(
    path: Path, settings: Settings, turns_of_the_loop: int
) -> None:
    """Either it is cancelled, or it goes on and can be."""
    gate = Gate()
    async with Runtime(path, [acting(gate)], settings=settings) as runtime:
        receipt = await runtime.tell("s", "play", "signal")
        await until(lambda: "step_intended" in kinds(path) or states(path) == ["suspended"])
        cancelling = asyncio.create_task(runtime.cancel(receipt.turn_id))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        cancelling.cancel()
        await asyncio.wait([cancelling])
        await runtime.signal("s", "play", "go")
        with anyio.fail_after(5):
            result = await receipt.deliverable()

    assert result.outcome in {"cancelled", "completed"}
    check_invariants(path)


async def _full(store: SqliteStore, points: Any) -> Any:
    raise StorageFailed(store.path, "the disk is full")


@pytest.mark.parametrize("where", ["signal", "doubt"])
async def test_a_suspended_turn_that_cannot_be_cancelled_is_said_to_go_on(
    path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: refused, and cancelled when it is asked for again."""
    async with Runtime(path, [acting(Gate())], settings=SUSPENDED) as runtime:
        receipt = await runtime.tell("s", "play", where)
        await until(lambda: runtime.statistics().suspended == 1)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteStore, "apply", _full)
            with anyio.fail_after(5), pytest.raises(StorageFailed):
                await runtime.cancel(receipt.turn_id)
        await until(lambda: runtime.statistics().suspended == 1)
        assert (await runtime.cancel(receipt.turn_id)).outcome == "cancelled"
        assert runtime.statistics().suspended == 0
    check_invariants(path)
