"""A mutant: one planted bug as an exact replacement of text in one module, and how it is planted."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["Mutant", "edit", "plant"]

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug.

    Args:
        name: the bug, in words.
        where: the module, dotted, without the package's name.
        edits: (old text, new text); each old text occurs exactly once in the module.
        point: which of the contract's points on how others broke it (section 10) this is; empty for none.
        tries: the scenarios to try, all but the kernel's if empty; `conformance` stands for the suite of
            stores, and the path of a file for its tests.
        found_by: where tests are tried, the one that finds it, so that a hunt need not run all of a file.
        missing: which check or act is missing for it to be found; empty where it must be found.
        slow: it takes many seeds, or it is a loop that ends only by the guard; the tests leave it to the command.
    """

    name: str
    where: str
    edits: tuple[tuple[str, str], ...]
    point: str = ""
    tries: tuple[str, ...] = ()
    found_by: str = ""
    missing: str = ""
    slow: bool = False

    @property
    def module(self) -> str:
        """Return the module's full name."""
        return f"turnkeeper.{self.where}"

    @property
    def path(self) -> Path:
        """Return the module's file."""
        return _ROOT / (self.module.replace(".", "/") + ".py")


def edit(mutant: Mutant, source: str) -> str:
    """Return a module's source with the bug in it.

    Raises:
        LookupError: an old text does not occur exactly once, so the mutant must be written anew.
    """
    for old, new in mutant.edits:
        if (times := source.count(old)) != 1:
            msg = f"{mutant.name!r}: its old text occurs {times} times in {mutant.path.name}, not once:\n{old}"
            raise LookupError(msg)
        source = source.replace(old, new)
    return source


def plant(mutant: Mutant) -> None:
    """Let this process load the mutated module instead of the library's.

    Raises:
        RuntimeError: the module is loaded already, so planting would change nothing.
    """
    if mutant.module in sys.modules:
        msg = f"{mutant.module} is loaded already"
        raise RuntimeError(msg)
    sys.meta_path.insert(0, _Finder(mutant))


class _Loader(SourceFileLoader):
    """Compiles the edited source; the bytecode beside the file is neither read nor written."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType | None:
        source = edit(self._mutant, self.get_source(fullname) or "")
        return self.source_to_code(source.encode(), self.path)


class _Finder(MetaPathFinder):
    """Finds the one mutated module, and leaves every other to those who come after it."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(self._mutant, spec.origin)
        return spec
