"""Tending: saying what is wanted of an agent or a child, to the runtime that has the store open or to the next one."""

from pathlib import Path
from typing import Final

import click

from turnkeeper.cli.operate import ask, by_option, print_answer
from turnkeeper.cli.output import json_option
from turnkeeper.kernel.supervision.desired import Verb

__all__ = ["COMMANDS"]

_HELP: Final = {
    Verb.PAUSE: "Let PATH (agents/billing, tree/shop/prices) accept work and start none; what runs goes on.",
    Verb.RESUME: "Let PATH go on after it was paused or stopped.",
    Verb.STOP: "Let nothing of PATH run; turns that run go back to their queues.",
    Verb.QUARANTINE: "Put PATH away as one that does harm: as stop, until it is released.",
    Verb.RELEASE: "End the quarantine of PATH.",
}


def _command(verb: Verb, says: str) -> click.Command:
    @click.command(verb.value, help=f"{says} Recorded, and holds for later runtimes.")
    @click.argument("db", type=click.Path(path_type=Path))
    @click.argument("path")
    @click.option("--reason", default="", help="Why; it stands in the event.")
    @by_option
    @json_option
    def said(db: Path, path: str, reason: str, by: str, as_json: bool) -> None:
        answered = ask(db, "say", {"path": path, "word": verb, "reason": reason, "by": by})
        desired = answered["desired"]
        print_answer(answered, f"{path}: {desired}{'' if answered['changed'] else ' already'}", as_json)

    return said


COMMANDS: Final = tuple(_command(verb, says) for verb, says in _HELP.items())
"""What `turnkeeper` can say to agents and children."""
