"""Floor 1: researchers' functions, each run for one file in a process of its own; operators' code, not strangers'."""
