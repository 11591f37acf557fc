"""Floor 1: the audit ledger, the one source of truth."""
