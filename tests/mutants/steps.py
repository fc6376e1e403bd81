"""Bugs of steps: effects that happen twice, records that do not stand, reruns that ask for others."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["STEPS"]

_steps = partial(Mutant, where="actors.steps")
_journal = partial(Mutant, where="actors.journal")
_step = partial(Mutant, where="kernel.step")
_run = partial(Mutant, where="actors.run")

STEPS: Final[tuple[Mutant, ...]] = (
    _journal(
        name="an effect does not wait for its intent to be durable",
        edits=(
            (
                "        await self._committed(\n            EdgeKind.STEP_INTENDED,",
                "        self._record(\n            EdgeKind.STEP_INTENDED,",
            ),
        ),
        point="11: the disk held nothing of the charge",
    ),
    _steps(
        name="an idempotent step leaves no intent",
        edits=(
            (
                "            if not pure:\n                await self._intend(",
                "            if tool.effect is Effect.EFFECTFUL:\n                await self._intend(",
            ),
        ),
        point="11: the disk held nothing of the call",
    ),
    _steps(
        name="results are recorded in the first run only",
        edits=(
            (
                "                self.journal.succeeded(tool, call, encoded, intended=not pure)\n",
                (
                    "                if self._turn.row.attempt == 1:\n"
                    "                    self.journal.succeeded(tool, call, encoded, intended=not pure)\n"
                ),
            ),
        ),
        point="11: results are not durable step by step",
    ),
    _steps(
        name="what a probe found is not recorded",
        edits=(
            (
                "                self.journal.succeeded(tool, call, encoded, intended=True)\n                return value",
                "                return value",
            ),
        ),
        point="11: results are not durable step by step",
    ),
    _journal(
        name="a result is remembered and not recorded",
        edits=(
            (
                "        self._record(EdgeKind.STEP_SUCCEEDED, result)\n",
                (
                    "        self._turn.steps[call.name] = StepRecord(\n"
                    "            issued=call.issued, name=call.name, status=StepStatus.SUCCEEDED, arguments=call.arguments, result=encoded\n"
                    "        )\n"
                ),
            ),
        ),
        point="11: checkpoints that memory alone has",
    ),
    _steps(
        name="calls of a name are counted over all turns of the process",
        edits=(
            (
                'turn: OpenTurn) -> None:\n        """Begin a run',
                'turn: OpenTurn, of_name: dict[str, int] = {}) -> None:\n        """Begin a run',
            ),
            ("        self._of_name: dict[str, int] = {}", "        self._of_name = of_name"),
        ),
    ),
    _steps(
        name="a step is known by its place among all steps of the turn",
        edits=(("        nth = self._of_name.get(name, 0)", "        nth = self._issued"),),
    ),
    _steps(
        name="an effect that took too long is called again",
        edits=(
            (
                'return await self._settle_doubt(tool, call, "a timeout", recorded=None)',
                "return await self._run(tool, call, None)",
            ),
        ),
    ),
    _steps(
        name="a step has another idempotency key in each attempt",
        edits=(
            (
                "idempotency_key(self._node.store_id, self._turn.row.turn_id, name)",
                'f"{idempotency_key(self._node.store_id, self._turn.row.turn_id, name)}/{self._turn.row.attempt}"',
            ),
            ("            if known.idempotency_key:", "            if known.idempotency_key and not call.key:"),
        ),
    ),
    _journal(
        name="a step of an earlier run may write into the next one",
        edits=(
            (
                (
                    "        if self.closed or self._turn.row.epoch != self._epoch:\n"
                    "            raise StaleEpoch(self._turn.row.turn_id, self._epoch)\n        if self._turn.broken"
                ),
                "        if self._turn.broken",
            ),
            ("        if self.over:\n            raise StaleEpoch(self._turn.row.turn_id, self._epoch)\n", ""),
        ),
        point="12: a zombie owner completes after expiry",
    ),
    _step(
        name="an effect that a crash cut off is called again",
        edits=(
            (
                "(StepStatus.INTENDED, Effect.EFFECTFUL): StepDecision.DOUBT",
                "(StepStatus.INTENDED, Effect.EFFECTFUL): StepDecision.RUN",
            ),
        ),
    ),
    _step(
        name="an effect that is in doubt is called again by the next run",
        edits=(
            (
                "(StepStatus.UNKNOWN, Effect.EFFECTFUL): StepDecision.DOUBT",
                "(StepStatus.UNKNOWN, Effect.EFFECTFUL): StepDecision.RUN",
            ),
        ),
    ),
    _step(
        name="a step that failed is answered with its failure for ever",
        edits=(("                for name in forgotten:\n", "                for name in ():\n"),),
        slow=True,
    ),
    _steps(
        name="an effectful step that failed is retried with its turn",
        edits=(
            (
                "failure_of_call(tool, error, returned=returned), tool",
                "msgspec.structs.replace(failure_of_call(tool, error, returned=returned), recoverable=True), tool",
            ),
            (
                "        if tool.effect is Effect.EFFECTFUL and not isinstance(error, Expired):  # no retry of the turn calls it again\n            failure = msgspec.structs.replace(failure, recoverable=False)\n",
                "",
            ),
        ),
    ),
    _run(
        name="an effect that runs beside a handler that raised is cut off",
        edits=(
            (
                "is not Effect.EFFECTFUL:\n                    task.cancel()",
                "is not None:\n                    task.cancel()",
            ),
        ),
    ),
)
