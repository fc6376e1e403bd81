"""Tests of the refund agent: under many schedules, through kills, and killed at every single point."""

import asyncio

import pytest
from refunds import refunds

from turnkeeper.testing import Faults, World, assert_no_violations


class FakeBank:
    """A bank in the simulated world: what it has paid stays paid when the process is killed."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def price(self, order: str) -> int:
        await asyncio.sleep(0.1)
        return 100 * len(order)

    async def pay(self, order: str, cents: int, reference: str) -> None:
        await asyncio.sleep(0.2)
        self._world.happen(f"payment {reference}")  # twice would be a violation
        await asyncio.sleep(0.2)

    async def has_paid(self, reference: str) -> bool:
        await asyncio.sleep(0.1)
        return self._world.happened(f"payment {reference}") > 0


@pytest.mark.seeds(30, faults=Faults(crash_rate=0.03))
async def test_each_order_is_refunded_once(runtime, world):
    """Two customers, two deliveries of each message, and a process that is killed now and then."""
    async with runtime([refunds(FakeBank(world))]) as running:
        asked = [running.ask(who, "refunds", {"order": who}, key="m1") for who in ("ann", "bob", "ann", "bob")]
        answers = await asyncio.gather(*asked)
        assert_no_violations(running)

    assert [answer.value for answer in answers] == ["refunded 300 cents of ann", "refunded 300 cents of bob"] * 2


def test_no_kill_at_any_point_pays_twice_or_never(crash_points):
    """The process is killed at its 1st, 2nd, ... n-th commit and effect; each time it recovers."""

    async def life(world: World) -> None:
        async with world.runtime([refunds(FakeBank(world))]) as running:
            answer = await running.ask("ann", "refunds", {"order": "W42"}, key="m1")
            assert answer.value == "refunded 300 cents of W42"

    outcomes = crash_points(life)

    assert len(outcomes) > 10
    assert all(outcome.live == 0 for outcome in outcomes)


@pytest.mark.seeds(10)
async def test_a_colleague_that_hangs_holds_nobody_up(runtime, world, virtual_clock, scripted_agent):
    """Another agent's turn never ends by itself: it fails after its hour, which the test need not wait for."""
    colleague = scripted_agent("colleague", ["hang", "crash", "ok"], turn_s=3_600)
    async with runtime([refunds(FakeBank(world)), colleague]) as running:
        hanging = await running.tell("ann", "colleague", "hello", key="m1")
        answer = await running.ask("ann", "refunds", {"order": "W42"}, key="m1")
        again = await running.ask("bob", "colleague", "hello", key="m1")
        await virtual_clock.advance(7_200)

        assert answer.value == "refunded 300 cents of W42"
        assert again.value == "hello"
        assert (await hanging.deliverable()).outcome == "failed"
