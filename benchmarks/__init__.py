"""Benchmarks: one question a file, each beside its floor in the same run."""
