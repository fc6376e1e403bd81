"""Notes: a verb with its event, an end with its kind, texts and paths that can be stored."""

from itertools import product

import pytest

from turnkeeper.kernel.errors import InvalidName, VerbRefused
from turnkeeper.kernel.supervision.child import Exit
from turnkeeper.kernel.supervision.desired import TRANSITIONS, Desired, Verb
from turnkeeper.kernel.supervision.noted import (
    DETAIL_BYTES_MAX,
    PATH_BYTES_MAX,
    SAID,
    TEXT_BYTES_MAX,
    VERB_KINDS,
    ChildEvent,
    ChildEventKind,
    Note,
    check_path,
    decode_note,
    digest_of_desired,
    digest_of_event,
    note_of_exit,
    noted,
    verb_noted,
)


@pytest.mark.parametrize(("desired", "verb"), list(product(Desired, Verb)))
def test_what_is_noted_of_a_verb_is_what_the_table_says(desired: Desired, verb: Verb) -> None:
    """One row and one event, of one path and one time; a verb that means nothing leaves neither."""
    if (desired, verb) not in TRANSITIONS:
        with pytest.raises(VerbRefused):
            verb_noted("agents/a", desired, verb, at=1.0, boot_id=3)
        return
    after, (row, event) = verb_noted("agents/a", desired, verb, Note("why", by="ann"), at=1, boot_id=3)

    assert after == row.desired == TRANSITIONS[desired, verb] == SAID[verb][1]
    assert (row.path, row.reason, row.at, row.changed_by) == ("agents/a", "why", 1.0, "ann")
    assert (event.path, event.kind, event.incarnation, event.at, event.boot_id) == (
        "agents/a",
        SAID[verb][0],
        0,
        1.0,
        3,
    )
    assert (row.digest, event.digest) == (digest_of_desired(row), digest_of_event(event))
    assert type(row.desired) is type(event.kind) is str


def test_every_verb_has_a_kind_of_its_own() -> None:
    """So that the last of them says what is wanted."""

    assert SAID.keys() == set(Verb)
    assert len(VERB_KINDS) == len(Verb)


@pytest.mark.parametrize("kind", ChildEventKind)
def test_a_verb_is_not_noted_without_what_is_wanted(kind: ChildEventKind) -> None:
    """All other kinds are noted by themselves."""
    if kind in VERB_KINDS:
        with pytest.raises(ValueError, match="verb_noted"):
            noted("agents/a", kind, at=1.0, boot_id=1)
    else:
        assert noted("agents/a", kind, at=1.0, boot_id=1).kind == kind


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        (Exit("normal", normal=True), ChildEventKind.EXITED),
        (Exit("exited", normal=True, code=0), ChildEventKind.EXITED),
        (Exit("crashed", normal=False, error="ValueError"), ChildEventKind.CRASHED),
        (Exit("killed", normal=False, signal=9), ChildEventKind.CRASHED),
        (Exit("silent", normal=False), ChildEventKind.DIED),
    ],
)
def test_an_end_is_noted_by_its_kind_with_all_that_is_known_of_it(ended: Exit, kind: ChildEventKind) -> None:
    """Its reason, its error, its exit code and its signal; an event that is read says the same."""
    found, note = note_of_exit(ended)
    stored = noted("tree/a", found, note, at=1.0, boot_id=1)
    event = ChildEvent(1, 1.0, 1, "tree/a", found, 0, stored.detail, stored.digest)

    assert found is kind
    assert event.note == note
    assert (note.reason, note.error, note.code, note.signal) == (ended.reason, ended.error, ended.code, ended.signal)


@pytest.mark.parametrize("path", ["", "\ud800", "x" * (PATH_BYTES_MAX + 1), "\u00e9" * (PATH_BYTES_MAX // 2) + "x"])
def test_a_path_that_could_not_be_stored_is_refused(path: str) -> None:
    """Before anything is submitted with it."""
    for refused in (
        lambda: check_path(path),
        lambda: noted(path, ChildEventKind.DIED, at=1.0, boot_id=1),
        lambda: verb_noted(path, Desired.RUNNING, Verb.STOP, at=1.0, boot_id=1),
    ):
        with pytest.raises(InvalidName):
            refused()


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u20ac", "\U0001f9ea", "\ud800"])
@pytest.mark.parametrize("size", [0, TEXT_BYTES_MAX // 4, TEXT_BYTES_MAX, 100_000])
def test_a_text_is_cut_between_its_letters(letter: str, size: int) -> None:
    """As much of it as fits, and the whole note with it."""
    text = letter * size
    record = noted("a", ChildEventKind.DIED, Note(text, text, 1, 1, 1, 1.0, 1, text), at=1.0, boot_id=1)
    note = decode_note(ChildEvent(1, 1.0, 1, "a", ChildEventKind.DIED, 0, record.detail, record.digest))
    stored = text.encode(errors="replace").decode()

    assert note.reason == note.error == note.by
    assert stored.startswith(note.reason)
    assert note.reason == stored or TEXT_BYTES_MAX - 4 < len(note.reason.encode()) <= TEXT_BYTES_MAX
    assert len(record.detail) <= DETAIL_BYTES_MAX
