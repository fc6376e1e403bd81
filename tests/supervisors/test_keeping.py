"""A store over its life: how large it gets, what is pruned and what never is, and what a fork takes over."""

from pathlib import Path

import anyio
import pytest
from looking import FakeClock, check_invariants, details, kinds, rows, token, until

from turnkeeper import Effect, GiveUp, Happened, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.audit import audit
from turnkeeper.kernel.errors import ContractViolation, IdempotencyConflict, TurnNotFound

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0
FAST = Settings(synchronous="OFF", shutdown_s=0.02, retries_max=0)


@tool(effect=Effect.PURE)
async def look(text: str) -> str:
    return text


@agent("desk", tools=[look])
async def desk(turn: Turn) -> str:
    return await turn.call(look, turn.input)


def size(path: Path) -> int:
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("sessions", [1, 50])
async def test_size_grows_linearly_with_what_is_said(path: Path, sessions: int) -> None:
    """500 turns with 1 MiB of messages, what comes in and what goes out together, stay under 2.5 MiB."""
    said = "x" * (1024 * 1024 // 500 // 2)

    @agent("echo")
    async def echo(turn: Turn) -> str:
        return turn.input

    async with Runtime(path, [echo], settings=FAST) as runtime:
        for turns in (250, 500):
            for number in range(250):
                await runtime.ask(f"session {number % sessions}", "echo", said, key=f"{turns} {number}")
            rows(path, "SELECT 1")
    assert rows(path, "SELECT count(*) FROM deliverables") == [(500,)]
    assert size(path) < 2.5 * 1024 * 1024


async def test_a_large_value_is_stored_once_beside_its_row(path: Path) -> None:
    """An inbound, a step's arguments and result, and a deliverable: four values in a table of their own."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        large = "x" * 100_000
        result = await runtime.ask("s", "desk", large, key="k")
        again = await runtime.tell("s", "desk", large, key="k")

        assert result.value == large
        assert (await again.deliverable()).body == result.body
        assert (await runtime.checkpoint(1)).steps[0].result == large

    assert [kind for (kind,) in rows(path, "SELECT length(body) > 100000 FROM blobs")] == [1, 1, 1]
    assert rows(path, "SELECT max(length(detail)) < 1000 FROM edges") == [(1,)]
    assert audit(path).violations == []


# ---------------------------------------------------------------- pruning


async def three_old_turns(runtime: Runtime) -> None:
    for number in range(3):
        await runtime.ask("s", "desk", f"question {number}", key=f"k{number}")


async def test_what_ended_long_ago_goes_with_everything_of_its_own(path: Path, clock: FakeClock) -> None:
    """Turn, edges, deliverable, receipt and large values; the newest turn stays, because ids are counted on from it."""
    async with Runtime(path, [desk], settings=FAST, clock=clock) as runtime:
        await runtime.ask("s", "desk", "x" * 100_000, key="large")
        await three_old_turns(runtime)
        clock.now += 2 * DAY_S

        assert await runtime.prune(older_than_s=DAY_S) == 3
        assert await runtime.prune(older_than_s=DAY_S) == 0
        with pytest.raises(TurnNotFound):
            await runtime.checkpoint(1)
        later = await runtime.ask("s", "desk", "later", key="k0")

    assert later.turn_id == 5
    for table in ("turns", "deliverables", "receipts"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(2,)]
    assert rows(path, "SELECT DISTINCT turn_id FROM edges") == [(4,), (5,)]
    assert rows(path, "SELECT count(*) FROM blobs") == [(0,)]
    assert audit(path).violations == []
    check_invariants(path)


async def test_a_live_turn_is_never_pruned(path: Path, clock: FakeClock) -> None:
    """Queued, running or suspended, however old; the schema itself refuses."""
    till = Till()
    settings = Settings(synchronous="OFF", shutdown_s=0.02, approval_s=1_000 * DAY_S)
    async with Runtime(path, [till.pay, desk], settings=settings, clock=clock) as runtime:
        await runtime.tell("doubt", "pay", 5)
        await runtime.tell("doubt", "pay", 6)
        await until(lambda: runtime.statistics().suspended == 1)
        await runtime.ask("s", "desk", "newest")
        clock.now += 100 * DAY_S

        assert await runtime.prune(older_than_s=0.0) == 0
        await runtime.resolve(1, Happened("said so"), token=await token(runtime, 1))
        await until(lambda: runtime.statistics().completed >= 2)
    assert rows(path, "SELECT count(*) FROM turns") == [(3,)]


async def test_a_key_that_still_answers_keeps_its_turn(path: Path, clock: FakeClock) -> None:
    """A duplicate within the key's time is answered with the same bytes, pruned or not."""
    async with Runtime(path, [desk], settings=FAST, clock=clock) as runtime:
        await three_old_turns(runtime)
        clock.now += DAY_S / 2

        assert await runtime.prune(older_than_s=1.0) == 0
        assert (await runtime.tell("s", "desk", "question 0", key="k0")).duplicate


@pytest.mark.parametrize("older_than_s", [-1.0, float("nan"), float("inf")])
async def test_a_time_that_is_none_prunes_nothing(path: Path, older_than_s: float) -> None:
    """It is refused by name."""
    async with Runtime(path, [desk], settings=FAST) as runtime:
        with pytest.raises(ContractViolation, match="older_than_s"):
            await runtime.prune(older_than_s=older_than_s)


async def test_with_a_retention_the_runtime_prunes_by_itself(path: Path, clock: FakeClock) -> None:
    """Again and again, beside its work."""
    settings = Settings(synchronous="OFF", shutdown_s=0.02, retention_s=1.0)
    async with Runtime(path, [desk], settings=settings, clock=clock) as runtime:
        await three_old_turns(runtime)
        clock.now += 2 * DAY_S
        await until(lambda: rows(path, "SELECT count(*) FROM turns") == [(1,)])


# ---------------------------------------------------------------- forks


class Till:
    """An agent `pay` whose charge hangs the first time it is called; what was charged, by key."""

    def __init__(self) -> None:
        self.charged: list[str] = []
        self.looked = 0

        @tool(effect=Effect.PURE)
        async def price(cents: int) -> int:
            self.looked += 1
            return cents

        @tool(effect=Effect.EFFECTFUL, timeout_s=0.02)
        async def charge(cents: int) -> str:
            self.charged.append(f"{cents}")
            if cents == 5:
                await anyio.sleep(60)
            return f"charged {cents}"

        @agent("pay", tools=[price, charge])
        async def pay(turn: Turn) -> list[str]:
            cents = await turn.call(price, turn.input)
            first = await turn.call(charge, cents)
            return [first, await turn.call(charge, cents + 1)]

        self.pay = pay


async def test_a_fork_repeats_no_effect_before_its_step(path: Path) -> None:
    """It begins with the results of the first steps; those behind are run anew; the source stays as it was."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        source = await runtime.ask("s", "pay", 7, key="k")
        fork = await runtime.fork(source.turn_id, from_step=2)
        forked = await fork.deliverable()

        assert forked.value == source.value == ["charged 7", "charged 8"]
        assert till.charged == ["7", "8", "8"]
        assert till.looked == 1
        assert (await runtime.checkpoint(fork.turn_id)).forked_from == source.turn_id
        assert (await runtime.ask("s", "pay", 7, key="k")).body == source.body
    assert audit(path).violations == []
    check_invariants(path)


async def test_a_fork_from_the_start_has_no_record_and_from_the_end_runs_nothing(path: Path) -> None:
    """Step 0 is the whole turn once more; behind the last step there is only the handler's own code."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await runtime.ask("s", "pay", 7)
        await (await runtime.fork(1, from_step=3)).deliverable()
        assert till.charged == ["7", "8"]
        await (await runtime.fork(1, from_step=0)).deliverable()
        assert till.charged == ["7", "8", "7", "8"]


async def test_an_effect_in_doubt_is_in_doubt_in_the_fork_and_keeps_its_key(path: Path) -> None:
    """Nobody knows more about it there: it is asked again, and never repeated unasked."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await runtime.tell("s", "pay", 5)
        await until(lambda: runtime.statistics().suspended == 1)
        (known,) = await runtime.doubts()
        with pytest.raises(ContractViolation, match="no outcome yet"):  # or both could have it
            await runtime.fork(1, from_step=2)
        await runtime.resolve(1, GiveUp(), token=known.token)
        await until(lambda: runtime.statistics().failed == 1)
        fork = await runtime.fork(1, from_step=2)
        await until(lambda: runtime.statistics().suspended == 1)
        (asked,) = await runtime.doubts()

        assert (asked.turn_id, asked.idempotency_key) == (2, known.idempotency_key)
        assert asked.token != known.token
        await runtime.resolve(2, Happened("said so"), token=asked.token)
        assert (await fork.deliverable()).value == ["said so", "charged 6"]
    assert till.charged == ["5", "6"]
    assert kinds(path, 2)[1:5] == ["step_succeeded", "step_intended", "step_unknown", "lease_acquired"]


async def test_a_fork_under_a_key_is_one_fork(path: Path) -> None:
    """Asked for again it is the same turn; the key of something else is refused."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await runtime.ask("s", "pay", 7, key="k")
        first = await runtime.fork(1, from_step=1, key="f")
        again = await runtime.fork(1, from_step=1, key="f")

        assert (first.turn_id, again.turn_id, again.duplicate) == (2, 2, True)
        for other in (lambda: runtime.fork(1, from_step=2, key="f"), lambda: runtime.fork(1, from_step=1, key="k")):
            with pytest.raises(IdempotencyConflict):
                await other()
        for wrong in (-1, 4):
            with pytest.raises(ContractViolation, match="from_step"):
                await runtime.fork(1, from_step=wrong)
        with pytest.raises(TurnNotFound):
            await runtime.fork(99, from_step=0)


@pytest.mark.parametrize("key", [None, "fork"])
async def test_who_has_not_the_agent_can_fork_and_resolve_all_the_same(path: Path, key: str | None) -> None:
    """An operator's runtime without agents leaves both in the queue; the next one with the agent runs them."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await runtime.tell("s", "pay", 5)
        await until(lambda: runtime.statistics().suspended == 1)
    async with Runtime(path, [], settings=FAST) as operator:
        await operator.resolve(1, Happened("said so"), token=await token(operator, 1))
        fork = await operator.fork(1, from_step=2, key=key)  # its effect has a result now
        assert (await operator.checkpoint(1)).status == "queued"
        assert not fork.duplicate
        assert (await operator.fork(1, from_step=2, key=key)).duplicate == (key is not None)
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await until(lambda: runtime.statistics().completed == (2 if key else 3))

    assert till.charged == ["5"] + ["6"] * (2 if key else 3)
    assert [inbound.forked_from for inbound in details(path, "inbound_received", 2)] == [1]
    assert audit(path).violations == []
    check_invariants(path)
