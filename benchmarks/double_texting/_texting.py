"""Messages that arrive at once, and the model that answers them: the same for every system.

Programs of peers import this in environments of their own, so it needs nothing but Python.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from benchmarks._lines import Lines

SESSION: Final = "session-1"
MODEL_S: Final = 0.05
"""How long the model takes for a call."""
TEXTS: Final = tuple(f"message {number}" for number in range(8))
"""What the user sends, in order, all at once."""


class What(StrEnum):
    """What a line says."""

    SETTINGS = "settings"  # how the store is durable
    SENT = "sent"  # a message is handed over
    ACCEPTED = "accepted"  # its caller was told that it is stored
    CALLED = "called"  # the model is called for it
    SPENT = "spent"  # that call has ended
    ANSWERED = "answered"  # its caller has a reply
    TOLD = "told"  # a reply, as a caller has it
    REFUSED = "refused"  # its caller got an error
    KEPT = "kept"  # a new process finds this in the history; lines in the history's order


def reply_to(text: str) -> str:
    """Return what the model answers."""
    return f"reply to {text}"


class Texting(Lines):
    """The user, the model and the reader of the history, as one process of a round has them."""

    async def send_all(self, send: Callable[[str], Awaitable[str]]) -> None:
        """Send every message at once, each by a caller of its own, and return when each has a reply or an error."""

        async def caller(text: str) -> None:
            self.note(What.SENT, text)
            try:
                reply = await send(text)
            except Exception as error:  # noqa: BLE001 - what a caller gets is what is counted
                print(repr(error))
                self.note(What.REFUSED, text)
            else:
                self.note(What.ANSWERED, text)
                self.note(What.TOLD, reply)

        await asyncio.gather(*map(caller, TEXTS))

    async def model(self, history: Sequence[str]) -> str:
        """Answer the last message of a history, slowly."""
        self.note(What.CALLED, history[-1])
        try:
            await asyncio.sleep(MODEL_S)
        finally:
            self.note(What.SPENT, history[-1])
        return reply_to(history[-1])

    def keep(self, history: Iterable[str]) -> None:
        """Note what the history holds."""
        for message in history:
            self.note(What.KEPT, message)


@contextmanager
def database(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database of an application's own for one transaction: WAL, synchronous=FULL."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with connection:
            yield connection


class Table:
    """The history as an application keeps it itself, for systems that leave it that: one row a message."""

    settings: Final = "an application's table, WAL, synchronous=FULL"

    def __init__(self, folder: Path) -> None:
        """Open the file, made where it does not exist."""
        self._file = folder / "history.sqlite"
        with database(self._file) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS history (number INTEGER PRIMARY KEY, message TEXT NOT NULL)")

    def messages(self) -> list[str]:
        """Return the history."""
        with database(self._file) as connection:
            return [message for (message,) in connection.execute("SELECT message FROM history ORDER BY number")]

    def append(self, message: str) -> None:
        """Add to its end."""
        with database(self._file) as connection:
            connection.execute("INSERT INTO history (message) VALUES (?)", (message,))


def main(
    send: Callable[[Texting, str], Awaitable[None]],
    look: Callable[[Texting, str], Awaitable[None]],
) -> None:
    """Do what a program's command line asks for: FOLDER LIFE VARIANT. Life 1 sends, the next looks at what is kept."""
    folder, life, variant = sys.argv[1:]
    texting = Texting(Path(folder), int(life))

    async def run() -> None:
        await (send if texting.life == 1 else look)(texting, variant)

    asyncio.run(run())
