"""The `trainer` command: `python -m trainer` and, where the package is installed, `trainer`."""

from __future__ import annotations

import sys

from trainer.cli import main as cli


def main() -> None:
    """Runs the command; finds modules of the current folder, as `python -m` does."""
    if "" not in sys.path:
        sys.path.append("")  # For --model package.module:build. Last, so that it hides nothing.
    cli.main()


if __name__ == "__main__":
    main()
