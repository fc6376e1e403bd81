"""The table of participants: who holds a name, what a word comes to, and how a silence ends."""

from itertools import product

import pytest

from turnkeeper.kernel.errors import InvalidName, NotJoined, StaleConnection
from turnkeeper.kernel.supervision.liveness import Health, Limits, Pulse
from turnkeeper.kernel.supervision.noted import ChildEventKind
from turnkeeper.kernel.supervision.participant import (
    MEANINGS,
    REMEMBERED_S,
    REPLACED_MAX,
    Meaning,
    Participant,
    Said,
    Speaker,
    Standing,
    Word,
    heard,
    meaning,
)

LIMITS = Limits(silent_s=60.0, grace_s=30.0)
SPEAKERS = {Speaker.HOLDER: "second", Speaker.REPLACED: "first", Speaker.OTHER: "third"}


def said(word: Word, connection_id: str = "second", **more: object) -> Said:
    return Said(word=word, name="scout", connection_id=connection_id, **more)


def held(health: Health = Health.ALIVE, *, left: bool = False) -> Participant:
    """A name that a second connection took from a first at 100 s."""
    return Participant(
        name="scout",
        incarnation=2,
        connection_id="second",
        role="scouts",
        pulse=Pulse(2, 100.0, 90.0, health),
        due_at=160.0,
        left=left,
        replaced=("first",),
    )


STANDINGS = {
    "alive": held(),
    "suspect": held(Health.SUSPECT),
    "dead": held(Health.DEAD),
    "left": held(left=True),
    "left while suspect": held(Health.SUSPECT, left=True),
}


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(("before", "speaker", "word"), list(product(STANDINGS, Speaker, Word)))
def test_every_word_of_every_speaker_comes_to_what_the_table_says(before: str, speaker: Speaker, word: Word) -> None:
    """What the table has not is refused: as stale while the name is held, else as of one who is not here."""
    name = STANDINGS[before]
    standing = Standing.HELD if before in {"alive", "suspect"} else Standing.FREE
    assert (name.standing, name.speaker(SPEAKERS[speaker])) == (standing, speaker)

    expected = MEANINGS.get((standing, speaker, word))
    if expected is None:
        with pytest.raises(StaleConnection if standing is Standing.HELD else NotJoined):
            heard(said(word, SPEAKERS[speaker]), name, LIMITS, 120.0, 3)
    else:
        assert meaning(said(word, SPEAKERS[speaker]), name) is expected


def test_the_table_gives_a_held_name_to_its_holder_and_to_newcomers_who_join() -> None:
    """All that there is in it of a held name, and nothing of a connection that has lost it."""
    rows = {(speaker, word): after for (standing, speaker, word), after in MEANINGS.items() if standing == "held"}

    assert rows == {
        (Speaker.HOLDER, Word.JOIN): Meaning.BEAT,
        (Speaker.HOLDER, Word.BEAT): Meaning.BEAT,
        (Speaker.HOLDER, Word.LEAVE): Meaning.LEAVE,
        (Speaker.OTHER, Word.JOIN): Meaning.TAKE_OVER,
    }


def test_under_a_name_that_nobody_knows_a_join_is_all_that_means_something() -> None:
    """The others are told to join."""
    joined, event = heard(said(Word.JOIN, role="scouts"), None, LIMITS, 100.0, 7)

    assert (event, joined.incarnation, joined.connection_id, joined.role) == ("joined", 7, "second", "scouts")
    assert (joined.pulse, joined.due_at, joined.replaced) == (Pulse(7, 100.0, 100.0), 160.0, ())
    for word in (Word.BEAT, Word.LEAVE):
        with pytest.raises(NotJoined, match=r"'scout' is not here: .* join again"):
            heard(said(word), None, LIMITS, 100.0, 7)


def test_a_beat_moves_what_is_due_and_brings_back_a_suspect() -> None:
    """The same incarnation; progress only where it says so; joining again is a beat, and its role stays."""
    beaten, event = heard(said(Word.BEAT), held(), LIMITS, 120.0, 3)
    moved, _ = heard(said(Word.BEAT, progress=True), held(), LIMITS, 120.0, 3)
    again, back = heard(said(Word.JOIN, role="other"), held(Health.SUSPECT), LIMITS, 170.0, 3)

    assert (event, back) == (None, ChildEventKind.RECOVERED)
    assert (beaten.pulse, beaten.due_at) == (Pulse(2, 120.0, 90.0), 180.0)
    assert moved.pulse == Pulse(2, 120.0, 120.0)
    assert (again.pulse, again.due_at, again.role) == (Pulse(2, 170.0, 90.0), 230.0, "scouts")


@pytest.mark.parametrize("health", [Health.ALIVE, Health.SUSPECT])
def test_a_takeover_is_a_new_incarnation_that_remembers_from_whom_it_took(health: Health) -> None:
    """The newer connection starts alive, whatever was thought of the older."""
    taken, event = heard(said(Word.JOIN, "third", role="new"), held(health), LIMITS, 120.0, 3)

    assert event is ChildEventKind.TAKEN_OVER
    assert (taken.incarnation, taken.connection_id, taken.role) == (3, "third", "new")
    assert (taken.pulse, taken.due_at) == (Pulse(3, 120.0, 120.0), 180.0)
    assert taken.replaced == ("first", "second")


def test_only_so_many_connections_are_remembered() -> None:
    """The latest."""
    name = held()
    for number in range(100):
        name, _ = heard(said(Word.JOIN, f"c{number}"), name, LIMITS, 120.0, number)

    assert name.replaced == tuple(f"c{number}" for number in range(99 - REPLACED_MAX, 99))


def test_leaving_frees_the_name_and_a_later_join_begins_anew() -> None:
    """Also by a connection that the name was taken from: nobody holds it now. What it was taken from is forgotten."""
    left, event = heard(said(Word.LEAVE), held(), LIMITS, 120.0, 3)
    again, nothing = heard(said(Word.LEAVE), left, LIMITS, 130.0, 3)
    joined, anew = heard(said(Word.JOIN, "first"), left, LIMITS, 130.0, 3)

    assert (event, nothing, anew) == (ChildEventKind.LEFT, None, ChildEventKind.JOINED)
    assert (left.standing, left.due_at) == (Standing.FREE, 120.0 + REMEMBERED_S)
    assert again is left
    assert (joined.incarnation, joined.replaced, joined.left) == (3, (), False)


# ---------------------------------------------------------------- silence


def test_silence_makes_it_suspect_and_then_dead() -> None:
    suspect, first = held().looked_at(LIMITS, 160.0)
    dead, second = suspect.looked_at(LIMITS, 190.0)

    assert (first, second) == (ChildEventKind.SUSPECTED, ChildEventKind.DIED)
    assert (suspect.suspect, suspect.standing, suspect.due_at) == (True, Standing.HELD, 190.0)
    assert (dead.suspect, dead.standing, dead.due_at) == (False, Standing.FREE, 190.0 + REMEMBERED_S)


def test_who_is_looked_at_late_has_the_whole_grace_from_then() -> None:
    """The looker stood still himself, with everybody's beats waiting to be heard."""
    suspect, event = held().looked_at(LIMITS, 10_000.0)

    assert event is ChildEventKind.SUSPECTED
    assert suspect.due_at == 10_030.0


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["", "a/b", "/", "x" * 513, "a\0b", "\ud800", 7, None])
def test_what_cannot_be_a_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidName, match="the participant's name"):
        Said(word=Word.JOIN, name=name, connection_id="c")


@pytest.mark.parametrize("wrong", ["", "x" * 513, "a\0b", "\ud800", 7])
def test_what_cannot_be_a_connection_id_or_a_role_is_refused(wrong: object) -> None:
    """But for the empty role, which is none."""
    with pytest.raises(InvalidName, match="connection_id"):
        Said(word=Word.BEAT, name="scout", connection_id=wrong)
    if wrong != "":
        with pytest.raises(InvalidName, match="role"):
            Said(word=Word.JOIN, name="scout", connection_id="c", role=wrong)


@pytest.mark.parametrize("name", ["x" * 512, "🦉" * 512, "ü\n", " ", "..", "a:b", "\x1b[31m"])
def test_odd_names_that_can_be_kept_are_taken(name: str) -> None:
    """The log and the command line escape what would steer a terminal."""
    assert Said(word=Word.JOIN, name=name, connection_id=name).name == name
