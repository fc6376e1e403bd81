"""Bugs of arrivals: messages that are lost, or come twice, where they find their actor at work."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["ARRIVALS"]

_arrivals = partial(Mutant, tries=("arrivals",))
_session = partial(_arrivals, where="actors.session")

ARRIVALS: Final[tuple[Mutant, ...]] = (
    _arrivals(
        name="what was steered to a turn is lost with its end",
        where="actors.turns",
        edits=(("*(self._part(turn) if ends and turn.joined else ())", ""),),
        point="7: a second message while busy was lost",
    ),
    Mutant(
        name="what was steered to a turn that has not run since a restart is lost with its end",
        found_by="test_what_nobody_took_outlives_a_restart_as_a_turn_of_its_own",
        where="actors.turns",
        edits=(("        if ends and turn.unread:\n", "        if False:\n"),),
        point="7: a second message while busy was lost",
        tries=("tests/supervisors/test_arriving.py",),
    ),
    _arrivals(
        name="what was taken before a restart is handed over again",
        where="actors.openturn",
        edits=(
            (
                "        self.taken, self.unread, self.forked = set(handed_of(edges)), 0, is_fork(edges)",
                "        self.taken, self.unread, self.forked = set(), 0, is_fork(edges)",
            ),
        ),
        slow=True,
    ),
    _arrivals(
        name="what is steered is handed over at each asking",
        where="actors.steering",
        edits=(("        self._turn.taken.update(receipt_id for receipt_id, _ in handed)\n", ""),),
    ),
    _session(
        name="a message is refused after it was accepted",
        edits=(
            ("            raise ActorBusy(str(self.address))\n", "            pass\n"),
            (
                "        conclude(done, Admitted(turn, turn.arrival, duplicate=False), error)\n",
                (
                    "        refused = ActorBusy(str(self.address)) if turn.arrival.arrived == 'refused' else None\n"
                    "        conclude(done, Admitted(turn, turn.arrival, duplicate=False), error or refused)\n"
                ),
            ),
        ),
        point="7: a message while busy was failed, and its redelivery acknowledged",
    ),
    _arrivals(
        name="a message is coalesced into a turn that has begun",
        where="actors.openturn",
        edits=(("        return self.row.epoch == 0 and not asked", "        return not asked"),),
    ),
    _arrivals(
        name="an actor leaves memory while what it was sent is being committed",
        found_by="test_an_actor_stays_in_memory_for_what_is_being_committed",
        where="actors.turns",
        edits=(("is TurnState.SUSPENDED and self.still:\n", "is TurnState.SUSPENDED and self._current.steady:\n"),),
        point="14: several instances of one actor",
        tries=("tests/supervisors/test_arriving.py",),
    ),
    _arrivals(
        name="a duplicate of what joined a live turn is written behind its back",
        where="supervisors.reception",
        edits=(
            (
                "        turn, now = agent.live(known.turn_id), node.clock.time()\n        while turn",
                "        turn, now = None, node.clock.time()\n        while turn",
            ),
        ),
    ),
    Mutant(
        where="actors.session",
        name="an interrupt is not asked for where the message is accepted",
        found_by="test_an_interrupted_turn_is_cancelled_and_says_by_whom",
        edits=(
            (
                "        node.persistence.submit([*change.records, *records], noted)\n",
                "        turn.row = before\n        node.persistence.submit(records, noted)\n",
            ),
        ),
        tries=("tests/supervisors/test_arriving.py",),
    ),
)
