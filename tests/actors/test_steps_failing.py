"""Steps that go wrong: failures, timeouts, deadlines, and tasks that outlive their run."""

import asyncio
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint
from looking import FAST, Once, check_invariants, details, kinds, passed, played, playing, rows, token, until

from turnkeeper import (
    DidNotHappen,
    Effect,
    Happened,
    OnDoubt,
    Retry,
    Runtime,
    Settings,
    Turn,
    TurnkeeperError,
    step_context,
    tool,
)
from turnkeeper.kernel.errors import (
    EffectInDoubt,
    StaleEpoch,
    StepFailed,
    ToolTimedOut,
)


class Act:
    """A tool that notes its calls' keys and fails, or hangs, as often as told."""

    def __init__(self, effect: Effect, *, fails: int = 0, hangs: int = 0, **options: object) -> None:
        self.keys: list[str] = []

        async def act() -> str:
            self.keys.append(step_context().idempotency_key)
            if len(self.keys) <= hangs:
                await asyncio.Event().wait()
            if len(self.keys) <= fails:
                raise LookupError(f"failure {len(self.keys)}")
            return f"acted {len(self.keys)}"

        self.tool = tool(effect=effect, timeout_s=0.01 if hangs else None, **options)(act)

        async def play(turn: Turn) -> str:
            return await turn.call(self.tool)

        self.play = playing(play)


# ---------------------------------------------------------------- failures and retries


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.IDEMPOTENT])
async def test_a_harmless_step_that_failed_is_run_anew_by_the_retry(path: Path, effect: Effect) -> None:
    """The retry forgets the failure, runs the step under the same key, and says so in its edge."""
    act = Act(effect, fails=2)
    result = await played(path, act.play)

    assert result.value == "acted 3"
    assert len(set(act.keys)) == 1
    assert [(why.reason, why.failure.type, why.forgotten) for why in details(path, "turn_requeued")] == [
        ("retry", "StepFailed", [("act", "#0")])
    ] * 2
    assert [why.failure.message for why in details(path, "step_failed")] == ["failure 1", "failure 2"]


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_a_step_that_failed_in_a_task_group_is_run_anew_too(path: Path, group: str) -> None:
    """A task group wraps what its tasks raise; the retry looks inside."""
    act = Act(Effect.IDEMPOTENT, fails=1)

    async def play(turn: Turn) -> int:
        if group == "anyio":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(turn.call, act.tool)
        else:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(turn.call(act.tool))
        return len(act.keys)

    result = await played(path, playing(play))

    assert result.outcome == "completed"
    assert result.value == 2


async def test_an_effect_that_failed_in_a_task_group_fails_its_turn_at_once(path: Path) -> None:
    """As it would outside of one: running the turn again could end no other way."""
    act = Act(Effect.EFFECTFUL, fails=1)
    starts = []

    async def play(turn: Turn) -> None:
        starts.append(turn.attempt)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn.call(act.tool))

    result = await played(path, playing(play))

    assert result.outcome == "failed"
    assert (len(act.keys), starts) == (1, [1])


@pytest.mark.parametrize("group", ["gather", "group"])
async def test_an_effect_that_was_intended_and_never_called_is_no_doubt(path: Path, group: str) -> None:
    """Where a step beside it fails before the intent is durable, nothing was called: the retry calls it unasked."""
    act = Act(Effect.EFFECTFUL)
    attempts = []

    async def flaky() -> None:
        if len(attempts) == 1:
            raise ConnectionError

    async def play(turn: Turn) -> None:
        attempts.append(turn.attempt)
        if group == "gather":
            await asyncio.gather(turn.call(act.tool), turn.step("flaky", flaky))
        else:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(turn.call(act.tool))
                tasks.create_task(turn.step("flaky", flaky))

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", None)
        await until(lambda: runtime.statistics().running == runtime.statistics().queued == 0)

        assert runtime.statistics().suspended == 0
        assert (await receipt.deliverable()).outcome == "completed"
    assert (attempts, len(act.keys)) == ([1, 2], 1)
    check_invariants(path)


async def test_an_effect_that_closing_kept_from_being_called_is_no_doubt(path: Path) -> None:
    """Cut off between its intent and its call by an orderly closing, it is called by the next runtime unasked."""
    act = Act(Effect.EFFECTFUL)
    gate, asked = asyncio.Event(), asyncio.Event()
    async with Runtime(path, [act.play], settings=FAST) as runtime:
        await runtime.tell("s", "play", None, key="k")
        write = runtime._store.apply

        async def late_write(points: list) -> object:
            asked.set()
            await gate.wait()
            return await write(points)

        runtime._store.apply = late_write  # type: ignore[method-assign]
        await until(asked.is_set)
        closing = asyncio.create_task(runtime.aclose())
        await passed(0.1)
        gate.set()
        await closing
    async with Runtime(path, [act.play], settings=FAST) as runtime:
        await until(lambda: runtime.statistics().running == runtime.statistics().queued == 0)

        assert runtime.statistics().suspended == 0
        assert (await runtime.ask("s", "play", None, key="k")).value == "acted 1"
    check_invariants(path)


async def test_an_effect_that_a_suspension_kept_from_being_called_is_no_doubt(path: Path) -> None:
    """Its turn came to stand on the doubt about another step: once that is settled, it is called unasked."""
    act, hangs = Act(Effect.EFFECTFUL), Act(Effect.EFFECTFUL, hangs=1)
    doubted = asyncio.Event()

    async def play(turn: Turn) -> list:
        async def later() -> str:
            await doubted.wait()
            return await turn.call(act.tool.keyed("later"))

        return await asyncio.gather(turn.call(hangs.tool), later())

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "play", None)
        write = runtime._store.apply

        async def write_slowly(points: list) -> object:
            if any(getattr(record, "kind", "") == "step_unknown" for point in points for record in point):
                doubted.set()
                for _ in range(5):
                    await checkpoint()
            return await write(points)

        runtime._store.apply = write_slowly  # type: ignore[method-assign]
        await until(lambda: runtime.statistics().suspended == 1)
        await runtime.resolve(receipt.turn_id, Happened("said so"), token=await token(runtime, receipt.turn_id))
        await until(lambda: runtime.statistics().running == 0)

        assert runtime.statistics().suspended == 0
        assert (await receipt.deliverable()).value == ["said so", "acted 1"]
    assert (len(act.keys), len(hangs.keys)) == (1, 1)
    check_invariants(path)


async def test_an_effect_that_failed_is_not_repeated(path: Path) -> None:
    """An effectful failure is its outcome: recorded, raised with its cause, and the turn fails."""
    act = Act(Effect.EFFECTFUL, fails=1)
    raised = []

    async def play(turn: Turn) -> None:
        try:
            await turn.call(act.tool)
        except StepFailed as error:
            raised.append(error)
            raise

    result = await played(path, playing(play))
    (error,) = raised

    assert len(act.keys) == 1
    assert (error.step, error.effect, error.type, error.message) == (
        ("act", "#0"),
        "effectful",
        "LookupError",
        "failure 1",
    )
    assert isinstance(error.__cause__, LookupError)
    assert (result.failure.type, result.failure.message) == (
        "StepFailed",
        "step act[#0] failed: LookupError: failure 1",
    )
    assert kinds(path)[2:] == ["step_intended", "step_failed", "turn_failed"]


@pytest.mark.parametrize("wrong", ["raises", "hangs", "misfits"])
async def test_a_failure_that_was_handled_is_the_same_on_every_run(path: Path, wrong: str) -> None:
    """A handler that catches a failure takes the same way on a rerun: same type, same message, no second call."""
    calls, caught = [], []

    @tool(effect=Effect.PURE, timeout_s=0.01)
    async def act() -> int:
        calls.append(1)
        if wrong == "hangs":
            await asyncio.Event().wait()
        if wrong == "raises":
            raise LookupError("no such order")
        return "no number"

    async def play(turn: Turn) -> str:
        try:
            await turn.call(act)
        except TurnkeeperError as error:
            caught.append((type(error), str(error)))
        if turn.attempt == 1:
            raise Once
        return "went on"

    result = await played(path, playing(play))

    assert (result.value, len(calls)) == ("went on", 1)
    assert caught[0] == caught[1]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("an error that cannot say what it is")


@pytest.mark.parametrize("error", [OSError("no file \udcff"), Mute()], ids=["text", "str"])
async def test_a_failure_that_cannot_be_stored_as_it_is_is_no_doubt(path: Path, error: Exception) -> None:
    """A tool that raises has said that its effect did not happen, whatever its message."""
    calls = []

    @tool(effect=Effect.EFFECTFUL)
    async def act() -> None:
        calls.append(1)
        raise error

    async def play(turn: Turn) -> None:
        await turn.call(act)

    result = await played(path, playing(play))

    assert (result.failure.type, len(calls)) == ("StepFailed", 1)
    assert kinds(path)[2:] == ["step_intended", "step_failed", "turn_failed"]


NEVER, TWICE = Retry(retries_max=0), Retry(retries_max=2, base_s=0.001)


@pytest.mark.parametrize(
    ("of_agent", "of_settings", "starts"), [(None, 1, 2), (None, 0, 1), (NEVER, 3, 1), (TWICE, 0, 3)]
)
async def test_a_turn_that_raised_is_retried_so_often(path: Path, of_agent, of_settings: int, starts: int) -> None:
    """`retries_max` is the agent's or the runtime's; the last failure is the turn's."""
    attempts = []

    async def play(turn: Turn) -> None:
        attempts.append(turn.attempt)
        raise LookupError(f"failure {turn.attempt}")

    settings = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=of_settings)
    result = await played(path, playing(play, retry=of_agent), settings)

    assert attempts == list(range(1, starts + 1))
    assert (result.failure.type, result.failure.message) == ("LookupError", f"failure {starts}")
    assert kinds(path).count("turn_requeued") == starts - 1


class NoChance:
    random = staticmethod(lambda: 0.0)
    token = staticmethod(lambda: "store")


async def test_a_retry_waits_for_its_time_in_the_next_runtime_too(path: Path, clock) -> None:
    """Backoff doubles, is durable, holds the session's order, and is not shortened or counted anew by a restart."""
    started = []

    async def play(turn: Turn) -> str:
        started.append((turn.input, clock.now))
        if turn.input == "fails":
            raise LookupError
        return "fine"

    settings = Settings(synchronous="OFF", retry_base_s=0.02, retry_cap_s=0.03, retries_max=3, shutdown_s=0.02)
    begin = clock.now
    for boot, pause_s in enumerate((0.02, 0.03, 0.03)):
        async with Runtime(path, [playing(play)], settings=settings, clock=clock, chance=NoChance()) as runtime:
            if boot == 0:
                await runtime.tell("s", "play", "fails", key="k")
                await runtime.tell("s", "play", "waits")
            await until(lambda due=boot + 1: len(started) == due)
            await until(lambda: runtime.statistics().running == 0)
            due_at = rows(path, "SELECT state, due_at FROM turns WHERE turn_id = 1")
            await passed(0.1)

            assert due_at == [("queued", pytest.approx(clock.now + pause_s))]
            assert len(started) == boot + 1
        async with Runtime(path, [playing(play)], settings=settings, clock=clock, chance=NoChance()):
            await passed(0.05)
            assert rows(path, "SELECT state, due_at FROM turns WHERE turn_id = 1") == due_at
        clock.now = due_at[0][1]
    async with Runtime(path, [playing(play)], settings=settings, clock=clock, chance=NoChance()) as runtime:
        await until(lambda: runtime.statistics().completed == 1)
        result = await runtime.ask("s", "play", "fails", key="k")

    check_invariants(path)
    assert [what for what, _ in started] == ["fails"] * 4 + ["waits"]
    assert [at - begin for _, at in started] == pytest.approx([0, 0.02, 0.05, 0.08, 0.08])
    assert result.failure.type == "LookupError"


# ---------------------------------------------------------------- timeouts and deadlines


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.IDEMPOTENT])
async def test_a_harmless_step_that_timed_out_is_run_anew_by_the_retry(path: Path, effect: Effect) -> None:
    """A timeout of a step that may be repeated is a failure, and retryable."""
    act = Act(effect, hangs=1)
    result = await played(path, act.play)

    assert result.value == "acted 2"
    assert len(set(act.keys)) == 1
    assert [why.failure.type for why in details(path, "turn_requeued")] == [ToolTimedOut.__name__]


async def found() -> Happened:
    return Happened("found")


async def not_found() -> DidNotHappen:
    return DidNotHappen()


@pytest.mark.parametrize(
    ("on_doubt", "value", "calls"),
    [(OnDoubt.RETRY, "acted 2", 2), (not_found, "acted 2", 2), (found, "found", 1)],
)
async def test_an_effect_that_timed_out_is_in_doubt(path: Path, on_doubt, value: str, calls: int) -> None:
    """The doubt is recorded, and settled as the tool says; to be called again it waits for the turn's next attempt."""
    act = Act(Effect.EFFECTFUL, hangs=1, on_doubt=on_doubt)
    result = await played(path, act.play)

    assert (result.value, len(act.keys), len(set(act.keys))) == (value, calls, 1)
    assert kinds(path)[2:4] == ["step_intended", "step_unknown"]
    assert kinds(path)[-2:] == ["step_succeeded", "turn_completed"]
    assert kinds(path).count("step_failed") == kinds(path).count("turn_requeued") == calls - 1


@pytest.mark.parametrize("on_doubt", [OnDoubt.RETRY, not_found])
async def test_an_effect_that_never_answers_is_not_repeated_without_end(path: Path, on_doubt) -> None:
    """Repeating is bounded by the retry policy, however sure its author is that it may be repeated."""
    act = Act(Effect.EFFECTFUL, hangs=1_000_000, on_doubt=on_doubt)
    settings = Settings(synchronous="OFF", retry_base_s=0.001, retries_max=3, turn_s=1, shutdown_s=0.02)
    result = await played(path, act.play, settings)

    assert result.outcome == "failed"
    assert 1 < len(act.keys) <= 10
    assert len(set(act.keys)) == 1


async def test_an_effect_in_doubt_that_says_fail_may_be_handled(path: Path) -> None:
    """`EffectInDoubt` names the step and its key; unhandled it fails the turn, and no retry repeats the effect."""
    act = Act(Effect.EFFECTFUL, hangs=1, on_doubt=OnDoubt.FAIL)

    async def play(turn: Turn) -> None:
        with pytest.raises(EffectInDoubt) as caught:
            await turn.call(act.tool)
        assert (caught.value.step, caught.value.idempotency_key) == (("act", "#0"), act.keys[0])
        raise caught.value

    result = await played(path, playing(play))

    assert (result.failure.type, len(act.keys)) == (EffectInDoubt.__name__, 1)
    assert kinds(path)[-1] == "turn_failed"


async def test_a_probe_that_fails_is_asked_again_and_the_effect_is_not_repeated(path: Path) -> None:
    """A probe that raises has found out nothing: the retry asks it again."""
    asked = []

    async def probe() -> Happened:
        asked.append(step_context().idempotency_key)
        if len(asked) == 1:
            raise ConnectionError
        return Happened("found")

    act = Act(Effect.EFFECTFUL, hangs=1, on_doubt=probe)
    result = await played(path, act.play)

    assert (result.value, len(act.keys)) == ("found", 1)
    assert asked == act.keys * 2


async def test_a_tools_own_timeout_is_a_failure_and_no_doubt(path: Path) -> None:
    """Only the runtime's limit cuts a call off; what a tool raises is its outcome."""

    @tool(effect=Effect.EFFECTFUL, timeout_s=5)
    async def act() -> None:
        raise TimeoutError("the provider's own")

    async def play(turn: Turn) -> None:
        await turn.call(act)

    result = await played(path, playing(play))

    assert result.failure.message == "step act[#0] failed: TimeoutError: the provider's own"
    assert "step_unknown" not in kinds(path)


@pytest.mark.parametrize("key", [None, "mine"])
@pytest.mark.parametrize("swallows", [False, True])
async def test_a_handler_that_hangs_ends_at_its_deadline(path: Path, key: str | None, swallows: bool) -> None:
    """`turn_s` ends a run, own key or not (10.5), also one that swallows its cancellation; the session goes on."""

    async def play(turn: Turn) -> str:
        if turn.turn_id > 1:
            return "fine"
        if swallows:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()
        return "never"

    async with Runtime(path, [playing(play, turn_s=0.02)], settings=FAST) as runtime:
        with anyio.fail_after(4):
            result = await runtime.ask("s", "play", None, key=key)
            after = await runtime.ask("s", "play", None)

    assert (result.outcome, result.failure.type) == ("failed", "DeadlineExceeded")
    assert "0.02 s" in result.failure.message
    assert after.value == "fine"
    check_invariants(path)


async def test_a_value_after_the_deadline_does_not_count(path: Path) -> None:
    """A handler that is told to stop and returns all the same has failed; its steps are refused meanwhile."""
    refused = []

    async def play(turn: Turn) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await turn.step("late", lambda: 1)
            except TurnkeeperError as error:
                refused.append(error)
        return "too late"

    settings = Settings(synchronous="OFF", turn_s=0.02)
    result = await played(path, playing(play), settings)

    assert result.failure.type == "DeadlineExceeded"
    assert len(refused) == 1
    assert kinds(path)[2:] == ["turn_failed"]


# ---------------------------------------------------------------- tasks that outlive their run


async def test_a_task_that_outlives_its_run_cannot_write_into_the_next(path: Path) -> None:
    """What a forgotten task of an earlier attempt still does is refused with `StaleEpoch`, and recorded nowhere."""
    gate, begun = asyncio.Event(), asyncio.Event()
    forgotten: list[asyncio.Task] = []
    act = Act(Effect.EFFECTFUL)

    async def slow() -> str:
        begun.set()
        await gate.wait()
        return "from the first attempt"

    async def forget(turn: Turn) -> None:
        try:
            await turn.step("late", slow)
        finally:
            await turn.call(act.tool)

    async def play(turn: Turn) -> str:
        if turn.attempt == 1:
            forgotten.append(asyncio.create_task(forget(turn)))
            await begun.wait()
            raise Once
        gate.set()
        await asyncio.wait(forgotten)
        return await turn.step("late", lambda: "from the second attempt")

    result = await played(path, playing(play))
    error = forgotten[0].exception()

    assert result.value == "from the second attempt"
    assert isinstance(error, StaleEpoch)
    assert act.keys == []
    assert kinds(path).count("step_succeeded") == 1


async def test_a_task_that_outlives_its_turn_can_do_nothing(path: Path) -> None:
    """After the deliverable nothing is called and nothing is written."""
    gate = asyncio.Event()
    forgotten: list[asyncio.Task] = []
    act = Act(Effect.EFFECTFUL)

    async def forget(turn: Turn) -> None:
        await gate.wait()
        await turn.call(act.tool)

    async def play(turn: Turn) -> str:
        forgotten.append(asyncio.create_task(forget(turn)))
        return "done"

    async with Runtime(path, [playing(play)], settings=FAST) as runtime:
        await runtime.ask("s", "play", 1)
        gate.set()
        await asyncio.wait(forgotten)

    assert isinstance(forgotten[0].exception(), TurnkeeperError)
    assert act.keys == []
    assert kinds(path)[-1] == "turn_completed"
    check_invariants(path)
