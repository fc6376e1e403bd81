"""The world of real processes: a folder that outlives them, and what must be true in it after any kill.

`python -m turnkeeper.testing.process MODULE:LIFE FOLDER --life N` runs one life in a process of its own.
"""

import argparse
import asyncio
import importlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, cast

import msgspec

from turnkeeper.actors.agent import Agent
from turnkeeper.actors.receipt import Receipt, Result
from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.reader import Reader
from turnkeeper.actors.store.sqlite import SqliteStore
from turnkeeper.kernel.errors import StorageError
from turnkeeper.kernel.history import Violation
from turnkeeper.kernel.names import Address
from turnkeeper.kernel.settings import Settings
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.testing.stopping import KillAt, PointedStore
from turnkeeper.testing.violated import Violated
from turnkeeper.testing.watched import WatchedRuntime
from turnkeeper.testing.world import Life, World

__all__ = [
    "ACKNOWLEDGED",
    "EFFECTS",
    "ENDS",
    "ONCE",
    "OPENS",
    "STAYS",
    "STORE",
    "Acknowledged",
    "Delivered",
    "Lived",
    "ProcessWorld",
    "acknowledgements",
    "check",
    "command",
    "effects",
    "live",
    "load",
    "origin",
    "run",
]

STORE: Final = "agents.db"
EFFECTS: Final = "effects.log"
ACKNOWLEDGED: Final = "acknowledged.log"

OPENS: Final = "the store opens"
STAYS: Final = "what was acknowledged stays"
ONCE: Final = "an effect happens once"
ENDS: Final = "what was acknowledged ends"


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """A client was told that an inbound is accepted."""

    tenant: str
    session: str
    agent: str
    key: str
    receipt_id: int

    @property
    def address(self) -> Address:
        """Return the actor it was sent to."""
        return Address(self.tenant, self.session, self.agent)


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """A client was handed a deliverable; `body` is in hexadecimal digits."""

    turn_id: int
    outcome: str
    body: str


class Effect(msgspec.Struct, frozen=True):
    """An effect happened, in this life."""

    effect: str
    life: int


class Lived(msgspec.Struct, frozen=True):
    """What a life that returned says on its standard output: how many points it passed."""

    points: int


Told = Acknowledged | Delivered
T = TypeVar("T")


class _Log(Generic[T]):
    """A file of JSON lines, each written at once: a kill leaves whole lines and perhaps the beginning of one."""

    __slots__ = ("_fd", "_file", "_type")

    def __init__(self, file: Path, of: Any) -> None:
        self._file = file
        self._type = of
        self._fd = -1

    def read(self) -> list[T]:
        """Return the whole lines; what follows the last line end was never written to its end."""
        content = self._file.read_bytes() if self._file.exists() else b""
        decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(self._type)
        return decoder.decode_lines(content[: content.rfind(b"\n") + 1])

    def open(self) -> None:
        """Open for appending, and cut off the beginning of a line."""
        self._fd = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._fd, self._file.read_bytes().rfind(b"\n") + 1)

    def append(self, line: T, *, sync: bool) -> None:
        """Append one line.

        Raises:
            OSError: it could not be written whole.
        """
        encoded = msgspec.json.encode(line) + b"\n"
        if os.write(self._fd, encoded) != len(encoded):
            raise OSError(f"{self._file}: a line was written in part")
        if sync:
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def acknowledgements(folder: Path) -> list[Told]:
    """Return what the clients of a world were told, oldest first."""
    return _Log[Told](folder / ACKNOWLEDGED, Told).read()


def effects(folder: Path) -> list[str]:
    """Return the effects that happened in a world, oldest first."""
    return [line.effect for line in _Log[Effect](folder / EFFECTS, Effect).read()]


class ProcessWorld(World):
    """A world in a folder: the store is a real file, and effects and acknowledgements are logs beside it.

    A context manager. What it was told stays on the disk when the process is killed: nothing is buffered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        life: int = 1,
        points: KillAt | None = None,
        synchronous: str | None = None,
    ) -> None:
        """Describe a world; nothing is touched before it is entered.

        Args:
            folder: where it is; made where it does not exist.
            seed: what everything random follows from.
            life: which life this is, from 1.
            points: what counts the points passed, and kills.
            synchronous: SQLite's setting, whatever the life's own settings say.
        """
        self.folder = folder.resolve()
        self.seed = seed
        self.life = life
        self.chance = Random(seed)
        self._points = points or KillAt(None)
        self._synchronous = synchronous
        self._told = _Log[Told](self.folder / ACKNOWLEDGED, Told)
        self._effects = _Log[Effect](self.folder / EFFECTS, Effect)
        self._happened: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Open the logs, and read what has happened."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._told.open()
        self._effects.open()
        self._happened = Counter(effects(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        """Close the logs."""
        self._told.close()
        self._effects.close()

    def runtime(self, agents: Sequence[Agent], *, settings: Settings | None = None) -> Runtime:
        """Return a runtime on the store; see `World.runtime`."""
        settings = settings or Settings()
        if self._synchronous is not None:
            settings = msgspec.structs.replace(settings, synchronous=self._synchronous)
        store_id = f"{Random(f'store {self.seed}').getrandbits(64):016x}"
        file = self.folder / STORE
        store = SqliteStore(file, synchronous=settings.synchronous, store_id=store_id, created_at=time.time())
        return WatchedRuntime(self, PointedStore(store, self._points), agents, settings=settings, points=self._points)

    def check(self) -> None:
        """Check the file, and what clients were told; see `World.check`."""
        for found in check(self.folder, ended=False):
            raise Violated(found.rule, f"{found.where} {found.what}")

    def kill(self) -> NoReturn:
        """Kill this process with SIGKILL."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit  # not reached

    def happen(self, effect: str) -> None:
        """Let an effect happen: it is on the disk when this returns."""
        self._effects.append(Effect(effect, self.life), sync=True)
        self._happened[effect] += 1

    def happened(self, effect: str) -> int:
        """Return how often an effect has happened, in this life and in those before."""
        return self._happened[effect]

    def acknowledged(self, receipt: Receipt) -> None:
        """Note that a client has this receipt, at the moment at which it has."""
        self._told.append(Acknowledged(*receipt.address, receipt.key, receipt.receipt_id), sync=False)

    def delivered(self, result: Result) -> None:
        """Note that a client has this deliverable, at the moment at which it has."""
        self._told.append(Delivered(result.turn_id, result.outcome, result.body.hex()), sync=False)


def check(folder: Path, *, repeatable: Sequence[str] = (), ended: bool = True) -> list[Violation]:
    """Return everything that may not be in a world between two lives.

    Args:
        folder: the world.
        repeatable: how effects begin that may happen more than once: those of idempotent tools.
        ended: the last life returned normally, so everything acknowledged has its deliverable.
    """
    found = [
        Violation(ONCE, effect, f"happened {times} times")
        for effect, times in Counter(effects(folder)).items()
        if times > 1 and not effect.startswith(tuple(repeatable))
    ]
    told = acknowledgements(folder)
    try:
        found += audit(folder / STORE).violations
        with Reader(folder / STORE) as reader:
            found += _check_told(reader, told, ended=ended)
    except StorageError as error:
        lost = [Violation(STAYS, f"{len(told)} acknowledgements", "there is no store to hold them")] if told else []
        found += [Violation(OPENS, STORE, str(error)), *lost]
    return found


def _check_told(reader: Reader, told: Sequence[Told], *, ended: bool) -> Iterator[Violation]:
    """Compare the store with what its clients were told."""
    leads_to = {
        (session.address, receipt.key, receipt.receipt_id): receipt.turn_id
        for session in list(reader.sessions())  # read to the end: a cursor must not outlive its connection
        for turn in reader.turns(session.actor_id)
        for receipt in (turn.receipt, *reader.joined(turn.row.turn_id))
        if receipt is not None
    }
    for line in dict.fromkeys(told):
        if isinstance(line, Acknowledged):
            turn_id = leads_to.get((line.address, line.key, line.receipt_id), 0)
        else:
            turn_id = line.turn_id
        found = reader.deliverable(turn_id)
        delivered = (found.outcome, found.body) if found is not None else None
        match line:
            case Acknowledged() if not turn_id:
                yield Violation(STAYS, f"{line.address} {line.key}", f"receipt {line.receipt_id} is not in the store")
            case Acknowledged() if ended and delivered is None:
                yield Violation(ENDS, f"turn {turn_id}", f"{line.address} {line.key} has no deliverable")
            case Delivered() if delivered is None:
                yield Violation(STAYS, f"turn {line.turn_id}", "its deliverable, which a client has, is not there")
            case Delivered() if delivered != (line.outcome, bytes.fromhex(line.body)):
                yield Violation(STAYS, f"turn {line.turn_id}", "its deliverable is not the one that a client has")
            case _:
                pass


def load(name: str) -> Life:
    """Return the life that `MODULE:LIFE` names.

    Raises:
        ValueError: it names none; the message says why.
    """
    module, _, life = name.partition(":")
    if not module or not life:
        raise ValueError(f"a life is named MODULE:LIFE, not {name!r}")
    try:
        found = getattr(importlib.import_module(module), life, None)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{module} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{module} has no life {life!r}")  # noqa: TRY004 - it is the name that is wrong
    return cast("Life", found)


def live(life: Life, world: World) -> None:
    """Run a life to its end, in an event loop of its own."""

    async def lived() -> None:
        await life(world)

    asyncio.run(lived())


def origin(name: str) -> Path:
    """Return the folder from which the module of `MODULE:LIFE` is imported, for processes that import it too.

    Raises:
        ValueError: see `load`.
    """
    load(name)
    module = name.partition(":")[0]
    said = getattr(sys.modules[module], "__file__", None)
    if said is None:
        raise ValueError(f"{module} is no module of a file, so no life can be in it")
    file = Path(said)
    return file.parents[module.count(".") + (file.name == "__init__.py")].resolve()


def command(life: str, folder: Path, *arguments: object) -> list[str]:
    """Return the command that runs one life in a process of its own."""
    return [sys.executable, "-m", "turnkeeper.testing.process", life, str(folder), *map(str, arguments)]


def run(command: Sequence[str], *, path: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or to its limit; nothing of it is left behind.

    Args:
        command: what to run.
        path: where it finds the life's module.
        timeout_s: how long it may take.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(  # noqa: S603 - the caller's own life
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own: what a tracer runs dies with it
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout_s)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one life; return 0 when it returned."""
    parser = argparse.ArgumentParser(prog="python -m turnkeeper.testing.process", description="Run one life.")
    parser.add_argument("life", metavar="MODULE:LIFE")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--life", dest="number", type=int, required=True, help="which life it is, from 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill-at", type=int, help="the number of the point at which to die")
    parser.add_argument("--synchronous", choices=("OFF", "NORMAL", "FULL", "EXTRA"))
    given = parser.parse_args(arguments)
    try:
        life = load(given.life)
    except ValueError as error:
        parser.error(str(error))
    points = KillAt(given.kill_at)
    with ProcessWorld(
        given.folder, seed=given.seed, life=given.number, points=points, synchronous=given.synchronous
    ) as world:
        live(life, world)
    print(msgspec.json.encode(Lived(points.passed)).decode())  # noqa: T201 - the parent reads it
    return 0


if __name__ == "__main__":
    sys.exit(main())
