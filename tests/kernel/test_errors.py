"""Errors: one tree, shown in the package's docstring; facts as attributes; messages that say what to do."""

import inspect
import re
import string
from dataclasses import fields, is_dataclass
from itertools import count
from typing import Any, get_type_hints

import pytest

from turnkeeper.kernel import errors
from turnkeeper.kernel.errors import TurnkeeperError
from turnkeeper.kernel.names import StepName

GROUPS = {
    "Refused",
    "TurnError",
    "StepError",
    "WaitError",
    "CoordinationError",
    "StorageError",
    "DoorError",
    "SupervisionError",
}
CONTRACT = {
    "TurnNotFound",
    "IllegalTransition",
    "StaleEpoch",
    "VersionConflict",
    "TurnTerminal",
    "LeaseExpired",
    "LeaseHeld",
    "MailboxFull",
    "ActorBusy",
    "IdempotencyConflict",
    "DeliverableRecorded",
    "WaitTokenInvalid",
    "RecursionDepthExceeded",
    "StepLimitExceeded",
    "DeadlineExceeded",
    "ReplayDivergence",
    "ContractChanged",
    "VersionGone",
    "EffectInDoubt",
    "ContractViolation",
    "ToolTimedOut",
    "Deadlock",
    "ClaimDenied",
    "StaleClaim",
    "NotOwner",
    "UnknownEvent",
    "StorageFailed",
    "StoreInUse",
    "SchemaTooNew",
    "Quarantined",
    "ShuttingDown",
    "PayloadTooLarge",
}


def classes() -> dict[str, type[TurnkeeperError]]:
    """Return every error that the package defines, by name."""
    return {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and found.__module__.startswith(f"{errors.__name__}.")
    }


def tree() -> list[tuple[str, str]]:
    """Return the docstring's tree as (group, error), in its order."""
    group, found = "", []
    for line in (errors.__doc__ or "").splitlines():
        if begun := re.match(r"[|`]-- (\w+)", line):
            group = begun[1]
        elif begun := re.match(r"[| ]   [|`]-- ([\w, ]+)$", line):
            found += [(group, name) for name in begun[1].split(", ")]
    return found


LEAVES = sorted(classes().keys() - GROUPS - {"TurnkeeperError"})


def made(name: str) -> tuple[TurnkeeperError, dict[str, Any]]:
    """Return an error made with a value of its own for every fact, and those facts."""
    kind = classes()[name]
    if not is_dataclass(kind):
        return kind(), {}
    numbers = count(101)
    facts: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint, number = hints[field.name], next(numbers)
        if hint is StepName:
            facts[field.name] = StepName(f"step{number}", "0")
        elif hint is str or hint == (str | None):
            facts[field.name] = f"text{number}"
        else:
            facts[field.name] = number
    return kind(**facts), facts


def places(name: str) -> list[str]:
    """Return the facts that an error's message has places for."""
    return [place for _, place, _, _ in string.Formatter().parse(classes()[name].says) if place is not None]


# ---------------------------------------------------------------- the tree


def test_every_class_is_in_the_tree_once_and_only_there() -> None:
    """The package's docstring is the list of errors: nothing is missing, nothing made up, all can be imported."""

    assert sorted(name for _, name in tree()) == LEAVES
    assert sorted(errors.__all__) == sorted(classes())


def test_every_class_is_under_the_group_the_tree_says() -> None:
    """Catching a group catches its errors, and no others."""
    found = {
        name: [group for group in sorted(GROUPS) if issubclass(classes()[name], classes()[group])] for name in LEAVES
    }

    assert found == {name: [group] for group, name in tree()}


def test_the_groups_stand_under_one_base() -> None:
    """One class catches everything that this library raises."""

    assert {group for group, _ in tree()} == GROUPS
    assert {classes()[group].__bases__ for group in GROUPS} == {(TurnkeeperError,)}
    assert TurnkeeperError.__bases__ == (Exception,)


def test_every_error_of_the_contract_exists() -> None:
    """The contract's names, each under the one base."""

    assert set(LEAVES) >= CONTRACT


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("name", LEAVES)
def test_a_message_holds_its_facts_and_no_place_left_open(name: str) -> None:
    """What the message promises to say, it says; no brace is left in it."""
    error, facts = made(name)
    message = str(error)

    assert not set("{}") & set(message)
    for place in places(name):
        assert str(facts[place]) in message


@pytest.mark.parametrize("name", LEAVES)
def test_facts_are_attributes(name: str) -> None:
    """Callers act on facts, not on messages; a message has no place for what is no fact."""
    error, facts = made(name)

    assert {fact: getattr(error, fact) for fact in facts} == facts
    assert set(places(name)) <= facts.keys()


@pytest.mark.parametrize("name", LEAVES)
def test_facts_may_be_given_by_position_or_by_name(name: str) -> None:
    """Both say the same."""
    error, facts = made(name)

    assert str(classes()[name](*facts.values())) == str(error)


@pytest.mark.parametrize("name", LEAVES)
def test_the_docstring_is_the_errors_own_and_tells_its_story(name: str) -> None:
    """Every error has words of its own about whose fault it is and what to do; no generated signature."""
    doc = vars(classes()[name])["__doc__"]

    assert doc
    assert not doc.startswith(f"{name}(")
    assert doc.split("\n")[0].endswith((".", ":", ")"))


def test_a_fact_with_braces_stays_as_it_is() -> None:
    """Keys and messages come from users: nothing in them is ever filled in."""
    error = errors.StepFailed(StepName("{x}", "{0}"), "pure", "{type}", "{} {message} {effect!r}")

    assert str(error) == "step {x}[{0}] failed: {type}: {} {message} {effect!r}"


@pytest.mark.parametrize("group", ["TurnkeeperError", *sorted(GROUPS)])
def test_a_group_can_be_raised_with_words_of_its_own(group: str) -> None:
    """As any exception: with a message, braces and all, or with none."""

    assert str(classes()[group]("said {so}")) == "said {so}"
    assert isinstance(str(classes()[group]()), str)


def test_errors_of_equal_facts_are_two_errors() -> None:
    """They can be put into sets and compared by identity, as exceptions are."""
    one, other = errors.StaleEpoch(7, 1), errors.StaleEpoch(7, 1)

    assert one != other
    assert len({one, other}) == 2


# ---------------------------------------------------------------- what a retry could change


def test_only_what_another_run_could_end_otherwise_is_retryable() -> None:
    """A tool's failure, its slowness, a worker's death and the disk; no limit, no contract, no doubt."""

    assert {name for name, kind in classes().items() if kind.retryable} == {
        "StepFailed",
        "ToolTimedOut",
        "ProcessDied",
        "StorageFailed",
    }
