"""Operating from a shell: on a store that a runtime has open, through its door, and on one that nobody has."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from looking import check_invariants, rows, until

from turnkeeper import Agent, Effect, Runtime, Settings, Turn, agent, tool
from turnkeeper.actors.store.audit import audit

pytestmark = pytest.mark.anyio
FAST = Settings(shutdown_s=0.02, retries_max=0)


class Till:
    """An agent `pay` whose charge hangs on its first call."""

    def __init__(self) -> None:
        self.charged: list[int] = []

        @tool(effect=Effect.EFFECTFUL, timeout_s=0.02)
        async def charge(cents: int) -> str:
            self.charged.append(cents)
            if len(self.charged) == 1:
                await asyncio.sleep(60)
            return f"charged {cents}"

        @agent("pay", tools=[charge])
        async def pay(turn: Turn) -> str:
            return await turn.call(charge, turn.input)

        self.pay: Agent = pay


async def in_doubt(path: Path, till: Till) -> None:
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        await runtime.tell("s", "pay", 5, key="k")
        await until(lambda: runtime.statistics().suspended == 1)


def doubt(command: Any, path: Path) -> dict[str, Any]:
    (found,) = json.loads(command("doubts", path, "--json").stdout)["doubts"]
    return found


ANSWERS = [
    (("--happened", '"so they say"'), "completed", 1),
    (("--did-not-happen",), "completed", 2),
    (("--give-up",), "failed", 1),
]


@pytest.mark.parametrize(("answer", "outcome", "charges"), ANSWERS)
async def test_a_doubt_is_answered_while_its_runtime_runs(
    command: Any, path: Path, answer: tuple[str, ...], outcome: str, charges: int
) -> None:
    """Through the socket beside the file; the turn goes on at once, and a second answer is refused."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        receipt = await runtime.tell("s", "pay", 5, key="k")
        await until(lambda: runtime.statistics().suspended == 1)
        line = ("resolve", path, 1, "--token", (await runtime.doubts())[0].token, *answer)
        first = await asyncio.to_thread(command, *line)
        ended = await receipt.deliverable()
        second = await asyncio.to_thread(command, *line)

    assert (first.returncode, ended.outcome, len(till.charged)) == (0, outcome, charges), first.stderr
    assert (second.returncode, "Traceback" in second.stderr) == (2, False)
    check_invariants(path)


@pytest.mark.parametrize(("answer", "outcome", "charges"), ANSWERS)
async def test_a_doubt_is_answered_while_nobody_has_the_store(
    command: Any, path: Path, answer: tuple[str, ...], outcome: str, charges: int
) -> None:
    """The turn goes back to its queue with the answer; the next runtime runs it."""
    till = Till()
    await in_doubt(path, till)
    answered = command("resolve", path, 1, "--token", doubt(command, path)["token"], *answer)
    assert answered.returncode == 0, answered.stderr
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        ended = await runtime.ask("s", "pay", 5, key="k")

    assert (ended.outcome, len(till.charged)) == (outcome, charges)
    assert audit(path).violations == []


@pytest.mark.parametrize(
    "line",
    [
        ("resolve", "DB", 1, "--token", "wrong", "--give-up"),
        ("resolve", "DB", 1, "--give-up"),
        ("resolve", "DB", 1, "--token", "TOKEN"),
        ("resolve", "DB", 1, "--token", "TOKEN", "--give-up", "--did-not-happen"),
        ("resolve", "DB", 1, "--token", "TOKEN", "--happened", "paid"),
        ("resolve", "DB", 1, "--token", "TOKEN", "--happened", "[" * 100_000),
        ("resolve", "DB", 1, "--token", "TOKEN", "--happened", '"\\ud800"'),
        ("resolve", "DB", 99, "--token", "TOKEN", "--give-up"),
        ("resolve", "NOTHING", 1, "--token", "TOKEN", "--give-up"),
        ("fork", "DB", 1),
        ("fork", "DB", 1, "--from-step", 9),
        ("fork", "DB", 1, "--from-step", -1),
        ("fork", "DB", 99, "--from-step", 0),
        ("fork", "DB", 1, "--from-step", 0, "--key", "~fresh"),
        ("fork", "DB", 1, "--from-step", 0, "--key", "k"),
        ("prune", "DB"),
        ("prune", "DB", "--older-than", "soon"),
        ("prune", "DB", "--older-than", "-1d"),
        ("prune", "DB", "--older-than", "nan"),
        ("prune", "DB", "--older-than", "inf"),
        ("prune", "NOTHING", "--older-than", "1d"),
        ("backup", "DB", "DB"),
        ("backup", "NOTHING", "copy.db"),
        ("backup", "DB", "no/such/folder/copy.db"),
    ],
    ids=str,
)
async def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    command: Any, path: Path, tmp_path: Path, line: tuple[Any, ...]
) -> None:
    """Exit code 2, no traceback; the doubt stands as it was."""
    await in_doubt(path, Till())
    found = doubt(command, path)
    words = {"DB": path, "TOKEN": found["token"], "NOTHING": tmp_path / "nothing.db"}
    refused = command(*(words.get(str(word), word) for word in line))

    assert refused.returncode == 2, refused.stdout
    assert "Traceback" not in refused.stderr
    assert refused.stderr
    assert doubt(command, path) == found
    assert not (tmp_path / "nothing.db").exists()
    assert audit(path).violations == []


async def test_a_fork_is_begun_by_hand_and_run_by_the_next_runtime(command: Any, path: Path) -> None:
    """Under a key it is one fork, however often it is asked for."""
    till = Till()
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        till.charged.append(0)
        await runtime.ask("s", "pay", 5, key="k")
    line = ("fork", path, 1, "--from-step", 1, "--key", "f", "--json")
    first, again = (json.loads(command(*line).stdout) for _ in range(2))
    assert (first["turn_id"], first["duplicate"], again["turn_id"], again["duplicate"]) == (2, False, 2, True)
    async with Runtime(path, [till.pay], settings=FAST) as runtime:
        forked = await runtime.receipt("s", "pay", "f")
        assert forked is not None
        assert (await forked.deliverable()).value == "charged 5"

    assert till.charged == [0, 5]


@pytest.mark.parametrize("open_", [True, False])
async def test_pruning_and_backing_up_work_on_an_open_store_and_on_a_closed_one(
    command: Callable[..., Any], path: Path, tmp_path: Path, open_: bool
) -> None:
    """What is pruned is what has ended and answers nothing; the copy is a store."""
    till = Till()
    till.charged.append(0)
    settings = Settings(shutdown_s=0.02, idempotency_s=0.001)
    async with Runtime(path, [till.pay], settings=settings) as runtime:
        for number in range(3):
            await runtime.ask("s", "pay", number, key=f"k{number}")
        if open_:
            pruned = await asyncio.to_thread(command, "prune", path, "--older-than", "0", "--json")
            copied = await asyncio.to_thread(command, "backup", path, tmp_path / "copy.db", "--json")
    if not open_:
        pruned, copied = (
            command("prune", path, "--older-than", "0s", "--json"),
            command("backup", path, tmp_path / "copy.db", "--json"),
        )

    assert json.loads(pruned.stdout) == {"pruned": 2}
    assert json.loads(copied.stdout)["bytes"] == (tmp_path / "copy.db").stat().st_size
    shutil.copyfile(tmp_path / "copy.db", tmp_path / "again.db")
    assert rows(tmp_path / "again.db", "SELECT turn_id FROM turns") == [(3,)]
    assert audit(tmp_path / "copy.db").violations == []
