"""The log: what SQLite would pass over in silence when it reads a store's write-ahead log.

SQLite takes a log's frames as far as their running checksum adds up, and ignores all the rest without a word. That
is right for the tail that a killed process leaves. It is also what happens to acknowledged commits behind a few
damaged bytes. Here the rest is looked at: does it hold a commit of this generation?

The format is SQLite's, https://www.sqlite.org/fileformat2.html#the_write_ahead_log: a header of 32 bytes, then
frames of 24 bytes and a page. The header's and every frame's checksum goes on from the one before.
"""

import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from turnkeeper.actors.store.file import resolve
from turnkeeper.kernel.errors import StorageFailed

__all__ = ["damage"]

_HEADER: Final = struct.Struct(">IIII8s8s")
"""Magic, version, page size, number of the restart, salts, checksum."""

_FRAME: Final = struct.Struct(">II8s8s")
"""Page, the database's size in pages where the frame ends a commit (else 0), salts, checksum."""

_INDEX: Final = struct.Struct("=8xI4xI12x8s8s")
"""One of the two copies of a wal-index's header: commits counted, frames committed, salts, checksum."""

_MAGIC: Final = 0x377F0682
"""Of a log whose checksums are little-endian; one more where they are big-endian."""

_PAGE_SIZES: Final = tuple(1 << power for power in range(9, 17))
_WORD: Final = 0xFFFFFFFF
_LOOKS_MAX: Final = 50
_PAUSE_S: Final = 0.01
"""Before a second look, which only a log with a finding gets."""

_LAST: Final = (
    "; it is the last commit, so it may be one that was never acknowledged: a process or a machine that stopped while"
    " it wrote leaves the same"
)

_Order = Literal["little", "big"]
_Sum = tuple[int, int]


class _Frame(NamedTuple):
    """One whole frame, as it stands in the file."""

    number: int
    page: int
    commit: int
    salts: bytes
    sum: _Sum
    head: bytes
    body: bytes


class _Header(NamedTuple):
    """The log's header, which says how frames are read."""

    order: _Order
    page_size: int
    restarts: int
    salts: bytes
    sum: _Sum
    sound: bool


class _Lost(NamedTuple):
    """What is ignored: from which frame on, how many of this generation, and whether a kill can have left it so."""

    first: int
    frames: int
    commits: int
    doubtful: bool


def damage(store: Path) -> Iterator[str]:
    """Yield, in words, the damage of a store's log by which readers lose commits; nothing where the log is sound.

    Not a damage: a transaction without its commit frame, which a killed process leaves and nobody was told of; what
    earlier generations of the log left behind the end of this one.

    What cannot be told apart from the log alone: a log cut short looks like one of an earlier moment, or like one
    whose writer was killed, and nothing is said. A last commit of which parts are missing may be damaged, or may
    never have been acknowledged, because the power went while it was written, or because its process was killed
    between a frame's head and its page: it is reported, and the words say so. So is a frame of no generation right
    behind the end. The wal-index (`<store>-shm`) of the process that wrote decides what a kill can have left, if it
    had committed before and no other connection has rebuilt the index since: so look before you connect.

    An owner may write meanwhile. What was committed stands still until the log is restarted, so only what two looks
    in a row find at one place of one generation is reported, and nothing of a log that changes under every look.

    Args:
        store: the database file; its log is beside it. Neither need exist.

    Raises:
        StorageFailed: the log cannot be read.
    """
    file = resolve(store)
    before: tuple[bytes, int] | None = None
    for _ in range(_LOOKS_MAX):
        log = _read(file)
        lost = _lost(file, log)
        if lost is None:
            return
        place = log[: _HEADER.size], lost.first
        if place == before:
            yield _words(lost)
            return
        before = place
        time.sleep(_PAUSE_S)


def _words(lost: _Lost) -> str:
    where = f"frame {lost.first} of the log" if lost.first else "the log's header"
    rest = "everything from there on" if lost.first else "the whole log"
    amount = f"{lost.frames} frame(s) with {lost.commits} commit(s)"
    said = f"{where} does not add up: SQLite ignores {rest}, {amount}"
    return said + _LAST if lost.first and (lost.doubtful or lost.commits == 1) else said


def _read(file: Path) -> bytes:
    log = file.with_name(file.name + "-wal")
    try:
        return log.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageFailed(str(log), error.strerror or str(error)) from error


def _lost(file: Path, log: bytes) -> _Lost | None:
    """Return what SQLite ignores of a log although it was committed."""
    if len(log) < _HEADER.size or not any(log):
        return None
    header = _header(log)
    frames = list(_frames(header, log))
    if not header.sound:
        return _all_lost(header, frames)
    sound, committed = _sound(header, frames)
    if sound == len(frames):
        return None
    pages_max = _pages(file, header.page_size) + len(frames)
    lost = _beyond(header, frames, sound, committed, pages_max)
    if lost is not None and lost.doubtful and _never_committed(file, header, committed):
        return None
    return lost


# ---------------------------------------------------------------- header and frames


def _header(log: bytes) -> _Header:
    magic, _, page_size, restarts, salts, check = _HEADER.unpack_from(log)
    order: _Order = "big" if magic & 1 else "little"
    told = _sum(check, "big")
    sound = magic & ~1 == _MAGIC and page_size in _PAGE_SIZES and _folded((0, 0), log[:24], order) == told
    return _Header(order, page_size if sound else _guessed(log, page_size), restarts, salts, told, sound)


def _guessed(log: bytes, told: int) -> int:
    """Return the page size of a log whose header cannot be trusted: the one at which two frames have one generation."""
    sizes = sorted(_PAGE_SIZES, key=lambda size: size != told)
    for size in sizes:
        second = _HEADER.size + _FRAME.size + size
        if log[second + 8 : second + 16] == log[_HEADER.size + 8 : _HEADER.size + 16]:
            return size
    alone = len(log) - _HEADER.size - _FRAME.size
    return next((size for size in sizes if size == alone), sizes[0])


def _frames(header: _Header, log: bytes) -> Iterator[_Frame]:
    """Yield the whole frames; half a frame at the end was never finished."""
    step = _FRAME.size + header.page_size
    for number, at in enumerate(range(_HEADER.size, len(log) - step + 1, step), 1):
        page, commit, salts, check = _FRAME.unpack_from(log, at)
        body = log[at + _FRAME.size : at + step]
        yield _Frame(number, page, commit, salts, _sum(check, "big"), log[at : at + 8], body)


def _sum(stored: bytes, order: _Order) -> _Sum:
    return int.from_bytes(stored[:4], order), int.from_bytes(stored[4:8], order)


def _folded(seed: _Sum, data: bytes, order: _Order) -> _Sum:
    """Return the checksum that goes on from a seed over some data."""
    first, second = seed
    words = iter(struct.unpack(f"{'<' if order == 'little' else '>'}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second


def _head_needed(seed: _Sum, frame: _Frame, order: _Order) -> tuple[int, int]:
    """Return the page and commit size with which a frame would add up: the checksum, folded back over the page."""
    first, second = frame.sum
    words = struct.unpack(f"{'<' if order == 'little' else '>'}{len(frame.body) // 4}I", frame.body)
    for at in range(len(words) - 2, -1, -2):
        second = (second - words[at + 1] - first) & _WORD
        first = (first - words[at] - second) & _WORD
    page = (first - seed[0] - seed[1]) & _WORD
    commit = (second - seed[1] - first) & _WORD
    head = page.to_bytes(4, order) + commit.to_bytes(4, order)
    return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")


def _pages(file: Path, page_size: int) -> int:
    try:
        return file.stat().st_size // page_size
    except OSError:
        return 0


# ---------------------------------------------------------------- what adds up, and what lies beyond


def _sound(header: _Header, frames: Sequence[_Frame]) -> tuple[int, int]:
    """Return how many frames add up, and how many of them are committed: what SQLite takes."""
    seed, sound, committed = header.sum, 0, 0
    for frame in frames:
        seed = _folded(_folded(seed, frame.head, header.order), frame.body, header.order)
        if frame.salts != header.salts or not frame.page or seed != frame.sum:
            break
        sound = frame.number
        committed = frame.number if frame.commit else committed
    return sound, committed


def _all_lost(header: _Header, frames: Sequence[_Frame]) -> _Lost | None:
    """Return what a damaged header takes with it: a header is whole before the first frame is written."""
    if not frames:
        return None
    salts = header.salts if any(frame.salts == header.salts for frame in frames) else frames[0].salts
    of_generation = [frame for frame in frames if frame.salts == salts]
    commits = sum(frame.commit > 0 for frame in of_generation)
    return _Lost(first=0, frames=len(of_generation), commits=commits, doubtful=False)


def _beyond(header: _Header, frames: Sequence[_Frame], sound: int, committed: int, pages_max: int) -> _Lost | None:
    """Return what is there of this generation behind the last sound frame, if a commit is among it.

    A frame is of this generation by its salts, or because it adds up from one that is: the salts, page and commit
    size of a damaged head follow from the checksum. A commit that adds up as it stands was written whole, and a kill
    cannot have left it behind a gap. Any other, or a frame of no generation at all, is doubtful. A frame with our salts
    is a commit as it stands, too: where its checksum is damaged, the head that follows from that may say it is none.
    """
    seed = frames[sound - 1].sum if sound else header.sum
    ours, found, commits, proved, strange = True, sound - committed, 0, False, False
    for frame in frames[sound:]:
        known = frame.salts == header.salts
        if not known and not ours:  # what a frame of another generation adds up from says nothing of this one
            continue
        head = _head_written(header, frame, seed, pages_max)
        odd = not known and _strange(header, frames, frame)
        ours = known or head is not None
        if ours or odd:
            found += 1
            commits += bool((known and frame.commit) or (frame.commit if head is None else head[1]))
            proved = proved or (frame.commit > 0 and head == (frame.page, frame.commit))
            strange = strange or odd
        seed = frame.sum
    if not (commits or strange):
        return None
    return _Lost(first=sound + 1, frames=found, commits=max(commits, 1), doubtful=not proved)


def _head_written(header: _Header, frame: _Frame, seed: _Sum, pages_max: int) -> tuple[int, int] | None:
    """Return the page and commit size that a frame was written with, if it adds up from a seed; None if not.

    There always is a head that makes a frame add up. It is taken if it makes sense: a page within the database, and
    0 or a size of the database that holds it. That is no proof: the checksum carries a change of a number's last byte
    no further than to a last byte, and so finds a sensible head for an old page 1 under the head of a new one, too.
    """
    page, commit = _head_needed(seed, frame, header.order)
    if (page, commit) == (frame.page, frame.commit) or 0 < page <= (commit or pages_max) <= pages_max:
        return page, commit
    return None


def _strange(header: _Header, frames: Sequence[_Frame], frame: _Frame) -> bool:
    """Say whether a frame is of no generation: SQLite adds 1 to the first salt whenever it restarts a log."""
    age = int.from_bytes(header.salts[:4], "big") - int.from_bytes(frame.salts[:4], "big")
    beside = [other for other in frames[max(frame.number - 2, 0) : frame.number + 1] if other is not frame]
    left_over = 0 < age & _WORD <= header.restarts or any(other.salts == frame.salts for other in beside)
    return not left_over and (any(frame.head) or any(frame.body))


# ---------------------------------------------------------------- the wal-index


def _never_committed(file: Path, header: _Header, committed: int) -> bool:
    """Say whether the wal-index shows that nothing more than what is sound was ever committed.

    It counts a commit after its frames are written, so it tells what a kill has cut off. An index that counts no
    commits was rebuilt from the log as it stands, and says nothing.
    """
    index = _index(file)
    if len(index) < _INDEX.size or index[: _INDEX.size] != index[_INDEX.size :]:
        return False
    counted, frames, salts, check = _INDEX.unpack_from(index)
    if _folded((0, 0), index[:40], sys.byteorder) != _sum(check, sys.byteorder):
        return False
    return bool(salts == header.salts and counted > 0 and frames <= committed)


_kept: Final[dict[tuple[int, int], int]] = {}
"""Open wal-indexes by device and inode. They are never closed: closing one would give up every lock that an SQLite
connection of this process holds on it, and a writer elsewhere would no longer see our readers, or our owner."""


def _index(file: Path) -> bytes:
    """Return both copies of the wal-index's header; nothing where there is none."""
    path = file.with_name(file.name + "-shm")
    try:
        stat = path.stat()
        inode = stat.st_dev, stat.st_ino
        if inode not in _kept:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stat = os.fstat(opened)
            inode = stat.st_dev, stat.st_ino
            _kept[inode] = opened
        return os.pread(_kept[inode], 2 * _INDEX.size, 0)
    except OSError:
        return b""
