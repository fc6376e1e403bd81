"""Several messages arrive at once for one session: what does each system make of them?

Eight messages are sent at once. The turn of each reads the history, waits for a model of 50 ms, and appends message and
reply. When every caller knows, a new process reads the history that is kept. Systems take turns in every round, each
round in an empty folder.

    python -m benchmarks.double_texting              # ours beside its peers, about a minute once installed
    python -m benchmarks.double_texting --no-peers   # ours alone, a few seconds
    python -m benchmarks.double_texting --check      # exit code 1 where ours broke a promise
    python -m benchmarks.double_texting --json       # one JSON object as the last line

Ours promises: every message kept, each before its own reply, in the order in which they were sent, one turn at a time;
under another policy than the queue, that nothing is lost of what was accepted.
The floor is the model alone, one call after another: what is faster ran turns side by side. Peers are installed once,
each into an environment of its own. Only ratios travel from machine to machine.
"""

import json
import platform
import sqlite3
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks._lines import named, read
from benchmarks._programs import Program, ProgramFailed, Rounds, System, cell, note, options
from benchmarks.double_texting._counted import FLOOR_S, Counted, broken, count
from benchmarks.double_texting._texting import MODEL_S, TEXTS, What

__all__ = ["SYSTEMS", "Texts", "main"]

_PYDANTIC_AI: Final = ("pydantic-ai-slim==2.68.0",)
_AUTOGEN: Final = ("autogen-core==0.7.5",)
_OURS: Final = "benchmarks.double_texting._ours"
_OTHERWISE: Final = {
    "reject": "What finds a turn live is refused with ActorBusy before it is accepted: nothing is lost, for nothing "
    "was acknowledged. Its caller may send it again.",
    "coalesce": "What finds a turn live joins the next one: all of it is kept, and answered together.",
    "interrupt": "What finds a turn live cancels that one at its next safe point, and is next. The message of the one "
    "that was cancelled is kept, and its caller told.",
    "steer": "What finds a turn live is handed to it at its next look, or gets a turn of its own: all of it is kept, "
    "and answered there.",
}
"""The other policies of arrival, which promise less than a reply of its own to each message; what each promises."""
SYSTEMS: Final = (
    System(
        "ours, queue",
        _OURS,
        "queue",
        brings="A session's turns run one at a time, in the order of acceptance; each message is stored before its "
        "caller is told. One process on one file.",
    ),
    *(System(f"ours, {policy}", _OURS, policy, brings=promised) for policy, promised in _OTHERWISE.items()),
    System(
        "LangGraph",
        "benchmarks.double_texting._langgraph",
        "",
        ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2"),
        "AsyncSqliteSaver, durability sync. Every run begins from the thread's newest checkpoint and writes its own; "
        "none knows of the others. What a message does to a thread that is busy (reject, enqueue, interrupt, rollback) "
        "is settled in its platform's server, which is not part of the package. All checkpoints stay in the file, to "
        "be gone back to; counted is the thread's state.",
    ),
    System(
        "OpenAI Agents",
        "benchmarks.double_texting._openai_agents",
        "",
        ("openai-agents==0.24.0",),
        "SQLiteSession. Items are appended, so none is lost; nothing says which run goes first. Turns of one session "
        "are for the application to keep apart.",
    ),
    System(
        "pydantic-ai",
        "benchmarks.double_texting._pydantic_ai",
        "once",
        _PYDANTIC_AI,
        "Load, run, save with a ConversationStore. A save of what has changed meanwhile is refused, after the model "
        "was paid: nothing is lost unseen, and the history is never mixed up.",
    ),
    System(
        "pydantic-ai, again",
        "benchmarks.double_texting._pydantic_ai",
        "again",
        _PYDANTIC_AI,
        "As above, and a refused caller loads again and retries, as its documentation says.",
    ),
    System(
        "autogen-core",
        "benchmarks.double_texting._autogen",
        "state",
        _AUTOGEN,
        "SingleThreadedAgentRuntime, which handles messages of one agent side by side. It keeps agents in memory; the "
        "application stores save_state() after each turn. Also brings topics, and a runtime over several processes.",
    ),
    System(
        "autogen-core, load",
        "benchmarks.double_texting._autogen",
        "factory",
        _AUTOGEN,
        "As above, the application loading an agent's state where it is made, in an async factory: one agent is then "
        "made for each message that comes before the first is ready.",
    ),
    System(
        "DBOS",
        "benchmarks.double_texting._dbos",
        "",
        ("dbos==3.4.0",),
        "A queue with a partition for each session and partition_concurrency=1, polled every second as by default. "
        "Each workflow is stored before its caller is told, and recovers by itself. They run in the order of their "
        "times, each enqueued here when the one before it was: on SQLite these are milliseconds, which keep the order, "
        "and whole seconds before Python 3.12, which do not. Also brings priorities, PostgreSQL and several processes "
        "on one queue.",
    ),
)
"""Who is measured, in the order of the table."""

Measure = Callable[[Sequence[Counted]], float]
_MEASURES: Final[dict[str, Measure]] = {
    "at once": lambda rounds: max(found.at_once for found in rounds),
    "kept": lambda rounds: sum(found.kept for found in rounds),
    "of": lambda rounds: sum(found.sent for found in rounds),
    "in order": lambda rounds: sum(found.in_order for found in rounds),
    "answered": lambda rounds: sum(found.answered for found in rounds),
    "errors": lambda rounds: sum(found.errors for found in rounds),
    "lost": lambda rounds: sum(found.lost for found in rounds),
    "calls": lambda rounds: sum(found.calls for found in rounds),
    "unkept": lambda rounds: sum(found.unkept for found in rounds),
    "seconds": lambda rounds: statistics.median(found.seconds for found in rounds),
    "x floor": lambda rounds: statistics.median(found.seconds / FLOOR_S for found in rounds),
}
"""What is printed: the most turns at once, counts over all rounds, and times as medians of the rounds."""
_LEGEND: Final = (
    "at once: the most calls of the model under way at one time. kept, of: messages and replies that a new process "
    "finds in the history, of those that a reply to each would make. in order: rounds in which what is kept is there "
    "once, as sent, each reply right after what it answers. answered, errors: callers who got a reply, or an error. "
    "lost: messages not kept though they were accepted or answered, and replies not kept though a caller has them. "
    "calls, unkept: calls of the model, and those whose reply is not kept. seconds: until the last caller knew, median."
)


class Round(NamedTuple):
    """What a round came to: the count, and how the store was durable."""

    counted: Counted
    settings: str


class Texts(Rounds[Round]):
    """The rounds of every system."""

    def measure(self, system: System, python: Path, folder: Path, _: int) -> tuple[Round, list[str]]:
        """Run one round: a process that sends, a new one that looks."""
        with Program(system, python, folder, 1) as sender:
            sender.wait_for_end(self._patience_s)
        with Program(system, python, folder, 2) as reader:
            reader.wait_for_end(self._patience_s)
        lines = read(folder)
        if not named(lines, What.CALLED):  # a program with a mistake in it is no system that fails
            raise ProgramFailed(f"{system.name} never called the model: {sender.last_words()}")
        counted = count(lines)
        settings = next((line.of for line in lines if line.what == What.SETTINGS), "")
        return Round(counted, settings), broken(counted, whole=system.variant not in _OTHERWISE)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of figures for each system that was measured."""
        return [
            {"system": system.name, "settings": rounds[0].settings}
            | {name: of([found.counted for found in rounds]) for name, of in _MEASURES.items()}
            for system, rounds in self.rounds.items()
        ]


def show(texts: Texts, rounds: int) -> None:
    """Print the table, what its columns are, how each store is durable, and what each system brings."""
    how = f"a model of {MODEL_S * 1e3:g} ms; rounds together: {rounds}; floor {FLOOR_S:g} s"
    print(f"{len(TEXTS)} messages at once to one session, {how}")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    print(f"  {'':18}" + "".join(f"{name:>9}" for name in _MEASURES))
    for row in texts.rows():
        print(f"  {row['system']:18}" + "".join(f"{cell(row[name]):>9}" for name in _MEASURES))
    note(_LEGEND)
    texts.show_notes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rounds and print the table; return 1 where ours broke a promise and --check was asked for."""
    parser = options("double_texting", __doc__, rounds=3, check="exit code 1 where ours broke a promise")
    asked = parser.parse_args(arguments)
    texts = Texts(Path.cwd(), asked.patience)
    texts.run_all(SYSTEMS, asked)
    show(texts, asked.rounds)
    for line in texts.wrong:
        print(f"broken: {line}")
    if asked.json:
        facts = {"benchmark": "double_texting", "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        found = {"rows": texts.rows(), "skipped": texts.skipped, "broken": texts.wrong}
        print(json.dumps({**facts, "rounds": asked.rounds, **found}))
    return 1 if asked.check and texts.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
