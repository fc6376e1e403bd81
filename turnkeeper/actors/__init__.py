"""The actors: everything with a mailbox, from in-memory actors to session agents and the one writer."""
