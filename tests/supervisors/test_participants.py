"""Participants: they join, beat and leave; one connection holds a name; silence is suspected first, and told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from callers import ask, opened
from looking import Said, rows, until

from turnkeeper import Runtime, Settings
from turnkeeper.kernel.errors import (
    DoorRefused,
    InvalidName,
    NotJoined,
    ShuttingDown,
    StaleConnection,
    TooManyParticipants,
)
from turnkeeper.kernel.supervision.child import ChildSpec
from turnkeeper.kernel.supervision.liveness import Limits
from turnkeeper.kernel.supervision.noted import ChildEventKind, Note
from turnkeeper.kernel.supervision.participant import REMEMBERED_S
from turnkeeper.supervisors.chronicle import Recorded, Unrecorded
from turnkeeper.supervisors.participant_verbs import participant_verbs
from turnkeeper.supervisors.participants import Participants
from turnkeeper.supervisors.supervisor import Supervisor

LIMITS = Limits(silent_s=60.0, grace_s=30.0)


class Noted(Unrecorded):
    """A chronicle in the test's hand."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, ChildEventKind, int, Note]] = []

    def noted(self, path: str, kind: ChildEventKind, incarnation: int, note: Note) -> None:
        self.notes.append((path, kind, incarnation, note))

    @property
    def story(self) -> list[str]:
        return [f"{path.rpartition('/')[2]} {kind} {incarnation}" for path, kind, incarnation, _ in self.notes]


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def participants(noted: Noted) -> Iterator[Participants]:
    """Those of a test, not yet started; nothing of them is left in the end."""
    participants = Participants(LIMITS)
    participants.adopt("participants", noted)
    yield participants
    participants.stop(0.0)


def started(participants: Participants) -> Participants:
    participants.start(lambda _: None)
    return participants


def health(participants: Participants) -> dict[str, str]:
    """Return who is here, and what is thought of each."""
    children = participants.view(children_max=1_000_000).children
    return {child.name: child.look.health for child in children if child.state == "running"}


def gone(participants: Participants) -> dict[str, str]:
    """Return who is not here any more, and why."""
    children = participants.view(children_max=1_000_000).children
    return {child.name: child.why for child in children if child.state == "idle"}


# ---------------------------------------------------------------- joining, beating, leaving


async def test_a_participant_joins_beats_and_leaves(participants: Participants, noted: Noted) -> None:
    """Joining again by the same connection is a beat; leaving again changes nothing."""
    started(participants)
    joined = participants.join("scout", "c1", role="scouts ahead")
    again = participants.join("scout", "c1")
    beaten = participants.beat("scout", "c1", progress=True)
    assert (joined.name, joined.incarnation, joined.connection_id, joined.role) == ("scout", 1, "c1", "scouts ahead")
    assert (again.incarnation, again.role, beaten.incarnation) == (1, "scouts ahead", 1)
    assert health(participants) == {"scout": "alive"}
    participants.leave("scout", "c1")
    participants.leave("scout", "c1")

    assert (health(participants), gone(participants)) == ({}, {"scout": "left"})
    assert noted.story == ["scout joined 1", "scout left 1"]
    assert noted.notes[0][3].reason == "connection c1"


async def test_who_has_not_joined_is_told_to(participants: Participants) -> None:
    """Before it has, and after it has left."""
    started(participants)
    for word in (participants.beat, participants.leave):
        with pytest.raises(NotJoined):
            word("scout", "c1")
    participants.join("scout", "c1")
    participants.leave("scout", "c1")

    with pytest.raises(NotJoined, match="join again"):
        participants.beat("scout", "c1")
    with pytest.raises(NotJoined):
        participants.leave("scout", "another")
    assert participants.join("scout", "c1").incarnation == 2


async def test_a_newer_connection_takes_a_name_over_and_the_older_one_is_refused(
    participants: Participants, noted: Noted
) -> None:
    """In all that it says; it changes nothing, not even when the newer one is next looked at."""
    started(participants)
    participants.join("scout", "old")
    taken = participants.join("scout", "new")
    for word in (participants.beat, participants.leave, participants.join):
        with pytest.raises(StaleConnection, match="connection 'old' does not speak for 'scout'"):
            word("scout", "old")

    assert (taken.incarnation, participants.beat("scout", "new").incarnation) == (2, 2)
    assert noted.story == ["scout joined 1", "scout taken_over 2"]


async def test_two_connections_that_fight_for_a_name_a_thousand_times_leave_it_to_the_newer(
    participants: Participants, noted: Noted
) -> None:
    """The older one's joins take nothing back; it has the name again once it is free."""
    started(participants)
    participants.join("scout", "old")
    participants.join("scout", "new")
    for _ in range(1_000):
        with pytest.raises(StaleConnection):
            participants.join("scout", "old")
        participants.join("scout", "new")
    participants.leave("scout", "new")

    assert participants.join("scout", "old").incarnation == 3
    assert noted.story == ["scout joined 1", "scout taken_over 2", "scout left 2", "scout joined 3"]


async def test_a_thousand_fresh_connections_take_over_one_after_another(participants: Participants) -> None:
    """Each has a number of its own, and what is remembered of the others is bounded."""
    started(participants)
    taken = [participants.join("scout", f"c{number}") for number in range(1_000)]

    assert [one.incarnation for one in taken] == list(range(1, 1_001))
    assert len(taken[-1].replaced) == 8
    assert len(participants.view().children) == 1


@pytest.mark.parametrize("name", ["", "a/b", "x" * 513, "a\0b", "\ud800"])
async def test_what_cannot_be_a_name_is_refused_and_nothing_is_kept_of_it(
    participants: Participants, noted: Noted, name: str
) -> None:
    started(participants)
    for word in (participants.join, participants.beat, participants.leave):
        with pytest.raises(InvalidName):
            word(name, "c1")

    assert (participants.view().children, noted.notes) == ([], [])


@pytest.mark.parametrize("name", ["🦉" * 512, "ü\n\x1b[31m", "{braces}", "%s"])
async def test_a_name_with_odd_characters_is_kept_as_it_is(participants: Participants, noted: Noted, name: str) -> None:
    started(participants)
    participants.join(name, name, role=name)

    assert health(participants) == {name: "alive"}
    assert noted.notes[0][0] == f"participants/{name}"


@pytest.mark.parametrize("limits", [Limits(silent_s=0.0, grace_s=1.0), Limits(silent_s=1.0, grace_s=float("nan"))])
def test_limits_that_nothing_could_keep_are_refused(limits: Limits) -> None:
    """By the name of the limit."""
    with pytest.raises(ValueError, match="must be positive and finite"):
        Participants(limits)


# ---------------------------------------------------------------- silence


async def test_silence_makes_suspect_then_gone_and_the_gone_must_join_again(
    participants: Participants, noted: Noted, virtual_clock: Any
) -> None:
    """After `silent_s`, and `grace_s` after that."""
    started(participants).join("scout", "c1")
    await asyncio.sleep(59.9)
    assert health(participants) == {"scout": "alive"}
    await asyncio.sleep(0.2)
    assert health(participants) == {"scout": "suspect"}
    await asyncio.sleep(29.8)
    assert health(participants) == {"scout": "suspect"}
    await asyncio.sleep(0.2)
    assert (health(participants), gone(participants)) == ({}, {"scout": "silent"})
    with pytest.raises(NotJoined, match="silent for too long; join again"):
        participants.beat("scout", "c1")
    participants.leave("scout", "c1")  # it is gone already

    assert participants.join("scout", "c1").incarnation == 2
    assert noted.story == ["scout joined 1", "scout suspected 1", "scout died 1", "scout joined 2"]
    assert [note.reason for *_, note in noted.notes[1:3]] == ["silent for 60 s", "silent for 90 s"]


async def test_a_beat_while_suspect_brings_it_back_with_all_its_time(
    participants: Participants, noted: Noted, virtual_clock: Any
) -> None:
    """The same incarnation."""
    started(participants).join("scout", "c1")
    await asyncio.sleep(89.9)
    participants.beat("scout", "c1")
    await asyncio.sleep(59.9)
    assert health(participants) == {"scout": "alive"}
    await asyncio.sleep(0.2)

    assert health(participants) == {"scout": "suspect"}
    assert noted.story == ["scout joined 1", "scout suspected 1", "scout recovered 1", "scout suspected 1"]


async def test_the_beats_of_one_that_lost_its_name_do_not_keep_the_newer_alive(
    participants: Participants, virtual_clock: Any
) -> None:
    started(participants)
    participants.join("scout", "old")
    participants.join("scout", "new")
    for _ in range(10):
        await asyncio.sleep(10.0)
        with pytest.raises((StaleConnection, NotJoined)):
            participants.beat("scout", "old")

    assert gone(participants) == {"scout": "silent"}


async def test_a_suspect_can_be_taken_over_or_leave(
    participants: Participants, noted: Noted, virtual_clock: Any
) -> None:
    """It is not reported as gone then."""
    started(participants)
    participants.join("one", "c1")
    participants.join("other", "c1")
    await asyncio.sleep(61.0)
    participants.join("one", "c2")
    participants.leave("other", "c1")
    await asyncio.sleep(50.0)

    assert (health(participants), gone(participants)) == ({"one": "alive"}, {"other": "left"})
    assert "died" not in " ".join(noted.story)


async def test_a_runtime_that_stood_still_gives_each_of_ten_thousand_the_whole_grace(
    participants: Participants, noted: Noted, virtual_clock: Any
) -> None:
    """Silences of many hours, by its own clock: suspect first; whoever beats within the grace stays."""
    started(participants)
    loop = asyncio.get_running_loop()
    for number in range(10_000):
        participants.join(f"p{number}", "c")
    loop._now_s += 36_000.0  # nothing of this process ran meanwhile
    await asyncio.sleep(29.0)
    assert set(health(participants).values()) == {"suspect"}
    for number in range(5_000):
        participants.beat(f"p{number}", "c")
    await asyncio.sleep(2.0)

    assert (len(health(participants)), len(gone(participants))) == (5_000, 5_000)
    assert len(noted.notes) == 30_000


async def test_many_silences_at_once_let_others_go_on_in_between(
    participants: Participants, virtual_clock: Any
) -> None:
    """Each is logged and noted, which takes its time."""
    started(participants)
    for number in range(1_000):
        participants.join(f"p{number}", "c")
    await asyncio.sleep(60.0)
    seen = {0}
    while max(seen) < 1_000:
        await checkpoint()
        seen.add(list(health(participants).values()).count("suspect"))

    assert len(seen) > 3
    assert all(number % 100 == 0 for number in seen)


# ---------------------------------------------------------------- what it costs


async def test_there_is_no_task_and_one_timer_however_many_there_are(
    participants: Participants, virtual_clock: Any
) -> None:
    """Their beats set none: it rings, and looks."""
    started(participants)
    loop = asyncio.get_running_loop()
    tasks, timers = len(asyncio.all_tasks()), len(loop._scheduled)
    for number in range(10_000):
        participants.join(f"p{number}", "c")
    for _ in range(3):
        await asyncio.sleep(20.0)
        for number in range(10_000):
            participants.beat(f"p{number}", "c")

    assert len(asyncio.all_tasks()) == tasks
    assert len(loop._scheduled) <= timers + 1
    assert set(health(participants).values()) == {"alive"}


async def test_one_more_than_may_be_is_refused_and_has_room_once_one_is_gone(noted: Noted) -> None:
    """A name that is here already needs no room, whoever joins under it."""
    participants = started(Participants(LIMITS, participants_max=2))
    participants.join("a", "c1")
    participants.join("b", "c1")
    with pytest.raises(TooManyParticipants, match="2 participants are here"):
        participants.join("c", "c1")
    participants.join("a", "c1")
    participants.join("b", "c2")
    participants.leave("a", "c1")

    assert participants.join("c", "c1").incarnation == 4
    participants.stop(0.0)


async def test_a_flood_of_names_leaves_a_bounded_memory(virtual_clock: Any) -> None:
    """Of those who are gone the latest are remembered, for an hour; a name that is forgotten is as new."""
    participants = started(Participants(LIMITS, participants_max=50))
    for number in range(10_000):
        participants.join(f"p{number}", "c")
        participants.leave(f"p{number}", "c")
    assert list(gone(participants)) == [f"p{number}" for number in range(9_999, 9_949, -1)]
    await asyncio.sleep(REMEMBERED_S + 1)

    assert participants.view().children == []
    assert asyncio.get_running_loop()._scheduled == []
    with pytest.raises(NotJoined):
        participants.leave("p9999", "c")
    assert participants.join("p9999", "c").incarnation == 10_001
    participants.stop(0.0)


# ---------------------------------------------------------------- as a child, and what is shown


async def test_stopped_it_forgets_all_and_started_anew_it_takes_them_in_again(
    participants: Participants, noted: Noted, virtual_clock: Any
) -> None:
    """Also a suspect: no timer is left, and nobody is said to have died. Numbers go on."""
    async with Supervisor([ChildSpec(name="participants", child=participants)]).running():
        participants.join("scout", "c1")
        await asyncio.sleep(61.0)
        assert health(participants) == {"scout": "suspect"}
    assert participants.view().state == "idle"
    for word in (participants.join, participants.beat, participants.leave):
        with pytest.raises(ShuttingDown):
            word("scout", "c1")
    await asyncio.sleep(1_000.0)
    assert noted.story == ["scout joined 1", "scout suspected 1", "participants ended 0"]
    started(participants)
    with pytest.raises(NotJoined):
        participants.beat("scout", "c1")

    assert participants.join("scout", "c1").incarnation == 2


async def test_before_it_is_started_nobody_joins(participants: Participants) -> None:
    with pytest.raises(ShuttingDown):
        participants.join("scout", "c1")
    participants.stop(0.0)


async def test_the_view_shows_suspects_first_and_the_gone_last(participants: Participants, virtual_clock: Any) -> None:
    """Of very many the first of them; how long since a beat, and since it got on."""
    started(participants)
    participants.join("silent", "c1")
    participants.join("left", "c1")
    await asyncio.sleep(30.0)
    participants.join("busy", "c1")
    await asyncio.sleep(31.0)
    participants.beat("busy", "c1")
    participants.leave("left", "c1")
    view = participants.view()

    assert (view.name, view.kind, view.state) == ("participants", "participants", "running")
    assert [(child.name, child.kind, child.state, child.incarnation, child.why) for child in view.children] == [
        ("silent", "participant", "running", 1, ""),
        ("busy", "participant", "running", 3, ""),
        ("left", "participant", "idle", 2, "left"),
    ]
    silent, busy, left = (child.look for child in view.children)
    assert (silent.health, silent.beat_age_s, silent.progress_age_s) == ("suspect", 61.0, 61.0)
    assert (busy.health, busy.beat_age_s, busy.progress_age_s) == ("alive", 0.0, 31.0)
    assert left.health is None
    assert [child.name for child in participants.view(children_max=1).children] == ["silent"]


async def test_what_happens_is_logged_trouble_as_warnings(
    participants: Participants, virtual_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said()
    monkeypatch.setattr(participants, "_log", said)
    started(participants).join("scout", "c1", role="r")
    participants.join("scout", "c2")
    await asyncio.sleep(61.0)
    participants.beat("scout", "c2")
    await asyncio.sleep(91.0)

    happened = ["joined", "taken_over", "suspected", "recovered", "suspected", "died"]
    assert said.events == [f"participant.{event}" for event in happened]
    assert said.of("participant.joined") == [
        {"path": "participants/scout", "incarnation": 1, "role": "r", "why": "connection c1"}
    ]


# ---------------------------------------------------------------- in a store, and at a door


async def test_what_happens_is_durable(path: Path) -> None:
    """In the store of a runtime, through its one writer."""
    participants = started(Participants(LIMITS))
    async with Runtime(path, [], settings=Settings(synchronous="OFF", shutdown_s=0.02)) as runtime:
        participants.adopt("participants", Recorded(runtime._open_node(), {}))
        participants.join("scout", "c1")
        participants.leave("scout", "c1")
        kept = "SELECT kind, incarnation FROM child_events WHERE path = 'participants/scout' ORDER BY event_id"
        await until(lambda: rows(path, kept) == [("joined", 1), ("left", 1)])
    participants.stop(0.0)


async def test_a_program_takes_part_through_the_door(path: Path, participants: Participants) -> None:
    """It is told how often to beat; a refusal has its error's name."""
    started(participants)
    async with opened(path, participant_verbs(participants)):
        joined = await ask(path, "join", name="scout", connection_id="c1", role="r")
        assert joined == {"name": "scout", "incarnation": 1, "silent_s": 60.0, "grace_s": 30.0}
        beaten = await ask(path, "beat", name="scout", connection_id="c1", progress=True)
        assert beaten == {"name": "scout", "incarnation": 1}
        with pytest.raises(DoorRefused, match="StaleConnection"):
            await ask(path, "beat", name="scout", connection_id="c2")
        assert await ask(path, "leave", name="scout", connection_id="c1") == {"name": "scout"}
        with pytest.raises(DoorRefused, match="NotJoined"):
            await ask(path, "beat", name="scout", connection_id="c1")


@pytest.mark.parametrize("verb", ["join", "beat", "leave"])
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "scout"},
        {"name": "scout", "connection_id": "c1", "color": "red"},
        {"name": 7, "connection_id": "c1"},
        {"name": "scout", "connection_id": None},
    ],
)
async def test_what_the_door_does_not_know_is_refused(
    path: Path, participants: Participants, verb: str, fields: dict[str, Any]
) -> None:
    started(participants)
    async with opened(path, participant_verbs(participants)):
        with pytest.raises(DoorRefused, match=f"ContractViolation: the request to {verb}"):
            await ask(path, verb, **fields)

    assert participants.view().children == []


async def test_a_name_that_is_too_long_is_refused_at_the_door_too(path: Path, participants: Participants) -> None:
    started(participants)
    async with opened(path, participant_verbs(participants)):
        with pytest.raises(DoorRefused, match="InvalidName"):
            await ask(path, "join", name="x" * 100_000, connection_id="c1")
