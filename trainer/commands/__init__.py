"""What the `trainer` command can do besides training: one file a command, one line in `cli.py`."""
