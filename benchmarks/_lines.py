"""The world outside of every system: one file of lines that no kill takes back.

Programs of peers import this in environments of their own, so it needs nothing but Python.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Line", "Lines", "durability", "named", "read"]

_FILE: Final = "outside.log"


class Line(NamedTuple):
    """What was said of which turn, say, in which life, when (monotonic, s: one clock for all processes)."""

    what: str
    of: str
    life: int
    at: float


def read(folder: Path) -> list[Line]:
    """Return the whole lines, oldest first."""
    content = (folder / _FILE).read_bytes() if (folder / _FILE).exists() else b""
    return [Line(*json.loads(line)) for line in content.split(b"\n")[:-1]]


def named(lines: Iterable[Line], what: str) -> set[str]:
    """Return what lines of one kind speak of."""
    return {line.of for line in lines if line.what == what}


def durability(journal: str, synchronous: int) -> str:
    """Return how a SQLite connection is durable, in SQLite's own words."""
    return f"{journal.upper()}, synchronous={('OFF', 'NORMAL', 'FULL', 'EXTRA')[synchronous]}"


class Lines:
    """The file as one process writes into it. Nothing is buffered, so a killed process leaves what it wrote."""

    def __init__(self, folder: Path, life: int) -> None:
        """Open the file for appending."""
        self.folder = folder
        self.life = life
        self._fd = os.open(folder / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._said: set[tuple[str, str]] = set()

    def note(self, what: str, of: str = "") -> None:
        """Append a line."""
        os.write(self._fd, json.dumps(Line(what, of, self.life, time.monotonic())).encode() + b"\n")

    def once(self, what: str, of: str) -> None:
        """Append a line, unless this process has."""
        if (what, of) not in self._said:
            self._said.add((what, of))
            self.note(what, of)
