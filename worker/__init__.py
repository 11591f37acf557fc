"""Door: the process the tasks run in."""
