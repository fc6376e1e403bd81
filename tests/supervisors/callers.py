"""Shared by the tests of the door: verbs, an open door, and callers from outside."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.kernel.errors import TurnNotFound
from turnkeeper.supervisors.door import Door, Verb
from turnkeeper.supervisors.knock import knock

MIB = 1024 * 1024


async def echo(fields: Mapping[str, Any]) -> Any:
    return dict(fields)


async def nothing(fields: Mapping[str, Any]) -> None:
    return None


async def missing(fields: Mapping[str, Any]) -> None:
    raise TurnNotFound(7)


async def broken(fields: Mapping[str, Any]) -> None:
    raise ZeroDivisionError


VERBS: Mapping[str, Verb] = {"echo": echo, "nothing": nothing, "missing": missing, "broken": broken}


class Gate:
    """A verb that notes who is in it, and holds them until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = self.inside_max = self.ended = 0

    async def __call__(self, fields: Mapping[str, Any]) -> str:
        self.inside += 1
        self.inside_max = max(self.inside_max, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
            self.ended += 1
        return "through"


@asynccontextmanager
async def opened(store: Path, verbs: Mapping[str, Verb] = VERBS, **settings: float) -> AsyncIterator[Door]:
    """An open door; after it, nothing of it is left."""
    door = Door(store, verbs, **settings)
    assert await door.open()
    try:
        yield door
    finally:
        await door.close()
    assert not serving()
    assert not place(store).exists()


def place(store: Path) -> Path:
    return store.with_name(store.name + ".door")


def serving() -> list[asyncio.Task]:
    """Return the tasks that serve callers now."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "turnkeeper.door"]


async def ask(store: Path, verb: str, timeout_s: float = 30.0, **fields: Any) -> Any:
    """Knock as another program does: not on the runtime's loop."""
    return await asyncio.to_thread(partial(knock, store, verb, fields, timeout_s=timeout_s))


class Caller:
    """A connection that says whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, *what: bytes) -> None:
        for piece in what:
            self._writer.write(piece)
            await self._writer.drain()

    def say_no_more(self) -> None:
        self._writer.write_eof()

    async def hear(self) -> Any:
        """Return the next answer, None where the connection is at its end."""
        async with asyncio.timeout(10):
            try:
                line = await self._reader.readline()
            except ConnectionResetError:  # it ended with something of ours unread
                return None
        return json.loads(line) if line else None


@asynccontextmanager
async def caller(store: Path) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_unix_connection(place(store), limit=2 * MIB)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def line(verb: object, **fields: object) -> bytes:
    return json.dumps({"verb": verb, **fields}).encode() + b"\n"


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if record.name == "turnkeeper"]
