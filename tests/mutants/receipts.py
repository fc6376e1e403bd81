"""Bugs of the reception: two instances of one actor, keys that stand for too much or too little."""

# ruff: noqa: E501 - the library's source is quoted line by line

from functools import partial
from typing import Final

from mutants.mutant import Mutant

__all__ = ["RECEIPTS"]

_reception = partial(Mutant, where="supervisors.reception")
_receipt = partial(Mutant, where="kernel.receipt")

RECEIPTS: Final[tuple[Mutant, ...]] = (
    _reception(
        name="first messages race into several instances of one actor",
        edits=(
            ("        opening = self._opening.get(address)\n", "        opening = None\n"),
            ("            opening.add_done_callback(partial(self._no_longer_opening, address))\n", ""),
            (
                "            agent = self._agents.setdefault(address, fresh)",
                "            agent = self._agents[address] = fresh",
            ),
        ),
        point="14: first messages racing into several instances",
    ),
    _reception(
        name="an actor that is spoken to again may still leave memory as idle",
        edits=(("        self._idle.pop(address, None)\n\n    def _left", "\n    def _left"),),
        point="14: several instances of one actor",
    ),
    _reception(
        name="an actor leaves memory while somebody is about to speak to it",
        edits=(("is not idle or address in self._callers or agent.awaited:\n", "is not idle or agent.awaited:\n"),),
        point="14: several instances of one actor",
    ),
    _reception(
        name="a key whose turn has ended is taken for a new one",
        edits=(
            (
                "                        return await self._drop(node, address, agent, known)",
                "                        retired = known.receipt_id",
            ),
        ),
        point="12: a restart applies the whole inbox again",
    ),
    _reception(
        name="the key of a turn that has ended is refused as taken",
        edits=(
            (
                "            except (KeyTaken, VersionConflict, StaleEpoch) as error:",
                "            except (VersionConflict, StaleEpoch) as error:",
            ),
        ),
        point="7: a redelivery is refused",
    ),
    _reception(
        name="a duplicate that meets a resync is refused",  # this one was ours
        edits=(
            (
                "            except (KeyTaken, VersionConflict, StaleEpoch) as error:",
                "            except (KeyTaken, VersionConflict) as error:",
            ),
        ),
        point="7: a redelivery is refused",
        tries=("tests/testing/test_scenarios.py",),
        slow=True,
    ),
    Mutant(
        name="a duplicate comes between a turn's reading and the use of what was read",  # this one was ours
        where="actors.resync",
        edits=(("        turn.rereading = True\n", ""),),
        point="7: a redelivery is refused",
        tries=("tests/testing/test_scenarios.py",),
        slow=True,
    ),
    Mutant(
        name="the tenant is left out of the address",
        where="supervisors.runtime",
        edits=(
            ("        to = address(tenant, session_id, agent_id)", '        to = address("", session_id, agent_id)'),
        ),
        point="6: single active on another key",
    ),
    Mutant(
        name="an actor is opened by session alone, whichever agent is spoken to",
        where="supervisors.reception",
        edits=(
            (
                "        actor_id = await self._node.store.actor_id(address)\n        if actor_id is None:",
                (
                    "        found = [agent.actor_id for to, agent in self._agents.items() if to.session_id == address.session_id]\n"
                    "        actor_id = found[0] if found else await self._node.store.actor_id(address)\n        if actor_id is None:"
                ),
            ),
        ),
        point="6: single active on another key",
    ),
    _receipt(
        name="a key answers for another payload",
        edits=(("    if known.digest != digest:\n        raise IdempotencyConflict(known.key, known.turn_id)\n", ""),),
        point="9: what is another message is taken for the same",
    ),
    _receipt(
        name="a key never expires",
        edits=(("    if now >= known.expires_at:", "    if now >= known.expires_at > now:"),),
        point="8: a message lost for the key's whole life",
    ),
    Mutant(
        name="a duplicate of an ended turn leaves no edge",
        where="kernel.lifecycle",
        edits=(
            (
                '        return None, [seen, EdgeAppendedLate(EdgeKind.DUPLICATE_DROPPED._value_, at, b"", turn_id)]',
                "        return None, [seen]",
            ),
        ),
    ),
)
