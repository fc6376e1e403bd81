"""The crash ledger: what kill -9 with 32 turns in flight loses, repeats and leaves in doubt, ours beside its peers."""
