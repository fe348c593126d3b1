"""CheckpointManager of an unfinished run: the state, the manager of files, and the training hooks."""
