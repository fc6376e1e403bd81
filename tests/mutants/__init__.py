"""Planted bugs: each changes a line or three of the library, and the kit must find it.

python tests/mutants             the whole table; exit code 1 if one survives
python tests/mutants --help      fewer of them, more seeds, JSON
"""
