"""Supervision as tables: who comes back, how often, in what order, and who counts as dead."""
