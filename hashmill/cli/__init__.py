"""Floor 4: the command line, one file per group of commands."""
