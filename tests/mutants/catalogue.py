"""The catalogue: every mutant, by the part of the library that it is planted in."""

from typing import Final

from mutants.arrivals import ARRIVALS
from mutants.doubts import DOUBTS
from mutants.letters import LETTERS
from mutants.mailboxes import MAILBOXES
from mutants.mutant import Mutant
from mutants.participants import PARTICIPANTS
from mutants.parts import PARTS
from mutants.progress import PROGRESS
from mutants.receipts import RECEIPTS
from mutants.recovering import RECOVERING
from mutants.states import STATES
from mutants.steps import STEPS
from mutants.sweep import SWEEP
from mutants.trees import TREES
from mutants.turns import TURNS
from mutants.waiting import WAITING
from mutants.writing import WRITING

__all__ = ["MUTANTS"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *MAILBOXES,
    *LETTERS,
    *TURNS,
    *WRITING,
    *RECEIPTS,
    *RECOVERING,
    *ARRIVALS,
    *STEPS,
    *STATES,
    *DOUBTS,
    *PROGRESS,
    *SWEEP,
    *TREES,
    *PARTICIPANTS,
    *PARTS,
    *WAITING,
)
