"""The `trainer` command: `main.py` dispatches to one module per subcommand.

CONTRIBUTING.md says how to add a command.
"""
