"""The world outside: one file of lines that no kill takes back, and the work that every system does in it.

Programs of peers import this in environments of their own, so it needs nothing but Python.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from benchmarks._lines import Lines, named, read

IN_FLIGHT: Final = 32
PLAN: Final = "plan"
"""The pure step, before the others."""
EFFECTS: Final = ("reserve", "charge", "send")
"""The effectful steps of a turn, in order."""
_WAY_S_MAX: Final = 0.008
"""How long a call may be on its way to its effect, and its answer on the way back: kills land in both.

How long it is, is drawn each time: with one length for all, 32 turns walk in step, and a kill meets one moment only.
"""


class What(StrEnum):
    """What a line says."""

    ENTERED = "entered"  # imports are done: the runtime is about to be entered
    SETTINGS = "settings"  # how the store is durable
    SENT = "sent"  # a client has a turn to be run
    ACKNOWLEDGED = "acknowledged"  # a turn was accepted, and its client told
    LIVE = "live"  # code of a turn runs in this life
    BEGUN = "begun"  # an effect's call began
    HAPPENED = "happened"  # an effect happened
    LISTED = "listed"  # the system said that an effect is in doubt
    DELIVERED = "delivered"  # a turn's result came, and is the right one


def effect(turn: str, step: str) -> str:
    """Return the name of a logical effect: it may happen once."""
    return f"{turn}/{step}"


def answer(turn: str, step: str) -> str:
    """Return what a step of a turn results in."""
    return f"{step} of {turn}"


def result(turn: str) -> list[str]:
    """Return what a turn has to deliver."""
    return [answer(turn, step) for step in (PLAN, *EFFECTS)]


class Outside(Lines):
    """The world as one process writes into it."""

    def __init__(self, folder: Path, life: int) -> None:
        """Open the file for appending."""
        super().__init__(folder, life)
        self.before = read(folder)
        self._chance = Random(life)

    async def act(self, turn: str, step: str) -> str:
        """Let an effect happen, once for each call, and return its answer."""
        self.note(What.BEGUN, effect(turn, step))
        await asyncio.sleep(self._chance.uniform(0.0, _WAY_S_MAX))
        self.note(What.HAPPENED, effect(turn, step))
        await asyncio.sleep(self._chance.uniform(0.0, _WAY_S_MAX))
        return answer(turn, step)

    def deliver(self, turn: str, found: object) -> None:
        """Note a turn as delivered, if this is its result."""
        if found == result(turn):
            self.note(What.DELIVERED, turn)

    def happened(self, turn: str, step: str) -> bool:
        """Say whether an effect happened in an earlier life."""
        return effect(turn, step) in named(self.before, What.HAPPENED)

    def outstanding(self) -> list[str]:
        """Return the turns that earlier lives acknowledged and did not deliver."""
        return sorted(named(self.before, What.ACKNOWLEDGED) - named(self.before, What.DELIVERED))

    async def keep_in_flight(self, run: Callable[[str, str], Awaitable[object]]) -> None:
        """Run turns in a closed loop for as long as the process lives: `run` gets a session and a turn's name."""

        async def client(session: str) -> None:
            for number in count():
                turn = f"{session}-{number}"
                self.note(What.SENT, turn)
                self.deliver(turn, await run(session, turn))

        await asyncio.gather(*(client(session) for session in sessions()))


def sessions() -> list[str]:
    """Return the sessions: one for each turn in flight."""
    return [f"s{number}" for number in range(IN_FLIGHT)]


def session_of(turn: str) -> str:
    """Return the session of a turn."""
    return turn.rpartition("-")[0]


def asked() -> tuple[Outside, str]:
    """Return the world and the variant that a program's command line names: FOLDER LIFE VARIANT.

    Life 1 works until it is killed; any later one ends what is left, and returns.
    """
    folder, life, variant = sys.argv[1:]
    return Outside(Path(folder), int(life)), variant
