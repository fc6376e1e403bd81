"""Bugs of recovery and of resync: what goes on only if somebody asks, or from where it never was."""

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["RECOVERING"]

_recovery = partial(Mutant, where="supervisors.recovery")
_resync = partial(Mutant, where="actors.resync")
_session = partial(Mutant, where="actors.session")
_turns = partial(Mutant, where="actors.turns")
_upkeep = partial(Mutant, where="supervisors.upkeep")

RECOVERING: Final[tuple[Mutant, ...]] = (
    _recovery(
        name="recovered turns wait for the next message",
        edits=(("    for agent in agents.values():\n        agent.proceed()\n", ""),),
        point="10: recovery only on new traffic",
    ),
    _recovery(
        name="a turn is taken back from a dead boot only once",
        edits=(
            (
                "        if row.state is TurnState.RUNNING:",
                "        if row.state is TurnState.RUNNING and row.attempt == 1:",
            ),
        ),
        point="10: a state that nothing resumes",
    ),
    _recovery(
        name="each recovered turn gets an actor of its own",
        edits=(
            (
                "            agent = reception.restored(turn.address, row.actor_id)\n",
                (
                    "            reception._agents.pop(turn.address, None)\n"
                    "            agent = reception.restored(turn.address, row.actor_id)\n"
                ),
            ),
        ),
        point="14: several instances of one actor",
    ),
    _recovery(
        name="recovery takes its turns for its own before the store has them",
        found_by="test_a_recovery_that_cannot_be_written_starts_nothing",
        edits=(("    told(None)\n    await done\n", "    told(None)\n"),),
        point="8: acts on what is not committed",
        tries=("tests/supervisors/test_recovery.py",),
    ),
    _session(
        name="recovered turns come back in the opposite order",
        edits=(("key=lambda waiting: waiting.row.turn_id", "key=lambda waiting: -waiting.row.turn_id"),),
    ),
    _turns(
        name="resync does not put the turn back into its queue",
        edits=(
            (
                "        elif row is not None:\n            self._place(turn)\n        turn.settled()",
                "        self._next()",
            ),
        ),
        point="10: left to nobody",
    ),
    _resync(
        name="a refused turn that is running in the store is queued in memory only",
        slow=True,
        edits=(("                await node.persistence.commit(change.records)\n", ""),),
        point="10: a state that nothing resumes",
    ),
    _resync(
        name="resync gives up at the first failing read",
        edits=(
            (
                '            node.log.warning("turn.resync_failed", turn_id=turn_id, error=type(error).__name__)',
                (
                    '            node.log.warning("turn.resync_failed", turn_id=turn_id, error=type(error).__name__)\n'
                    "            return None, None"
                ),
            ),
        ),
        point="10: left to nobody",
    ),
    _resync(
        name="resync goes on from memory where the store says otherwise",
        slow=True,
        edits=(("            row = await node.store.turn(turn_id)\n", "            row = turn.row\n"),),
        point="11: what is in memory is believed",
    ),
    _upkeep(
        name="a heartbeat does not renew the lease",
        edits=(("        node.lease = node.lease.renewed(node.clock.time(), node.settings.lease_s)\n", ""),),
        point="3, 12: heartbeats that do not renew the lease",
    ),
    _upkeep(
        name="the heartbeat stops at its first failure",
        edits=(("            pause_s = min(_BEAT_AGAIN_S, pause_s)\n", "            await asyncio.Event().wait()\n"),),
        point="3: no heartbeat while running",
    ),
)
