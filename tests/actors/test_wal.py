"""The log: damage by which readers lose commits is told, and what a killed process leaves is not called damage."""

import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from turnkeeper.actors.store import wal
from turnkeeper.actors.store.wal import damage
from turnkeeper.kernel.errors import StorageFailed

PAGE = 512
FRAME = 24 + PAGE
HEADER = 32

WRITER = """
import random, sqlite3, sys
path, checkpoint, cache, largest = sys.argv[1], *map(int, sys.argv[2:])
connection = sqlite3.connect(path, isolation_level=None)
for pragma in ("page_size = 512", "journal_mode = WAL", "synchronous = OFF", f"wal_autocheckpoint = {checkpoint}"):
    connection.execute(f"PRAGMA {pragma}")
connection.execute(f"PRAGMA cache_size = {cache}")
connection.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY, text)")
connection.execute("REPLACE INTO notes VALUES (0, 'first')")  # from here on its index counts commits
print("ready", flush=True)
while True:
    connection.execute("BEGIN IMMEDIATE")
    for number in random.sample(range(400), random.randint(1, largest)):
        connection.execute("REPLACE INTO notes VALUES (?, ?)", (number, random.randbytes(random.randint(1, 700))))
    connection.execute("COMMIT")
"""


class Log(NamedTuple):
    """A database and its log, as bytes, and what a reader gets."""

    database: bytes
    log: bytes
    dump: object

    def frames(self) -> int:
        return (len(self.log) - HEADER) // FRAME

    def commits(self) -> list[int]:
        """Return the numbers of the frames of this generation that end a commit."""
        heads = [struct.unpack_from(">II8s", self.log, HEADER + FRAME * at) for at in range(self.frames())]
        return [at + 1 for at, (_, size, salts) in enumerate(heads) if size and salts == self.log[16:24]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes to most of these logs: the second look need not wait."""
    monkeypatch.setattr(wal, "_PAUSE_S", 0.0)


def connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in (f"page_size = {PAGE}", "journal_mode = WAL", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE IF NOT EXISTS notes (number INTEGER PRIMARY KEY, text)")
    return connection


def commit(connection: sqlite3.Connection, number: int, size: int) -> None:
    connection.execute("REPLACE INTO notes VALUES (?, ?)", (number, Random(f"{number} {size}").randbytes(size)))


def taken(path: Path, copy: Path) -> Log:
    """Return a database as a copy of its two files would give it."""
    return remade(copy, path.read_bytes(), Path(f"{path}-wal").read_bytes())


def remade(copy: Path, database: bytes, log: bytes) -> Log:
    """Write both files, without an index, and read them with a fresh connection."""
    put(copy, database, log)
    return Log(database, log, read(copy))


def put(copy: Path, database: bytes, log: bytes, index: bytes | None = None) -> None:
    copy.write_bytes(database)
    Path(f"{copy}-wal").write_bytes(log)
    Path(f"{copy}-shm").unlink(missing_ok=True)
    if index is not None:
        Path(f"{copy}-shm").write_bytes(index)


def read(path: Path) -> object:
    """Return everything a reader gets, errors included."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            schema = connection.execute("SELECT * FROM sqlite_schema").fetchall()
            return schema, connection.execute("SELECT * FROM notes").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)


def of_several_commits(path: Path) -> Log:
    """A first generation of a log: commits of one frame and of several."""
    with closing(connected(path)) as connection:
        for number, size in enumerate((40, 900, 10, 1_700, 30, 20)):
            commit(connection, number, size)
        return taken(path, path.with_name("copy.db"))


def restarted(path: Path) -> Log:
    """A log with two commits of its third generation, and leftovers of the two before it."""
    return of_generations(path, ((40, 900, 1_700, 30), (50, 1_200, 20), (1_000, 60)), "RESTART")


def of_one_frame(path: Path) -> Log:
    """The shortest log there is."""
    made = of_generations(path, ((40,), (50,)), "TRUNCATE")
    assert made.frames() == 1
    return made


def of_generations(path: Path, generations: tuple[tuple[int, ...], ...], checkpoint: str) -> Log:
    """A log restarted between commits of these sizes.

    The low byte of a first salt that is drawn small or large could, damaged, be that of an older generation by
    chance; so the salts here are not such.
    """
    while True:
        with closing(connected(path)) as connection:
            for generation, sizes in enumerate(generations):
                if generation:
                    connection.execute(f"PRAGMA wal_checkpoint({checkpoint})")
                for number, size in enumerate(sizes):
                    commit(connection, 10 * generation + number, size)
            made = taken(path, path.with_name("copy.db"))
        if 16 < made.log[19] < 112:
            return made
        path.unlink()


def in_big_endian(path: Path) -> Log:
    """The log as a machine of the other byte order writes it."""
    made = of_several_commits(path)
    log = bytearray(made.log)
    log[3] |= 1

    def fold(seed: tuple[int, int], data: bytes) -> tuple[int, int]:
        for one, other in struct.iter_unpack(">II", data):
            first = (seed[0] + one + seed[1]) % 2**32
            seed = first, (seed[1] + other + first) % 2**32
        return seed

    seed = fold((0, 0), bytes(log[:24]))
    struct.pack_into(">II", log, 24, *seed)
    for at in range(HEADER, len(log), FRAME):
        seed = fold(fold(seed, bytes(log[at : at + 8])), bytes(log[at + 24 : at + FRAME]))
        struct.pack_into(">II", log, at + 16, *seed)
    remade_log = remade(path.with_name("copy.db"), made.database, bytes(log))
    assert remade_log.dump == made.dump
    return remade_log


MAKERS = [of_several_commits, restarted, of_one_frame, in_big_endian]


def places(log: bytes) -> Iterator[int]:
    """Yield every byte of the header and of the frames' heads, some before and behind them, and some of the pages."""
    for at in range(len(log)):
        within = (at - HEADER) % FRAME
        if at < HEADER or within < 28 or within > FRAME - 17 or not within % 97:
            yield at


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("length", [1, 16])
@pytest.mark.parametrize("damaged", [lambda byte: byte ^ 0xFF, lambda byte: 0], ids=["turned", "zeroed"])
def test_no_damage_that_changes_what_is_read_goes_untold(make, length, damaged, path: Path) -> None:
    """Any bytes of the log: where a fresh connection reads something else than before, it is said; else not."""
    made, copy = make(path), path.with_name("copy.db")
    put(copy, made.database, made.log)
    assert list(damage(copy)) == []

    untold, changed, end = [], 0, HEADER + FRAME * made.commits()[-1]
    for at in places(made.log):
        log = bytearray(made.log)
        log[at : at + length] = bytes(map(damaged, log[at : at + length]))
        put(copy, made.database, bytes(log))
        told = list(damage(copy))
        other = read(copy) != made.dump
        changed += other
        if other and not told:
            untold.append(at)
        assert len(told) <= 1
        if at >= end + 24 or log == made.log:  # the head right behind the end says whose that frame is
            assert told == [], f"behind the end, at {at}"

    assert changed > 20
    assert untold == []


def resalted(made: Log, salts: bytes) -> bytes:
    """Return a log of one generation as it would be under other salts, all its checksums with them."""
    log = bytearray(made.log[: HEADER + FRAME * made.commits()[-1]])
    order = "big" if log[3] & 1 else "little"
    log[16:24] = salts
    seed = wal._folded((0, 0), bytes(log[:24]), order)
    struct.pack_into(">II", log, 24, *seed)
    for at in range(HEADER, len(log), FRAME):
        log[at + 8 : at + 16] = salts
        seed = wal._folded(seed, bytes(log[at : at + 8] + log[at + 24 : at + FRAME]), order)
        struct.pack_into(">II", log, at + 16, *seed)
    return bytes(log)


def test_a_damaged_checksum_for_which_a_head_without_a_commit_would_make_sense_is_told(path: Path) -> None:
    """Which salts bring that about is chance, one in some thousands of bytes: here such salts are looked for."""
    made = restarted(path)
    copy, draw, found = path.with_name("copy.db"), Random(1), 0
    pages_max = len(made.database) // PAGE + made.commits()[-1]
    for _ in range(10_000):
        if found == 3:
            break
        log = bytearray(resalted(made, draw.randbytes(8)))
        header = wal._header(bytes(log))
        for at in range(len(log) - FRAME + 16, len(log) - FRAME + 24):
            other = bytearray(log)
            other[at] = 0
            *_, before, last = wal._frames(header, bytes(other))
            page, size = wal._head_needed(before.sum, last, header.order)
            if log[at] and not size and 0 < page <= pages_max:
                found += 1
                put(copy, made.database, bytes(log))
                assert list(damage(copy)) == []
                assert read(copy) == made.dump
                put(copy, made.database, bytes(other))
                assert read(copy) != made.dump
                put(copy, made.database, bytes(other))
                assert len(list(damage(copy))) == 1
    assert found == 3


def test_how_much_is_lost_is_told(path: Path) -> None:
    """From which frame on, how many frames and how many commits."""
    made = of_several_commits(path)
    first, *_, last = made.commits()
    log = bytearray(made.log)
    log[HEADER + FRAME * first + 24] ^= 1
    put(path, made.database, bytes(log))

    (told,) = damage(path)
    assert told == (
        f"frame {first + 1} of the log does not add up: SQLite ignores everything from there on,"
        f" {last - first} frame(s) with {len(made.commits()) - 1} commit(s)"
    )

    put(path, made.database, made.log[:24] + bytes(8) + made.log[32:])
    (told,) = damage(path)
    assert told == (
        "the log's header does not add up: SQLite ignores the whole log,"
        f" {last} frame(s) with {len(made.commits())} commit(s)"
    )


def test_a_damaged_last_commit_is_told_with_its_other_explanation(path: Path) -> None:
    """From the log alone it cannot be told from a commit during which the process or the machine stopped."""
    made = of_several_commits(path)
    put(path, made.database, made.log[:-1] + bytes([made.log[-1] ^ 1]))

    (told,) = damage(path)
    assert "1 frame(s) with 1 commit(s); it is the last commit, so it may be one that was never acknowledged" in told


def test_a_damaged_last_commit_is_told_where_the_index_knows_of_it(path: Path) -> None:
    """The wal-index that counts the commit excuses nothing."""
    with closing(connected(path)) as connection:
        commit(connection, 1, 10)
        commit(connection, 2, 10)
        files = [Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")]
        index = Path(f"{path}-shm").read_bytes()
    copy = path.with_name("copy.db")
    put(copy, files[0], files[1][:-1] + bytes([files[1][-1] ^ 1]), index)

    assert len(list(damage(copy))) == 1


# ---------------------------------------------------------------- what is not called damage


def test_no_log_and_an_empty_log_are_sound(path: Path) -> None:
    """As they are after closing and after a truncating checkpoint."""
    assert list(damage(path)) == []
    put(path, b"", b"")
    assert list(damage(path)) == []
    put(path, b"", bytes(HEADER + 3 * FRAME))  # a file that got its length, and the power went
    assert list(damage(path)) == []


@pytest.mark.parametrize("make", MAKERS)
def test_a_log_cut_short_reads_as_an_earlier_moment_or_a_killed_writer(make, path: Path) -> None:
    """At a commit's end it is that earlier log; anywhere else it is what a kill in a commit leaves. Nothing is said."""
    made, copy = make(path), path.with_name("copy.db")
    for frame in range(made.frames() + 1):
        for odd in (0, 1, 24, 25, FRAME - 1):
            put(copy, made.database, made.log[: HEADER + FRAME * frame + odd])

            assert list(damage(copy)) == []
    for size in range(HEADER):
        put(copy, made.database, made.log[:size])

        assert list(damage(copy)) == []


def test_a_commit_cut_off_between_a_head_and_its_page_is_sound_by_the_index(path: Path) -> None:
    """Over leftovers that is a whole frame which does not add up; the writer's index shows it was not committed.

    Without the index it is told, with both explanations; an index that was rebuilt from the log knows nothing.
    """
    with closing(connected(path)) as connection:
        for number in range(4):
            commit(connection, number, 20)
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        commit(connection, 5, 20)
        before, index = Path(f"{path}-wal").read_bytes(), Path(f"{path}-shm").read_bytes()
        commit(connection, 6, 20)
        database, after = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    copy, at = path.with_name("copy.db"), HEADER + FRAME
    log = before[:at] + after[at : at + 24] + before[at + 24 :]

    assert log not in {before, after}
    put(copy, database, log, index)
    assert list(damage(copy)) == []
    put(copy, database, log)
    assert "never acknowledged" in "".join(damage(copy))
    read(copy)
    assert Path(f"{copy}-shm").exists()
    assert "never acknowledged" in "".join(damage(copy))
    put(copy, database, log, index[:-1][:40] + b"\0" + index[41:])
    assert "never acknowledged" in "".join(damage(copy))


def test_what_was_rolled_back_after_it_was_spilled_into_the_log_is_no_damage(path: Path) -> None:
    """It has the salts of this generation and no commit; what is committed over its beginning is shorter."""
    with closing(connected(path)) as connection:
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("BEGIN")
        for number in range(100):
            commit(connection, number, 400)
        connection.execute("ROLLBACK")
        commit(connection, 1, 10)

        made = taken(path, path.with_name("copy.db"))
        assert made.frames() > made.commits()[-1] + 10
        assert list(damage(path)) == []
        assert list(damage(path.with_name("copy.db"))) == []


@pytest.mark.parametrize(("checkpoint", "cache", "largest"), [(4, 1_000, 3), (60, 1_000, 40), (60, 5, 60)])
def test_a_killed_writer_leaves_no_damage(path: Path, checkpoint: int, cache: int, largest: int) -> None:
    """Killed anywhere, again and again on one file: small commits, large ones, and ones that spill before the end."""
    chance = Random(f"{checkpoint} {cache}")
    for _ in range(12):
        with writer(path, checkpoint, cache, largest) as child:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0.0, 0.03))
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert Path(f"{path}-wal").stat().st_size > HEADER

        assert list(damage(path)) == []


class writer:  # noqa: N801 - a context manager
    """A process that commits without a pause, and restarts its log whenever it has so many frames."""

    def __init__(self, path: Path, *settings: int) -> None:
        line = [sys.executable, "-c", WRITER, str(path), *map(str, settings)]
        self._child = subprocess.Popen(line, stdout=subprocess.PIPE)

    def __enter__(self) -> "subprocess.Popen[bytes]":
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"
        return self._child

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()


# ---------------------------------------------------------------- while an owner writes


@pytest.mark.parametrize("checkpoint", [3, 40])
def test_a_log_that_is_being_written_is_not_damaged(path: Path, checkpoint: int, monkeypatch) -> None:
    """The log grows and is restarted under every look."""
    monkeypatch.undo()
    told, seen = [], set()
    with writer(path, checkpoint, 1_000, 8):
        for _ in range(400):
            told += damage(path)
            seen.add(Path(f"{path}-wal").read_bytes()[16:24])

    assert told == []
    assert len(seen) > 5


def test_damage_is_told_while_the_owner_goes_on(path: Path) -> None:
    """What was committed stands still, so it can be judged, although more comes behind it."""
    with closing(connected(path)) as connection:
        for number in range(5):
            commit(connection, number, 10)
        with Path(f"{path}-wal").open("r+b") as log:
            log.seek(HEADER + FRAME + 24 + 100)
            log.write(b"sixteen bytes of")
        assert len(list(damage(path))) == 1
        for number in range(5):
            commit(connection, number, 10)

            assert len(list(damage(path))) == 1


def test_looking_takes_no_lock_from_this_process(path: Path) -> None:
    """Closing a file gives up all locks that a process holds on it: a writer elsewhere would restart our log."""
    with closing(connected(path)) as connection:
        for number in range(5):
            commit(connection, number, 10)
        connection.execute("BEGIN")
        before = connection.execute("SELECT * FROM notes").fetchall()
        with Path(f"{path}-wal").open("r+b") as log:
            log.seek(-1, 2)
            log.write(b"?")
        assert list(damage(path))
        said = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None);"
        said += "print(c.execute('PRAGMA wal_checkpoint(RESTART)').fetchone()[0])"
        elsewhere = subprocess.run([sys.executable, "-c", said, path], capture_output=True, text=True, check=True)

        assert elsewhere.stdout == "1\n", "the restart was to be refused: a reader stands in its way"
        assert connection.execute("SELECT * FROM notes").fetchall() == before


def test_a_log_that_cannot_be_read_is_refused(path: Path) -> None:
    """With the path that could not be read."""
    Path(f"{path}-wal").mkdir()

    with pytest.raises(StorageFailed, match=r"agents\.db-wal"):
        list(damage(path))
