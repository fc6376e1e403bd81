"""Bugs of the writer: what is told to whom and when, and what a failing disk leaves. Some are SQLite's own."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["WRITING"]

_persistence = partial(Mutant, where="actors.persistence")
_batch = partial(Mutant, where="actors.store.batch", tries=("conformance",))

_sql = partial(Mutant, where="actors.store.sql", tries=("conformance",))
_stood = partial(Mutant, where="kernel.stood", tries=("tests/actors/test_store_waiting.py",))

_READ = '.read_text(encoding="utf-8")\n'
_FAILED = (
    "            self._failing = error.reason\n"
    "            self._waiting.extendleft(reversed(batch))\n"
    "            self._fail_waiting(error)\n"
)

WRITING: Final[tuple[Mutant, ...]] = (
    _persistence(
        name="listeners of a batch are told in the opposite order",
        found_by="test_one_batch_holds_everything_that_waits",
        tries=("tests/actors/test_persistence.py",),
        edits=(("in enumerate(batch):\n            try:", "in reversed(list(enumerate(batch))):\n            try:"),),
    ),
    _persistence(
        name="a batch that failed tells only the first",
        edits=((_FAILED, "            self._failing = error.reason\n            batch[0][1](error)\n"),),
        point="14: lost without a word",
    ),
    _persistence(
        name="what was submitted while a batch failed is written all the same",
        edits=(
            (
                _FAILED,
                (
                    "            self._failing = error.reason\n"
                    "            self._tell(batch, dict.fromkeys(range(len(batch)), error))\n"
                ),
            ),
        ),
        point="11: later steps stand where earlier ones do not",
    ),
    _persistence(
        name="a batch that failed is tried again behind what came later",
        edits=((_FAILED, "            self._failing = error.reason\n            self._waiting.extend(batch)\n"),),
        point="11: later steps stand where earlier ones do not",
    ),
    _persistence(
        name="points that were refused are told that they stand",
        edits=(("told(rejected.get(number) if rejected else None)", "told(None)"),),
        point="7: acknowledged and not stored",
    ),
    _persistence(
        name="a batch is told that it stands before it is written",
        edits=(
            (
                "        try:\n            rejected = await self._store.apply(",
                (
                    "        self._tell(batch, {})\n        batch = [(records, settle(self._loop.create_future())) for records, _ in batch]\n"
                    "        try:\n            rejected = await self._store.apply("
                ),
            ),
        ),
        point="8: acknowledged, then lost in a crash",
    ),
    _persistence(
        name="a wakeup is lost between looking for work and waiting for it",
        edits=(
            (
                "                self._wake = self._loop.create_future()\n",
                "                await asyncio.sleep(0)\n                self._wake = self._loop.create_future()\n",
            ),
        ),
    ),
    _persistence(
        name="closing does not write what was submitted before",
        edits=(
            (
                (
                    "            if not self._waiting:\n                if self._closing:\n"
                    "                    self.stop(ShuttingDown())\n                    return\n"
                ),
                (
                    "            if self._closing:\n                self.stop(ShuttingDown())\n                return\n"
                    "            if not self._waiting:\n"
                ),
            ),
        ),
    ),
    _batch(
        name="SQLite: a guard that says no is not heard",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(("of_kind).rowcount != len(of_kind):", "of_kind).rowcount > len(of_kind):"),),
        point="12: a zombie owner's write counts",
    ),
    _batch(
        name="SQLite: half of a refused point stands",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(('                self.execute("ROLLBACK TO point")\n', ""),),
        point="8: half a commit",
    ),
    _batch(
        name="SQLite: points behind a refused one are told that they stand, and do not",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(
            (
                '                self.execute("ROLLBACK TO point")\n            self.execute("RELEASE point")',
                (
                    '                self.execute("ROLLBACK TO point")\n                break\n'
                    '            self.execute("RELEASE point")'
                ),
            ),
        ),
        point="7: acknowledged and not stored",
    ),
    _batch(
        name="SQLite: refused points are counted from one",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(
            (
                "in enumerate(points):\n            self.execute",
                "in enumerate(points, start=1):\n            self.execute",
            ),
        ),
    ),
    _batch(
        name="SQLite: what a taken key means is not told from a failing disk",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(
            (
                "        case records.ReceiptAccepted(key=key) | records.SignalSent(key=key):",
                "        case records.SignalSent(key=key):",
            ),
        ),
        point="7: a redelivery is refused",
    ),
    _batch(
        name="SQLite: of what is said of one child in a batch, the first word counts",
        found_by="test_the_last_word_counts_in_the_order_of_commits",
        edits=(
            (
                "self.executemany(statements[kind], of_kind)",
                "self.executemany(statements[kind], of_kind[::-1] if kind is records.DesiredSet else of_kind)",
            ),
        ),
    ),
    Mutant(
        name="what is wanted after a verb is what was wanted before it",
        found_by="test_a_verb_and_its_event_stand_together",
        where="kernel.supervision.noted",
        tries=("conformance",),
        edits=(("    after = desired_after(desired, verb)\n", "    after = desired\n"),),
    ),
    Mutant(
        name="an event of supervision that is gone is not missed",
        found_by="test_what_was_changed_behind_its_back_is_found",
        where="kernel.supervision.kept",
        tries=("tests/actors/test_store_noted.py",),
        edits=(("        if number > expected:\n", "        if number > expected + 1:\n"),),
    ),
    _sql(
        name="SQLite: the events of a crash loop are never let go",
        found_by="test_of_a_child_that_falls_again_and_again_the_newest_events_are_kept",
        edits=((_READ, '.read_text(encoding="utf-8").replace("OFFSET 200", "OFFSET 200000")\n'),),
    ),
    _sql(
        name="SQLite: waits stay when their turn is suspended no more",
        found_by="test_waits_go_when_their_turn_is_suspended_no_more",
        edits=(
            (
                _READ,
                '.read_text(encoding="utf-8").replace("DELETE FROM waits WHERE", "DELETE FROM waits WHERE 0 AND")\n',
            ),
        ),
    ),
    _sql(
        name="SQLite: a turn goes that a suspended one waits for",
        found_by="test_a_turn_that_a_suspended_one_waits_for_is_not_pruned",
        edits=(
            (
                _READ,
                (
                    '.read_text(encoding="utf-8").replace("w WHERE w.child_id = t.turn_id", "w WHERE 0")'
                    '.replace(" AND NOT EXISTS (SELECT 1 FROM waits WHERE child_id = ?1)", "")\n'
                ),
            ),
        ),
    ),
    _sql(
        name="SQLite: a turn goes whose joined message has a key that answers",
        found_by="test_what_joined_a_turn_goes_with_it_and_keeps_it_while_its_key_answers",
        edits=((_READ, '.read_text(encoding="utf-8").replace("j.expires_at > ?2", "0")\n'),),
    ),
    _sql(
        name="SQLite: a signal is taken as often as somebody asks for it",
        found_by="test_one_guilty_point_fails_alone_and_is_told_why",
        edits=(
            (_READ, '.read_text(encoding="utf-8").replace("signal_id = ? AND taken_by IS NULL", "signal_id = ?")\n'),
        ),
    ),
    _sql(
        name="SQLite: of turns that are due at one moment a page's last hides the others",
        found_by="test_pages_of_due_turns_neither_skip_nor_repeat",
        edits=(
            (
                _READ,
                '.read_text(encoding="utf-8").replace("(t.due_at, t.turn_id) > (?1, ?2)", "t.due_at > ?1 + 0 * ?2")\n',
            ),
        ),
    ),
    _stood(
        name="a turn that does not stand on what it asked for is found sound",
        found_by="test_what_was_changed_behind_its_back_is_found",
        edits=(("        if one not in stands:\n", "        if not stands:\n"),),
    ),
    _stood(
        name="a doubt that a turn does not stand on is found sound",
        found_by="test_what_was_changed_behind_its_back_is_found",
        edits=(("    if len(doubts) != (doubted is not None):\n", "    if len(doubts) > (doubted is not None):\n"),),
    ),
    Mutant(
        name="in memory: the events of a crash loop are never let go",
        found_by="test_of_a_child_that_falls_again_and_again_the_newest_events_are_kept",
        where="testing.memory.transaction",
        tries=("tests/testing/test_conformance.py",),
        edits=(("        if len(of_path) > noted.EVENTS_PER_PATH_MAX:\n", "        if len(of_path) < 0:\n"),),
    ),
)
