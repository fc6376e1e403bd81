"""Operating: answering doubts, forking turns, pruning, backing up: of a store that a runtime has open or not."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from turnkeeper.actors.store.backup import backup as back_up
from turnkeeper.actors.store.file import check_store
from turnkeeper.actors.store.file import resolve as resolved
from turnkeeper.cli.durations import duration_s
from turnkeeper.cli.output import json_option, print_json, print_line
from turnkeeper.kernel.errors import DoorClosed, StoreInUse
from turnkeeper.supervisors.knock import knock
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.supervisors.verbs import verbs

__all__ = ["COMMANDS", "ask", "print_answer"]

_db = click.argument("db", type=click.Path(path_type=Path))
_turn = click.argument("turn", type=click.IntRange(0, 2**63 - 1))


@click.command("resolve")
@_db
@_turn
@click.option("--token", required=True, help="The doubt's own; `turnkeeper doubts DB` shows it.")
@click.option("--happened", metavar="JSON", help="It happened, with this result; null for none.")
@click.option("--did-not-happen", is_flag=True, help="It did not happen: call the tool, under the same key.")
@click.option("--give-up", is_flag=True, help="Nobody will find out: the step raises EffectInDoubt.")
@json_option
def _resolve(  # noqa: PLR0913, PLR0917 - an argument an option
    db: Path, turn: int, token: str, happened: str | None, did_not_happen: bool, give_up: bool, as_json: bool
) -> None:
    """Say what became of the effect that TURN stands on; it then goes on."""
    fields: dict[str, Any] = {"turn_id": turn, "token": token}
    match happened is not None, did_not_happen, give_up:
        case True, False, False:
            fields |= {"finding": "happened", "result": _value(happened or "")}
        case False, True, False:
            fields |= {"finding": "did_not_happen"}
        case False, False, True:
            fields |= {"finding": "given_up"}
        case _:
            raise click.UsageError("say one of --happened JSON, --did-not-happen, --give-up")
    answered = ask(db, "resolve", fields)
    print_answer(answered, f"turn {turn}: {answered['finding'].replace('_', ' ')}; it goes on", as_json)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        said = f"{error}; a text needs its quotes: '\"paid\"'"
        raise click.BadParameter(said, param_hint="--happened") from error


@click.command("fork")
@_db
@_turn
@click.option("--from-step", type=click.IntRange(0), required=True, help="The first step to run anew, from 0.")
@click.option("--key", help="Idempotency key: asked for again, it is the same fork.")
@json_option
def _fork(db: Path, turn: int, from_step: int, key: str | None, as_json: bool) -> None:
    """Begin a new turn with the input of TURN and the record of its first steps, which are not run again."""
    answered = ask(db, "fork", {"turn_id": turn, "from_step": from_step, "key": key})
    known = " (asked for before)" if answered["duplicate"] else ""
    said = f"turn {answered['turn_id']}{known}: a fork of turn {turn} with its first {from_step} steps"
    again = f"; effects that it may have again: {', '.join(answered['again'])}" if answered["again"] else ""
    print_answer(answered, said + again, as_json)


@click.command("prune")
@_db
@click.option("--older-than", callback=duration_s, required=True, help="Seconds, or 15m, 12h, 30d.")
@json_option
def _prune(db: Path, older_than: float, as_json: bool) -> None:
    """Delete turns that ended longer ago, with their history. What is live, or whose key still answers, stays."""
    answered = ask(db, "prune", {"older_than_s": older_than})
    print_answer(
        answered, f"{answered['pruned']} turns pruned; live ones stay, and those whose keys still answer", as_json
    )


@click.command("backup")
@_db
@click.argument("target", type=click.Path(path_type=Path))
@json_option
def _backup(db: Path, target: Path, as_json: bool) -> None:
    """Copy a store into a new file TARGET, as it is at one moment, while it is used or not."""
    size = back_up(db, target)
    print_answer({"target": str(target), "bytes": size}, f"{target}: {size} bytes", as_json)


def print_answer(answered: Mapping[str, Any], said: str, as_json: bool) -> None:
    """Print what was answered: its data for machines, or in words for people."""
    if as_json:
        print_json(dict(answered))
    else:
        print_line(said)


def ask(db: Path, verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the runtime that has the store open; where there is none, open it for this one thing.

    Raises:
        DoorClosed: a runtime has it open that closes, or does not answer.
        TurnkeeperError: it is no store, or it was refused; from a runtime this is `DoorRefused`.
    """
    file = resolved(db)
    check_store(file)  # a path that is no store is refused, and not made one
    try:
        answered: dict[str, Any] = knock(file, verb, fields)
    except DoorClosed as closed:
        try:
            answered = asyncio.run(_by_oneself(file, verb, fields))
        except StoreInUse as held:
            reason = f"{held.owner} has the store open, and is closing or not answering"
            raise DoorClosed(closed.path, reason) from held
    return answered


async def _by_oneself(file: Path, verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    async with Runtime(file, []) as runtime:  # with no agents: nothing runs, what was running waits for its own
        answered: dict[str, Any] = await verbs(runtime)[verb](fields)
        return answered


COMMANDS: Final = (_resolve, _fork, _prune, _backup)
"""What `turnkeeper` can be told to do with a store."""
