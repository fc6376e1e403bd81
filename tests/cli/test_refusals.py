"""What cannot be used: exit code 2, one clear line, no traceback, and whatever was there before is as it was."""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.actors.store.audit import audit

BIG = 10**9
Rows = Callable[[Path], dict[str, list[Any]]]


def complaint(ended: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line that a refused command said."""
    assert ended.returncode == 2, (ended.returncode, ended.stdout[-500:], ended.stderr[-2_000:])
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def conversation(*contents: Any, conversation_id: str = "c") -> dict[str, Any]:
    """Return a conversation in which each content was answered."""
    messages: list[dict[str, Any]] = []
    for content in contents:
        messages += {"role": "user", "content": content}, {"role": "assistant", "content": "hello"}
    return {"conversation_id": conversation_id, "messages": messages}


# ---------------------------------------------------------------- files of conversations


BAD_LINES: dict[str, Any] = {
    "a broken line": b'{"conversation_id": "c", "messa',
    "an unknown role": {"conversation_id": "c", "messages": [{"role": "oracle", "content": "?"}]},
    "a result without its call": {
        "conversation_id": "c",
        "messages": [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
    },
    "a call without a result": {
        "conversation_id": "c",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "get", "arguments": "{}"}}]},
        ],
    },
    "invalid UTF-8": b'{"conversation_id": "\xff", "messages": []}',
    "a lone surrogate": b'{"conversation_id": "c", "messages": [{"role": "user", "content": "\\ud800 and more"}]}',
    "an id with a NUL": conversation("hi", conversation_id="a\0b"),
    "markup and escapes": {"conversation_id": "c", "messages": [{"role": "[red]\x1b[31m", "content": "?"}]},
    "a number too big to store": conversation([2**64]),
    "another conversation under the same id": conversation("other", conversation_id="good"),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_refused_before_anything_is_touched(
    inside: Any, write: Any, tmp_path: Path, line: object
) -> None:
    """File and line are named; no store, no effects file and no lock come into being."""
    file = write(conversation("hi", conversation_id="good"), line)
    said = complaint(inside("replay", file, "--db", tmp_path / "new.db"))

    assert said.startswith(f"{file}:2: ")
    assert "\x1b" not in said
    assert list(tmp_path.iterdir()) == [file]


def test_a_bad_file_leaves_the_store_that_was_there_as_it_was(
    command: Any, write: Any, replayed: Path, rows: Rows
) -> None:
    """Good lines before the bad one are not used either: all files are read before the store is opened."""
    before, content = rows(replayed), replayed.read_bytes()
    good, bad = write(conversation("hi"), name="good.jsonl"), write(b"{", name="bad.jsonl")

    assert complaint(command("replay", good, bad, "--db", replayed, "--json")).startswith(f"{bad}:1: ")
    assert rows(replayed) == before
    assert replayed.read_bytes() == content


def test_a_message_of_fifty_megabytes_is_refused(command: Any, write: Any, tmp_path: Path) -> None:
    """By file and line, as any other."""
    file = write(conversation("hi", conversation_id="good"), conversation("x" * (50 << 20)))

    assert complaint(command("replay", file, "--db", tmp_path / "new.db")).startswith(f"{file}:2: is longer than")


def test_no_file_at_all_is_refused(command: Any, tmp_path: Path) -> None:
    """A missing file, a directory, an empty file: each is named."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for file in (tmp_path / "none.jsonl", tmp_path, empty):
        assert complaint(command("replay", file, "--db", tmp_path / "new.db")).startswith(f"{file}: ")


def _calling(name: str) -> dict[str, Any]:
    call = {"id": "1", "function": {"name": name, "arguments": "{}"}}
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]
    return {"conversation_id": "c", "messages": [*messages, {"role": "tool", "tool_call_id": "1", "content": "x"}]}


def _nested(depth: int) -> bytes:
    content = b"[" * depth + b"]" * depth
    line = (
        b'{"conversation_id": "c", "messages": [{"role": "user", "content": %s}, {"role": "assistant", "content": ""}]}'
    )
    return line % content


DOUBTFUL: dict[str, Any] = {
    "a tool's name with a NUL": _calling("book\0it"),
    "a tool without a name": _calling(""),
    "a tool's name that is too long": _calling("x" * 100_000),
    "more acts than a turn may have steps": {
        "conversation_id": "c",
        "messages": [{"role": "user", "content": "hi"}, *[{"role": "assistant", "content": "well"}] * 100],
    },
    "a payload at the limit": conversation("x" * (8 * 1024 * 1024 - 150)),
} | {f"nesting {depth} deep": _nested(depth) for depth in (900, 970, 975, 980)}


@pytest.mark.parametrize("line", DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_is_let_in_can_be_replayed(command: Any, write: Any, path: Path, line: object) -> None:
    """What could fail half-way is refused by file and line at the door, or replayed without fault."""
    file = write(line)
    ended = command("replay", file, "--db", path, "--json")

    if ended.returncode != 0:
        assert complaint(ended).startswith(f"{file}:1: ")
    else:
        assert json.loads(ended.stdout)["turns"] == 1


def test_changed_content_under_the_same_ids_is_a_conflict(inside: Any, write: Any, replayed: Path, rows: Rows) -> None:
    """A key stands for what it first came with: the key and its turn are named, nothing is written."""
    before = rows(replayed)
    file = write(conversation("not what was said", conversation_id="bookshop-04-address"))
    said = complaint(inside("replay", file, "--db", replayed, "--json"))

    assert "'bookshop-04-address:0' already stands for another payload" in said
    assert rows(replayed) == before


# ---------------------------------------------------------------- the store


def test_a_file_that_is_no_database_is_refused(inside: Any, sample: Any, tmp_path: Path) -> None:
    """Notes stay notes: nothing is written into them or beside them."""
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing but notes\n")
    said = complaint(inside("replay", sample.file, "--db", notes))

    assert said == f"{notes}: not a turnkeeper store (no SQLite database)"
    assert notes.read_text() == "nothing but notes\n"
    assert list(tmp_path.iterdir()) == [notes]


def test_another_programs_database_is_refused(inside: Any, sample: Any, tmp_path: Path) -> None:
    """An SQLite file with somebody else's tables is not migrated into ours."""
    db = tmp_path / "accounts.db"
    with sqlite3.connect(db) as connection:
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY)")
    connection.close()
    content = db.read_bytes()
    said = complaint(inside("replay", sample.file, "--db", db))

    assert said == f"{db}: not a turnkeeper store (another program's SQLite database)"
    assert db.read_bytes() == content


@pytest.mark.parametrize("db", [".", "", "/", "folder", "folder/"])
def test_a_directory_is_no_store(inside: Any, sample: Any, tmp_path: Path, db: str) -> None:
    """Whatever way it is written."""
    (tmp_path / "folder").mkdir()
    said = complaint(inside("replay", sample.file, "--db", db))

    assert "directory" in said
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


def test_a_store_in_a_missing_folder_is_refused(inside: Any, sample: Any, tmp_path: Path) -> None:
    """The folder is not made; the complaint names the path."""
    said = complaint(inside("replay", sample.file, "--db", tmp_path / "none" / "agents.db"))

    assert str(tmp_path / "none") in said
    assert list(tmp_path.iterdir()) == []


def test_a_newer_schema_is_refused(inside: Any, sample: Any, replayed: Path, rows: Rows) -> None:
    """A store of a later version is left alone; the complaint says both versions, and what to do."""
    with sqlite3.connect(replayed) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = rows(replayed)
    said = complaint(inside("replay", sample.file, "--db", replayed))

    assert said == f"{replayed}: has schema 99, this version knows up to 4; upgrade turnkeeper"
    assert rows(replayed) == before


def test_a_store_that_another_process_runs_is_refused(
    command: Any, sample: Any, path: Path, wait_for_deliverables: Any
) -> None:
    """The owner is named, and goes on undisturbed."""
    owner = command.start("replay", sample.file, "--db", path, "--parallel", 2, "--think-ms", 20, "--json")
    wait_for_deliverables(path, 1, owner)
    owner.send_signal(signal.SIGSTOP)  # or it might be done before the others have started
    said = complaint(command("replay", sample.file, "--db", path, "--effects", path.with_name("other.jsonl")))
    alone = complaint(command("replay", sample.file, "--db", path))
    owner.send_signal(signal.SIGCONT)
    out, err = owner.communicate()

    assert said == f"{path}: in use by process {owner.pid}; one runtime owns a file at a time"
    assert "in use by another process" in alone
    assert (owner.returncode, err) == (0, "")
    assert json.loads(out)["turns"] == sample.expected.turns


def _without_rights() -> None:
    """Take the super-user's right to write where the mode forbids it from whatever is executed next."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) == 0


@pytest.fixture
def read_only(replayed: Path) -> Any:
    """A folder with a store, neither of which may be written."""
    for file in replayed.parent.iterdir():
        file.chmod(0o444)
    replayed.parent.chmod(0o555)
    yield replayed
    replayed.parent.chmod(0o755)


def test_a_read_only_folder_is_refused(command: Any, sample: Any, read_only: Path) -> None:
    """Neither a new store is made in it, nor the one that is there opened for writing."""
    content = read_only.read_bytes()
    for db in (read_only, read_only.with_name("new.db")):
        said = complaint(command("replay", sample.file, "--db", db, preexec_fn=_without_rights))

        assert str(db) in said
        assert "denied" in said.lower() or "read-only" in said.lower()
    assert read_only.read_bytes() == content


def test_a_store_in_a_read_only_folder_can_be_audited(command: Any, read_only: Path) -> None:
    """Proving and looking take no right to write."""
    for line in (("audit", read_only), ("show", read_only)):
        ended = command(*line, preexec_fn=_without_rights)

        assert ended.returncode == 0, ended.stderr


# ---------------------------------------------------------------- the disk


def _room_for(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_fills_ends_the_run_and_loses_nothing(command: Any, sample: Any, tmp_path: Path) -> None:
    """Wherever the room ends, at an acceptance or at a turn's end: the run says so and ends; one with room finishes."""
    sizes = (10_000, 155_000, 230_000, 390_000)
    options = ("--parallel", 1, "--json")
    lines = {size: ("replay", sample.file, "--db", tmp_path / f"{size}.db", *options) for size in sizes}
    children = {size: command.start(*lines[size], preexec_fn=_room_for(size)) for size in sizes}
    ends: dict[int, tuple[int, str]] = {}
    for size, child in children.items():
        try:
            _, err = child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            ends[size] = (BIG, "did not end within 15 s")
        else:
            ends[size] = (child.returncode, err)

    assert {size: code for size, (code, _) in ends.items()} == dict.fromkeys(sizes, 2), ends
    for size, (_, err) in ends.items():
        db = tmp_path / f"{size}.db"
        assert "Traceback" not in err
        assert len(err) < 20_000, "it tried again without a pause"
        assert re.fullmatch(rf"error: {re.escape(str(db))}: .*disk.*", err.splitlines()[-1]), err
        if size > sizes[0]:
            assert audit(db).violations == []
        report = json.loads(command(*lines[size]).stdout)
        assert report["turns"] == sample.expected.turns
        assert report["lost"] == report["repeated"] == report["overlapping"] == report["out_of_order"] == 0
        assert audit(db).violations == []


FILLING = """
import json, subprocess, sys
folder, sample = sys.argv[1:]
turnkeeper = [sys.executable, "-m", "turnkeeper"]
effects = ["--effects", folder + "/../effects.jsonl"]
def run(*args):
    ended = subprocess.run([*turnkeeper, *args], capture_output=True, text=True, timeout=20)
    return ended.returncode, ended.stdout, ended.stderr
small = run("replay", sample, "--db", folder + "/agents.db", *effects)
audited = run("audit", folder + "/agents.db")
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
rest = run("replay", sample, "--db", folder + "/agents.db", *effects, "--json")
print(json.dumps([small, audited, rest, run("audit", folder + "/agents.db")]))
"""


def test_a_real_disk_that_fills_says_so(command: Any, sample: Any, tmp_path: Path) -> None:
    """On a file system of 256 kB: the line names the store and the reason; with more room the rest is done.

    The file system is mounted in a name space of its own, which goes with the process. Where that may not be
    done, a limit on the size of files stands in for it.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@"'
    inside = [sys.executable, "-c", FILLING, folder, sample.file]
    alone = ["unshare", "--mount", "sh", "-c", mount, "sh", folder]
    if shutil.which("unshare") and command.run([*alone, "true"]).returncode == 0:
        ended = command.run([*alone, *inside])
        assert ended.returncode == 0, ended.stderr
        small, audited, rest, found = json.loads(ended.stdout)
        meaning = "disk is full"
    else:
        line = ("replay", sample.file, "--db", folder / "agents.db", "--effects", tmp_path / "effects.jsonl", "--json")
        runs = [command(*line, preexec_fn=_room_for(256_000)), command("audit", folder / "agents.db")]
        runs += [command(*line), command("audit", folder / "agents.db")]
        small, audited, rest, found = ((ended.returncode, ended.stdout, ended.stderr) for ended in runs)
        meaning = "disk I/O error"

    assert small[0] == 2, small
    assert "Traceback" not in small[2]
    assert re.fullmatch(f"error: {re.escape(str(folder))}/agents.db: .*{meaning}.*", small[2].splitlines()[-1]), small
    assert audited[0] == found[0] == 0
    assert rest[0] == 0, rest
    assert json.loads(rest[1])["turns"] == sample.expected.turns


def test_an_effect_that_cannot_be_written_stops_the_run_and_is_still_to_come(
    command: Any, sample: Any, write: Any, path: Path
) -> None:
    """The effects file has no room left: nothing of the cut-off line stays, and a run with room lets it happen."""
    size = 3_000_000
    filler = {"key": "other/1/refund/0", "tool": "refund", "arguments": "x" * (size - 1_500)}
    effects = write(filler, name="effects.jsonl")
    line = ("replay", sample.file, "--db", path, "--effects", effects, "--json")
    said = complaint(command(*line, preexec_fn=_room_for(size)))
    content, found = effects.read_bytes(), audit(path)
    report = json.loads(command(*line).stdout)

    assert said == f"{effects}: File too large"
    assert content.endswith(b"\n")
    assert found.violations == []
    assert report["effects"] == sample.expected.effects
    assert report["lost"] == report["repeated"] == 0


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [("--parallel", 0), ("--parallel", "many"), ("--think-ms", -1), ("--nonsense",)],
    ids=lambda options: options[0] + str(options[-1]),
)
def test_options_out_of_range_are_refused(inside: Any, sample: Any, tmp_path: Path, options: Any) -> None:
    """The option is named and nothing is done."""
    ended = inside("replay", sample.file, "--db", tmp_path / "new.db", *options)

    assert ended.returncode == 2
    assert options[0] in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_standard_output_that_cannot_be_written_is_said_in_a_line(command: Any, replayed: Path) -> None:
    """A full disk under `> report.json` is an error like any other, not a traceback."""
    with Path("/dev/full").open("w") as full:
        ended = command("audit", replayed, "--json", stdout=full)

    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "No space left" in ended.stderr
