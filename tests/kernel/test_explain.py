"""Explain: every state of a turn says what happened, what it waits for and what would happen next, on one screen."""

import pytest
from telling import DAY_S, START, Told

from turnkeeper.kernel.edge import Requeued
from turnkeeper.kernel.errors import StorageFailed, TurnNotFound
from turnkeeper.kernel.lookback.explain import Explanation, explain
from turnkeeper.kernel.lookback.past import span
from turnkeeper.kernel.lookback.standing import GRACE_S
from turnkeeper.kernel.turn import TurnState

LINES_MAX = 24


@pytest.fixture
def told() -> Told:
    return Told()


def explained(told: Told, turn_id: int, now: float | None = None) -> Explanation:
    """Explain a turn, and check what holds of every explanation."""
    before = told.disk.digest()
    found = explain(told.rows, turn_id, told.now if now is None else now)

    assert told.disk.digest() == before
    assert found.waits_for
    assert found.next
    assert all(found.next)
    assert found.happened
    assert len(found.happened) + len(found.next) + 3 <= LINES_MAX
    return found


def said(found: Explanation) -> str:
    return "\n".join(one.what for one in found.happened)


# ---------------------------------------------------------------- running


def test_a_running_turn_says_under_which_boot_and_until_when(told: Told) -> None:
    """It waits for nothing; were its process killed, the next runtime would run it."""
    turn = told.accept(version="2")
    found = explained(told, turn)

    assert found.waits_for == f"nothing: boot 1 runs it, under a lease for another {span(START + 45 - told.now)}"
    assert found.until == START + 45
    assert said(found) == "accepted under key 'key'\nstarted by boot 1, under version '2' of its handler"
    assert found.version == "2"
    assert "its handler goes on" in found.next[0]
    assert not found.stuck


@pytest.mark.parametrize("how", ["stopped", "ran out"])
def test_a_turn_whose_boot_is_gone_says_who_takes_it_back(told: Told, how: str) -> None:
    """With what answers from the record then, what runs again, and what is in doubt."""
    turn = told.accept()
    told.answer(turn, 0, "find", pure=True)
    told.intend(turn, 1, "reserve", "idempotent")
    told.intend(turn, 2, "refund")
    if how == "stopped":
        told.stop_boot()
    found = explained(told, turn, told.now if how == "stopped" else START + 46)

    assert found.stuck
    assert how in found.stuck
    assert found.waits_for.startswith("a runtime to take it back")
    assert "the runtime that opens this store next takes it back" in "\n".join(found.next)
    assert found.rerun is not None
    assert (found.rerun.answered, found.rerun.run, found.rerun.in_doubt) == (
        ["find[#0]"],
        ["reserve[#0]"],
        ["refund[#0]"],
    )
    assert "find[#0] answered from the record; reserve[#0] run again; refund[#0] in doubt" in found.next[-1]


def test_a_lease_that_ends_this_moment_is_over(told: Told) -> None:
    """As the kernel's lease says it."""
    turn = told.accept()

    assert not explained(told, turn, START + 45 - 0.001).stuck
    assert explained(told, turn, START + 45).stuck


def test_a_step_that_is_called_again_says_when(told: Told) -> None:
    """The pause is in the record, so it is known without the process."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    told.fail_step(turn, 0, "refund", retry_at=told.now + 31)
    found = explained(told, turn)

    assert "refund[#0] failed after 1.0 s: LookupError: the provider said no; to be called again 31 s later" in said(
        found
    )
    assert "refund[#0], after 1 failed call (LookupError: the provider said no), is called again in 30 s" in found.next


def test_many_steps_that_are_called_again_stay_on_the_screen(told: Told) -> None:
    """The first ones are named, the others counted."""
    turn = told.accept()
    for issued in range(30):
        told.fail_step(turn, issued, f"step{issued}", retry_at=told.now + 60)
    found = explained(told, turn)

    assert sum("is called again in" in line for line in found.next) == 3
    assert "so are 27 more steps" in found.next


# ---------------------------------------------------------------- queued


def test_a_turn_behind_others_names_the_one_it_waits_for(told: Told) -> None:
    """And says what that one does."""
    first, second, third = told.accept(), told.accept(key="b", start=False), told.accept(key="c", start=False)

    assert explained(told, second).waits_for == f"its place behind turn {first}, which is running"
    assert explained(told, third).waits_for == f"its place behind turns {first}, {second}, of which {first} is running"
    assert explained(told, third).behind == first
    assert explained(told, third).next == [
        "when what is ahead of it has ended, it starts: a turn ends before the next of s/desk begins"
    ]


def test_another_actors_turns_are_not_ahead(told: Told) -> None:
    """Only a turn of the same session and agent holds one up."""
    told.accept("other")
    turn = told.accept("s", start=False)

    assert explained(told, turn).behind is None


def test_a_turn_behind_a_stuck_one_is_stuck(told: Told) -> None:
    """It says which one, and why that one is."""
    first = told.accept()
    second = told.accept(key="b", start=False)
    told.stop_boot()
    found = explained(told, second)

    assert found.stuck == f"it is behind turn {first}, which is stuck: boot 1, which ran it, has stopped"
    assert found.next[0] == f"nothing, as things are: {found.stuck}"


def test_a_backoff_says_when_it_is_over_and_which_retry_comes(told: Told) -> None:
    """What was raised is said, and so are the steps that run anew."""
    turn = told.accept()
    step = told.fail_step(turn, 0, "find")
    told.retry(turn, 61, [step])
    found = explained(told, turn)

    assert said(found).endswith("raised ValueError: no such order; to be tried again; find[#0] will be run anew")
    assert found.waits_for == "its backoff, for another 60 s"
    assert found.next == ["in 60 s it is started again (retry 1)"]
    assert found.attempt == 2


def test_a_backoff_that_is_over_is_stuck_only_after_the_grace(told: Told) -> None:
    """A timer may be late for a moment."""
    turn = told.accept()
    told.retry(turn, 10)
    due_at = told.turns[turn].due_at
    assert due_at is not None

    assert not explained(told, turn, due_at + GRACE_S - 0.1).stuck
    assert "agent 'desk'" in explained(told, turn, due_at + GRACE_S).stuck


def test_the_head_of_a_queue_that_nobody_starts_says_what_is_missing(told: Told) -> None:
    """No runtime has the store open, or none was given the agent."""
    turn = told.accept(start=False)

    assert explained(told, turn).waits_for == "a runtime with agent 'desk' to start it: nothing is ahead of it"
    assert not explained(told, turn).stuck
    assert "none was given agent 'desk'" in explained(told, turn, told.now + GRACE_S).stuck


def test_a_turn_that_began_under_a_version_says_who_may_finish_it(told: Told) -> None:
    """It is not started under another, unless that one adopts it."""
    turn = told.accept(version="2")
    told.requeue(turn, Requeued("recovery"))

    assert (
        "given agent 'desk' in version '2', under which it began, or in one that adopts it"
        in (explained(told, turn).next[0])
    )


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("recovery", "taken back: the process that ran it had ended"),
        ("shutdown", "put back into its queue: its runtime was closing"),
        ("resolved", "put back into its queue, with the answer"),
        ("something new", "put back into its queue (something new)"),
    ],
)
def test_a_requeued_turn_says_why(told: Told, reason: str, words: str) -> None:
    """Also for a reason that this version does not know."""
    turn = told.accept()
    told.requeue(turn, Requeued(reason))

    assert words in said(explained(told, turn))


def test_each_start_is_told(told: Told) -> None:
    """With its attempt."""
    turn = told.accept()
    told.requeue(turn, Requeued("recovery"))
    told.start(turn)

    assert said(explained(told, turn)).endswith("started again, attempt 2, by boot 1")


# ---------------------------------------------------------------- suspended


def test_a_doubt_says_all_that_is_needed_to_find_out_and_to_answer(told: Told) -> None:
    """Tool, arguments, idempotency key, token, the time that is left and the command."""
    turn = told.accept()
    told.stand(turn, 0, "refund", order="W1", cents=500)
    found = explained(told, turn, told.now - 1)

    assert found.doubt is not None
    assert found.doubt.token == "the-token"
    assert found.waits_for == (
        "an answer, for another 24 h: did refund[#0] happen? It was cut off by a crash: refund(order='W1', cents=500),"
        f" idempotency key store/{turn}/refund/#0, token the-token"
    )
    assert found.next[0] == (
        f"somebody says what became of it: turnkeeper resolve DB {turn} --token the-token"
        " (--happened JSON | --did-not-happen | --give-up)"
    )
    assert "fails in 24 h with EffectInDoubt" in found.next[2]
    assert len(found.next) == 3
    assert "refund[#0] is in doubt: cut off by a crash after 1.0 s, and it may have happened" in said(found)
    assert "suspended (approval): waits for an answer about refund[#0]" in said(found)


def test_a_wait_whose_time_is_over_says_that_it_fails(told: Told) -> None:
    """It is stuck where nobody has ended it after the grace."""
    turn = told.accept()
    told.stand(turn, 0, "refund", for_s=100)
    due_at = told.turns[turn].due_at
    assert due_at is not None
    found = explained(told, turn, due_at)

    assert "was due" in found.waits_for
    assert "fails it with EffectInDoubt" in found.next[0]
    assert not found.stuck
    assert explained(told, turn, due_at + GRACE_S).stuck


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"happened": True}, "somebody said that refund[#0] happened"),
        ({}, "somebody said that refund[#0] did not happen"),
        ({"given_up": True}, "somebody gave up finding out about refund[#0]"),
    ],
)
def test_an_answer_is_told(told: Told, found: dict[str, bool], words: str) -> None:
    """Whatever it was."""
    turn = told.accept()
    told.stand(turn, 0, "refund")
    told.resume(turn, "refund", **found)

    assert words in said(explained(told, turn))


def test_what_a_tools_own_policy_made_of_a_doubt_is_told(told: Told) -> None:
    """A probe's finding, a retry, and what a later version may add."""
    turn = told.accept()
    told.policy(turn, "refund", "probe", "happened")
    told.policy(turn, "refund", "probe", "did_not_happen")
    told.policy(turn, "refund", "retry")
    told.policy(turn, "refund", "fail")
    told.policy(turn, "refund", "ask {step}")
    found = said(explained(told, turn)).splitlines()[2:]

    assert found == [
        "its tool's probe found that refund[#0] happened",
        "its tool's probe found that refund[#0] did not happen",
        "refund[#0] is called again although in doubt: its tool says so",
        "refund[#0] is not called again, because it is in doubt: its tool says so",
        "refund[#0]: its tool's policy is ask refund[#0]",
    ]


def test_a_call_is_timed_once(told: Told) -> None:
    """To its doubt; the answer that a probe found is not the call's."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    told.doubt(turn, 0, "refund")
    told.answer(turn, 0, "refund")

    assert said(explained(told, turn)).splitlines()[2:] == [
        "refund[#0] is in doubt: cut off by a crash after 1.0 s, and it may have happened",
        "refund[#0] answered",
    ]


# ---------------------------------------------------------------- ended


def test_a_completed_turn_says_how_long_its_key_is_answered(told: Told) -> None:
    """Until its time is over; then it says so."""
    turn = told.accept()
    told.complete(turn)
    found = explained(told, turn)

    assert found.waits_for == "nothing: it has completed"
    assert found.next[1] == "the same payload under key 'key' is answered with this deliverable for another 24 h"
    assert "answers for it no more" in explained(told, turn, told.now + DAY_S).next[1]


def test_a_turn_that_came_without_a_key_says_so(told: Told) -> None:
    """Nothing can be its duplicate."""
    turn = told.accept(key=None)
    told.complete(turn)
    found = explained(told, turn)

    assert said(found).startswith("accepted without a key")
    assert found.next[1] == "it came without a key, so whatever is sent is a new turn"


def test_an_unsuccessful_turn_says_why_and_where_to_go_on(told: Told) -> None:
    """Failed or cancelled: with the error, and the question that is asked next."""
    failed, cancelled = told.accept(), told.accept("other")
    told.fail(failed)
    told.cancel(cancelled)

    assert said(explained(told, failed)).endswith("failed: ValueError: no such order")
    assert explained(told, failed).next[-1] == f"whether it can be tried anew: turnkeeper replay-plan DB {failed}"
    assert explained(told, cancelled).waits_for == "nothing: it has been cancelled"
    assert said(explained(told, cancelled)).endswith("cancelled: Cancelled: on request")


def test_duplicates_are_counted(told: Told) -> None:
    """Those in a row are one line."""
    turn = told.accept()
    for _ in range(3):
        told.came_again(turn)
    told.complete(turn)
    told.came_again(turn)
    found = explained(told, turn)

    assert found.duplicates == 4
    assert said(found).splitlines()[2:] == [
        "came again 3 times: a duplicate, answered and not run",
        "completed",
        "came again once: a duplicate, answered and not run",
    ]


def test_a_fork_says_whose_record_it_began_with(told: Told) -> None:
    """Each step that it took over says so; those of its own do not."""
    source = told.accept()
    told.intend(source, 0, "refund")
    told.answer(source, 0, "refund")
    told.fail(source)
    fork = told.accept(key="again", fork=(source, 1))
    told.answer(fork, 1, "mail", pure=True)
    found = explained(told, fork)

    assert found.forked_from == source
    assert said(found).splitlines() == [
        f"accepted under key 'again', as a fork of turn {source} with 1 of its steps",
        f"refund[#0] answered; taken from turn {source}",
        "started by boot 1",
        "mail[#0] answered",
    ]


# ---------------------------------------------------------------- one screen, and damage


def test_a_long_turn_is_told_in_its_beginning_and_its_latest(told: Told) -> None:
    """What is left out is counted."""
    turn = told.accept()
    for issued in range(40):
        told.answer(turn, issued, f"step{issued}", pure=True)
    found = explained(told, turn)

    assert found.happened[0].what.startswith("accepted")
    assert found.happened[-1].what == "step39[#0] answered"
    assert found.left_out + len(found.happened) == 42
    assert found.happened[found.gap_at].ordinal - found.happened[found.gap_at - 1].ordinal == found.left_out + 1
    assert "and 34 more answered from the record" in found.next[-1]


def test_long_messages_and_values_stay_on_their_line(told: Told) -> None:
    """Nobody's exception and nobody's argument fills the screen."""
    turn = told.accept()
    told.stand(turn, 0, "refund", note="x\n" * 5_000)
    other = told.accept("other")
    told.fail(other, "word\n" * 5_000)

    for found in (explained(told, turn), explained(told, other)):
        lines = [*(one.what for one in found.happened), found.waits_for, *found.next]
        assert max(map(len, lines)) < 700
        assert not any("\n" in line for line in lines)


def test_every_state_of_the_table_has_its_explanation(told: Told) -> None:
    """None is forgotten where the machine grows."""
    seen = set()
    for number, end in enumerate((told.complete, told.fail, told.cancel)):
        turn = told.accept(f"s{number}")
        end(turn)
        seen.add(explained(told, turn).state)
    suspended = told.accept("doubt")
    told.stand(suspended, 0, "refund")
    for turn in (suspended, told.accept("runs"), told.accept("doubt", key="b", start=False)):
        seen.add(explained(told, turn).state)

    assert seen == set(TurnState)


def test_what_is_not_there_is_said(told: Told) -> None:
    """Whatever the number."""
    for turn_id in (0, -1, 99, 2**70):
        with pytest.raises(TurnNotFound):
            explain(told.rows, turn_id, told.now)


@pytest.mark.parametrize("ordinal", [0, 1, 2])
def test_damage_is_said_in_words(told: Told, ordinal: int) -> None:
    """Where an edge cannot be decoded, whichever it is."""
    turn = told.accept()
    told.intend(turn, 0, "refund")
    number, edge = told.disk.edges[turn][ordinal]
    broken = type(edge)(edge.turn_id, edge.ordinal, edge.kind, edge.epoch, edge.at, b"\xc1")
    told.disk.edges[turn][ordinal] = type(told.disk.edges[turn][ordinal])(number, broken)

    with pytest.raises(StorageFailed, match=f"turn {turn}: what is stored of it cannot be read .*audit"):
        explain(told.rows, turn, told.now)


def test_a_turn_without_edges_is_damage(told: Told) -> None:
    """Its row is there, and nothing that led to it."""
    turn = told.accept()
    told.disk.edges[turn].clear()

    with pytest.raises(StorageFailed, match="cannot be read"):
        explain(told.rows, turn, told.now)


def test_a_kind_that_nobody_knows_is_told_as_it_is(told: Told) -> None:
    """A store that a later version has written to, or somebody by hand."""
    turn = told.accept()
    number, edge = told.disk.edges[turn][1]
    strange = type(edge)(turn, 2, "was_teleported", edge.epoch, edge.at, b"")  # type: ignore[arg-type]
    told.disk.edges[turn][2] = type(told.disk.edges[turn][1])(number + 1, strange)

    assert said(explained(told, turn)).endswith("was teleported")


def test_an_effect_that_nobody_knows_is_damage(told: Told) -> None:
    """What a rerun would do with it cannot be said."""
    turn = told.accept()
    told.intend(turn, 0, "refund", "magical")

    with pytest.raises(StorageFailed, match="magical"):
        explain(told.rows, turn, told.now)


def test_a_terminal_edge_without_its_deliverable_is_still_told(told: Told) -> None:
    """The audit says what is wrong; the story goes as far as it can."""
    turn = told.accept()
    told.fail(turn)
    del told.disk.deliverables[turn]

    assert said(explained(told, turn)).endswith("failed")
