"""`python -m turnkeeper` is the command `turnkeeper`."""

from turnkeeper.cli import main

main()
