"""Leases: the right of a boot to run turns until a deadline, on a clock that the caller brings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper.kernel.errors import LeaseExpired
from turnkeeper.kernel.lease import Lease

seconds = st.floats(0, 1e10)


def test_a_lease_holds_until_its_deadline_and_not_at_it() -> None:
    """The last moment belongs to nobody, so two owners never share one."""
    lease = Lease(3, 145.0)

    assert not lease.expired(144.999)
    assert lease.expired(145.0)
    assert lease.expired(145.001)


def test_a_lease_that_holds_passes_its_check() -> None:
    """Nothing is raised while there is time left."""
    Lease(3, 145.0).check(7, 144.999)


def test_a_lease_that_ran_out_is_refused_with_its_facts() -> None:
    """The error names the turn and when the lease ended."""

    with pytest.raises(LeaseExpired) as refused:
        Lease(3, 145.0).check(7, 150.0)
    assert (refused.value.turn_id, refused.value.expired_at) == (7, 145.0)


def test_a_beat_renews_the_lease_of_the_same_boot_from_now_on() -> None:
    """The new deadline counts from the beat, not from the old deadline."""

    assert Lease(3, 145.0).renewed(130.0, 45.0) == Lease(3, 175.0)


def test_renewing_leaves_the_lease_it_was_made_from_as_it_was() -> None:
    """Leases are values: whoever holds the old one sees no change under its hands."""
    lease = Lease(3, 145.0)
    lease.renewed(130.0, 45.0)

    assert lease == Lease(3, 145.0)


@settings(deadline=None)
@given(until=seconds, now=seconds, lease_s=st.floats(5, 300))
def test_a_beat_never_shortens_a_lease(until: float, now: float, lease_s: float) -> None:
    """Not even if the clock went backwards: a nudge moves no deadline."""
    lease = Lease(3, until).renewed(now, lease_s)

    assert lease.until >= until
    assert lease.until >= now + lease_s
    assert lease.until in {until, now + lease_s}


@settings(deadline=None)
@given(st.lists(seconds, max_size=20))
def test_however_the_beats_come_the_deadline_only_moves_on(beats: list[float]) -> None:
    """Late, double and disordered beats lead to the deadline of the latest."""
    lease = Lease(3, 45.0)
    for now in beats:
        lease = lease.renewed(now, 45.0)

    assert lease.until == max([45.0, *(now + 45.0 for now in beats)])


@settings(deadline=None)
@given(until=seconds, now=seconds)
def test_a_check_refuses_exactly_what_is_expired(until: float, now: float) -> None:
    """`expired` and `check` are one answer in two forms."""
    lease = Lease(3, until)
    try:
        lease.check(7, now)
        refused = False
    except LeaseExpired:
        refused = True

    assert refused == lease.expired(now) == (now >= until)
