"""Bugs of session agents: who runs when, what a refused write leaves behind, who is told too early."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["TURNS"]

_session = partial(Mutant, where="actors.session")
_turns = partial(Mutant, where="actors.turns")
_run = partial(Mutant, where="actors.run")
_open = partial(Mutant, where="actors.openturn")

TURNS: Final[tuple[Mutant, ...]] = (
    _turns(
        name="the next turn starts while one is running",
        edits=(
            (
                (
                    "        if self._current is not None:\n"
                    "            if self._current.row.state is TurnState.SUSPENDED and self.still:\n"
                    "                self._node.on_idle(self)\n"
                    "            return\n        turn = self._ready()"
                ),
                "        turn = self._ready()",
            ),
        ),
        point="14: concurrent turns of a session",
    ),
    _turns(
        name="a nudge starts the turn again that is about to start",
        edits=(
            (
                'creates no work."""\n        self._next()',
                (
                    'creates no work."""\n        if self._current is not None and self._current.task is None:\n'
                    "            self._start(self._current)\n        self._next()"
                ),
            ),
        ),
        point="2: a nudge starts a second run",
    ),
    _turns(
        name="a nudge puts the retry off by another backoff",
        edits=(
            (
                "turn.timer = self._node.loop.call_later(wait_s, self._next)",
                "turn.timer = self._node.loop.call_later(self._node.settings.backoff_s(turn.failures or 1, 0.0), self._next)",
            ),
        ),
        point="1: a retry refreshes its own deadline",
    ),
    _session(
        name="a message refused for lack of room has registered its key",
        edits=(
            (
                (
                    "        if self.waiting_len >= node.settings.mailbox_len_max:\n"
                    "            raise MailboxFull(str(self.address), node.settings.mailbox_len_max)\n"
                    "        node.persistence.check_room()\n"
                ),
                "",
            ),
            (
                "        self._by_key[arrival.key] = turn\n        first = not self._opened",
                (
                    "        self._by_key[arrival.key] = turn\n"
                    "        if len(self._queue) > node.settings.mailbox_len_max:\n"
                    "            self._queue.remove(turn)\n"
                    "            raise MailboxFull(str(self.address), node.settings.mailbox_len_max)\n"
                    "        node.persistence.check_room()\n"
                    "        first = not self._opened"
                ),
            ),
        ),
        point="7: refused while busy, its redelivery acknowledged",
    ),
    _session(
        name="a message that could not be stored keeps its key",
        edits=(
            (
                "                self._opened = False\n            self._forget(turn)",
                "                self._opened = False",
            ),
        ),
        point="7: lost, yet its redelivery acknowledged",
    ),
    _session(
        name="an inbound is acknowledged before its commit",
        edits=(
            (
                "            node.persistence.submit(records, told)\n        return done",
                (
                    "            node.persistence.submit(records, told)\n"
                    "        done.set_result(Admitted(turn, arrival, duplicate=False))\n        return done"
                ),
            ),
        ),
        point="8: acknowledged, then lost in a crash",
    ),
    _session(
        name="an inbound's last edge is committed after its receipt and turn",
        edits=(
            (
                "            node.persistence.submit(records, told)\n        return done",
                (
                    "            node.persistence.submit(\n"
                    "                records[:-1], lambda error: told(error) if error else node.persistence.submit(records[-1:], told)\n"
                    "            )\n        return done"
                ),
            ),
        ),
        point="8: receipt, turn, lease in separate commits",
    ),
    _turns(
        name="those who wait have the deliverable before it is committed",
        edits=(
            (
                "        deliverable = change.records[0]\n",
                (
                    "        deliverable = change.records[0]\n"
                    "        if isinstance(deliverable, Deliverable):\n            turn.finish(deliverable)\n"
                ),
            ),
        ),
        point="4: the end is told before the deliverable stands",
    ),
    _turns(
        name="a turn is terminal before its deliverable is written",
        slow=True,
        edits=(
            (
                "        self._node.persistence.submit(records, partial(self._moved, turn, deliverable, successor, before, told))",
                (
                    "        heard = partial(self._moved, turn, deliverable, successor, before, told)\n"
                    "        last = [record for record in records if isinstance(record, Deliverable)]\n"
                    "        first = [record for record in records if record not in last]\n"
                    "        self._node.persistence.submit(\n"
                    "            first, lambda error: heard(error) if error or not last else self._node.persistence.submit(last, heard)\n"
                    "        )"
                ),
            ),
        ),
        point="4: terminal before the deliverable",
    ),
    _turns(
        name="a turn starts before its lease is committed",
        edits=(
            (
                "        self._node.persistence.submit(change.records, partial(self._acquired, turn))",
                "        self._node.persistence.submit(change.records, lambda _: None)\n        self._start(turn)",
            ),
        ),
        point="8: a lease in a commit of its own",
    ),
    _turns(
        name="a turn whose start was refused goes behind those that came later",
        edits=(
            (
                "                insort(self._queue, turn, key=lambda waiting: waiting.row.turn_id)\n",
                "                self._queue.append(turn)\n",
            ),
        ),
    ),
    _turns(
        name="the successor is lost when the commit that would start it fails",
        slow=True,
        edits=(
            (
                "                successor.row = before\n                self._queue.appendleft(successor)",
                "                successor.row = before",
            ),
        ),
        point="10: left to nobody",
    ),
    _turns(
        name="a successor goes back to where it stood before a duplicate of it failed, too",  # this one was ours
        tries=("tests/testing/test_scenarios.py",),
        edits=(("                if before.edges < successor.row.edges:", "                if before is not None:"),),
        slow=True,
    ),
    _turns(
        name="a turn that waits for its retry has no timer",
        edits=(("            turn.timer = self._node.loop.call_later(wait_s, self._next)\n", ""),),
        point="10: goes on only with new traffic",
    ),
    _session(
        name="a duplicate whose count could not be stored leaves a gap in the edges",
        edits=(("                turn.row = before  # everything", "                pass  # everything"),),
    ),
    _session(
        name="an actor whose first commit failed thinks that it is stored",
        slow=True,
        edits=(("            if first:\n                self._opened = False\n", ""),),
    ),
    _open(
        name="a rerun is answered from what memory held before",
        edits=(('        self.loaded = False\n        self.payload, self.steps, self.open_waits = b"", {}, {}\n', ""),),
        point="11: steps of the first run are not known to the second",
    ),
    _session(
        name="two messages with the same text are one",
        edits=(
            (
                (
                    "        node, now = self._node, self._node.clock.time()\n"
                    "        known = self._by_key.get(key) if key is not None else None"
                ),
                (
                    "        node, now = self._node, self._node.clock.time()\n"
                    "        known = next((turn for turn in self._by_key.values() if turn.arrival.digest == digest), None)"
                ),
            ),
        ),
        point="9: dedupe by content",
    ),
    _session(
        name="a turn whose sender gave up is never started",
        edits=(
            (
                "        elif error is None:\n            self._start(turn)",
                "        elif error is None and not done.cancelled():\n            self._start(turn)",
            ),
        ),
        point="14: a caller's cancellation kills the turn",
    ),
    _run(
        name="a turn that stands on a step has a new deadline after each restart",
        edits=(
            (
                "        due_at = min(wait.due_at for wait in turn.stands)\n",
                "        due_at = now + self._node.settings.approval_s\n",
            ),
        ),
        point="1: a deadline refreshed on restart",
        tries=("waiting",),
    ),
    _turns(
        name="closing leaves a turn running that was about to start",
        slow=True,
        edits=(
            (
                (
                    "        if self._node.closing or self._resting:\n"
                    '            self._move(turn, requeue(turn.row, Requeued("shutdown"), self._node.clock.time()))\n'
                    "            return\n"
                ),
                "        if self._node.closing or self._resting:\n            return\n",
            ),
        ),
    ),
    Mutant(
        name="a turn is retried once too often",
        where="kernel.verdict",
        edits=(("failures < retries_max else", "failures <= retries_max else"),),
    ),
    _run(
        name="a handler that raises after its steps failed to be stored is believed",
        slow=True,
        edits=(("self._concluded(turn.broken or error, body)", "self._concluded(error, body)"),),
        point="11: a result that never became durable",
    ),
    _run(
        name="steps that the handler left running go on beside the next run",
        edits=(("            await self._wait_for_steps(self._steps.beside)\n", ""),),
    ),
    Mutant(
        name="only the first of those who wait for a deliverable is told",
        slow=True,
        where="actors.openturn",
        edits=(
            (
                "        for future in listeners:\n            if not future.done():\n                future.set_result(deliverable)",
                "        for future in listeners[:1]:\n            if not future.done():\n                future.set_result(deliverable)",
            ),
        ),
        point="14: asks that hang",
    ),
)
