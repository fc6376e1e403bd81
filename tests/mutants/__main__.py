"""The command `python tests/mutants`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of this package: it is not installed

from mutants.table import main

if __name__ == "__main__":
    sys.exit(main())
