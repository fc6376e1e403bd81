"""Bugs of doubts and of those who deal with them: answers, retries, forks, events, pruning, digests, versions."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["DOUBTS"]

_doubts = partial(Mutant, tries=("doubts",))
_waiting = partial(_doubts, where="actors.waiting")
_steps = partial(_doubts, where="actors.steps")
_calls = partial(_doubts, where="actors.calls")
_step = partial(_doubts, where="kernel.step")
_fork = partial(_doubts, where="kernel.fork")
_lifecycle = partial(_doubts, where="kernel.lifecycle")
_inspection = partial(_doubts, where="supervisors.inspection")
_batch = partial(Mutant, where="actors.store.batch", tries=("conformance",))
_reader = partial(Mutant, where="actors.store.reader", tries=("conformance",))
_changing = partial(Mutant, tries=("tests/supervisors/test_changing.py",))

_ANSWERS: Final[tuple[Mutant, ...]] = (
    _waiting(
        name="an answer's token is not looked at",
        edits=(("    if token != suspension.token:", "    if not token:"),),
        point="5: a wrong or late token settles something",
    ),
    _waiting(
        name="an answer needs no token",
        edits=(("    if token != suspension.token:", "    if token and token != suspension.token:"),),
    ),
    _calls(
        name="every doubt of a turn has one token",
        edits=(("token=self._node.chance.token())", 'token=f"turn {self._turn.row.turn_id}")'),),
    ),
    _doubts(
        where="actors.standing",
        name="an answer is applied twice",
        edits=(
            (
                '            raise WaitTokenInvalid(turn_id, "it has been answered already, or its time was over")',
                "            pass",
            ),
        ),
    ),
    _waiting(
        name="an answer that nothing has happened is taken for a result",
        edits=(
            ("        happened=isinstance(finding, Happened),", "        happened=not isinstance(finding, GiveUp),"),
        ),
    ),
    _waiting(
        name="that somebody has given up is not recorded",
        edits=(("        given_up=isinstance(finding, GiveUp),", "        given_up=False,"),),
    ),
    _step(
        name="a step that somebody gave up on is called again",
        edits=(
            (
                "(StepStatus.ABANDONED, Effect.EFFECTFUL): StepDecision.RAISE",
                "(StepStatus.ABANDONED, Effect.EFFECTFUL): StepDecision.RUN",
            ),
        ),
    ),
    _calls(
        name="a turn that comes into doubt cuts off the effects beside it",
        edits=(
            (
                "        while any(tool.effect in effects for tool, _ in self._under_way.values()):\n",
                "        while False:\n",
            ),
        ),
    ),
)

_RETRIES: Final[tuple[Mutant, ...]] = (
    _steps(
        name="a step's retries are counted anew in each run",
        edits=(("(known.failures, known.retry_at) if known", "(0, known.retry_at) if known"),),
    ),
    _step(
        name="an intent forgets how often its step has failed",
        edits=(("failures=before.failures if before is not None else 0,", "failures=0,"),),
    ),
    _steps(
        name="a retry comes before its time",
        edits=(("            if retry_at is not None:\n                await self._wait_until(retry_at, tool)\n", ""),),
    ),
    _steps(
        name="a restart forgets when the next retry may be",
        edits=(("(known.failures, known.retry_at) if known", "(known.failures, None) if known"),),
    ),
    _steps(
        name="a step is retried once more than its policy says",
        edits=(("failures <= retry.retries_max", "failures <= retry.retries_max + 1"),),
    ),
    _steps(
        name="a result that breaks its contract is worth a retry",
        edits=(("is not None and failure.recoverable and failures", "is not None and failures"),),
    ),
    _steps(
        name="an effect in doubt whose tool has a policy is called again",
        edits=(
            (
                "        match tool.on_doubt:\n            case OnDoubt.RETRY:",
                "        match OnDoubt.RETRY if tool.retry is not None else tool.on_doubt:\n            case OnDoubt.RETRY:",
            ),
        ),
    ),
)

_BESIDE: Final[tuple[Mutant, ...]] = (
    _doubts(
        where="actors.turn",
        name="the first failure of a gather cuts off the effects beside it",
        edits=(
            (
                "            return results(await asyncio.gather(*calls, return_exceptions=True))\n",
                (
                    "            tasks = [asyncio.ensure_future(call) for call in calls]\n"
                    "            _, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)\n"
                    "            for other in others:\n                other.cancel()\n"
                    "            return results(await asyncio.gather(*tasks, return_exceptions=True))\n"
                ),
            ),
        ),
    ),
    _doubts(
        where="actors.turn",
        name="steps side by side are told apart by who starts first",
        edits=(
            (
                "        return self._steps.perform(tool, self._steps.issue(tool, args, kwargs))\n",
                (
                    "        async def later() -> Any:\n"
                    "            return await self._steps.perform(tool, self._steps.issue(tool, args, kwargs))\n\n"
                    "        return later()\n"
                ),
            ),
        ),
    ),
)

_FORKS: Final[tuple[Mutant, ...]] = (
    _fork(
        name="a fork loses the last step before its own",
        edits=(("if step.issued < from_step and not step.open]", "if step.issued < from_step - 1 and not step.open]"),),
    ),
    _fork(
        name="a fork loses what was in doubt",
        edits=(
            (
                "for step in steps if step.issued < from_step and not step.open]",
                "for step in steps if step.issued < from_step and step.result + bytes(step.failure is not None)]",
            ),
        ),
    ),
    _fork(
        name="a fork takes what was in doubt for failed",
        edits=(
            (
                "            yield EdgeKind.STEP_UNKNOWN, StepDoubt(step.issued, *step.name, why)",
                (
                    '            yield EdgeKind.STEP_FAILED, StepFailure(step.issued, *step.name, __import__("turnkeeper").kernel.edge.Failure("StepFailed", why))'
                ),
            ),
        ),
    ),
    _steps(
        name="a fork calls the steps it has taken over under keys of its own",
        edits=(("            if known.idempotency_key:", "            if not known.idempotency_key:"),),
    ),
)

_READING: Final[tuple[Mutant, ...]] = (
    _inspection(
        name="a reader of events skips the first of each page",
        edits=(("                since = one.offset\n", "                since = one.offset + 1\n"),),
    ),
    _inspection(
        name="a reader of events has the last of each page again",
        edits=(("store.happened(since, _PAGE)", "store.happened(since - 1, _PAGE)"),),
    ),
    _inspection(
        name="a commit while a reader reads does not wake it",
        edits=(("                await more()", "                await node.persistence.next_commit()()"),),
    ),
    Mutant(
        where="actors.store.sqlite",
        name="the store skips an edge at the border of two pages",
        found_by="test_what_has_happened_is_told_once_and_in_order",
        edits=(('self._read("edges_since", since, limit)', 'self._read("edges_since", since + 1, limit)'),),
        tries=("conformance",),
    ),
)

_KEEPING: Final[tuple[Mutant, ...]] = (
    _doubts(
        where="supervisors.operation",
        name="pruning takes turns whose keys answer",
        edits=(("now - older_than_s, now, _PRUNED_AT_ONCE", "now - older_than_s, now + 1e9, _PRUNED_AT_ONCE"),),
    ),
    _reader(
        name="the store prunes turns whose keys answer",
        found_by="test_what_joined_a_turn_goes_with_it_and_keeps_it_while_its_key_answers",
        edits=(('"prunable", ended_before, now, limit', '"prunable", ended_before, now + 1e9, limit'),),
    ),
    _reader(
        name="the store prunes what has just ended",
        found_by="test_pruning_takes_nothing_that_ended_later",
        edits=(('"prunable", ended_before, now, limit', '"prunable", now, now, limit'),),
    ),
    _reader(
        name="the store prunes the newest turn, and its number is given out again",
        found_by="test_the_newest_turn_is_kept_so_that_no_number_comes_twice",
        edits=(
            (
                'self._rows("prunable", ended_before, now, limit)',
                'self._all(queries()["prunable"].replace("t.turn_id < (SELECT max(receipt_id) FROM receipts)", "1"), (ended_before, now, limit))',
            ),
        ),
    ),
    _reader(
        name="the store prunes the newest edge, and its number is given out again",
        found_by="test_what_joined_a_turn_goes_with_it_and_keeps_it_while_its_key_answers",
        edits=(
            (
                'self._rows("prunable", ended_before, now, limit)',
                'self._all(queries()["prunable"].replace("ORDER BY edge_id DESC LIMIT 1", "WHERE edge_id = 0"), (ended_before, now, limit))',
            ),
        ),
    ),
    _lifecycle(
        name="an edge's digest stands by itself",
        edits=(("digest = chained(row.digest, row.turn_id", 'digest = chained(b"", row.turn_id'),),
    ),
    _lifecycle(
        name="a turn that ends is not sealed",
        edits=(
            (
                "    moved = msgspec.structs.replace(moved, digest=sealed(after.digest, outcome, body, at))\n",
                "    sealed(after.digest, outcome, body, at)\n",
            ),
        ),
    ),
    _batch(
        name="a late edge is not chained to those before it",
        found_by="test_a_late_edge_is_chained_to_those_before_it",
        edits=(("else chained(before, turn_id", 'else chained(b"", turn_id'),),
    ),
    _batch(
        name="a value too large for its row is lost",
        found_by="test_a_large_value_comes_back_whole",
        edits=(("            if blobs:\n                self.executemany(_BLOB, blobs)\n", ""),),
    ),
    _batch(
        name="a value too large for its row is lost where its batch is written point by point",
        found_by="test_a_large_value_comes_back_whole",
        edits=(
            (
                "                self.executemany(_BLOB, blobs)\n                if self.execute(",
                "                if self.execute(",
            ),
        ),
    ),
)

_VERSIONS: Final[tuple[Mutant, ...]] = (
    _changing(
        where="kernel.lifecycle",
        name="the version that a turn starts under is not recorded",
        found_by="test_a_turn_finishes_under_the_version_it_started_under",
        edits=(
            (
                "        granted = LeaseGranted(lease.boot_id, lease.until, version)\n",
                "        granted = LeaseGranted(lease.boot_id, lease.until)\n",
            ),
        ),
    ),
    _changing(
        where="actors.agent",
        name="what an agent adopts is not looked at",
        found_by="test_a_newer_handler_may_adopt_the_turns_of_an_older_one",
        edits=(("version in self.adopts or", "version in self.older or"),),
    ),
)

DOUBTS: Final[tuple[Mutant, ...]] = (
    *_ANSWERS,
    *_RETRIES,
    *_BESIDE,
    *_FORKS,
    *_READING,
    *_KEEPING,
    *_VERSIONS,
)
