"""The `trainer` command: one file per command, one line in `main.COMMANDS`."""
