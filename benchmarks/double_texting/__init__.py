"""Double texting: what becomes of several messages that arrive at once for one session, ours beside its peers."""
