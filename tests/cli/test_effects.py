"""The effects file: one line an effect, synced before it counts, for one process alone, and never anybody else's."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from turnkeeper.cli import effects as effects_module
from turnkeeper.cli.conversations import BadInput
from turnkeeper.cli.effects import EffectLine, EffectsFile, read_effects

REFUND = EffectLine("store/1/refund/0", "refund", '{"cents": 17}')
GIFT = EffectLine("store/2/gift/0", "gift", "{}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "effects.jsonl"


def line(effect: EffectLine) -> bytes:
    return msgspec.json.encode(effect) + b"\n"


def content_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def refusal(file: Path) -> str:
    with pytest.raises(BadInput) as refused, EffectsFile(file):
        pass
    return str(refused.value)


# ---------------------------------------------------------------- what happens is there


async def test_an_effect_that_has_happened_is_on_the_disk(file: Path) -> None:
    """Its line can be read by anybody as soon as `append` returns, and the probe knows it."""
    with EffectsFile(file) as effects:
        before = effects.happened(REFUND.key)
        await effects.append(REFUND)

        assert not before
        assert effects.happened(REFUND.key)
        assert read_effects(file) == ([REFUND], len(line(REFUND)))


async def test_effects_of_an_earlier_run_are_known(file: Path) -> None:
    """A new process answers the probe from the file; what it appends comes after."""
    with EffectsFile(file) as effects:
        await effects.append(REFUND)
    with EffectsFile(file) as effects:
        known = effects.happened(REFUND.key), effects.happened(GIFT.key)
        await effects.append(GIFT)

    assert known == (True, False)
    assert read_effects(file)[0] == [REFUND, GIFT]


async def test_a_file_in_which_nothing_happened_does_not_stay(file: Path) -> None:
    """A run without effects leaves no litter; a file that has lines stays."""
    with EffectsFile(file):
        pass
    left = content_of(file)
    with EffectsFile(file) as effects:
        await effects.append(REFUND)
    with EffectsFile(file):
        pass

    assert left is None
    assert read_effects(file)[0] == [REFUND]


def test_no_file_is_no_effects(file: Path) -> None:
    """A missing file reads as an empty one and is not made by reading."""
    assert read_effects(file) == ([], 0)
    assert not file.exists()


# ---------------------------------------------------------------- torn lines


@pytest.mark.parametrize("cut", [1, 5, 12, -2, -1])
def test_a_torn_last_line_did_not_happen(file: Path, cut: int) -> None:
    """What follows the last line end is cut off when the file is opened, wherever the write was interrupted."""
    file.write_bytes(line(REFUND) + line(GIFT)[:cut])
    found = read_effects(file)
    with EffectsFile(file) as effects:
        known = effects.happened(REFUND.key), effects.happened(GIFT.key)

    assert found == ([REFUND], len(line(REFUND)))
    assert known == (True, False)
    assert file.read_bytes() == line(REFUND)


def test_a_torn_only_line_leaves_an_empty_file(file: Path) -> None:
    """The very first effect may be the one that was cut off."""
    file.write_bytes(line(REFUND)[:-1])

    assert read_effects(file) == ([], 0)


def test_a_run_after_a_torn_line_lets_the_effect_happen(inside: Any, sample: Any, replayed: Path) -> None:
    """A store that still waits for that effect lets it happen once; here it is on record, so it is lost."""
    file = replayed.with_name(replayed.name + ".effects.jsonl")
    file.write_bytes(file.read_bytes()[:-10])
    ended = inside("replay", sample.file, "--db", replayed, "--json")

    assert ended.returncode == 1
    assert ended.stderr == ""
    assert json.loads(ended.stdout)["lost"] == 1
    assert file.read_bytes().endswith(b"\n")


# ---------------------------------------------------------------- files that are something else


FOREIGN = {
    "notes": (b"nothing but notes\n", 1),
    "notes without a line end": (b"nothing but notes", 1),
    "a JSON document on one line": (b'{"name": "turnkeeper", "version": 1}', 1),
    "a long JSON document on one line": (b'{"key": 1, "values": [' + b"1, " * 5_000 + b"1]}", 1),
    "JSON lines of something else": (b'{"conversation_id": "c", "messages": []}\n', 1),
    "notes after effects": (line(REFUND) + b"nothing but notes\n", 2),
    "half of something else after effects": (line(REFUND) + b"nothing", 2),
    "an empty line between": (line(REFUND) + b"\n" + line(GIFT), 2),
    "bytes": (b"\x00\xff\x00\xff\n", 1),
    "bytes in a line": (line(REFUND) + line(GIFT).replace(b"gift", b"\xff\xfe"), 2),
}


@pytest.mark.parametrize(("content", "number"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_something_else_is_refused_untouched(file: Path, content: bytes, number: int) -> None:
    """By file and line; not one byte of somebody else's file is changed or cut off."""
    file.write_bytes(content)
    said = refusal(file)

    assert said.startswith(f"{file}:{number}: is no line of an effects file")
    assert file.read_bytes() == content


def test_a_file_that_is_something_else_stops_the_inside(inside: Any, sample: Any, write: Any, tmp_path: Path) -> None:
    """Before a store is made; the one line names file and line."""
    notes = write(b"nothing but notes\n", name="notes.txt")
    ended = inside("replay", sample.file, "--db", tmp_path / "new.db", "--effects", notes)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {notes}:1: is no line of an effects file")
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [notes]


def test_the_store_itself_is_no_effects_file(inside: Any, sample: Any, tmp_path: Path) -> None:
    """One path for both is refused before either is made."""
    both = tmp_path / "new.db"
    ended = inside("replay", sample.file, "--db", both, "--effects", both)

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """A directory, a missing folder: the system's reason, with the file's name."""
    missing = tmp_path / "none" / "effects.jsonl"

    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"
    assert refusal(missing) == f"{missing}: No such file or directory"


# ---------------------------------------------------------------- one process alone


def test_a_file_in_use_is_refused(file: Path) -> None:
    """Two runs at once would not know each other's effects; after the first has ended, the second may."""
    with EffectsFile(file):
        said = refusal(file)
    with EffectsFile(file):
        pass

    assert said == f"{file}: in use by another process"


def test_a_locked_file_stops_the_inside(inside: Any, sample: Any, write: Any, tmp_path: Path) -> None:
    """Whoever holds the lock."""
    file = write(line(REFUND), name="effects.jsonl")
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = inside("replay", sample.file, "--db", tmp_path / "new.db", "--effects", file)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {file}: in use by another process\n"
    assert list(tmp_path.iterdir()) == [file]


def appended_by_another(file: Path) -> bool:
    """Append an effect as another process would: under the lock, which it gets only while nobody has it."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, line(GIFT))
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_effects_that_come_while_it_is_being_opened_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process may end between our look into the file and our lock; what it wrote must not be cut off."""
    file.write_bytes(line(REFUND))
    reading, there = effects_module.read_effects, [REFUND]

    def read_then_other_writes(path: Path) -> Any:
        found = reading(path)
        if appended_by_another(path):
            there.append(GIFT)
        return found

    monkeypatch.setattr(effects_module, "read_effects", read_then_other_writes)
    with EffectsFile(file) as effects:
        known = [effect for effect in (REFUND, GIFT) if effects.happened(effect.key)]

    assert reading(file)[0] == known == there


async def test_a_file_that_was_removed_while_it_was_being_opened_is_made_anew(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process removes its empty file as it ends; our effects must not go into a file that has no name."""
    locking, removed = fcntl.flock, []

    def remove_then_lock(fd: int, how: int) -> None:
        if not removed:
            removed.append(True)
            file.unlink(missing_ok=True)
        locking(fd, how)

    monkeypatch.setattr(effects_module.fcntl, "flock", remove_then_lock)
    with EffectsFile(file) as effects:
        await effects.append(REFUND)

    assert removed
    assert read_effects(file)[0] == [REFUND]


# ---------------------------------------------------------------- no room


async def test_an_effect_that_could_not_be_written_did_not_happen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half of the line and then no more: nothing of it is left, and the next one is whole."""
    writing, room = os.write, [10]

    def write_a_little(fd: int, data: bytes) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        return writing(fd, data[: room.pop()])

    with EffectsFile(file) as effects:
        await effects.append(REFUND)
        monkeypatch.setattr(effects_module.os, "write", write_a_little)
        with pytest.raises(OSError, match="No space left"):
            await effects.append(GIFT)
        monkeypatch.setattr(effects_module.os, "write", writing)
        known, content = effects.happened(GIFT.key), content_of(file)
        await effects.append(GIFT)

    assert not known
    assert content == line(REFUND)
    assert read_effects(file)[0] == [REFUND, GIFT]


async def test_an_effect_counts_only_once_it_is_synced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk cannot promise to keep the line, the line is taken back."""

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with EffectsFile(file) as effects:
        monkeypatch.setattr(effects_module.os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            await effects.append(REFUND)

        assert not effects.happened(REFUND.key)
        assert content_of(file) == b""
