"""`python -m trainer` is the `trainer` command, also where it is not installed."""

from trainer.cli.main import main

main()
