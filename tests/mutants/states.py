"""Bugs of what agents remember: states that come without their turn, turns without their state, states unread."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["STATES"]

_run = partial(Mutant, where="actors.run", tries=("tests/actors/test_state.py",), slow=True)
_state = partial(Mutant, where="actors.state", tries=("tests/actors/test_state.py",))

STATES: Final[tuple[Mutant, ...]] = (
    _run(
        name="a turn that fails leaves its state",
        edits=(
            (
                "        value = await self._agent.handle(self._node, handed)\n",
                (
                    "        try:\n            value = await self._agent.handle(self._node, handed)\n"
                    "        finally:\n            if self._state is not None:\n                self._state.close()\n"
                ),
            ),
            (
                "                return end(turn.row, EdgeKind.TURN_FAILED, encode_failure(self._failure(error)), now)",
                (
                    "                change = end(turn.row, EdgeKind.TURN_FAILED, encode_failure(self._failure(error)), now)\n"
                    "                change.records.extend(self._state.records(change.row, now) if self._state else ())\n"
                    "                return change"
                ),
            ),
        ),
    ),
    _run(
        name="the next run of a turn begins with what the last one did to the state",
        edits=(
            ("_RAISED = frozenset(", "_STATES: dict = {}\n_RAISED = frozenset("),
            (
                "            self._state = RunState(self._agent.state, row, bytes_max)\n",
                (
                    "            fresh = RunState(self._agent.state, row, bytes_max)\n"
                    "            self._state = _STATES.setdefault((self._node, turn.row.turn_id), fresh)\n"
                ),
            ),
        ),
    ),
    _run(
        name="a state has a commit of its own behind its turn's",
        edits=(
            (
                "                change.records.extend(self._state.records(change.row, now))\n",
                (
                    "                left = self._state.records(change.row, now)\n"
                    "                self._node.loop.call_later(0.001, self._node.persistence.submit, left, lambda _: None)\n"
                ),
            ),
        ),
    ),
    _state(
        name="a state is committed that its agent cannot read",
        found_by="test_a_turn_that_is_handed_over_leaves_its_state_with_the_answer_of_who_took_it",
        edits=(
            (
                "        return body, decode(body, self.name, self._decoder)",
                "        return body, value",
            ),
        ),
    ),
    _state(
        name="a state that was stored under another version is read as it is",
        tries=("tests/actors/test_state_versions.py",),
        found_by="test_a_state_of_another_version_is_brought_forward",
        edits=(("        if row.version == self.version:\n", "        if row.version <= self.version:\n"),),
    ),
    _state(
        name="a first state that nobody changed is made anew by every turn",
        found_by="test_what_a_turn_does_not_change_is_not_written",
        edits=(
            (
                "        if self._body is None or (before is not None",
                "        if self._body in {None, self._declared.fit(self._declared.first(), 1 << 20)[0]} or (before is not None",
            ),
        ),
    ),
    Mutant(
        name="nobody looks into states",
        where="kernel.history",
        tries=("tests/actors/test_state_versions.py",),
        edits=(("    yield from _check_state(rows, session.actor_id, where)\n", ""),),
        slow=True,
    ),
)
