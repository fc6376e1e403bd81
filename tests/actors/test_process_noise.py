"""Workers that misbehave: garbage, floods and deaf ears are refused, slowed down and killed, and block nobody."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from looking import until
from working import FAST, python, shell

from turnkeeper import Effect, Runtime, Settings, tool

BLOCKED_S = 0.5
"""A loop that does not come round for so long is blocked, on however busy a machine."""


GARBAGE = r"""
printf 'hello\n\377\376\n{"v":1,"type":"shutdown"}\n{"v":9,"type":"ready"}\n'
printf '{"v":1,"type":"pong","incarnation":99}\n{"v":1,"type":"result","turn":99}\n'
printf '{"v":1,"type":"did","turn":%s,"id":"x"}\n' $turn
printf '%5000s\n' x
printf '{"v":1,"ty'; sleep 0.02; printf 'pe":"heartbeat","incarnation":1}\n\n  \n'
codes=''
while [ $(echo "$codes" | wc -w) -lt 8 ]; do read -r line; codes="$codes $(field code)"; done
result "$codes"
cat >/dev/null
"""


async def test_garbage_is_answered_and_counted(path: Path) -> None:
    """No JSON, no UTF-8, unknown, another version, stale, out of place, too long; halves of lines are put together."""
    agent = shell(GARBAGE, limits={"line_bytes_max": 4_096})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        said = (await runtime.ask("s", "w", None)).value
        assert agent.workers()[0].refused == 8

    assert said == " not_json not_json unknown version stale stale out_of_place too_long"


async def responsive(done: Callable[[], object]) -> float:
    """Return the longest time for which the loop did not come round while something goes on."""
    loop, worst = asyncio.get_running_loop(), 0.0
    async with asyncio.timeout(10):
        while not done():
            began = loop.time()
            await asyncio.sleep(0)
            worst = max(worst, loop.time() - began)
            await asyncio.sleep(0.001)
    return worst


@pytest.mark.parametrize(
    "script",
    ["yes garbage", "cat /dev/zero", "yes garbage >&2 & yes garbage"],
    ids=["lines", "an endless line", "both pipes"],
)
async def test_a_worker_that_writes_endlessly_is_killed_and_blocks_nobody(path: Path, script: str) -> None:
    """Too much that nobody understands: its turn fails or is taken back, the loop goes round."""
    agent = shell(script, limits={"line_bytes_max": 65_536, "refusals_max": 200})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.tell("s", "w", None)
        await until(agent.workers)
        worst = await responsive(lambda: agent.workers()[0].last_exit)
        last = agent.workers()[0].last_exit

    assert last is not None
    assert last.reason == "refused"
    assert worst < BLOCKED_S


async def test_a_worker_that_beats_endlessly_waits_until_the_second_is_over(path: Path) -> None:
    """Lines that are understood are read at a bounded pace."""
    beats = """yes '{"v":1,"type":"heartbeat","incarnation":1}'"""
    agent = shell(beats, limits={"lines_per_s_max": 1_000}, turn_s=0.5)
    async with Runtime(path, [agent], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "w", None)
        await until(agent.workers)
        ended = asyncio.ensure_future(receipt.deliverable())
        before = os.times()
        worst = await responsive(ended.done)
        spent = os.times()
        ended.cancel()

    assert worst < BLOCKED_S
    assert spent.user + spent.system - before.user - before.system < 0.5


async def test_a_worker_that_never_reads_holds_up_nobody(path: Path) -> None:
    """What waits for it is bounded: it is not read either, so it falls silent, and is killed."""
    calls = """yes '{"v":1,"type":"call","turn":1,"id":1,"tool":"big"}'"""

    @tool(effect=Effect.PURE)
    async def big() -> str:
        return "x" * 100_000

    limits = {"silent_s": 0.3, "grace_s": 0.2, "unread_bytes_max": 10_000, "refusals_max": 1_000_000}
    agent = shell(calls, tools=[big], limits=limits)
    async with Runtime(path, [agent], settings=Settings(synchronous="OFF", steps_max=1_000_000)) as runtime:
        await runtime.tell("s", "w", None)
        await until(agent.workers)
        worst = await responsive(lambda: agent.workers()[0].last_exit)
        last = agent.workers()[0].last_exit

    assert last is not None
    assert last.reason == "silent"
    assert worst < BLOCKED_S


async def test_stderr_is_logged_in_lines_of_bounded_length(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the agent, the process and its incarnation; what a handler prints goes there, too."""
    body = """
        import sys
        def handle(turn):
            print("printed")
            print("x" * 10_000, file=sys.stderr)
            sys.stderr.buffer.write(b"\\xff\\x1b[31m\\n"); sys.stderr.flush(); sys.stdout.flush()
        run(handle)
    """
    agent = python(path.parent, body, limits={"stderr_line_bytes_max": 100})
    with caplog.at_level("INFO", "turnkeeper"):
        async with Runtime(path, [agent], settings=FAST) as runtime:
            await runtime.ask("s", "w", None)
            await until(lambda: sum(getattr(record, "event", "") == "process.stderr" for record in caplog.records) == 3)
    said = {record.fields["line"] for record in caplog.records if getattr(record, "event", "") == "process.stderr"}

    assert "printed" in said
    assert max(map(len, said)) <= 84
    assert not any("\x1b" in record.getMessage() for record in caplog.records)
