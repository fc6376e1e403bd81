"""The peers' environments: each its own, made once under a folder of the user's, installed by pip."""

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["NotInstallable", "default_folder", "python_of"]

_INSTALL_S: Final = 600.0
"""How long pip may take."""


class NotInstallable(Exception):
    """A peer's environment cannot be made here; `reason` is pip's last word."""

    def __init__(self, packages: Sequence[str], reason: str) -> None:
        """Take what was to be installed, and why it was not."""
        super().__init__(f"{' '.join(packages)}: {reason}")
        self.reason = reason


def default_folder() -> Path:
    """Return where environments are kept: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnkeeper" / "peers"


def python_of(packages: Sequence[str], folder: Path) -> Path:
    """Return the interpreter of an environment with these packages, made where it is not there yet.

    Raises:
        NotInstallable: there is no network, or no package for this machine.
    """
    version = f"py{sys.version_info.major}.{sys.version_info.minor}"
    place = folder.resolve() / "-".join([*packages, version]).replace("==", "-")
    python, done = place / "bin" / "python", place / "installed"
    if not done.exists():  # written last: an environment that was cut off is made again
        try:
            venv.create(place, with_pip=True, clear=True, symlinks=True)
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
            done.touch()
        except (OSError, subprocess.SubprocessError) as error:
            raise NotInstallable(packages, _last_word(error)) from error
    return python


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)  # noqa: S603 - pip's own


def _last_word(error: Exception) -> str:
    said = str(error.stderr or "") if isinstance(error, subprocess.CalledProcessError) else ""
    return next((line for line in reversed(said.splitlines()) if line.strip()), str(error))
