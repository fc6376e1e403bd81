"""The table: which mutant is found by what, after how many seeds, and in how many seconds."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mutants.catalogue import MUTANTS
from mutants.hunt import FOUND, hunt, say
from mutants.mutant import Mutant

__all__ = ["Row", "control", "main", "rows"]

_ROOT = Path(__file__).parents[2]
_SIDE_BY_SIDE = 2
_ENVIRONMENT = {**os.environ, "TURNKEEPER_TESTS_PATIENCE_S": "3"}
_PROCESS_S = 900.0
"""Wall time that one mutant's hunt may take; what is not found by then is not found."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one mutant, or of the control, which has no `where`; `seeds` is how many runs it took."""

    name: str
    where: str
    point: str
    found: bool
    by: str
    seeds: int
    seconds: float
    missing: str = ""

    @property
    def right(self) -> bool:
        """Say whether it is as it should be: mutants are found, and nothing is where none was planted."""
        return self.found == bool(self.where)


class HuntFailed(RuntimeError):
    """A hunting process ended by itself: its mutant cannot be planted, or the hunt has a bug."""


def _hunted(arguments: Sequence[str], seeds: int) -> tuple[list[tuple[int, str]], float]:
    """Run a hunting process; return what it found, and how long it took."""
    began_s = time.perf_counter()
    command = [sys.executable, str(Path(__file__).parent), *arguments, "--seeds", str(seeds)]
    try:
        ended = subprocess.run(
            command, cwd=_ROOT, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_PROCESS_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    else:
        said = ended.stdout
        if ended.returncode:
            raise HuntFailed(f"{arguments}: {ended.stderr[-2_000:]}")
    found = []
    for line in said.splitlines():
        if line.startswith(FOUND):
            number, _, by = line.removeprefix(FOUND).partition(" ")
            found.append((int(number), by))
    return found, round(time.perf_counter() - began_s, 1)


def control(tries: tuple[str, ...], seeds: int) -> tuple[list[int], Row]:
    """Run what a mutant would be hunted with on the library as it is; return the runs that fail all the same."""
    found, seconds = _hunted(["--control", ",".join(tries)], seeds)
    row = Row(
        name=f"no bug planted ({', '.join(tries) or 'all but kernel and doubts'})",
        where="",
        point="",
        found=bool(found),
        by="; ".join(by for _, by in found),
        seeds=seeds,
        seconds=seconds,
    )
    return [number for number, _ in found], row


def rows(mutants: Sequence[Mutant], seeds: int) -> Iterator[Row]:
    """Hunt mutants, two at a time; yield the control's rows, then theirs, in order.

    A run that fails without a mutant counts for none.
    """
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as side_by_side:
        groups = list(dict.fromkeys(mutant.tries for mutant in mutants))
        known: dict[tuple[str, ...], list[int]] = {}
        for tries, (runs, row) in zip(groups, side_by_side.map(partial(control, seeds=seeds), groups), strict=True):
            known[tries] = runs
            yield row
        yield from side_by_side.map(lambda mutant: _row(mutant, seeds, known[mutant.tries]), mutants)


def _row(mutant: Mutant, seeds: int, known: Sequence[int]) -> Row:
    found, seconds = _hunted(["--hunt", mutant.name, "--known", ",".join(map(str, known))], seeds)
    number, by = found[0] if found else (seeds, "")
    return Row(
        name=mutant.name,
        where=mutant.where,
        point=mutant.point,
        found=bool(found),
        by=by,
        seeds=number,
        seconds=seconds,
        missing=mutant.missing,
    )


def main() -> int:
    """Print the table, or hunt one mutant; return the exit code: 1 if one survives or the control is not clean."""
    arguments = _arguments()
    if arguments.hunt is not None or arguments.control is not None:
        return _hunt(arguments)
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant.name]
    if not mutants:
        print(f"no mutant's name contains {arguments.only!r}", file=sys.stderr)
        return 2
    shown = rows(mutants, arguments.seeds)
    made = list(shown if arguments.json else _printed(shown))
    if arguments.json:
        print(json.dumps([asdict(row) for row in made], indent=1))
    return int(not all(row.right for row in made))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description="Show which planted bugs are found.")
    parser.add_argument("--only", default="", metavar="NAME", help="those whose name contains this")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many each is given (1,000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("--hunt", "--control", "--known"):  # how the command calls itself, a process for each hunt
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def _hunt(arguments: argparse.Namespace) -> int:
    """Hunt one mutant until it is found, or look for everything that fails without one."""
    known = {int(number) for number in (arguments.known or "").split(",") if number}
    if arguments.control is not None:
        tries = tuple(filter(None, arguments.control.split(",")))
        tests = {mutant.found_by for mutant in MUTANTS if mutant.tries == tries}
        for found in hunt(None, tries, sorted(tests) if all(tests) else (), arguments.seeds, known):
            say(found)
        return 0
    mutant = next(mutant for mutant in MUTANTS if mutant.name == arguments.hunt)
    tests = {mutant.found_by} - {""}
    first = next(hunt(mutant, mutant.tries, tests, arguments.seeds, known), None)
    if first is not None:
        say(first)
    return 0


def _printed(shown: Iterable[Row]) -> Iterator[Row]:
    """Print each row as soon as it is there, and how many were found in the end."""
    print("mutant | where | point | found by | seeds | s")
    planted = found = 0
    for row in shown:
        nothing = "nothing, as it should be" if not row.where else f"NOT FOUND; missing: {row.missing or 'not known'}"
        print(f"{row.name} | {row.where} | {row.point} | {row.by or nothing} | {row.seeds} | {row.seconds}", flush=True)
        planted += bool(row.where)
        found += bool(row.where and row.found)
        yield row
    print(f"{found} of {planted} found")
