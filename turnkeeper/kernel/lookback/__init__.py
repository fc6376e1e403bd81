"""Looking back: what happened to a turn, what it waits for and what can be done about it, asked of stored rows."""
