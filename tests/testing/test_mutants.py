"""Planted bugs are found: the kit shows that it would find real ones.

Here the mutants are checked, and all that are found quickly are hunted. Those that take long, and those for
which a check or an act is still missing, are in the full table: `python tests/mutants`.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants.catalogue import MUTANTS
from mutants.mutant import Mutant, edit, plant
from mutants.table import Row, rows

SEEDS = 80
HUNTED = [mutant for mutant in MUTANTS if not mutant.missing and not mutant.slow]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_still_fits_its_module(mutant: Mutant) -> None:
    """A refactoring that moves the old text must not disable its mutant in silence."""
    source = mutant.path.read_text()

    edited = edit(mutant, source)

    assert edited != source
    ast.parse(edited)


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    """A mutant is picked by its name."""
    names = {mutant.name for mutant in MUTANTS}

    assert len(names) == len(MUTANTS) >= 34


def test_an_old_text_that_is_missing_or_occurs_twice_is_refused() -> None:
    """The mutant must be written anew then."""
    mutant = Mutant(name="none", where="kernel.verdict", edits=(("x = 1", "x = 2"),))

    with pytest.raises(LookupError, match="occurs 0 times"):
        edit(mutant, "")
    with pytest.raises(LookupError, match="occurs 2 times"):
        edit(mutant, "x = 1\nx = 1\n")


def test_a_mutant_of_a_module_that_is_loaded_is_refused() -> None:
    """It would change nothing, and count as not found."""
    loaded = Mutant(name="none", where="kernel.verdict", edits=(("failures", "failures"),))

    __import__(loaded.module)

    with pytest.raises(RuntimeError, match="loaded already"):
        plant(loaded)


@pytest.fixture(scope="module")
def table() -> list[Row]:
    """The table of what is hunted here, the control first."""
    return list(rows(HUNTED, SEEDS))


def test_nothing_is_found_where_nothing_was_planted(table: list[Row]) -> None:
    """Or a find would say nothing about the mutant."""
    controls = [row for row in table if not row.where]

    assert controls
    assert [row.by for row in controls if row.found] == []


def test_every_mutant_is_found_within_some_seeds(table: list[Row]) -> None:
    """By a rule that is named; seed by seed, the same each time. A file of tests has as many as it has."""
    hunted = [row for row in table if row.where]

    assert len(hunted) == len(HUNTED)
    assert [row.name for row in hunted if not row.found] == []
    assert all(row.by for row in hunted)
    assert all(row.seeds <= SEEDS for row in hunted if ", seed " in row.by)


def test_the_command_prints_a_table_or_json_and_exits_by_what_survives() -> None:
    """A mutant that survives is an exit code of 1."""
    command = [sys.executable, str(Path(__file__).parents[1] / "mutants"), "--seeds", "5"]

    found = subprocess.run([*command, "--only", "newest first"], capture_output=True, text=True, check=False)
    survived = subprocess.run(
        [*command, "--json", "--only", "takes more while the actors close"], capture_output=True, text=True, check=False
    )
    unknown = subprocess.run([*command, "--only", "no such mutant"], capture_output=True, text=True, check=False)

    assert found.returncode == 0
    assert "1 of 1 found" in found.stdout
    assert survived.returncode == 1
    assert [row["found"] for row in json.loads(survived.stdout)] == [False, False]
    assert unknown.returncode == 2
    assert "no such mutant" in unknown.stderr
