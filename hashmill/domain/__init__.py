"""Floor 0: events, jobs, plans, digests, verdicts, errors. No I/O, no await."""
