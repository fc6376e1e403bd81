"""Arrivals: what becomes of a message that finds its actor at work, by policy and standing, on a real file."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from looking import details, dump, kinds, rows, until
from staging import SETTINGS, Stage, answer, staged, states, stopping, tell, values

from turnkeeper import Receipt, Runtime, Settings, Turn, agent
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.arrival import Policy
from turnkeeper.kernel.errors import (
    ActorBusy,
    IdempotencyConflict,
    MailboxFull,
    ShuttingDown,
)
from turnkeeper.kernel.names import Address
from turnkeeper.testing.kills import each_kill

# ---------------------------------------------------------------- running


async def test_a_steered_message_is_taken_by_the_turn_that_runs(tmp_path: Path) -> None:
    """Both receipts end with that turn's deliverable."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stage.started)
        steered = await tell(runtime, "second", "steer")
        stage.gate.set()
        both = await values(first, steered)

    assert (first.arrived, steered.arrived) == ("started", "steered")
    assert steered.turn_id == first.turn_id
    assert both == [answer("first", heard=["second"])] * 2
    assert kinds(path).count("steered") == 1


async def test_a_steered_message_that_nobody_takes_gets_a_turn_of_its_own(tmp_path: Path) -> None:
    """In its place by the order of acceptance, in the commit of the end of the turn that it was steered to."""
    stage, path = Stage(steers=False), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        receipts = [await tell(runtime, "first")]
        await until(lambda: stage.started)
        for said, arrival in (("second", "queue"), ("third", "steer"), ("fourth", "queue"), ("fifth", "steer")):
            receipts.append(await tell(runtime, said, arrival))
        stage.gate.set()
        all_of_them = await values(*receipts)

    assert [receipt.arrived for receipt in receipts] == ["started", "queued", "steered", "queued", "steered"]
    assert stage.started == ["first", "second", "third", "fourth", "fifth"]
    assert all_of_them == [answer(said) for said in stage.started]
    assert [receipt.turn_id for receipt in receipts] == [receipt.receipt_id for receipt in receipts]


async def test_a_coalesced_message_joins_the_turn_that_waits_last(tmp_path: Path) -> None:
    """Where none waits it queues; both receipts end with the one deliverable."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        receipts = [await tell(runtime, "first")]
        await until(lambda: stage.started)
        receipts += [await tell(runtime, said, "coalesce") for said in ("second", "third", "fourth")]
        stage.gate.set()
        all_of_them = await values(*receipts)

    assert [receipt.arrived for receipt in receipts] == ["started", "queued", "coalesced", "coalesced"]
    assert all_of_them == [answer("first"), *[answer("second", "third", "fourth")] * 3]


async def test_an_interrupted_turn_is_cancelled_and_says_by_whom(tmp_path: Path) -> None:
    """The message runs behind those that were queued before it."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stage.started)
        second = await tell(runtime, "second")
        third = await tell(runtime, "third", "interrupt")
        ended = await first.deliverable()
        stage.gate.set()
        others = await values(second, third)

    assert third.arrived == "interrupted"
    assert (ended.outcome, ended.failure.type) == ("cancelled", "Interrupted")
    assert f"receipt {third.receipt_id}" in ended.failure.message
    assert stage.started == ["first", "second", "third"]
    assert others == [answer("second"), answer("third")]
    assert [one.policy for one in details(path, "policy_resolved")] == ["interrupt"]


# ---------------------------------------------------------------- each cell of the table


POLICIES = [*Policy]
OWN = {"queue": "queued", "coalesce": "queued", "interrupt": "interrupted", "steer": "steered"}
"""What a message comes to where one turn is live and none waits behind it, by its policy; reject has no receipt."""


async def arrived(path: Path, runtime: Runtime, policy: Policy) -> Receipt | None:
    """Send one message; what is refused has left nothing."""
    if policy is not Policy.REJECT:
        return await tell(runtime, "second", policy, key="k")
    before = accepted(path)
    with pytest.raises(ActorBusy):
        await tell(runtime, "second", policy, key="k")
    assert await runtime.receipt("s", "play", "k") is None
    assert accepted(path) == before
    return None


def accepted(path: Path) -> list[list[Any]]:
    """Return what was accepted; beside it, steps of the turn that runs may be recorded at any time."""
    stored = dump(path)
    return [stored[table] for table in ("actors", "turns", "receipts")]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_an_idle_actor_starts_at_once(tmp_path: Path, policy: Policy) -> None:
    """Whatever its policy."""
    stage = Stage()
    stage.gate.set()
    async with staged(tmp_path / "a.db", stage) as runtime:
        receipt = await tell(runtime, "second", policy)
        value = await values(receipt)

    assert receipt.arrived == "started"
    assert value == [answer("second")]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_a_running_turn(tmp_path: Path, policy: Policy) -> None:
    """One turn runs and none waits."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stage.started)
        second = await arrived(path, runtime, policy)
        stage.gate.set()
        results = [await receipt.deliverable() for receipt in (first, second) if receipt is not None]

    assert results[0].outcome == ("cancelled" if policy is Policy.INTERRUPT else "completed")
    assert (second and second.arrived) == OWN.get(policy)
    assert results[-1].value == (answer("first", heard=["second"]) if policy is Policy.STEER else results[-1].value)
    assert stage.started == (["first"] if policy in {Policy.REJECT, Policy.STEER} else ["first", "second"])


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_a_suspended_turn(tmp_path: Path, policy: Policy) -> None:
    """Steering does not wake it; an interrupt ends it in the commit in which the message is accepted."""
    stage, path = Stage(stands=True), tmp_path / "a.db"
    stage.gate.set()
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: states(path) == ["suspended"])
        second = await arrived(path, runtime, policy)
        stood = states(path)
        if policy is not Policy.INTERRUPT:
            await runtime.signal("s", "play", "go")
        results = [await receipt.deliverable() for receipt in (first, second) if receipt is not None]

    expected = {Policy.REJECT: ["suspended"], Policy.STEER: ["suspended"]}
    if policy is Policy.INTERRUPT:
        assert stood[0] == "cancelled"
        assert results[0].failure is not None
        assert results[0].failure.type == "Interrupted"
    else:
        assert stood == expected.get(policy, ["suspended", "queued"])
        assert results[0].outcome == "completed"
    assert (second and second.arrived) == OWN.get(policy)
    if policy is Policy.STEER:
        assert results == [results[0]] * 2
        assert results[0].value == answer("first", heard=["second"])


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_a_turn_that_was_told_to_stop(tmp_path: Path, policy: Policy) -> None:
    """Its handler would not hear of its deadline yet; what is steered to it then gets a turn of its own."""
    stage, path = Stage(deaf=True, steers=False, turn_s=0.05), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stopping(runtime))
        second = await arrived(path, runtime, policy)
        stage.gate.set()
        ended = await first.deliverable()
        value = await values(*([second] if second is not None else []))

    assert ended.failure is not None
    assert ended.failure.type in {"DeadlineExceeded", "Interrupted"}
    assert (second and second.arrived) == OWN.get(policy)
    assert value == ([] if second is None else [answer("second")])


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_turns_that_wait_for_their_agent(tmp_path: Path, policy: Policy) -> None:
    """A paused agent starts nothing: what is to be handed to a running turn queues, and what may join one joins."""
    stage, path = Stage(), tmp_path / "a.db"
    stage.gate.set()
    async with staged(path, stage) as runtime:
        await runtime.say("agents/play", "pause")
        first = await tell(runtime, "first", policy)
        second = await arrived(path, runtime, policy)
        await runtime.say("agents/play", "resume")
        all_of_them = await values(*(receipt for receipt in (first, second) if receipt is not None))

    assert first.arrived == "queued"
    match policy:
        case Policy.REJECT:
            assert second is None
        case Policy.COALESCE:
            assert (second and second.arrived) == "coalesced"
            assert all_of_them == [answer("first", "second")] * 2
        case _:
            assert (second and second.arrived) == "queued"
            assert all_of_them == [answer("first"), answer("second")]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_to_a_closing_runtime_is_refused(tmp_path: Path, policy: Policy) -> None:
    """Whatever its policy, and nothing of it is there afterwards."""
    stage, path = Stage(deaf=True), tmp_path / "a.db"
    async with staged(path, stage, Settings(synchronous="OFF", shutdown_s=0.2)) as runtime:
        await tell(runtime, "first")
        await until(lambda: stage.started)
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.aclose())
            await until(lambda: stopping(runtime))
            with pytest.raises(ShuttingDown):
                await tell(runtime, "second", policy, key="k")
            stage.gate.set()

    assert rows(path, "SELECT key FROM receipts WHERE key = 'k'") == []


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_key_that_is_known_is_answered_first(tmp_path: Path, policy: Policy) -> None:
    """Whatever the policy of the redelivery: a joined key while its turn is live, and once it has ended."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        await tell(runtime, "first")
        await until(lambda: stage.started)
        sent = [
            await tell(runtime, "steered", "steer", key="s"),
            await tell(runtime, "queued", key="q"),
            await tell(runtime, "joined", "coalesce", key="j"),
        ]
        live = [await tell(runtime, said, policy, key=said[0]) for said in ("steered", "queued", "joined")]
        with pytest.raises(IdempotencyConflict):
            await tell(runtime, "other", policy, key="j")
        stage.gate.set()
        first_answers = await values(*sent)
        over = [await tell(runtime, said, policy, key=said[0]) for said in ("steered", "queued", "joined")]
        answers = await values(*live), await values(*over)

    assert all(receipt.duplicate for receipt in live + over)
    for receipts in (live, over):
        assert [one.receipt_id for one in receipts] == [one.receipt_id for one in sent]
        assert [one.arrived for one in receipts] == ["steered", "queued", "coalesced"]
    assert answers == (first_answers, first_answers)
    assert rows(path, "SELECT key, duplicate_count FROM receipts WHERE duplicate_count") == [
        ("s", 2), ("q", 2), ("j", 2),
    ]  # fmt: skip


async def test_what_joined_a_turn_is_known_after_a_restart(tmp_path: Path) -> None:
    """Redelivered to the next runtime before the turn has run there, and answered with the turn's deliverable."""
    stage, path = Stage(), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        sent = [await tell(runtime, "first", key="f")]
        await until(lambda: stage.started)
        sent += [await tell(runtime, "steered", "steer", key="s"), await tell(runtime, "queued", key="q")]
        sent += [await tell(runtime, "joined", "coalesce", key="j")]
    async with staged(path, stage) as runtime:
        again = [await tell(runtime, "steered", "steer", key="s"), await tell(runtime, "joined", key="j")]
        found = [await runtime.receipt("s", "play", key) for key in "fsqj"]
        stage.gate.set()
        all_of_them = await values(*(receipt for receipt in (*found, *again) if receipt is not None))

    one, other = answer("first", heard=["steered"]), answer("queued", "joined")
    assert [receipt.duplicate for receipt in again] == [True, True]
    assert all_of_them == [one, one, other, other, one, other]
    assert [receipt and receipt.receipt_id for receipt in found] == [receipt.receipt_id for receipt in sent]


def in_memory(runtime: Runtime) -> bool:
    """Say whether the actor is in memory, as one is not whose turn is suspended."""
    return runtime._reception.agent(Address("", "s", "play")) is not None


@pytest.mark.parametrize("restarted", [False, True], ids=["left memory", "restarted"])
async def test_messages_join_a_turn_that_waits_behind_a_suspended_one(tmp_path: Path, restarted: bool) -> None:
    """It has not begun, and is read from the store for each of them; they are counted as they come."""
    stage, path = Stage(stands=True), tmp_path / "a.db"
    stage.gate.set()
    settings = msgspec.structs.replace(SETTINGS, mailbox_len_max=3)
    async with staged(path, stage, settings) as runtime:
        await tell(runtime, "first", key="f")
        await until(lambda: states(path) == ["suspended"] and not in_memory(runtime))
        sent = [await tell(runtime, "second", "coalesce")]
        await until(lambda: not in_memory(runtime))
        if not restarted:
            sent += [await tell(runtime, "third", "coalesce")]
    async with staged(path, stage, settings) as runtime:
        for said in ("third", "fourth")[len(sent) - 1 :]:
            await until(lambda: not in_memory(runtime))
            sent += [await tell(runtime, said, "coalesce")]
        await until(lambda: not in_memory(runtime))
        with pytest.raises(MailboxFull):
            await tell(runtime, "fifth", "coalesce")
        await runtime.signal("s", "play", "go")
        value = (await runtime.ask("s", "play", "first", key="f")).value
        found = [await runtime.receipt("s", "play", receipt.key) for receipt in sent]
        ends = await values(*(receipt for receipt in found if receipt is not None))

    assert [receipt.arrived for receipt in sent] == ["queued", "coalesced", "coalesced"]
    assert value == answer("first")
    assert ends == [answer("second", "third", "fourth")] * 3


async def test_nothing_joins_a_fork_that_waits_behind_a_suspended_turn(tmp_path: Path) -> None:
    """It is to repeat another turn, and the store says so as well."""
    stage, path = Stage(stands=True), tmp_path / "a.db"
    stage.gate.set()
    async with staged(path, stage) as runtime:
        origin = await runtime.ask("s", "play", "zero")
        await tell(runtime, "first")
        await until(lambda: states(path)[1:] == ["suspended"])
        forked = await runtime.fork(origin.turn_id, from_step=0)
        await until(lambda: not in_memory(runtime))
        sent = await tell(runtime, "second", "coalesce")
        await runtime.signal("s", "play", "go")
        ends = [(await receipt.deliverable()).value for receipt in (forked, sent)]

    assert sent.arrived == "queued"
    assert ends == [answer("zero"), answer("second")]


@pytest.mark.parametrize("said", ["second", "first"])
@pytest.mark.parametrize("policy", [Policy.QUEUE, Policy.STEER])
async def test_an_actor_stays_in_memory_for_what_is_being_committed(tmp_path: Path, policy: Policy, said: str) -> None:
    """Also where the client has gone: a copy read meanwhile would lack it. It leaves behind the commit."""
    stage, path = Stage(stands=True), tmp_path / "a.db"
    stage.gate.set()
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
    async with staged(path, stage) as runtime:
        sent = [await tell(runtime, "first", key="first")]
        await until(lambda: states(path) == ["suspended"] and not in_memory(runtime))
        apply, writing, opened = runtime._store.apply, asyncio.Event(), asyncio.Event()

        async def held(points: Any) -> Any:
            writing.set()
            await opened.wait()
            return await apply(points)

        runtime._store.apply = held  # type: ignore[method-assign]
        gone = asyncio.create_task(tell(runtime, said, policy, key=said))
        await writing.wait()
        gone.cancel()
        await asyncio.wait([gone])
        stays = in_memory(runtime)
        opened.set()
        await until(lambda: not in_memory(runtime))
        sent += [await tell(runtime, said, policy, key=said)]
        await runtime.signal("s", "play", "go")
        ends = [(await receipt.deliverable()).value for receipt in sent]

    first = answer("first", heard=["second"] if (policy, said) == (Policy.STEER, "second") else [])
    assert gone.cancelled()
    assert stays
    assert heard == []
    assert sent[1].duplicate
    assert ends == [first, answer("second") if (policy, said) == (Policy.QUEUE, "second") else first]


async def test_what_nobody_took_outlives_a_restart_as_a_turn_of_its_own(tmp_path: Path) -> None:
    """Also where the turn that it was steered to ends there without having run."""
    stage, path = Stage(steers=False), tmp_path / "a.db"
    async with staged(path, stage) as runtime:
        first = await tell(runtime, "first", key="f")
        await until(lambda: stage.started)
        await tell(runtime, "steered", "steer", key="s")
        await runtime.say("agents/play", "pause")
    async with staged(path, stage) as runtime:
        stage.gate.set()
        await runtime.cancel(first.turn_id, by="ann")
        receipt = await runtime.receipt("s", "play", "s")
        assert receipt is not None
        await runtime.say("agents/play", "resume")
        value = await values(receipt)

    assert value == [answer("steered")]
    assert receipt.turn_id == receipt.receipt_id


# ---------------------------------------------------------------- steering


async def test_a_rerun_is_handed_the_same_at_the_same_place(tmp_path: Path) -> None:
    """What came meanwhile is handed over where the first run had not been."""
    seen: list[list[Any]] = []
    gates = [asyncio.Event(), asyncio.Event()]

    @agent("play")
    async def play(turn: Turn) -> list[Any]:
        heard = [await turn.steering()]
        seen.append([turn.attempt])
        await gates[0].wait()
        heard.append(await turn.steering())
        seen[-1] += heard
        if turn.attempt == 1:
            raise ConnectionError
        await gates[1].wait()
        heard.append(await turn.steering())
        return heard

    path = tmp_path / "a.db"
    async with Runtime(path, [play], settings=SETTINGS) as runtime:
        receipt = await tell(runtime, "first")
        await until(lambda: seen)
        await tell(runtime, "second", "steer")
        gates[0].set()
        await until(lambda: len(seen) == 2 and len(seen[1]) == 3)
        await tell(runtime, "third", "steer")
        gates[1].set()
        heard = (await receipt.deliverable()).value

    assert seen == [[1, [], ["second"]], [2, [], ["second"]]]
    assert heard == [[], ["second"], ["third"]]
    assert audit(path).violations == []


async def test_steering_takes_as_much_as_one_record_holds(tmp_path: Path) -> None:
    """The rest comes with the next call; what could not be recorded at all queues."""
    stage, path = Stage(), tmp_path / "a.db"
    large, too_large = "m" * 3_000, "m" * 3_968
    async with staged(path, stage, Settings(synchronous="OFF", payload_bytes_max=4_000)) as runtime:
        first = await tell(runtime, "first")
        await until(lambda: stage.started)
        steered = [await tell(runtime, large, "steer") for _ in range(2)]
        queued = await tell(runtime, too_large, "steer")
        stage.gate.set()
        all_of_them = await values(first, *steered, queued)

    assert queued.arrived == "queued"
    assert [len(value["heard"]) for value in all_of_them] == [1, 1, 0, 0]


# ---------------------------------------------------------------- kills


def test_arrivals_killed_at_each_point_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """A queued, a coalesced, two steered and an interrupting message, killed at every fourth point of their life."""
    report = each_kill("turnkeeper.testing.scenarios.arrivals:small", tmp_path, every=4)

    assert report.violations == []
    assert report.kills > 10
