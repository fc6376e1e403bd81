"""One round: a process that works is killed with SIGKILL, a new one ends what it left, and the world is counted."""

import time
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from benchmarks._lines import named, read
from benchmarks._programs import Program, ProgramFailed, System
from benchmarks.crash_ledger._counted import Counted, count
from benchmarks.crash_ledger._ours import STORE, unrecorded
from benchmarks.crash_ledger._outside import IN_FLIGHT, What
from turnkeeper.actors.store.audit import audit

__all__ = ["OURS", "Round", "run_round"]

OURS: Final = "benchmarks.crash_ledger._ours"
_LOOK_S: Final = 0.02
_UNDER_WAY_S: Final = 60.0
"""How long a system may take until a turn of every session has been delivered."""
_KILLED_S: Final = (0.2, 1.0)
"""The kill comes at a random moment between these, counted from when the work is under way."""


class Round(NamedTuple):
    """What a round came to: the count, how the store was durable, and what an audit of our file found."""

    counted: Counted
    settings: str
    violations: list[str]


def run_round(system: System, python: Path, folder: Path, chance: Random, patience_s: float) -> Round:
    """Run one round in an empty folder.

    Args:
        system: which.
        python: the interpreter that has it.
        folder: where its store and the world outside are.
        chance: what the moment of the kill is drawn from.
        patience_s: how long recovery may take; what has not been delivered then counts as lost.

    Raises:
        ProgramFailed: its first life did not get so far as to be killed, or its second failed.
    """
    with Program(system, python, folder, 1) as worker:
        _wait_until_under_way(worker, folder)
        time.sleep(chance.uniform(*_KILLED_S))
        worker.kill()
    doubtful = unrecorded(folder) if system.ours else None
    with Program(system, python, folder, 2) as recovering:
        recovering.wait_for_end(patience_s)
    lines = read(folder)
    if not named([line for line in lines if line.life > 1], What.ENTERED):
        raise ProgramFailed(f"{system.name} did not start again: {recovering.last_words()}")
    violations = audit(folder / STORE).violations if system.ours else []
    settings = next((line.of for line in lines if line.what == What.SETTINGS), "")
    broken = [f"{found.rule}: {found.where} {found.what}" for found in violations]
    return Round(count(lines, doubtful, recovering.started_at), settings, broken)


def _wait_until_under_way(worker: Program, folder: Path) -> None:
    """Wait until as many turns as are in flight have been delivered."""
    give_up_at = worker.started_at + _UNDER_WAY_S
    while len(named(read(folder), What.DELIVERED)) < IN_FLIGHT:
        if worker.ended or time.monotonic() > give_up_at:
            raise ProgramFailed(f"{worker.name} did not get under way: {worker.last_words()}")
        time.sleep(_LOOK_S)
