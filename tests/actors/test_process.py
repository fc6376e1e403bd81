"""Process agents: turns in workers, one at a time each, through a protocol that the runtime holds them to."""

import asyncio
from pathlib import Path

import pytest
from looking import check_invariants, details, kinds, until
from working import AGAIN, FAST, children, pid_of, python, quick, shell

from turnkeeper import Effect, Retry, Runtime, Settings, TurnkeeperError, tool
from turnkeeper.actors.node import logger
from turnkeeper.actors.process import ProcessLimits, process_agent, worker_step
from turnkeeper.actors.process.life import Command
from turnkeeper.actors.process.spawned import Guard
from turnkeeper.actors.process.worker import Worker
from turnkeeper.kernel.errors import ShuttingDown
from turnkeeper.kernel.supervision.child import Child, ChildSpec, Restart
from turnkeeper.kernel.supervision.intensity import Exceeded
from turnkeeper.supervisors.supervisor import Supervisor

READY = 'echo \'{"v":1,"type":"ready","incarnation":\'$TURNKEEPER_INCARNATION\'}\'; while read -r l; do :; done'


def staffed(script: str = READY) -> tuple[Supervisor, Worker]:
    limits = ProcessLimits(shutdown_s=0.2)
    command = Command(agent_id="w", command=["sh", "-c", script], env={}, cwd=None, limits=limits)
    worker = Worker("1", command, Guard(), lambda _: None, logger())
    child: Child = worker  # it is one
    staff = Supervisor(exceeded=Exceeded.QUARANTINE)
    staff.start(lambda _: None)
    staff.add(ChildSpec(name="1", child=child, restart=Restart.TRANSIENT, shutdown_s=0.2))
    return staff, worker


async def test_a_thousand_who_ask_at_once_start_one_process() -> None:
    """Starts coalesce in the slot."""
    before = children()
    staff, worker = staffed()
    await asyncio.gather(*(staff.ensure_running("1") for _ in range(1_000)))

    assert worker.incarnation == 1
    assert len(children() - before) == 2  # the worker and the guard
    await staff.stop(0.0)
    assert children() == before


async def test_a_stop_during_a_start_wins() -> None:
    """Whoever waited is told, and nothing is left; of an incarnation that is being stopped nothing is reported."""
    before = children()
    staff, worker = staffed("sleep 60")
    asked = asyncio.ensure_future(staff.ensure_running("1"))
    await until(lambda: worker.life is not None)
    await staff.stop(0.0)

    with pytest.raises(ShuttingDown):
        await asked
    assert staff.view().children[0].state == "idle"
    assert staff.view().children[0].why == ""
    assert children() == before


async def test_turns_of_different_sessions_share_the_workers(path: Path) -> None:
    """As many at once as there are workers, each with one turn; the others wait their turn."""
    body = """
        import os, time
        def handle(turn):
            turn.call("enter", pid=os.getpid())
            time.sleep(0.02)
            turn.call("leave", pid=os.getpid())
            return os.getpid()
        run(handle)
    """
    inside: list[int] = []
    most: list[int] = []

    @tool(effect=Effect.PURE)
    async def enter(pid: int) -> None:
        assert pid not in inside
        inside.append(pid)
        most.append(len(inside))

    @tool(effect=Effect.PURE)
    async def leave(pid: int) -> None:
        inside.remove(pid)

    agent = python(path.parent, body, tools=[enter, leave], workers_max=2)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        ended = await asyncio.gather(*(runtime.ask(f"s{n}", "w", n) for n in range(12)))
        workers = agent.workers()

    assert {result.value for result in ended} == {worker.pid for worker in workers}
    assert max(most) == 2
    assert [worker.incarnation for worker in workers] == [1, 1]
    check_invariants(path)


async def test_a_worker_is_started_by_the_first_turn(path: Path) -> None:
    """Nothing runs before somebody needs it."""
    agent = python(path.parent, "run(lambda turn: turn.input)")
    before = children()
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert children() == before
        assert (await runtime.ask("s", "w", {"a": [1, None, "ü"]})).value == {"a": [1, None, "ü"]}
        assert pid_of(agent) in children()


async def test_a_worker_knows_its_turn(path: Path) -> None:
    """Tenant, session, key, attempt and number."""
    body = "run(lambda turn: [turn.tenant, turn.session_id, turn.key, turn.attempt, turn.turn_id])"
    agent = python(path.parent, body)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        result = await runtime.ask("s", "w", None, key="k", tenant="t")

    assert result.value == ["t", "s", "k", 1, result.turn_id]


async def test_failures_come_through_to_the_worker_and_to_the_turn(path: Path) -> None:
    """A tool that raised, a tool that there is not, wrong arguments; caught they count for nothing."""
    body = """
        def handle(turn):
            said = []
            for tool, arguments in [("fail", {}), ("nowhere", {}), ("fail", {"no": 1})]:
                try:
                    turn.call(tool, **arguments)
                except StepFailed as error:
                    said.append([error.error, error.recorded])
            if turn.input == "let it through":
                turn.call("fail")
            if turn.input == "raise":
                raise KeyError("mine")
            return said
        run(handle)
    """

    @tool(effect=Effect.EFFECTFUL)
    async def fail() -> None:
        raise ConnectionError("no route")

    agent = python(path.parent, body, tools=[fail])
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", "")).value == [
            ["StepFailed", True],
            ["ContractViolation", False],
            ["ContractViolation", False],
        ]
        with pytest.raises(TurnkeeperError, match=r"step fail.*ConnectionError: no route"):
            (await runtime.ask("s", "w", "let it through")).value  # noqa: B018 - it raises
        with pytest.raises(TurnkeeperError, match=r"WorkerRaised.*KeyError: 'mine'"):
            (await runtime.ask("s", "w", "raise")).value  # noqa: B018 - it raises
        assert agent.workers()[0].incarnation == 1
    check_invariants(path)


async def test_a_retried_turn_is_answered_from_the_record(path: Path) -> None:
    """Calls and steps that succeeded are not done again; their results are those of the record."""
    body = """
        def handle(turn):
            one = turn.call("count")
            two = turn.step("here", lambda: turn.attempt)
            if turn.attempt < 3: raise ValueError
            return [one, two, turn.attempt]
        run(handle)
    """
    counted: list[int] = []

    @tool(effect=Effect.EFFECTFUL)
    async def count() -> int:
        counted.append(1)
        return len(counted)

    agent = python(path.parent, body, tools=[count], retry=AGAIN)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", None)).value == [1, 1, 3]


async def test_an_own_step_has_its_intent_before_it_and_its_key(path: Path) -> None:
    """Effectful and idempotent ones are told to go once their intent is durable; a failed one is recorded."""
    body = """
        def handle(turn):
            def fail(): raise OSError("full")
            keys = [turn.step("a", lambda: turn.idempotency_key, effect=e) for e in ("pure", "idempotent", "effectful")]
            try:
                turn.step("b", fail, effect="effectful")
            except StepFailed as error:
                keys.append(str(error.__cause__))
            return keys + [turn.step("c", lambda: turn.idempotency_key, effect="idempotent", key="mine")]
        run(handle)
    """
    agent = python(path.parent, body)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        pure, idempotent, effectful, failed, keyed = (await runtime.ask("s", "w", None)).value

    assert pure == ""
    assert idempotent.endswith("/1/a/#1")
    assert effectful.endswith("/1/a/#2")
    assert keyed.endswith("/1/c/mine")
    assert failed == "full"
    assert [intent.name for intent in details(path, "step_intended")] == ["a", "a", "b", "c"]
    assert "step_failed" in kinds(path)
    check_invariants(path)


async def test_a_declared_step_is_held_to_its_declaration(path: Path) -> None:
    """A worker that calls an effect harmless is refused; nothing is done."""
    body = """
        def handle(turn):
            try:
                turn.step("pay", print)
            except StepFailed as error:
                return str(error)
        run(handle)
    """
    agent = python(path.parent, body, steps=[worker_step("pay", Effect.EFFECTFUL)])
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert "is declared effectful, not pure" in (await runtime.ask("s", "w", None)).value


async def test_a_cancelled_turn_frees_its_worker(path: Path) -> None:
    """The deadline cancels: a worker that heeds it stays, one that does not is killed and replaced."""
    body = """
        import time
        def handle(turn):
            if turn.input == "wait": turn.call("wait")
            if turn.input == "deaf": time.sleep(60)
            return "fine"
        run(handle)
    """

    @tool(effect=Effect.PURE)
    async def wait() -> None:
        await asyncio.Event().wait()

    agent = python(path.parent, body, tools=[wait], turn_s=0.3)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", "")).value == "fine"
        first = pid_of(agent)
        with pytest.raises(TurnkeeperError, match="DeadlineExceeded"):
            (await runtime.ask("s", "w", "wait")).value  # noqa: B018 - it raises
        await until(lambda: not agent.workers()[0].busy)
        assert (await runtime.ask("s", "w", "")).value == "fine"
        assert pid_of(agent) == first
        with pytest.raises(TurnkeeperError, match="DeadlineExceeded"):
            (await runtime.ask("s", "w", "deaf")).value  # noqa: B018 - it raises
        await until(lambda: agent.workers()[0].last_exit is not None)
        last = agent.workers()[0].last_exit
        assert last is not None
        assert last.reason == "deaf"
        assert (await runtime.ask("s", "w", "")).value == "fine"
        assert pid_of(agent) != first


async def test_waiting_for_a_busy_worker_is_not_being_stuck(path: Path) -> None:
    """Without progress is the worker's affair; whoever waits for it, for longer than that, does not count."""
    body = """
        import time
        def handle(turn):
            for _ in range(12):
                time.sleep(0.05); turn.progress()
            return turn.attempt
        run(handle)
    """
    agent = python(path.parent, body, idle_s=0.3)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        ended = await asyncio.gather(*(runtime.ask(f"s{n}", "w", None) for n in range(2)))

    assert [result.value for result in ended] == [1, 1]


async def test_what_closing_cuts_off_is_done_by_the_next_runtime(path: Path) -> None:
    """A turn under way goes back to its queue, and no process stays."""
    agent = shell(
        'test -e "$DONE" && { result ok; cat; } || { touch "$DONE"; sleep 300; }', env={"DONE": f"{path}.done"}
    )
    async with Runtime(path, [agent], settings=Settings(synchronous="OFF", shutdown_s=0.01)) as runtime:
        await runtime.tell("s", "w", None, key="k")
        await until(lambda: Path(f"{path}.done").exists())
        pid = pid_of(agent)
    await until(lambda: not agent.workers())
    assert pid not in children()
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", None, key="k")).value == "ok"
    check_invariants(path)


# ---------------------------------------------------------------- declarations


def test_what_could_not_run_is_refused_where_it_is_declared() -> None:
    """A command as text, none at all, no workers, limits that nothing could keep."""
    with pytest.raises(TypeError, match="as a list"):
        process_agent("w", "python worker.py")
    with pytest.raises(TypeError, match="as a list"):
        process_agent("w", [])
    with pytest.raises(ValueError, match="workers_max"):
        process_agent("w", ["true"], workers_max=0)
    with pytest.raises(ValueError, match="silent_s"):
        ProcessLimits(silent_s=0)
    with pytest.raises(ValueError, match="line_bytes_max"):
        ProcessLimits(line_bytes_max=100)
    assert quick(["true"]).retry == Retry(retries_max=0)


async def test_an_input_that_no_line_can_hold_fails_its_turn(path: Path) -> None:
    """It is not sent in pieces, and not lost without a word."""
    agent = python(path.parent, "run(lambda turn: len(turn.input))", limits={"line_bytes_max": 5_000})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        assert (await runtime.ask("s", "w", "x" * 4_000)).value == 4_000
        with pytest.raises(TurnkeeperError, match="cannot be told to a worker"):
            (await runtime.ask("s", "w", "x" * 6_000)).value  # noqa: B018 - it raises
        assert (await runtime.ask("s", "w", "x")).value == 1
