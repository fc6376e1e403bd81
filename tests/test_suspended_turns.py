"""The benchmark of suspended turns: on a real file, in processes of their own, and each wakes when it should."""

import pytest

from benchmarks import suspended_turns


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    return suspended_turns.measure(300)


def test_every_suspended_turn_wakes_on_time_in_virtual_time(found: dict[str, float]) -> None:
    """One more was told by the process that started with them."""
    assert found["woken"] == 301
    assert suspended_turns.missed(found) == []


def test_suspended_turns_hold_no_memory_and_leave_it_with_their_actors(found: dict[str, float]) -> None:
    """Python's memory of a runtime that starts with them does not follow from how many they are."""
    assert found["agents in memory"] == 0
    assert found["memory MB"] < 0.5


def test_a_suspended_turn_takes_less_than_two_kilobytes_of_the_file(found: dict[str, float]) -> None:
    """100,000 of them are under 200 MB."""
    assert found["file MB"] * 1e6 / 300 < 2_000


def test_targets_that_are_missed_are_told(found: dict[str, float]) -> None:
    """So that `--check` can fail."""
    assert len(suspended_turns.missed(found | {"file MB": 1e9, "earliest s": -1.0})) == 2
