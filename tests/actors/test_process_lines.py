"""Lines of a worker's own that nobody could take: refused where they are said, and nobody waits for their answer."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from looking import check_invariants, until
from working import FAST, python, quick

from turnkeeper import Effect, Runtime, tool
from turnkeeper.kernel.envelope import ID_LEN_MAX

SOON_S = 10.0
"""A turn that waits for what does not come lasts for its `turn_s`, 900 s."""

SMALL = {"line_bytes_max": 65_536}


@tool(effect=Effect.PURE)
async def echo(x: object = None) -> object:
    return x


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return float('nan')", r"the turn's result cannot be said.*not JSON compliant"),
        ("return '\\ud800'", r"the turn's result cannot be said.*surrogates not allowed"),
        ("return 'x' * 70_000", r"the turn's result: 700\d\d bytes of JSON; a line has at most 65536"),
        ("return turn.call('echo', x=float('nan'))", r"the arguments of 'echo' cannot be said.*not JSON compliant"),
        ("return turn.call('echo', x='x' * 70_000)", r"the arguments of 'echo': 70\d\d\d bytes of JSON"),
        ("return turn.step('s', lambda: 'x' * 70_000)", r"the result of 's': 70\d\d\d bytes of JSON"),
        ("return turn.step('s', print, {'x': '\\ud800'})", r"the arguments of 's' cannot be said"),
        ("turn.progress('\\ud800')", r"the progress cannot be said"),
        ("return {object(): 1}", r"TypeError: .*keys must be str"),
        ("raise ValueError('\\ud800' + 'x' * 2_000_000)", r"ValueError: \?x"),
        ("turn.step('s', lambda: 1 / 0 if turn.input else raises('\\ud800' + 'x' * 2_000_000))", r"\?x"),
        ("turn.turn_id = 99", r"the runtime has not taken a line: stale"),
    ],
)
async def test_a_line_that_the_runtime_would_refuse_fails_its_turn_at_once(path: Path, body: str, said: str) -> None:
    """The error says what, and how large; the worker goes on with the next turn."""
    raises = "def raises(said): raise ValueError(said)\n"
    text = f"{raises}def handle(turn):\n    if turn.input: return 'next'\n    {body}\nrun(handle)\n"
    agent = python(path.parent, text, tools=[echo], limits=SMALL)
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        failed = await runtime.ask("s", "w", 0)
        assert (await runtime.ask("s", "w", 1)).value == "next"
        assert agent.workers()[0].incarnation == 1

    with pytest.raises(Exception, match=said):
        failed.value  # noqa: B018 - it raises
    check_invariants(path)


async def test_a_handler_may_bear_what_could_not_be_said(path: Path) -> None:
    """It is an error of its own call, and nothing was begun."""
    body = """
        def handle(turn):
            try: turn.call("echo", x=float("nan"))
            except ValueError: return turn.call("echo", x="plain")
        run(handle)
    """
    agent = python(path.parent, body, tools=[echo])
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        assert (await runtime.ask("s", "w", 0)).value == "plain"
        assert agent.workers()[0].refused == 0


async def test_a_call_that_was_not_taken_raises_in_the_handler(path: Path) -> None:
    """Whatever the library lets through and the runtime does not: nobody waits for its answer."""
    body = """
        def handle(turn):
            turn._ids = 2**70
            try: turn.call("echo", x=1)
            except ValueError as error: return str(error)
        run(handle)
    """
    agent = python(path.parent, body, tools=[echo])
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        assert "the runtime has not taken" in (await runtime.ask("s", "w", 0)).value


RAW = """
import json, sys
def say(**fields): print(json.dumps({"v": 1, **fields}), flush=True)
for line in sys.stdin:
    heard = json.loads(line)
    match heard["type"]:
        case "hello": say(type="ready", incarnation=heard["incarnation"])
        case "turn": turn = heard["turn"]; say(type="call", turn=turn, **json.loads(sys.argv[1]))
        case "answer" | "failed" | "refused" | "error": say(type="result", turn=turn, value=heard)
"""


@pytest.mark.parametrize("id_", ["i" * 65_000, "i" * (ID_LEN_MAX + 1), 2**70], ids=["line", "long", "wide"])
@pytest.mark.parametrize("called", ["echo", "nowhere"])
async def test_an_id_that_no_answer_could_carry_is_refused(path: Path, id_: object, called: str) -> None:
    """Its answer has to fit into a line, whatever else it says."""
    (path.parent / "raw.py").write_text(RAW)
    asked = json.dumps({"id": id_, "tool": called})
    agent = quick([sys.executable, str(path.parent / "raw.py"), asked], tools=[echo], limits=SMALL)
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        heard = (await runtime.ask("s", "w", 0)).value

    assert (heard["type"], heard["code"]) == ("error", "unknown")
    assert "$.id" in heard["message"]


async def test_a_tool_with_an_endless_name_is_refused_within_a_line(path: Path) -> None:
    """The answer leaves out what has no room."""
    (path.parent / "raw.py").write_text(RAW)
    asked = json.dumps({"id": "i" * ID_LEN_MAX, "tool": "t" * 65_000})
    agent = quick([sys.executable, str(path.parent / "raw.py"), asked], limits=SMALL)
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        assert (await runtime.ask("s", "w", 0)).value["type"] in {"refused", "failed"}


async def test_a_handlers_own_process_does_not_read_the_protocol(path: Path) -> None:
    """Its stdin is empty, as its stdout is stderr."""
    body = """
        import subprocess, sys
        def handle(turn):
            read = subprocess.run(["cat"], stdout=subprocess.PIPE).stdout
            return [len(read), sys.stdin.read(), turn.call("echo", x="still heard")]
        run(handle)
    """
    agent = python(path.parent, body, tools=[echo])
    async with Runtime(path, [agent], settings=FAST) as runtime, asyncio.timeout(SOON_S):
        for _ in range(3):
            assert (await runtime.ask("s", "w", 0)).value == [0, "", "still heard"]


@pytest.mark.parametrize("pipe", [1, 2])
async def test_endless_blank_lines_are_read_at_a_bounded_pace(path: Path, pipe: int) -> None:
    """They say nothing, and are counted as every line is."""
    agent = quick(["sh", "-c", f"yes '' >&{pipe}"], limits={"lines_per_s_max": 100, "stderr_lines_per_s_max": 100})
    async with Runtime(path, [agent], settings=FAST) as runtime:
        await runtime.tell("s", "w", None)
        await until(agent.workers)
        pool = agent.pools[next(iter(agent.pools))]
        await until(lambda: pool.workers[0].life)
        life = pool.workers[0].life
        assert life is not None
        inflow = life._in if pipe == 1 else life._err
        await until(lambda: inflow._timer)
