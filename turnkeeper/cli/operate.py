"""Operating: answering doubts, forking turns, pruning, backing up: of a store that a runtime has open or not."""

import asyncio
import getpass
import logging
import time
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
from turnkeeper.kernel.errors import ContractViolation, DoorClosed, DoorRefused, ShuttingDown, StoreInUse
from turnkeeper.supervisors.knock import knock
from turnkeeper.supervisors.runtime import Runtime
from turnkeeper.supervisors.verbs import verbs

__all__ = ["COMMANDS", "ask", "by_option", "db_argument", "print_answer", "turn_argument", "value_of"]

_BUSY_S: Final = 5.0
"""How long to try: others who tell it something open the store for a moment each, one after another."""

_AGAIN_S: Final = 0.05

db_argument = click.argument("db", type=click.Path(path_type=Path))
turn_argument = click.argument("turn", type=click.IntRange(0, 2**63 - 1))


def _login() -> str:
    """Return who runs this; empty where the system has no name for them."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user without a name; which of them depends on the Python
        return ""


by_option = click.option("--by", default=_login, show_default="login name", help="Who says so; it is recorded.")


@click.command("resolve")
@db_argument
@turn_argument
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
            fields |= {"finding": "happened", "result": value_of(happened or "", "--happened")}
        case False, True, False:
            fields |= {"finding": "did_not_happen"}
        case False, False, True:
            fields |= {"finding": "given_up"}
        case _:
            raise click.UsageError("say one of --happened JSON, --did-not-happen, --give-up")
    answered = ask(db, "resolve", fields)
    print_answer(answered, f"turn {turn}: {answered['finding'].replace('_', ' ')}; it goes on", as_json)


def value_of(text: str, option: str) -> Any:
    """Return what an option says in JSON.

    Raises:
        ContractViolation: it is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ContractViolation(option, f"{error}; a text needs its quotes: '\"paid\"'") from error


@click.command("fork")
@db_argument
@turn_argument
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
@db_argument
@click.option("--older-than", callback=duration_s, required=True, help="Seconds, or 15m, 12h, 30d.")
@json_option
def _prune(db: Path, older_than: float, as_json: bool) -> None:
    """Delete turns that ended longer ago, with their history. What is live, or whose key still answers, stays."""
    answered = ask(db, "prune", {"older_than_s": older_than})
    print_answer(
        answered, f"{answered['pruned']} turns pruned; live ones stay, and those whose keys still answer", as_json
    )


@click.command("backup")
@db_argument
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
        DoorClosed: a runtime has it open that closes, or does not answer, and still did after some seconds.
        TurnkeeperError: it is no store, or it was refused; from a runtime this is `DoorRefused`.
    """
    file = resolved(db)
    check_store(file)  # a path that is no store is refused, and not made one
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            return _ask_once(file, verb, fields)
        except DoorClosed:  # nothing was done
            if time.monotonic() >= until:
                raise
        time.sleep(_AGAIN_S)


def _ask_once(file: Path, verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        answered: dict[str, Any] = knock(file, verb, fields)
    except DoorRefused as refused:
        if refused.type != ShuttingDown.__name__:
            raise
        raise DoorClosed(str(file), refused.message) from refused
    except DoorClosed as closed:
        try:
            answered = asyncio.run(_by_oneself(file, verb, fields))
        except StoreInUse as held:
            reason = f"{held.owner} has the store open, and is closing or not answering"
            raise DoorClosed(closed.path, reason) from held
    return answered


def _of_others(record: logging.LogRecord) -> bool:
    """Leave out of the log that turns lack their agents: a runtime without any is opened to tell them something."""
    return not record.getMessage().startswith("agent.missing")


async def _by_oneself(file: Path, verb: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    log = logging.getLogger("turnkeeper")
    log.addFilter(_of_others)
    try:
        async with Runtime(file, []) as runtime:  # with no agents: nothing runs, what was running waits for its own
            answered: dict[str, Any] = await verbs(runtime)[verb](fields)
            return answered
    finally:
        log.removeFilter(_of_others)


COMMANDS: Final = (_resolve, _fork, _prune, _backup)
"""What `turnkeeper` can be told to do with a store."""
