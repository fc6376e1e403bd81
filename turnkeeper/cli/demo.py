"""The demo: a real process, killed in the middle of real turns, again and again; then the count."""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import msgspec

from turnkeeper.actors.store.audit import audit
from turnkeeper.actors.store.reader import Reader
from turnkeeper.cli.conversations import read_conversations
from turnkeeper.cli.report import Report
from turnkeeper.kernel.errors import StorageError
from turnkeeper.kernel.settings import Settings

__all__ = ["Demo", "demo"]

_KILLS: Final = 5
_THINK_MS: Final = 30
_PARALLEL: Final = 4
_POLL_S: Final = 0.005
_START_S: Final = 30.0
"""How long a child may take to answer something before the demo gives up on it."""


class Demo(msgspec.Struct, frozen=True, kw_only=True):
    """What a demo came to."""

    kills: int
    expected_turns: int
    seconds: float
    violations: list[str]
    report: Report

    @property
    def faultless(self) -> bool:
        """Say whether every promise was kept."""
        return self.report.faultless and not self.violations

    def rows(self) -> list[tuple[str, str]]:
        """Return the count in words that a stranger understands."""
        counted = self.report
        return [
            ("times the process was killed (SIGKILL)", str(self.kills)),
            ("turns taken back from a killed process", str(counted.recovered)),
            ("effects that a kill left in doubt, looked up", str(counted.in_doubt)),
            ("messages answered, as recorded", f"{counted.turns} of {self.expected_turns}"),
            ("answers or effects lost", str(counted.lost)),
            ("effects that happened", str(counted.effects)),
            ("effects that happened twice", str(counted.repeated)),
            ("matters handed to people, and answered by them once", f"{counted.answered} of {counted.escalations}"),
            ("turns of one conversation running at once", str(counted.overlapping)),
            ("turns out of order", str(counted.out_of_order)),
            ("invariants broken in the file (audit)", str(len(self.violations))),
            ("seconds", f"{self.seconds:.1f}"),
        ]


def demo(keep: Path | None, say: Callable[[str], None]) -> Demo:
    """Replay the sample that comes with the project, killing its process under way.

    Args:
        keep: a folder for the store and the effects file; a temporary one where not given.
        say: told what happens, line by line.

    Raises:
        StorageError: the folder cannot be written.
    """
    started_s = time.monotonic()
    with ExitStack() as stack:
        sample = stack.enter_context(as_file(files("turnkeeper.cli") / "sample.jsonl"))
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnkeeper-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        replayed = _Replayed(sample, folder / "demo.db", folder / "demo.effects.jsonl")
        conversations = read_conversations([sample], Settings().payload_bytes_max)
        turns = sum(len(conversation.deliveries) for conversation in conversations)
        say(f"{len(conversations)} recorded conversations, {turns} messages to answer, {_PARALLEL} at a time")
        chance = random.Random()  # noqa: S311 - where to kill, not a secret
        kills = 0
        for number in range(1, _KILLS + 1):
            at = turns * number // (_KILLS + 1) + chance.randint(-3, 3)
            answered = replayed.run_until(at, chance.random() * _THINK_MS / 1000)
            if answered is None:
                break
            kills += 1
            say(f"  killed with SIGKILL in the middle of its work, {answered} of {turns} messages answered")
        say("  started once more, to the end")
        counted = replayed.run_to_the_end()
        found = audit(replayed.db)
        return Demo(
            kills=kills,
            expected_turns=turns,
            seconds=time.monotonic() - started_s,
            violations=[f"{one.where}: {one.what} ({one.rule})" for one in found.violations],
            report=counted,
        )


class _Replayed:
    """The command `replay` on the sample, in a process of its own."""

    def __init__(self, sample: Path, db: Path, effects: Path) -> None:
        self.db = db
        options = ["--db", str(db), "--effects", str(effects), "--parallel", str(_PARALLEL)]
        options += ["--think-ms", str(_THINK_MS), "--json"]
        self._command = [sys.executable, "-m", "turnkeeper", "replay", str(sample), *options]

    def run_until(self, answered: int, then_s: float) -> int | None:
        """Run until so many messages are answered and a moment has passed, and kill it.

        Returns:
            How many were answered when it died; None if it ended by itself before.
        """
        deadline_s = time.monotonic() + _START_S
        with subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:  # noqa: S603
            while self._answered() < answered and child.poll() is None and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            time.sleep(then_s)
            ended = child.poll() is not None
            child.kill()
        return None if ended else self._answered()

    def run_to_the_end(self) -> Report:
        ended = subprocess.run(self._command, capture_output=True, text=True, check=False)  # noqa: S603
        if not ended.stdout:
            said = ended.stderr.strip().removeprefix("error: ")
            raise StorageError(said or f"replay ended with code {ended.returncode}")
        return msgspec.json.decode(ended.stdout.splitlines()[-1], type=Report)

    def _answered(self) -> int:
        try:
            with Reader(self.db) as reader:
                return reader.turns_completed()
        except StorageError:  # not there yet
            return 0
