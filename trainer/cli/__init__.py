"""The `trainer` command, one module per subcommand.

To add a command `trainer NAME`:

1. Write `trainer/cli/NAME.py`. It holds a frozen dataclass `NameOptions`, whose fields are
   `argument(...)` and `option(...)` of `trainer.config.fields`, and a function
   `main(arguments, *, program)`, which parses them with `command_line.parse` inside of
   `command_line.exit_codes`. `verify.py` is the shortest example.
2. Add its line to `COMMANDS` in `main.py`: the module, and what the command does.
3. Test it in `tests/cli/test_NAME.py`; `tests/cli/test_main.py` checks that it has a `--help`.

Heavy imports (TensorFlow) stand behind the parsing, so that a typo is reported at once.
"""
