"""The store: one SQLite file, owned by one process, written in batches by one writer."""
