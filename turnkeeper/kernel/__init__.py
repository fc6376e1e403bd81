"""The kernel: what is true of turns, receipts and steps, as pure code without I/O, clock or task."""
