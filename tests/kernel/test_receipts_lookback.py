"""The backlog and the replay plan: what waits, what is stuck, what came again, and what sending it again would mean."""

from collections.abc import Callable

import pytest
from telling import DAY_S, START, Told

from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.errors import StorageFailed, TurnNotFound
from turnkeeper.kernel.lookback.backlog import receipts
from turnkeeper.kernel.lookback.replay import ReplayPlan, ReplayVerdict, plan_replay


@pytest.fixture
def told() -> Told:
    return Told()


def listed(told: Told, now: float | None = None, **filters: object) -> list[int]:
    """Return the ids of the receipts that pass the filters; asking changes nothing."""
    before = told.disk.digest()
    found = receipts(told.rows, told.now if now is None else now, **filters)  # type: ignore[arg-type]

    assert told.disk.digest() == before
    assert all(one.waits_for for one in found if one.state in {"accepted", "processing"})
    return [one.receipt_id for one in found]


# ---------------------------------------------------------------- the backlog


def test_unanswered_receipts_are_listed_in_the_order_of_acceptance(told: Told) -> None:
    """Ended ones are not."""
    done = told.accept("a")
    told.complete(done)
    running, queued = told.accept("b"), told.accept("b", "y", start=False)
    standing = told.accept("c")
    told.stand(standing, 0, "refund")

    assert listed(told) == [running, queued, standing]
    views = receipts(told.rows, told.now)
    assert [one.state for one in views] == ["processing", "accepted", "processing"]
    assert [one.turn_state for one in views] == ["running", "queued", "suspended"]
    assert views[1].behind == running


def test_an_age_counts_from_the_acceptance(told: Told) -> None:
    """Older than so long is more than so long; what came again is not younger for it."""
    turn = told.accept()
    accepted_at = told.disk.receipts[turn].first_seen
    told.came_again(turn)

    assert listed(told, accepted_at + 60, older_than_s=60) == []
    assert listed(told, accepted_at + 60.1, older_than_s=60) == [turn]
    assert receipts(told.rows, accepted_at + 60)[0].age_s == 60


def test_an_ended_receipt_is_never_old(told: Told) -> None:
    """Aging is about what waits, however it is asked for."""
    turn = told.accept()
    told.came_again(turn)
    told.complete(turn)

    assert listed(told, told.now + DAY_S, duplicated=True) == [turn]
    assert listed(told, told.now + DAY_S, duplicated=True, older_than_s=0) == []


def test_duplicates_are_listed_with_their_count(told: Told) -> None:
    """Live or ended."""
    ended, live, once = told.accept("a"), told.accept("b"), told.accept("c")
    for _ in range(3):
        told.came_again(ended)
    told.complete(ended)
    told.came_again(live)

    assert listed(told, duplicated=True) == [ended, live]
    assert [one.duplicates for one in receipts(told.rows, told.now, duplicated=True)] == [3, 1]
    assert once not in listed(told, duplicated=True)


def test_a_receipt_is_stuck_where_nothing_would_move_it(told: Told) -> None:
    """A lease that ran out, a wait and a backoff that are over; and what waits behind one. Others are not."""
    running, behind = told.accept("a"), told.accept("a", "y", start=False)
    waiting, backing_off = told.accept("b"), told.accept("c")
    told.stand(waiting, 0, "refund", for_s=100)
    told.retry(backing_off, 50)
    long_wait = told.accept("d")
    told.stand(long_wait, 0, "refund", for_s=DAY_S)

    assert listed(told, stuck=True) == []
    assert listed(told, START + 45, stuck=True) == [running, behind]
    assert listed(told, START + 200, stuck=True) == [running, behind, waiting, backing_off]
    reasons = {one.receipt_id: one.stuck for one in receipts(told.rows, START + 200, stuck=True)}
    assert "ran out" in reasons[running]
    assert f"behind turn {running}, which is stuck" in reasons[behind]
    assert "its answer was due" in reasons[waiting]
    assert "no runtime has started it" in reasons[backing_off]


def test_filters_narrow_what_the_others_leave(told: Told) -> None:
    """All of them at once."""
    first, second = told.accept("a"), told.accept("b")
    told.came_again(first)
    told.stop_boot()

    assert listed(told, stuck=True) == [first, second]
    assert listed(told, stuck=True, duplicated=True) == [first]
    assert listed(told, stuck=True, duplicated=True, older_than_s=3_600) == []


def test_a_list_has_an_end(told: Told) -> None:
    """The oldest ones; none where none are asked for."""
    turns = [told.accept(f"s{number}") for number in range(5)]

    assert listed(told, limit=2) == turns[:2]
    assert listed(told, limit=0) == []
    assert listed(told, limit=-1) == []


def test_damaged_steps_do_not_hide_the_list(told: Told) -> None:
    """Receipts are rows: no edge need be decoded to find what waits."""
    turn = told.accept()
    number, edge = told.disk.edges[turn][0]
    broken = type(edge)(turn, 0, edge.kind, edge.epoch, edge.at, b"\xc1")
    told.disk.edges[turn][0] = type(told.disk.edges[turn][0])(number, broken)

    assert listed(told) == [turn]


# ---------------------------------------------------------------- the replay plan


def planned(told: Told, receipt_id: int, now: float | None = None) -> ReplayPlan:
    """Plan a replay; planning changes nothing, and always says something."""
    before = told.disk.digest()
    found = plan_replay(told.rows, receipt_id, told.now if now is None else now)

    assert told.disk.digest() == before
    assert found.advice
    assert (found.verdict is ReplayVerdict.BLOCKED_PROCESSING) == bool(found.blocked_by)
    return found


def test_a_live_receipt_is_blocked_by_what_it_stands_on(told: Told) -> None:
    """What it waits for, and every turn ahead of it."""
    running = told.accept()
    queued = told.accept(key="b", start=False)
    standing = told.accept("other")
    told.stand(standing, 0, "refund")

    assert [one.turn_id for one in planned(told, running).blocked_by] == [running]
    assert [one.turn_id for one in planned(told, queued).blocked_by] == [queued, running]
    (blocker,) = planned(told, standing).blocked_by
    assert blocker.why.startswith("it is suspended, and waits for an answer")
    assert planned(told, queued).fork_from_step is None


def test_a_completed_receipt_is_answered_until_its_key_ends(told: Told) -> None:
    """Its deliverable stays; only what is sent under the key changes its meaning."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    told.answer(turn, 0, "refund")
    told.complete(turn)
    expires_at = told.disk.receipts[turn].expires_at

    assert planned(told, turn).verdict is ReplayVerdict.TERMINAL_COMPLETED
    assert planned(told, turn).answers_until == expires_at
    assert planned(told, turn, expires_at).verdict is ReplayVerdict.TERMINAL_COMPLETED
    assert planned(told, turn, expires_at).answers_until is None
    assert "would be a new turn" in planned(told, turn, expires_at).advice[-1]


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_what_ended_without_having_done_anything_is_safe_to_send_again(told: Told, end: str) -> None:
    """Pure steps are no harm, whatever became of them."""
    turn = told.accept()
    told.answer(turn, 0, "find", pure=True)
    told.fail_step(turn, 1, "look")
    getattr(told, end)(turn)
    found = planned(told, turn)

    assert found.verdict is ReplayVerdict.SAFE_RETRY
    assert found.fork_from_step is None
    assert "under a new key" in found.advice[0]


def happened(told: Told, turn: int) -> None:
    told.answer(turn, 1, "refund")


def in_doubt(told: Told, turn: int) -> None:
    told.doubt(turn, 1, "refund")


def no_outcome(told: Told, turn: int) -> None:
    """The turn was ended while the call was under way."""


def given_up(told: Told, turn: int) -> None:
    told.doubt(turn, 1, "refund")
    told.suspend(turn, "refund")
    told.resume(turn, "refund", given_up=True)


def found_to_have_happened(told: Told, turn: int) -> None:
    told.doubt(turn, 1, "refund")
    told.suspend(turn, "refund")
    told.resume(turn, "refund", happened=True)


def called_again_in_doubt_and_failed(told: Told, turn: int) -> None:
    """The second call did nothing; of the first one nobody knows."""
    told.doubt(turn, 1, "refund")
    told.policy(turn, "refund", "retry")
    told.intend(turn, 1, "refund")
    told.fail_step(turn, 1, "refund")


@pytest.mark.parametrize(
    "outcome", [happened, in_doubt, no_outcome, given_up, found_to_have_happened, called_again_in_doubt_and_failed]
)
def test_an_effect_that_may_have_happened_blocks(told: Told, outcome: Callable[[Told, int], None]) -> None:
    """A new turn would repeat it; a fork from behind it does not."""
    turn = told.accept()
    told.answer(turn, 0, "find", pure=True)
    told.intend(turn, 1, "refund")
    outcome(told, turn)
    told.answer(turn, 2, "look", pure=True)
    told.fail(turn)
    found = planned(told, turn)

    assert found.verdict is ReplayVerdict.BLOCKED_PROCESSING
    assert [one.step for one in found.blocked_by] == ["refund[#0]"]
    assert found.fork_from_step == 2
    assert f"turnkeeper fork DB {turn} --from-step 2" in "".join(found.advice)


def raised(told: Told, turn: int) -> None:
    told.fail_step(turn, 0, "refund")


def found_not_to_have_happened(told: Told, turn: int) -> None:
    told.doubt(turn, 0, "refund")
    told.suspend(turn, "refund")
    told.resume(turn, "refund")


def probed_not_to_have_happened(told: Told, turn: int) -> None:
    told.doubt(turn, 0, "refund")
    told.policy(turn, "refund", "probe", "did_not_happen")


def never_called(told: Told, turn: int) -> None:
    told.requeue(turn, Requeued("shutdown", forgotten=[told.intend(turn, 1, "mail"), told.intend(turn, 0, "refund")]))


def found_out_after_a_second_doubt(told: Told, turn: int) -> None:
    """Whoever says that it did not happen speaks of both calls; the third one raised."""
    told.doubt(turn, 0, "refund")
    told.policy(turn, "refund", "retry")
    told.intend(turn, 0, "refund")
    found_not_to_have_happened(told, turn)
    told.intend(turn, 0, "refund")
    told.fail_step(turn, 0, "refund")


@pytest.mark.parametrize(
    "outcome",
    [raised, found_not_to_have_happened, probed_not_to_have_happened, never_called, found_out_after_a_second_doubt],
)
def test_an_effect_that_did_not_happen_does_not_block(told: Told, outcome: Callable[[Told, int], None]) -> None:
    """Raising, it said so; or somebody, or its probe, found out; or it was never called."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    outcome(told, turn)
    told.fail(turn)

    assert planned(told, turn).verdict is ReplayVerdict.SAFE_RETRY


@pytest.mark.parametrize("forgotten", [False, True], ids=["at its end", "before a retry"])
def test_an_idempotent_call_blocks_because_a_new_turn_has_other_keys(told: Told, forgotten: bool) -> None:
    """It is harmless under its own key only. One that failed may have happened all the same."""
    turn = told.accept()
    told.intend(turn, 0, "charge", "idempotent")
    step = told.fail_step(turn, 0, "charge")
    if forgotten:
        told.retry(turn, 0, [step])
        told.start(turn)
    told.fail(turn)
    found = planned(told, turn)

    assert found.verdict is ReplayVerdict.BLOCKED_PROCESSING
    assert "may have happened under its key" in found.blocked_by[0].why
    assert found.fork_from_step == 1


def test_a_call_that_was_never_made_does_not_hide_an_earlier_one(told: Told) -> None:
    """The first call of an idempotent step failed, and may have happened; the second was only intended."""
    turn = told.accept()
    told.intend(turn, 0, "charge", "idempotent")
    told.retry(turn, 0, [told.fail_step(turn, 0, "charge")])
    told.start(turn)
    told.requeue(turn, Requeued("shutdown", forgotten=[told.intend(turn, 0, "charge", "idempotent")]))
    told.cancel(turn)

    assert [one.step for one in planned(told, turn).blocked_by] == ["charge[#0]"]


def test_every_effect_is_named_in_the_order_of_issue(told: Told) -> None:
    """However they were recorded; the fork is from behind the last of them."""
    turn = told.accept()
    for issued, name in ((3, "mail"), (1, "refund")):
        told.intend(turn, issued, name)
    told.fail(turn)
    found = planned(told, turn)

    assert [one.step for one in found.blocked_by] == ["refund[#0]", "mail[#0]"]
    assert found.fork_from_step == 4


def test_the_fork_that_a_plan_names_can_be_made_and_repeats_nothing(told: Told) -> None:
    """It takes every effect with it; and what sending that one again would mean is the same once more."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    told.answer(turn, 0, "refund")
    told.fail(turn)
    from_step = planned(told, turn).fork_from_step
    assert from_step is not None
    fork = told.accept(key="again", fork=(turn, from_step))
    told.fail(fork)

    assert [one.step for one in planned(told, fork).blocked_by] == ["refund[#0]"]
    assert planned(told, fork).fork_from_step == from_step


def test_what_is_not_there_and_what_is_damaged_is_said(told: Told) -> None:
    """In words."""
    turn = told.accept()
    for receipt_id in (0, 99, 2**80):
        with pytest.raises(TurnNotFound):
            plan_replay(told.rows, receipt_id, told.now)
    told.disk.edges[turn].clear()
    with pytest.raises(StorageFailed, match=f"turn {turn}: .*cannot be read"):
        plan_replay(told.rows, turn, told.now)
