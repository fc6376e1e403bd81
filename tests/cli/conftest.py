"""Shared by the command line's tests: the command in a process of its own, recorded conversations, stored rows."""

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli import main
from turnkeeper.kernel.errors import StorageError

TOP = Path(__file__).parents[2]
RECORDED = TOP / ".." / "shared" / "data" / "airline_conversations.jsonl"
SAMPLE = TOP / "turnkeeper" / "cli" / "sample.jsonl"
WRITING_TOOLS = {
    *("book_reservation", "cancel_reservation", "update_reservation_flights", "update_reservation_baggages"),
    *("update_reservation_passengers", "send_certificate"),
    *("place_order", "update_address", "issue_refund", "cancel_order", "send_gift_card"),
    *("create_return_label", "pause_subscription"),
}
TO_PEOPLE = {"transfer_to_human", "transfer_to_human_agents"}
LIMIT_S = 60.0


class Expected(NamedTuple):
    """What a file of conversations must come to, counted here without the project's own reader."""

    conversations: int
    turns: int
    steps: int
    effects: int
    escalations: int


class Recorded(NamedTuple):
    """A file of conversations and what it must come to."""

    file: Path
    expected: Expected


def count(file: Path) -> Expected:
    """Count turns (user messages after which something is recorded), replies and calls, and writing calls."""
    turns = steps = effects = conversations = escalations = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        conversations += 1
        asked = False
        for message in json.loads(line)["messages"]:
            if message["role"] == "user":
                asked = True
            elif message["role"] == "assistant":
                turns += asked
                asked = False
                calls = [call["function"]["name"] for call in message.get("tool_calls") or []]
                steps += len(calls) or 1
                effects += sum(name in WRITING_TOOLS for name in calls)
                escalations += sum(name in TO_PEOPLE for name in calls)
    return Expected(conversations, turns, steps, effects, escalations)


@pytest.fixture(scope="session")
def sample() -> Recorded:
    """The dozen conversations that come with the project."""
    return Recorded(SAMPLE, count(SAMPLE))


@pytest.fixture(scope="session")
def recorded(sample: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The recorded airline conversations where they are at hand; else the sample, a dozen times over."""
    if RECORDED.exists():
        return Recorded(RECORDED, count(RECORDED))
    file = tmp_path_factory.mktemp("recorded") / "sample_often.jsonl"
    lines = [json.loads(line) for line in sample.file.read_text(encoding="utf-8").splitlines()]
    copies = [line | {"conversation_id": f"{line['conversation_id']}-{copy}"} for copy in range(12) for line in lines]
    file.write_text("".join(json.dumps(copy) + "\n" for copy in copies), encoding="utf-8")
    return Recorded(file, count(file))


class Command:
    """The command `turnkeeper`, run as its users run it: in a process of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def __call__(self, *args: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run it to its end."""
        return self.run(self.line(*args), **options)

    def start(self, *args: object, line: list[object] | None = None, **options: Any) -> "subprocess.Popen[str]":
        """Start it, or any other command line; it is gone after the test."""
        child = subprocess.Popen(list(map(str, line or self.line(*args))), **(self._options() | options))
        self._stack.callback(child.communicate)
        self._stack.callback(child.kill)
        return child

    def shell(self, args: str, then: str) -> "subprocess.CompletedProcess[str]":
        """Run it in a shell, its output going where `then` says."""
        return self.run(["sh", "-c", f"{shlex.join(self.line())} {args} {then}"])

    def run(self, line: list[object], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run any command line in the same place."""
        return subprocess.run(list(map(str, line)), timeout=LIMIT_S, check=False, **(self._options() | options))

    def line(self, *args: object) -> list[str]:
        return [sys.executable, "-m", "turnkeeper", *map(str, args)]

    def _options(self) -> dict[str, Any]:
        env = os.environ | {"PYTHONPATH": str(TOP), "PYTHONWARNINGS": "default"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        return pipes | {"env": env, "cwd": self.folder}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The command `turnkeeper`; it runs in the test's own folder."""
    with ExitStack() as stack:
        yield Command(tmp_path, stack)


@pytest.fixture
def inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The command `turnkeeper`, run inside the test's own process: what it says is the same, and it is there sooner."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> "subprocess.CompletedProcess[str]":
        line = list(map(str, args))
        monkeypatch.setattr(sys, "argv", ["turnkeeper", *line])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(line, int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines into a file: bytes as they are, anything else as JSON."""

    def written(*lines: object, name: str = "conversations.jsonl") -> Path:
        file = tmp_path / name
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
        file.write_bytes(b"".join(encoded))
        return file

    return written


def deliverables(db: Path) -> int:
    """Return how many turns of a store have ended; 0 while it is no store yet."""
    try:
        with Reader(db) as reader:
            return reader.turns_completed()
    except StorageError:
        return 0


@pytest.fixture
def wait_for_deliverables() -> Callable[[Path, int, "subprocess.Popen[str]"], int]:
    """Wait until a store holds so many deliverables, or its process has ended; return how many there are."""

    def wait(db: Path, wanted: int, child: "subprocess.Popen[str]") -> int:
        deadline_s = time.monotonic() + LIMIT_S
        while (found := deliverables(db)) < wanted and child.poll() is None:
            assert time.monotonic() < deadline_s, f"{found} of {wanted} deliverables after {LIMIT_S} s"
            time.sleep(0.001)
        return found

    return wait


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], dict[str, list[Any]]]:
    """Return everything an audit sees of a store, row by row."""

    def read(db: Path) -> dict[str, list[Any]]:
        connection = sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)
        try:
            tables = ("store", "actors", "turns", "receipts", "edges", "deliverables")
            found = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables}
            found["schema"] = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        finally:
            connection.close()
        return found

    return read


@pytest.fixture(scope="session")
def replayed_once(tmp_path_factory: pytest.TempPathFactory, sample: Recorded) -> Path:
    """A store in which the sample has been replayed; for `replayed` to copy."""
    db = tmp_path_factory.mktemp("replayed") / "agents.db"
    with ExitStack() as stack:
        ended = Command(db.parent, stack)("replay", sample.file, "--db", db, "--json")
    assert ended.returncode == 0, ended.stderr
    return db


@pytest.fixture
def replayed(replayed_once: Path, path: Path) -> Path:
    """A store in which the sample has been replayed, with its effects file beside it; the test's own."""
    shutil.copytree(replayed_once.parent, path.parent, dirs_exist_ok=True)
    return path
