"""The main proof: a real process, killed with SIGKILL again and again: nothing lost, nothing twice, all in order."""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.effects import read_effects
from turnkeeper.kernel.edge import StepResult, decode_detail
from turnkeeper.kernel.errors import StorageError
from turnkeeper.kernel.lookback.asking import questions
from turnkeeper.kernel.names import StepName

KILLS = 32
DELAY_S = 0.02
RESERVE = 60
"""Turns left for the last run: more than a child answers between the moment it is to be killed and its death."""
COUNTS = ("conversations", "turns", "steps", "effects", "escalations")
FAULTS = ("lost", "repeated", "overlapping", "out_of_order")


def test_thirty_kills_lose_nothing_and_repeat_nothing(
    command: Any, recorded: Any, path: Path, wait_for_deliverables: Any, rows: Any
) -> None:
    """Killed at random points spread over the whole run; after each, the file proves every invariant.

    What had been delivered stays, byte for byte. The run that is not killed finishes the rest.
    """
    seed = int.from_bytes(os.urandom(8))
    chance = random.Random(seed)
    effects, turns = path.with_name("effects.jsonl"), recorded.expected.turns
    line = ("replay", recorded.file, "--db", path, "--effects", effects, "--parallel", 8, "--json")
    kept: dict[int, Any] = {}
    done, points, asked = 0, [0], 0
    for kills_left in range(KILLS, 0, -1):
        child = command.start(*line, "--think-ms", chance.randint(1, 3))
        step = round(2 * chance.random() * (turns - RESERVE - done) / (kills_left + 1))
        wanted = done + max(1, step)
        wait_for_deliverables(path, wanted, child)
        time.sleep(chance.random() * DELAY_S)
        child.send_signal(signal.SIGKILL)
        _, err = child.communicate()
        found = audit(path)
        stored = {row[0]: row for row in rows(path)["deliverables"]}
        done = len(stored)
        where = f"seed {seed}, kill {KILLS - kills_left + 1}, {done} of {turns} answered"
        happened = Counter(effect.key for effect in read_effects(effects)[0])

        assert child.returncode == -signal.SIGKILL, (where, err)
        assert err == "", where
        assert found.violations == [], where
        assert kept.items() <= stored.items(), where
        assert set(happened.values()) <= {1}, where
        kept = stored
        points.append(done)
        asked += open_escalations(path)

    ended = command(*line)
    report = json.loads(ended.stdout)
    keys = Counter(effect.key for effect in read_effects(effects)[0])

    assert {name: report[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0), (seed, report)
    assert (*(report[name] for name in COUNTS), report["answered"]) == (*recorded.expected, recorded.expected[-1]), seed
    assert asked > 0, "no kill left a question to people open"
    assert set(keys.values()) == {1}, seed
    assert len(keys) == recorded.expected.effects, seed
    assert max(after - before for before, after in pairwise(points)) < turns / 4, (seed, points)
    assert report["recovered"] >= KILLS / 2, "the kills did not hit turns under way"
    assert report["in_doubt"] > 0, "no kill hit an effect under way"
    assert audit(path).violations == [], seed
    assert (ended.returncode, ended.stderr) == (0, ""), seed


def open_escalations(db: Path) -> int:
    """Return how many questions to people a killed process has left."""
    with Reader(db) as reader:
        return len(questions(reader, time.time(), running=reader.running()))


def test_a_kill_while_the_store_is_being_made_leaves_one_that_can_be_used(
    command: Any, sample: Any, tmp_path: Path
) -> None:
    """Killed within the first moments: there is no store yet, or a sound one, and the next run finishes."""
    seed = int.from_bytes(os.urandom(8))
    chance = random.Random(seed)
    for number in range(5):
        db = tmp_path / f"{number}.db"
        child = command.start("replay", sample.file, "--db", db, "--think-ms", 1, "--json")
        while not db.exists() and child.poll() is None:
            time.sleep(0.0005)
        time.sleep(chance.random() * DELAY_S)
        child.kill()
        child.communicate()
        with contextlib.suppress(StorageError):  # not a store yet
            assert audit(db).violations == [], (seed, number)
        ended = command("replay", sample.file, "--db", db, "--json")

        assert ended.returncode == 0, (seed, number, ended.stderr)
        assert json.loads(ended.stdout)["turns"] == sample.expected.turns, (seed, number)
        assert audit(db).violations == [], (seed, number)


BURSTS = """
import asyncio, sys
from pathlib import Path
from turnkeeper import Effect, Runtime, agent
from turnkeeper.actors.tool import DidNotHappen, Happened, Tool, step_context
from turnkeeper.cli.effects import EffectLine, EffectsFile

async def main(db, effects, sessions, letters):
    async def charge(letter: int) -> int:
        context = step_context()
        await effects.append(EffectLine(context.idempotency_key, context.session_id, str(letter)))
        await asyncio.sleep(0.001)
        return letter

    async def look_up(letter: int):
        return Happened(letter) if effects.happened(step_context().idempotency_key) else DidNotHappen()

    charging = Tool(charge, name="charge", effect=Effect.EFFECTFUL, on_doubt=look_up)

    @agent("till")
    async def till(turn):
        await turn.step("think", asyncio.sleep, 0.001)
        return await turn.call(charging, turn.input)

    async with Runtime(db, [till]) as runtime:
        async def burst(session):
            receipts = [await runtime.tell(session, "till", letter, key=str(letter)) for letter in range(letters)]
            for receipt in receipts:
                await receipt.deliverable()
        await asyncio.gather(*(burst(f"s{number}") for number in range(sessions)))

with EffectsFile(Path(sys.argv[2])) as effects:
    asyncio.run(main(sys.argv[1], effects, int(sys.argv[3]), int(sys.argv[4])))
"""


def test_bursts_of_messages_survive_kills_one_at_a_time_and_in_order(
    command: Any, path: Path, wait_for_deliverables: Any
) -> None:
    """Every session has its whole queue waiting when the process dies; each message's effect comes once, in turn."""
    seed = int.from_bytes(os.urandom(8))
    chance = random.Random(seed)
    sessions, letters, kills = 6, 30, 8
    effects = path.with_name("effects.jsonl")
    line = [sys.executable, "-c", BURSTS, path, effects, sessions, letters]
    done = cut_off = 0
    for kill in range(kills):
        child = command.start(line=line)
        left = sessions * (letters - 6) - done
        wait_for_deliverables(path, done + max(1, round(chance.random() * left / (kills - kill))), child)
        time.sleep(chance.random() * DELAY_S / 4)
        child.kill()
        _, err = child.communicate()
        found = audit(path)
        done = found.turns - found.live
        cut_off += found.live > 0  # or all was done before the next burst could be accepted

        assert (child.returncode, err) == (-signal.SIGKILL, ""), (seed, kill)
        assert found.violations == [], (seed, kill)

    ended = command.run(line)
    found = audit(path)
    happened: dict[str, list[str]] = {}
    for effect in read_effects(effects)[0]:
        happened.setdefault(effect.tool, []).append(effect.arguments)

    assert cut_off > kills / 2, seed
    assert (ended.returncode, ended.stderr) == (0, ""), seed
    assert (found.turns, found.live, found.violations) == (sessions * letters, 0, []), seed
    assert happened == {f"s{number}": list(map(str, range(letters))) for number in range(sessions)}, seed


def test_a_turn_that_was_cut_off_is_answered_from_its_record(
    command: Any, sample: Any, path: Path, wait_for_deliverables: Any
) -> None:
    """Steps that had been recorded before a kill are not taken again: their first results stand."""
    child = command.start("replay", sample.file, "--db", path, "--parallel", 12, "--think-ms", 40)
    wait_for_deliverables(path, 15, child)
    child.kill()
    child.wait()
    before = recorded_results(path)
    with_more = command("replay", sample.file, "--db", path, "--json")
    after = recorded_results(path)

    assert json.loads(with_more.stdout)["recovered"] > 0
    assert len(before) < len(after) == sample.expected.steps
    assert before.items() <= after.items()


def recorded_results(db: Path) -> dict[tuple[int, StepName], tuple[int, bytes]]:
    """Return every recorded result, with the number of the edge that holds it."""
    found: dict[tuple[int, StepName], tuple[int, bytes]] = {}
    with Reader(db) as reader:
        for session in reader.sessions():
            for turn in reader.turns(session.actor_id):
                for number, edge in reader.edges(turn.row.turn_id):
                    detail = decode_detail(edge)
                    if isinstance(detail, StepResult):
                        step = turn.row.turn_id, StepName(detail.name, detail.call_key)
                        assert step not in found, "a second result of one step"
                        found[step] = number, bytes(detail.result)
    return found
