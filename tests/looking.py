"""Shared by tests: looking at a store from outside, and waiting for what must come."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from turnkeeper import Agent, Result, Runtime, Settings, agent
from turnkeeper.kernel.edge import Edge, EdgeKind, chained, decode_detail
from turnkeeper.kernel.turn import TERMINAL, fold


class FakeClock:
    """Wall time that stands until the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


def rows(path: Path, sql: str, *parameters: object) -> list:
    """Read with a connection of our own that only reads: what it sees is committed."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, parameters).fetchall()


def dump(path: Path) -> dict[str, list]:
    """Return every row of every table but the nodes', whose heartbeats are no work."""
    tables = ("actors", "turns", "receipts", "edges", "deliverables", "blobs")
    return {table: rows(path, f"SELECT * FROM {table}") for table in tables}


def edges(path: Path, turn_id: int = 1) -> list[Edge]:
    """Return a turn's history, oldest first; what is too large for its row comes from `blobs`."""
    found = rows(
        path,
        "SELECT turn_id, ordinal, kind, epoch, at, coalesce(body, detail), digest"
        " FROM edges LEFT JOIN blobs USING (turn_id, ordinal) WHERE turn_id = ? ORDER BY ordinal",
        turn_id,
    )
    return [Edge(*row[:2], EdgeKind(row[2]), *row[3:]) for row in found]


def kinds(path: Path, turn_id: int = 1) -> list[str]:
    """Return what happened to a turn, in a word each."""
    return [edge.kind for edge in edges(path, turn_id)]


def details(path: Path, kind: str, turn_id: int = 1) -> list[Any]:
    """Return what a turn's edges of a kind say."""
    return [decode_detail(edge) for edge in edges(path, turn_id) if edge.kind == kind]


def check_invariants(path: Path) -> None:
    """Check what holds after every commit, under every schedule and every crash, from the rows alone.

    A turn is the fold of its edges, without a gap, each chained to the one before it; it is terminal if and only if
    it has its one deliverable; an actor runs one turn at a time; its turns first start in the order in which they were
    accepted.
    """
    stored = "SELECT turn_id, actor_id, state, epoch, version, attempt, deliverable_id FROM turns ORDER BY turn_id"
    delivered = dict(rows(path, "SELECT turn_id, outcome FROM deliverables"))
    for turn_id, actor_id, *row in rows(path, stored):
        history = edges(path, turn_id)
        folded = fold(actor_id, history)
        digest = b""
        for edge in history:
            digest = chained(digest, edge.turn_id, edge.kind, edge.at, edge.detail)
            assert edge.digest == digest
        assert [edge.ordinal for edge in history] == list(range(len(history)))
        assert row == [folded.state, folded.epoch, folded.version, folded.attempt, folded.deliverable_id]
        assert delivered.get(turn_id) == (folded.state if folded.state in TERMINAL else None)
    assert rows(path, "SELECT actor_id FROM turns WHERE state = 'running' GROUP BY 1 HAVING count(*) > 1") == []
    first = "SELECT actor_id, turn_id, min(edge_id) AS started FROM edges JOIN turns USING (turn_id)"
    started = rows(path, f"{first} WHERE kind = 'lease_acquired' GROUP BY 1, 2 ORDER BY 1, started")
    assert started == sorted(started, key=lambda row: row[:2])


def said_under_two_hash_seeds(program: str) -> set[str]:
    """Run a program in two processes whose strings hash differently; return what they print, once if it is equal."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }


class Said:
    """A log that keeps what is said: in the hand of a test, also where logging is disabled."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error = info

    def log(self, _: int, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    def isEnabledFor(self, _: int) -> bool:  # noqa: N802 - logging's
        return True

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for said, fields in self.lines if said == event]


PATIENCE_S = float(os.environ.get("TURNKEEPER_TESTS_PATIENCE_S", "10"))
"""Where bugs are planted, what they hold up need not be waited for as long."""


async def until(condition: Callable[[], object]) -> None:
    """Let others go on until the condition holds; it must within ten seconds, or in a hunt's patience.

    It looks a thousand times a second. Looking at every turn of the loop would never let go of the interpreter, and
    SQLite's thread would wait 5 ms, `sys.getswitchinterval()`, for each of its statements.
    """
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - rows and statistics set no event
            await anyio.sleep(0.001)


async def passed(seconds: float) -> None:
    """Let the loop's timers of this time fire: for showing that something does not happen."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await until(lambda: loop.time() > end)


FAST = Settings(synchronous="OFF", retry_base_s=0.001, shutdown_s=0.02)


async def played(path: Path, play: Agent, settings: Settings = FAST, **options: object) -> Result:
    """Run one turn of an agent to its end."""
    async with Runtime(path, [play], settings=settings) as runtime:
        with anyio.fail_after(5):
            result = await runtime.ask("s", "play", None, **options)
    check_invariants(path)
    return result


def playing(handler: Callable, **options: object) -> Agent:
    return agent("play", **options)(handler)


class Once(Exception):
    """What a handler raises to be run once more."""


async def token(runtime: Runtime, turn_id: int) -> str:
    """Return the token of the doubt that a turn stands on now; of no doubt at all where it stands on none."""
    return next((doubt.token for doubt in await runtime.doubts() if doubt.turn_id == turn_id), "of no doubt")
