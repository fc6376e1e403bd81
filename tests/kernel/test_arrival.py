"""Arrivals: the one table of policies and of how actors are found, every cell of it, and what is made of its cells."""

from itertools import product
from pathlib import Path

import pytest

from turnkeeper.kernel.arrival import ARRIVALS, Arrived, Found, Policy, arrive, policy_of, table
from turnkeeper.kernel.errors import ContractViolation

EXPECTED = {
    Policy.QUEUE: ["started", "queued", "queued", "queued", "queued"],
    Policy.REJECT: ["started", "refused", "refused", "refused", "refused"],
    Policy.COALESCE: ["started", "coalesced", "coalesced", "coalesced", "coalesced"],
    Policy.INTERRUPT: ["started", "queued", "interrupted", "interrupted", "interrupted"],
    Policy.STEER: ["started", "queued", "steered", "steered", "steered"],
}
"""As the actor is found: idle, waiting, running, suspended, stopping."""


@pytest.mark.parametrize("policy", Policy)
def test_a_message_comes_to_what_its_policy_says(policy: Policy) -> None:
    """However it is found, where its agent is at work and a turn waits that it may join."""
    come_to = [arrive(policy, found, resting=False, joinable=True) for found in Found]

    assert come_to == EXPECTED[policy]
    assert ARRIVALS.keys() == set(product(Policy, Found))


@pytest.mark.parametrize("policy", Policy)
def test_nothing_starts_while_its_agent_rests(policy: Policy) -> None:
    """What finds no live turn is accepted all the same."""
    for found in Found:
        busy, resting = (arrive(policy, found, resting=rests, joinable=True) for rests in (False, True))

        assert resting is (Arrived.QUEUED if busy is Arrived.STARTED else busy)


@pytest.mark.parametrize("policy", Policy)
def test_where_no_turn_can_be_joined_a_message_queues(policy: Policy) -> None:
    """It is the only thing that hangs on that."""
    for found in Found:
        joins, alone = (arrive(policy, found, resting=False, joinable=can) for can in (True, False))

        assert alone is (Arrived.QUEUED if joins is Arrived.COALESCED else joins)


def test_a_policy_is_known_by_its_name() -> None:
    """Another name is refused, and those that there are are listed."""
    assert [policy_of(policy.value) for policy in Policy] == [*Policy]
    with pytest.raises(ContractViolation, match="'Steer' is none of queue, reject, coalesce, interrupt, steer"):
        policy_of("Steer")


def test_the_page_holds_the_table() -> None:
    """Printed from the one that decides."""
    page = Path(__file__).parents[2] / "docs" / "arriving.md"

    assert table() in page.read_text()
