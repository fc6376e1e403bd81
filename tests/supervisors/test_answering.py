"""Answering: what people tell turns that wait counts once, in time, from those who may, for exactly what they saw."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from being_asked import DAY_S, FAST, Running, asked, asking, refused, settle
from looking import check_invariants, details, kinds, until

from turnkeeper import Runtime, Turn, agent
from turnkeeper.kernel.errors import (
    ContractViolation,
    InvalidName,
    TurnNotFound,
    UnknownAgent,
    WaitTokenInvalid,
)
from turnkeeper.kernel.lookback.asking import Question, questions
from turnkeeper.kernel.lookback.checkpoint import doubts

# ---------------------------------------------------------------- one answer


@pytest.mark.parametrize("suspended", [True, False], ids=["suspended", "still running"])
async def test_an_approval_is_said_once_by_whom_and_why(runtime: Running, suspended: bool) -> None:
    """Also before its turn is suspended. Whoever comes second is refused, whatever they say."""
    async with runtime([asking()]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle(1.0 if suspended else 0.01)
        assert running.statistics().suspended == suspended
        (question,) = await running.approvals()
        await running.approve(question.token, by="anna", reason="she may")
        said = [
            await refused(running.approve(question.token, by="anna", reason="she may")),
            await refused(running.deny(question.token, by="bob")),
        ]
        ended = await receipt.deliverable()
        said.append(await refused(running.approve(question.token, by="anna")))
        assert await running.approvals() == []

    assert ended.value == "anna: she may"
    assert all("was answered, or is over" in why for why in said)


async def test_a_refusal_raises_in_the_handler(runtime: Running) -> None:
    """With who, and why."""
    async with runtime([asking()]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle()
        await running.deny((await running.approvals())[0].token, by="anna", reason="too much")

        assert (await receipt.deliverable()).value == "ApprovalDenied: refund W1 was denied by 'anna': too much"


async def test_what_is_asked_says_all_that_a_decision_needs(runtime: Running, virtual_clock: Any) -> None:
    """What, about what, with its digest, who may say, since when and until when."""
    async with runtime([asking(who=["anna", "bob"], timeout_s=600)]) as running:
        await running.tell("s", "desk", 500, tenant="acme")
        began = virtual_clock.time()
        await settle()
        (found,) = await running.approvals(session_id="s", tenant="acme")

    assert (found.kind, found.what, found.subject) == ("approval", "refund W1", {"order": "W1", "cents": 500})
    assert (str(found.address), found.turn_id, found.who) == ("acme/s/desk", 1, ["anna", "bob"])
    assert len(bytes.fromhex(found.digest)) > 8
    assert (found.asked_at, found.due_at) == (pytest.approx(began, abs=0.1), pytest.approx(began + 600, abs=0.1))


async def test_nobody_is_shown_what_turns_of_another_tenant_ask(runtime: Running) -> None:
    """A token is all it takes to answer. Everybody's questions are shown where that is said, and there alone."""
    async with runtime([asking()]) as running:
        for tenant in ("", "acme", "rival"):
            await running.tell("s", "desk", 500, tenant=tenant)
            await running.tell("other", "desk", 500, tenant=tenant)
        for suspended in (False, True):
            await settle(1.0 if suspended else 0.005)
            assert running.statistics().suspended == (6 if suspended else 0)
            for tenant in ("", "acme", "rival"):
                found = await running.approvals(tenant=tenant)
                assert [(one.tenant, one.session_id) for one in found] == [(tenant, "s"), (tenant, "other")]
                (one,) = await running.approvals(tenant=tenant, session_id="other")
                assert one == found[1]
            assert await running.approvals() == await running.approvals(tenant="")
            assert len(await running.approvals(tenant=None)) == 6
            assert [one.tenant for one in await running.approvals(tenant=None, session_id="s")] == ["", "acme", "rival"]
            assert await running.approvals(tenant="nobody") == []


async def test_only_those_who_may_answer_do(runtime: Running) -> None:
    """Others are refused, and the question stands as it was."""
    async with runtime([asking(who=["anna"])]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle()
        before = await running.approvals()
        for stranger in ("bob", "", "Anna", "anna "):
            assert "none of those who may" in await refused(running.approve(before[0].token, by=stranger))
            assert "none of those who may" in await refused(running.deny(before[0].token, by=stranger))
        assert await running.approvals() == before
        await running.approve(before[0].token, by="anna")

        assert (await receipt.deliverable()).value == "anna: "


async def test_a_digest_of_something_else_is_refused(runtime: Running) -> None:
    """What somebody has looked at must be what is asked about."""
    async with runtime([asking()]) as running:
        receipts = [await running.tell(session, "desk", cents) for session, cents in (("a", 1), ("b", 2))]
        await settle()
        one, other = await running.approvals()
        why = await refused(running.approve(one.token, by="anna", digest=other.digest))
        await running.approve(one.token, by="anna", digest=one.digest)
        assert (await receipts[0].deliverable()).value == "anna: "

    assert "not what it asks about" in why
    assert one.digest != other.digest


async def test_a_token_that_is_none_or_another_ones_answers_nothing(runtime: Running) -> None:
    """Missing, cut, made up, of another turn, of another step, of an escalation: each is refused in words."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        return await turn.gather(
            turn.approval("a"), turn.approval("b"), turn.escalate(reason="r", summary="s", goal="g")
        )

    async with runtime([desk]) as running:
        await running.tell("s", "desk", None)
        await running.tell("t", "desk", None)
        await settle()
        before = await running.approvals()
        a, b, packet = (question.token for question in before[:3])
        secret = a.rpartition(".")[2]
        wrong = [
            "",
            ".",
            "..",
            "x",
            "1",
            "1.0",
            "1.0.",
            "-1.0.x",
            "1.0.x",
            f"{a}x",
            a[:-1],
            f"9.0.{secret}",
            f"1.7.{secret}",
        ]
        wrong += [
            f"{'9' * 5000}.0.x",
            f"{2**64}.0.x",
            f"1.{'1' * 5000}.x",
            "\u0661.0.x",
            "\ud800",
            packet,
            "1.0." + "x" * 10_000,
        ]
        for token in wrong:
            await refused(running.approve(token, by="anna"))
            await refused(running.deny(token, by="anna"))
        for token in (*wrong[:-2], a, b):
            await refused(running.answer(token, 1, by="anna"))

        assert await running.approvals() == before


async def test_a_thousand_duplicates_of_one_approval_are_one(path: Path) -> None:
    """All at once: one is taken, the others are told that it was."""
    async with Runtime(path, [asking()], settings=FAST) as running:
        receipt = await running.tell("s", "desk", 500)
        (question,) = await asked(running)
        said = await asyncio.gather(
            *(running.approve(question.token, by=f"p{number}") for number in range(1_000)), return_exceptions=True
        )
        ended = await receipt.deliverable()

    assert [type(one) for one in said if one is not None] == [WaitTokenInvalid] * 999
    assert ended.value == f"p{said.index(None)}: "
    assert len(details(path, "step_succeeded")) == 1
    check_invariants(path)


# ---------------------------------------------------------------- the deadline


OUTCOMES: list[tuple[dict[str, Any], str]] = [
    ({}, "ApprovalDenied: refund W1 was denied: nobody answered in time"),
    ({"at_deadline": "deny"}, "ApprovalDenied: refund W1 was denied: nobody answered in time"),
    ({"at_deadline": "fail"}, "WaitExpired: approval of 'refund W1' was not answered within 60 s"),
    ({"at_deadline": "escalate", "next_who": ["boss"]}, "ApprovalDenied: refund W1 was denied: nobody answered"),
]


@pytest.mark.parametrize(("how", "comes_to"), OUTCOMES)
async def test_what_nobody_answers_comes_to_what_was_said(runtime: Running, how: dict[str, Any], comes_to: str) -> None:
    """At its deadline, not before; a token is no good then."""
    async with runtime([asking(timeout_s=60, **how)]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle(59.0)
        (question,) = await running.approvals()
        await settle(1.5)
        await refused(running.approve(question.token, by="anna"))
        await settle(62.0)
        assert await running.approvals() == []

        assert (await receipt.deliverable()).value.startswith(comes_to)


async def test_at_the_deadline_others_are_asked_for_as_long_again(runtime: Running, virtual_clock: Any) -> None:
    """By a token of their own; those who were asked first have had their time."""
    async with runtime([asking(timeout_s=60, who=["anna"], at_deadline="escalate", next_who=["boss"])]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle(30.0)
        (first,) = await running.approvals()
        await settle(31.0)
        (second,) = await running.approvals()
        assert (second.who, second.due_at - virtual_clock.time()) == (["boss"], pytest.approx(59, abs=1))
        await refused(running.approve(first.token, by="anna"))
        await refused(running.approve(second.token, by="anna"))
        await running.approve(second.token, by="boss")

        assert (await receipt.deliverable()).value == "boss: "


async def test_a_question_that_was_passed_on_stays_the_same_in_every_run(path: Path) -> None:
    """Another branch asks between the question and its deadline; the rerun, answered at once, counts as before."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        async def passed_on() -> str:
            how: dict[str, Any] = {"timeout_s": 0.2, "at_deadline": "escalate", "next_who": ["boss"]}
            return (await turn.approval("first", **how)).by

        async def late() -> str:
            await turn.sleep(0.1)
            return (await turn.approval("late")).by

        return await turn.gather(passed_on(), late())

    async with Runtime(path, [desk], settings=FAST) as running:
        receipt = await running.tell("s", "desk", None)
        await until(lambda: kinds(path).count("turn_suspended") == 3)
        for question in await running.approvals():
            await running.approve(question.token, by=(question.who or ["anna"])[0])

        assert (await receipt.deliverable()).value == ["boss", "anna"]
    check_invariants(path)


@pytest.mark.seeds(20)
async def test_an_answer_and_the_deadline_at_one_moment_have_one_winner(runtime: Running) -> None:
    """Whoever it is: the caller is told the truth about it."""
    async with runtime([asking(timeout_s=60)]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle()
        (question,) = await running.approvals()
        await asyncio.sleep(question.due_at - running._open_node().clock.time() - 1e-6)
        try:
            await running.approve(question.token, by="anna")
        except WaitTokenInvalid:
            won = "ApprovalDenied"
        else:
            won = "anna"

        assert (await receipt.deliverable()).value.startswith(won)


# ---------------------------------------------------------------- escalations


async def test_an_escalation_returns_what_people_answer(runtime: Running) -> None:
    """Its packet is what they see; approving it is refused, and so is a value that cannot be stored."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        return await turn.escalate(reason="angry", summary="wrong book", goal="call back", who=["care"])

    async with runtime([desk]) as running:
        receipt = await running.tell("s", "desk", None)
        await settle()
        (question,) = await running.approvals()
        await refused(running.approve(question.token, by="care"))
        await refused(running.answer(question.token, 1, by="anna"))
        with pytest.raises(ContractViolation):
            await running.answer(question.token, object(), by="care")
        await running.answer(question.token, {"called": True}, by="care")
        await refused(running.answer(question.token, 2, by="care"))

        assert (await receipt.deliverable()).value == {"called": True}

    assert (question.kind, question.what) == ("escalation", "call back")
    assert question.subject == {"reason": "angry", "summary": "wrong book", "goal": "call back"}


# ---------------------------------------------------------------- who may be asked what, in pages


async def test_everything_asked_comes_in_pages_without_gaps(runtime: Running) -> None:
    """Each question once, also of turns that run, and of turns that are suspended anew between two pages."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        async def busy() -> None:
            if turn.input:
                await turn.step("busy", asyncio.sleep, 50)

        return await turn.gather(turn.approval("a"), turn.signal("go"), turn.approval("b"), busy())

    async with runtime([desk]) as running:
        for number in range(7):
            await running.tell(f"s{number}", "desk", number % 3 == 0)
        await settle()
        assert running.statistics().suspended == 4
        whole = await running.approvals()
        paged: list[Question] = []
        while page := await running.approvals(after=paged[-1].token if paged else "", limit=3):
            paged += page
            await running.signal("s1", "desk", "go", key="once")
            await settle(0.01)
        with pytest.raises(ContractViolation):
            await running.approvals(after="nonsense")

    assert [(one.turn_id, one.what) for one in whole] == [(turn, what) for turn in range(1, 8) for what in "ab"]
    assert paged == whole


async def test_questions_are_found_among_many_turns_that_wait_for_something_else(
    runtime: Running, virtual_clock: Any
) -> None:
    """Neither doubts nor questions have them read."""

    @agent("sleeper")
    async def sleeper(turn: Turn) -> None:
        await turn.sleep(DAY_S / 2)

    async with runtime([sleeper, asking()]) as running:
        for number in range(200):
            await running.tell(f"s{number}", "sleeper", None)
        await running.tell("s", "desk", 1)
        await settle()
        read: list[int] = []

        class Counting:
            def __init__(self, rows: Any) -> None:
                self._rows = rows

            def __getattr__(self, name: str) -> Any:
                return getattr(self._rows, name)

            def edges(self, turn_id: int) -> Any:
                read.append(turn_id)
                return self._rows.edges(turn_id)

        now = virtual_clock.time()
        found = await running._store.look(
            lambda rows: (doubts(Counting(rows)), questions(Counting(rows), now, running=()))  # type: ignore[arg-type]
        )

    assert [len(one) for one in found] == [0, 1]
    assert read == [201]


# ---------------------------------------------------------------- across restarts, and without the agent


@pytest.mark.parametrize("served", [True, False], ids=["with its agent", "without its agent"])
@pytest.mark.parametrize("decided", [True, False], ids=["approved", "denied"])
async def test_a_question_is_answered_in_a_later_runtime(path: Path, served: bool, decided: bool) -> None:
    """One that was not given the agent takes the answer as well; the next one that has it runs the turn."""
    async with Runtime(path, [asking()], settings=FAST) as running:
        await running.tell("s", "desk", 500, key="k")
        (question,) = await asked(running)
    async with Runtime(path, [asking()] if served else [], settings=FAST) as running:
        assert await running.approvals() == [question]
        decide = running.approve if decided else running.deny
        await decide(question.token, by="anna", reason="so")
        await refused(running.approve(question.token, by="anna"))
        await until(lambda: running.statistics().suspended == 0)
        if not served:
            assert running.statistics().agents == 0
    async with Runtime(path, [asking()], settings=FAST) as running:
        ended = await running.ask("s", "desk", 500, key="k")

    said = "anna: so" if decided else "ApprovalDenied: refund W1 was denied by 'anna': so"
    assert ended.value == said
    check_invariants(path)


async def test_a_turn_without_its_agent_takes_answers_one_after_another(path: Path) -> None:
    """The first brings it back to its queue; what it asks besides stays answerable there."""

    @agent("desk")
    async def desk(turn: Turn) -> list[str]:
        return [one.by for one in await turn.gather(turn.approval("a"), turn.approval("b"))]

    async with Runtime(path, [desk], settings=FAST) as running:
        await running.tell("s", "desk", None, key="k")
        a, b = await asked(running, 2)
    async with Runtime(path, [], settings=FAST) as running:
        await asyncio.gather(running.approve(a.token, by="anna"), running.approve(b.token, by="bob"))
        for question in (a, b):
            await refused(running.deny(question.token, by="anna"))
    async with Runtime(path, [desk], settings=FAST) as running:
        assert (await running.ask("s", "desk", None, key="k")).value == ["anna", "bob"]
    check_invariants(path)


async def test_a_turn_without_its_agent_is_cancelled_with_its_children(path: Path) -> None:
    """Durable at once, asked for again the same end, and nothing of it is started later."""

    @agent("child")
    async def child(turn: Turn) -> None:
        await turn.sleep(DAY_S)

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        return await turn.ask("child", 1)

    async with Runtime(path, [desk, child], settings=FAST) as running:
        await running.tell("s", "desk", None, key="k")
        await running.tell("s", "desk", None, key="behind")
        await until(lambda: running.statistics().suspended == 2)
    async with Runtime(path, [], settings=FAST) as running:
        first = await running.cancel(1, by="anna", reason="enough")
        assert await running.cancel(1, by="bob") == first
        assert [one.outcome for one in await running.cancel_session("s")] == ["cancelled"]
        with pytest.raises(TurnNotFound):
            await running.cancel(99)
        assert (running.statistics().agents, running.statistics().suspended) == (0, 0)

    assert (first.outcome, first.failure.message) == ("cancelled", "by anna; enough")  # type: ignore[union-attr]
    assert [kinds(path, turn_id)[-1] for turn_id in (1, 2, 3)] == ["turn_cancelled"] * 3
    check_invariants(path)


async def test_a_signal_to_an_agent_that_is_elsewhere_is_kept(path: Path) -> None:
    """If the store knows the actor; one that was never spoken to is a slip of the pen."""

    @agent("desk")
    async def desk(turn: Turn) -> Any:
        return await turn.signal("paid")

    async with Runtime(path, [desk], settings=FAST) as running:
        await running.tell("s", "desk", None, key="k")
        await until(lambda: running.statistics().suspended == 1)
    async with Runtime(path, [], settings=FAST) as running:
        assert [await running.signal("s", "desk", "paid", 5, key="p") for _ in range(2)] == [True, False]
        with pytest.raises(UnknownAgent):
            await running.signal("s", "desc", "paid", 5)
        with pytest.raises(UnknownAgent):
            await running.tell("s", "desk", 1)
    async with Runtime(path, [desk], settings=FAST) as running:
        assert (await running.ask("s", "desk", None, key="k")).value == 5
    check_invariants(path)


async def test_a_caller_who_goes_away_leaves_an_answer_whole(path: Path) -> None:
    """Cancelled in the middle of its commit, with and without the agent: it is taken, or it is not."""
    for served in (True, False):
        file = path.with_name(f"{served}.db")
        async with Runtime(file, [asking()], settings=FAST) as running:
            await running.tell("s", "desk", 500, key="k")
            (question,) = await asked(running)
        async with Runtime(file, [asking()] if served else [], settings=FAST) as running:
            answering = asyncio.create_task(running.approve(question.token, by="anna"))
            for _ in range(6):
                await asyncio.sleep(0)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            with suppress(WaitTokenInvalid):
                await running.approve(question.token, by="bob")
        async with Runtime(file, [asking()], settings=FAST) as running:
            assert (await running.ask("s", "desk", 500, key="k")).value in {"anna: ", "bob: "}
        check_invariants(file)


# ---------------------------------------------------------------- what is no text, no name, no number

NO_TEXT: list[Any] = [None, 5, b"x", object(), "\ud800", "x" * 1_001]
NO_NAME: list[Any] = [None, 5, b"x", "", "\ud800", "x" * 1_000]
NO_NUMBER: list[Any] = [None, 1.5, -1, 2**70, "1", True]


async def test_what_cannot_be_recorded_is_refused_by_its_name(runtime: Running) -> None:
    """Nothing is written: the turn stands as it was, and takes an answer that can be."""
    async with runtime([asking()]) as running:
        receipt = await running.tell("s", "desk", 500)
        await settle()
        token, turn_id = (await running.approvals())[0].token, receipt.turn_id
        said = [(running.approve, token), (running.deny, token), (running.cancel, turn_id)]
        said.append((running.cancel_session, "s"))
        for tell, which in said:
            for wrong in NO_TEXT:
                with pytest.raises(ContractViolation, match=r"^by: "):
                    await tell(which, by=wrong)
                with pytest.raises(ContractViolation, match=r"^reason: "):
                    await tell(which, by="anna", reason=wrong)
        for wrong in (5, b"x", "\ud800"):
            with pytest.raises(ContractViolation, match=r"^digest: "):
                await running.approve(token, by="anna", digest=wrong)
        for wrong in NO_NAME:
            with pytest.raises(InvalidName, match=r"^the signal's name "):
                await running.signal("s", "desk", wrong)
        for wrong in (None, 5, b"x"):
            assert "the token" in await refused(running.approve(wrong, by="anna"))
            with pytest.raises(ContractViolation, match=r"^after: "):
                await running.approvals(after=wrong)
        for wrong in NO_NUMBER:
            with pytest.raises(ContractViolation, match=r"^limit: "):
                await running.approvals(limit=wrong)
        with pytest.raises(InvalidName, match=r"^session_id "):
            await running.approvals(session_id=5)  # type: ignore[arg-type]
        await running.approve(token, by="x" * 1_000, reason="")

        assert (await receipt.deliverable()).value == "x" * 1_000 + ": "


@pytest.mark.parametrize("wrong", [None, "1", 1.5, b"1", 2**63, 2**64, -1])
async def test_what_numbers_no_turn_cancels_none(runtime: Running, wrong: Any) -> None:
    """It is no number, or none of a turn of this store."""
    async with runtime([asking()]) as running:
        with pytest.raises(TurnNotFound if isinstance(wrong, int) else ContractViolation):
            await running.cancel(wrong)
