"""The commands: what each takes, and how the outcome is shown to people and to machines."""

import asyncio
import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from turnkeeper.actors.store.audit import audit as audit_store
from turnkeeper.cli.conversations import BadInput, Conversation, read_conversations
from turnkeeper.cli.demo import demo as run_demo
from turnkeeper.cli.effects import EffectsFile
from turnkeeper.cli.lookback import COMMANDS as LOOKING_BACK
from turnkeeper.cli.operate import COMMANDS as OPERATING
from turnkeeper.cli.output import err, json_option, out, print_json
from turnkeeper.cli.people import COMMANDS as ANSWERING
from turnkeeper.cli.replay import Ran
from turnkeeper.cli.replay import replay as run_replay
from turnkeeper.cli.report import Report, report
from turnkeeper.cli.show import print_view, session_view, sessions_view, turn_view
from turnkeeper.cli.simulate import TRACE, Plan, Watcher, fresh_seeds, lines_of, plan_of, seed_range
from turnkeeper.cli.simulate import simulate as run_simulation
from turnkeeper.cli.tables import counts_table, printable
from turnkeeper.cli.tend import COMMANDS as TENDING
from turnkeeper.cli.tree import COMMANDS as LOOKING_IN
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.lookback.past import readable
from turnkeeper.kernel.settings import Settings
from turnkeeper.testing.summary import Summary

__all__ = ["run"]

_EXIT_FOUND: Final = 1
_EXIT_BAD_INPUT: Final = 2
_EXIT_INTERRUPTED: Final = 130

_HOURS: Final = "1; 0.001 for many seeds"


def run() -> None:
    """Run the command line. Whatever is wrong with the input is one line and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an output that knows no umlauts gets their numbers
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(group(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; what was accepted is kept, run the same again to go on")
        sys.exit(_EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        sys.exit(_EXIT_FOUND)
    except (BadInput, TurnkeeperError, OSError) as error:
        _complain(f"error: {error}")
        sys.exit(_EXIT_BAD_INPUT)


def _complain(said: str) -> None:
    err.print(printable(said), style="red", markup=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="turnkeeper", prog_name="turnkeeper")
def group() -> None:
    """Durable turns for AI agents: replay recorded conversations, simulate, audit and look into a store."""


for _command in (*LOOKING_BACK, *LOOKING_IN, *OPERATING, *ANSWERING, *TENDING):
    group.add_command(_command)


@group.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--db", type=click.Path(path_type=Path), default=Path("turnkeeper.db"), show_default=True, help="Store.")
@click.option(
    "--parallel", type=click.IntRange(1, 10_000), default=64, show_default=True, help="Conversations at once."
)
@click.option(
    "--effects",
    type=click.Path(path_type=Path),
    help="Where effects happen, one line each.  [default: the store's name + .effects.jsonl]",
)
@click.option(
    "--think-ms", type=click.IntRange(0, 60_000), default=0, show_default=True, help="How long a model reply takes."
)
@json_option
def replay(
    files: tuple[Path, ...], db: Path, parallel: int, effects: Path | None, think_ms: int, as_json: bool
) -> None:
    """Run recorded conversations as durable turns; run again to finish what a crash left.

    Each FILE holds one conversation a line: {"conversation_id": ..., "messages": [...]}, messages in the OpenAI
    chat format. Exit code 1 if a promise was broken, 2 if the input cannot be used.
    """
    conversations = read_conversations(files, Settings().payload_bytes_max)
    if effects is not None and effects.resolve() == db.resolve():
        raise BadInput(effects, None, "is the store itself; effects need a file of their own")
    effects = effects or Path(f"{db}.effects.jsonl")
    ran = _with_progress(
        conversations,
        lambda progress: _replay(conversations, db, effects, parallel, think_ms / 1000, progress),
    )
    counted = report(conversations, db, effects, ran)
    if as_json:
        print_json(counted)
    else:
        out.print(counts_table("Recorded conversations, replayed", _rows(counted)))
    sys.exit(0 if counted.faultless else _EXIT_FOUND)


def _replay(
    conversations: list[Conversation],
    db: Path,
    effects: Path,
    parallel: int,
    think_s: float,
    progress: Callable[[int], None],
) -> Ran:
    async def main() -> Ran:
        with EffectsFile(effects) as opened:
            return await run_replay(conversations, db, opened, parallel=parallel, think_s=think_s, progress=progress)

    return asyncio.run(main())


def _with_progress(conversations: list[Conversation], work: Callable[[Callable[[int], None]], Ran]) -> Ran:
    """Run the work beside a live bar on standard error, where that is a terminal."""
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("answers"), TimeElapsedColumn())
    bar = Progress(*columns, console=err, transient=True)
    with bar if err.is_terminal else nullcontext():
        task = bar.add_task("", total=sum(len(conversation.deliveries) for conversation in conversations))
        return work(lambda answered: bar.update(task, completed=answered))


@group.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the store and the effects file in this folder.")
@json_option
def demo(keep: Path | None, as_json: bool) -> None:
    """Replay a dozen conversations, kill the process under way again and again, and count what is left."""
    shown = run_demo(keep, say=lambda line: None if as_json else out.print(line, markup=False))
    if as_json:
        print_json(shown)
    else:
        out.print(counts_table("What was promised, and what is there", shown.rows()))
    sys.exit(0 if shown.faultless else _EXIT_FOUND)


@group.command()
@click.argument("db", type=click.Path(path_type=Path))
@json_option
def audit(db: Path, as_json: bool) -> None:
    """Prove a store's invariants from its file alone; exit code 1 and a line for each violation."""
    found = audit_store(db)
    if as_json:
        print_json(found)
    else:
        for violation in found.violations:
            said = f"violation: {violation.where}: {violation.what} ({violation.rule})"
            out.print(said, markup=False, soft_wrap=True)
        counted = f"{found.actors} actors, {found.turns} turns ({found.live} live), {found.edges} edges"
        verdict = f"{len(found.violations)} violations" if found.violations else "every invariant holds"
        out.print(f"{found.path}: {counted}: {verdict}", markup=False, soft_wrap=True)
    sys.exit(_EXIT_FOUND if found.violations else 0)


@group.command()
@click.argument("db", type=click.Path(path_type=Path))
@click.argument("session", required=False)
@click.argument("turn", required=False, type=click.IntRange(0, 2**63 - 1))
@json_option
def show(db: Path, session: str | None, turn: int | None, as_json: bool) -> None:
    """Show a store's sessions; a SESSION's turns; or a TURN's edges and steps, in order."""
    with readable(str(db)):
        if session is None:
            view = sessions_view(db)
        elif turn is None:
            view = session_view(db, session)
        else:
            view = turn_view(db, session, turn)
    print_view(view, as_json=as_json)


_rate = click.FloatRange(0.0, 1.0)


@group.command()
@click.argument("scenario", default="desk")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What everything follows from.")
@click.option("--seeds", metavar="A..B", help="Run each of these seeds instead; stop at the first violation.")
@click.option("--for", "for_s", type=click.FloatRange(0.0, min_open=True), help="Run fresh seeds, for so many seconds.")
@click.option("--hours", type=click.FloatRange(0.0, min_open=True), help=f"Virtual hours.  [default: {_HOURS}]")
@click.option("--crash-rate", type=_rate, default=0.001, show_default=True, help="Kills: at any one crash point.")
@click.option("--fault-rate", type=_rate, default=0.005, show_default=True, help="Disk fails, or is slow: a commit.")
@click.option("--hang-rate", type=_rate, default=0.02, show_default=True, help="Tools that never answer: a call.")
@click.option("--slow-rate", type=_rate, default=0.05, show_default=True, help="Tools that take too long: a call.")
@click.option("--duplicate-rate", type=_rate, default=0.05, show_default=True, help="Delivered twice: a message.")
@click.option(
    "--arrivals", type=click.Path(path_type=Path), help=f"Recorded arrivals (CSV).  [default: {TRACE}, if there]"
)
@json_option
def simulate(scenario: str, seeds: str | None, as_json: bool, **options: Any) -> None:
    """Run SCENARIO in virtual time, faults and oracles on: a built-in one (docs/simulating.md), or a Python file.

    The file has an `async def life(world)`; see docs/simulating.md. The same seed gives the same hash. Exit code 1 and
    the line that repeats it if an oracle finds a violation, 2 if the scenario cannot be run.
    """
    try:
        one = range(options["seed"], options["seed"] + 1)
        chosen = seed_range(seeds) if seeds is not None else fresh_seeds() if options["for_s"] else one
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--seeds") from error
    plan = plan_of(scenario, chosen, options)
    with _simulating(plan) as watcher:
        summary, found = run_simulation(plan, watcher)
    if as_json:
        print_json({"summary": summary, "violation": found})
    else:
        if found is not None:
            out.print("\n".join(lines_of(found)), style="red", markup=False, soft_wrap=True)
        if summary.seeds:
            out.print(counts_table(f"Simulated: {scenario}", _rows(summary)))
    sys.exit(_EXIT_FOUND if found is not None else 0)


@contextmanager
def _simulating(plan: Plan) -> Iterator[Watcher]:
    """Show what goes on, on standard error, where that is a terminal."""
    with err.status("") if err.is_terminal else nullcontext() as status:

        def show(over: int, virtual_s: float, turns: int) -> None:
            if status is not None:
                of = "" if math.isfinite(plan.for_s) else f" of {len(plan.seeds):,}"
                runs = f"{over:,}{of} seeds, " if len(plan.seeds) > 1 else ""
                status.update(f"{plan.scenario}: {runs}{virtual_s:,.0f} virtual seconds, {turns:,} turns ended")

        yield show


def _rows(counted: Report | Summary) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), str(getattr(counted, name))) for name in counted.__struct_fields__]
