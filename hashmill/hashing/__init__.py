"""Floor 1: the mill. Algorithms, and the engine that feeds all of them from one read."""
