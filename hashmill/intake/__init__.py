"""The HTTP door: events in, answers about runs out, replays, the console page, metrics."""
