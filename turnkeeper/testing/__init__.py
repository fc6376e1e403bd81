"""Testing: the verification kit. Virtual time, seeded schedules, a store with faults, crash points, oracles."""
