"""Power cuts: what FULL promises holds at any of them, and what NORMAL and OFF do not promise is seen to be lost."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from turnkeeper.testing.powercut import Recording, available, cut, cuts, main, rebuild, record
from turnkeeper.testing.trace import FOLDER, Naming, NotUnderstood, Resize, Sync, Write, read

LIFE = "lives:long_conversations"
REPEATABLE = ("notify",)

traced = pytest.mark.skipif(available() != "", reason=available() or "can be traced")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recording]:
    """Record the life once for each setting."""
    made: dict[str, Recording] = {}

    def get(synchronous: str) -> Recording:
        if synchronous not in made:
            made[synchronous] = record(LIFE, tmp_path_factory.mktemp(synchronous), synchronous=synchronous)
        return made[synchronous]

    return get


def serving(recorded: Recording) -> range:
    """Everywhere from the first acknowledgement on."""
    return range(recorded.served, recorded.events[-1].ended + 2)


def making(recorded: Recording) -> range:
    """Everywhere until the first acknowledgement."""
    return range(recorded.events[0].started, recorded.served)


def first_transaction(recorded: Recording) -> range:
    """While the first pages are on their way to the disk."""
    named = {name: file for event in recorded.events if isinstance(event, Naming) for name, file in event.names}
    of_store = [
        event for event in recorded.events if not isinstance(event, Naming) and event.file == named["agents.db"]
    ]
    synced = next(event for event in of_store if isinstance(event, Sync))
    return range(of_store[0].started + 1, synced.ended + 1)


# ---------------------------------------------------------------- what is promised


@traced
def test_under_full_two_hundred_power_cuts_lose_nothing_and_break_nothing(recording: Callable) -> None:
    """What was acknowledged or delivered is there after every cut, the audit is clean, and the work goes on."""
    recorded = recording("FULL")

    report = cuts(recorded, 200, places=serving(recorded), recover_every=40, repeatable=REPEATABLE)

    assert (report.cuts, report.recoveries) == (200, 5)
    assert (report.lost, report.broken, report.repeated) == (0, 0, 0), report.examples
    assert report.examples == []


@traced
def test_a_cut_while_the_store_is_being_made_leaves_one_that_can_be_used(recording: Callable) -> None:
    """There is no store yet, or a sound one, or one that SQLite rolls back; the next runtime goes on."""
    recorded = recording("FULL")

    anywhere = cuts(recorded, 60, places=making(recorded))
    half_written = cuts(recorded, 100, places=first_transaction(recorded))

    assert anywhere.examples + half_written.examples == []


@traced
def test_a_cut_under_full_meets_checkpoints_and_logs_begun_anew(recording: Callable) -> None:
    """The recorded run is long enough for SQLite to use its log more than once, by itself."""
    recorded = recording("FULL")

    assert recorded.checkpoints >= 3
    assert recorded.resets >= 1
    assert recorded.told > 100


# ---------------------------------------------------------------- what is not promised, and seen


@traced
def test_under_normal_power_cuts_lose_what_was_acknowledged_but_break_nothing(recording: Callable) -> None:
    """As SQLite says: a power cut may roll back commits; the file stays sound."""
    recorded = recording("NORMAL")

    report = cuts(recorded, 40, places=serving(recorded), repeatable=REPEATABLE)

    assert report.lost > 5
    assert report.broken == 0, report.examples


@traced
def test_under_off_power_cuts_lose_and_break(recording: Callable) -> None:
    """Nothing is synced: pages of any age stand side by side."""
    recorded = recording("OFF")

    report = cuts(recorded, 40, places=serving(recorded), repeatable=REPEATABLE)

    assert report.lost > 5
    assert report.broken > 3


@traced
def test_a_disk_that_does_not_sync_the_log_is_found_out(recording: Callable) -> None:
    """With the log's syncs taken away, the run that loses nothing loses much: the syncs are what keeps the promise."""
    recorded = recording("FULL")
    logs = {
        file for event in recorded.events if isinstance(event, Naming) for name, file in event.names if "wal" in name
    }
    lying = [event for event in recorded.events if not (isinstance(event, Sync) and event.file in logs)]

    report = cuts(msgspec.structs.replace(recorded, events=lying), 40, places=serving(recorded))

    assert report.lost > 5


@traced
def test_a_seed_draws_the_same_cut_again(recording: Callable) -> None:
    """So that a finding can be looked at."""
    recorded = recording("NORMAL")

    assert cut(recorded, 3).position == cut(recorded, 3).position
    assert [found.rule for found in cut(recorded, 3).violations] == [
        found.rule for found in cut(recorded, 3).violations
    ]
    assert cut(recorded, 3).position != cut(recorded, 4).position


# ---------------------------------------------------------------- what a cut leaves

NAMED = (Naming(0, 0, (("a", 1),)), Sync(1, 1, FOLDER))
OLD, NEW = b"o" * 1024, b"n" * 1024


def left(tmp_path: Path, events: list, position: int, cuts: int = 200) -> Counter:
    """Count what is left of the file `a` after many cuts at one place; None where it is not there."""
    found: Counter = Counter()
    for seed in range(cuts):
        folder = tmp_path / f"{position}-{seed}"
        folder.mkdir()
        rebuild(events, position, Random(seed), folder)
        found[(folder / "a").read_bytes() if (folder / "a").exists() else None] += 1
    return found


def test_what_was_synced_stands(tmp_path: Path) -> None:
    """A sync that has ended keeps what had been written before it started."""
    events = [*NAMED, Write(2, 2, 1, 0, OLD), Sync(3, 3, 1)]

    assert left(tmp_path, events, 4) == {OLD: 200}


def test_of_what_was_not_synced_any_part_may_stand(tmp_path: Path) -> None:
    """By sector, in any combination; none and all of them too."""
    events = [*NAMED, Write(2, 2, 1, 0, OLD), Sync(3, 3, 1), Write(4, 4, 1, 0, NEW)]

    assert set(left(tmp_path, events, 5)) == {OLD, NEW, OLD[:512] + NEW[512:], NEW[:512] + OLD[512:]}


def test_a_sync_under_way_keeps_nothing(tmp_path: Path) -> None:
    """Neither one that has not ended, nor what was written after it had started."""
    under_way = [*NAMED, Write(2, 2, 1, 0, OLD), Sync(3, 6, 1)]
    meanwhile = [*NAMED, Write(4, 5, 1, 0, OLD), Sync(3, 6, 1)]

    assert b"" in left(tmp_path, under_way, 5)
    assert b"" in left(tmp_path, meanwhile, 7)


def test_a_write_under_way_may_stand(tmp_path: Path) -> None:
    """It has begun: part of it may be on the disk. One that has not begun is not."""
    events = [*NAMED, Write(2, 5, 1, 0, OLD)]

    assert OLD in left(tmp_path, events, 4)
    assert set(left(tmp_path, events, 2)) == {b""}


def test_an_append_may_be_missing_or_be_there_as_zeros(tmp_path: Path) -> None:
    """A size may reach the disk without what fills it."""
    events = [*NAMED, Write(2, 2, 1, 0, OLD[:512]), Write(3, 3, 1, 512, NEW[:512])]
    found = set(left(tmp_path, events, 4))

    assert {b"", bytes(512), bytes(1024), OLD[:512], OLD[:512] + NEW[:512]} <= found


def test_a_size_given_and_not_synced_may_stand_or_not(tmp_path: Path) -> None:
    """Cutting a file short is a change as any other."""
    events = [*NAMED, Write(2, 2, 1, 0, OLD), Sync(3, 3, 1), Resize(4, 4, 1, 512)]

    assert {OLD, OLD[:512]} <= set(left(tmp_path, events, 5))


def test_a_name_stands_once_its_folder_is_synced(tmp_path: Path) -> None:
    """Until then a new file may be gone, a removed one back, and a renamed one have its old name."""
    made = [Naming(0, 0, (("a", 1),)), Write(1, 1, 1, 0, OLD), Sync(2, 2, 1)]
    removed = [*made, Sync(3, 3, FOLDER), Naming(4, 4, (("a", None),))]
    renamed = [*made, Naming(3, 3, (("b", 2),)), Sync(4, 4, FOLDER), Naming(5, 5, (("b", None), ("a", 2)))]

    assert set(left(tmp_path, made, 3)) == {None, OLD}
    assert set(left(tmp_path, [*made, Sync(3, 3, FOLDER)], 4)) == {OLD}
    assert set(left(tmp_path, removed, 5)) == {None, OLD}
    assert set(left(tmp_path, renamed, 6)) == {b"", OLD}


def test_the_world_outside_is_not_cut(tmp_path: Path) -> None:
    """What clients were told and what effects did is known outside, synced or not, and as soon as it begins."""
    told = [Write(1, 1, 1, 0, b"told\n"), Write(2, 4, 1, 5, b"begun\n"), Write(3, 5, 1, 11, b"later\n")]
    for seed in range(20):
        rebuild([Naming(0, 0, (("acknowledged.log", 1),)), *told], 3, Random(seed), tmp_path)

        assert (tmp_path / "acknowledged.log").read_bytes() == b"told\nbegun\n"


# ---------------------------------------------------------------- what a trace says


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def trace(tmp_path: Path, *lines: str) -> list:
    """Read a trace in which paths and bytes, between two bars, are not yet written as strace writes them."""
    said = ["".join(part if n % 2 == 0 else hexed(part) for n, part in enumerate(line.split("|"))) for line in lines]
    (tmp_path / "trace").write_text("\n".join(said) + "\n")
    return read(tmp_path / "trace", Path("/w"))


OPENED = '1 openat(AT_FDCWD</|>, "|/w/a|", O_RDWR|O_CREAT, 0644) = 3<|/w/a|>'.replace("</|>", "<>").replace(
    "R|O", "R,O"
)


def test_a_trace_is_read_in_the_order_in_which_calls_ended(tmp_path: Path) -> None:
    """A call that another thread's calls fall into starts at one line and ends at another."""
    found = trace(
        tmp_path,
        OPENED,
        '1 pwrite64(3<|/w/a|>, "|new|", 3, 512 <unfinished ...>',
        "2 fdatasync(3<|/w/a|> <unfinished ...>",
        "1 <... pwrite64 resumed>) = 3",
        "2 <... fdatasync resumed>) = 0",
        "1 fsync(4<|/w|>) = 0",
    )

    assert found == [Naming(0, 0, (("a", 1),)), Write(1, 3, 1, 512, b"new"), Sync(2, 4, 1), Sync(5, 5, FOLDER)]


def test_a_trace_knows_short_writes_appends_failures_and_lost_names(tmp_path: Path) -> None:
    """What counts is what the call says it did, to a file that still has a name."""
    found = trace(
        tmp_path,
        OPENED.replace("O_CREAT", "O_CREAT,O_APPEND"),
        '1 write(3<|/w/a|>, "|four|", 4) = 2',
        '1 write(3<|/w/a|>, "|more|", 4) = -1 ENOSPC (No space left on device)',
        '1 write(3<|/w/a|>, "|!|", 1) = 1',
        "1 ftruncate(3<|/w/a|>, 1) = 0",
        '1 rename("|/w/a|", "|/w/b|") = 0',
        '1 unlink("|/w/b|") = 0',
        '1 write(3<|/w/b|>(deleted), "|gone|", 4) = 4',
        '1 pwrite64(5<|/w/a-shm|>, "|x|", 1, 0) = 1',
        '1 pwrite64(6<|/elsewhere|>, "|/w/a|", 4, 0) = 4',
    )

    assert found == [
        Naming(0, 0, (("a", 1),)),
        Write(1, 1, 1, 0, b"fo"),
        Write(3, 3, 1, 2, b"!"),
        Resize(4, 4, 1, 1),
        Naming(5, 5, (("a", None), ("b", 1))),
        Naming(6, 6, (("b", None),)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        '1 writev(3<|/w/a|>, [{iov_base="|x|", iov_len=1}], 1) = 1',
        "1 mmap(NULL, 4096, PROT_READ,PROT_WRITE, MAP_SHARED, 3<|/w/a|>, 0) = 0x7f",
        '1 write(3<|/w/a|>, "|no offset|", 9) = 9',
        '1 rename("|/w/a|", "|/elsewhere|") = 0',
        '1 mkdir("|/w/sub|", 0777) = 0',
    ],
)
def test_what_is_not_understood_is_said_aloud(tmp_path: Path, line: str) -> None:
    """A change that cannot be imagined half done must not be left out of a proof."""

    with pytest.raises(NotUnderstood, match="line 2"):
        trace(tmp_path, OPENED, line)


def test_a_machine_without_strace_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded, and nothing is left of the attempt."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    available.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="strace is not installed"):
            record(LIFE, tmp_path)
    finally:
        available.cache_clear()

    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the command


@traced
@pytest.mark.parametrize(("synchronous", "code"), [("FULL", 0), ("OFF", 1)])
def test_the_command_prints_a_table_and_exits_by_what_it_found(
    synchronous: str, code: int, capsys: pytest.CaptureFixture
) -> None:
    """0 where nothing is lost or broken, 1 where something is."""
    given = [LIFE, "--synchronous", synchronous, "--cuts", "10", "--recover-every", "10", "--repeatable", "notify"]

    ended = main(given)

    lines = capsys.readouterr().out.splitlines()
    assert ended == code, lines
    assert [line.split()[0] for line in lines[:4]] == ["synchronous", "writes", "syncs", "acknowledgements"]
    assert any(line.startswith("seed ") for line in lines) == bool(code)


@pytest.mark.parametrize(
    "given", [["lives"], ["lives:none"], ["nowhere:life"], [LIFE, "--cuts", "0"], [LIFE, "--synchronous", "MAYBE"]]
)
def test_the_command_refuses_bad_input_in_a_line(given: list[str], capsys: pytest.CaptureFixture) -> None:
    """Exit code 2, and no traceback."""
    with pytest.raises(SystemExit) as ended:
        main(given)

    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
