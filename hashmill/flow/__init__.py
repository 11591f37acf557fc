"""Floor 2: the steps of a run. Plain `async` functions that take open tools; no framework."""
