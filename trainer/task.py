"""Entry point of the job: `python -m trainer.task --model cnn`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from trainer.config import Config, command_line, option_specs, resolve
from trainer.data.loader import SHIPPED
from trainer.distributed.cluster import Cluster, read_cluster
from trainer.errors import UsageError
from trainer.models import MODELS
from trainer.runtime import log, preemption
from trainer.runtime.log import LOGGER

PROGRAM = "python -m trainer.task"
NAMES = {"models": ", ".join(MODELS), "datasets": ", ".join(SHIPPED)}  # In the help of flags.


def main(argv: Sequence[str] | None = None, *, program: str = PROGRAM) -> None:
    """Runs the job described by the command line and exits, with 143 if SIGTERM ended it."""
    started = time.perf_counter()
    preemption.exit_at_once()
    arguments = sys.argv[1:] if argv is None else list(argv)
    with command_line.exit_codes(program, arguments):
        config = parse(arguments, program=program)
        cluster = read_cluster(os.environ)
        log.configure(config.log)
        if cluster is not None:
            check_workers(config, len(cluster.addresses))
            log.hide_native_errors()
        # Not before the flags are checked: a typo must be answered at once, without NumPy's and
        # TensorFlow's imports.
        from trainer import train
        from trainer.training import cross_validation, dry_run

        if cluster is not None and not cluster.is_chief:
            _follow(config, cluster)
            return
        if config.dry_run:
            dry_run.run(config, started=started)
            return
        if config.folds and not config.fold:
            out = cross_validation.run(config, config.folds, started=started)
        else:
            out = train.run(config, cluster=cluster, started=started)
        # The last line on stdout is the run directory, for scripts to read.
        print(log.json_line("INFO", out) if config.log == "json" else out, flush=True)


def check_workers(config: Config, workers: int) -> None:
    """Raises UsageError for what is one worker's work, if there are several."""
    for flag, given in (
        ("--dry-run", config.dry_run),
        ("--folds", config.folds and not config.fold),
    ):
        if given and workers > 1:
            raise UsageError(f"{flag}: found {workers} workers, expected one")


def _follow(config: Config, cluster: Cluster) -> None:
    """Trains along with the chief, whose log is the job's."""
    from trainer import train

    LOGGER.info(
        "worker %d of %d: trains its share; the chief (%s) writes and tells",
        cluster.index, len(cluster.addresses), cluster.addresses[0],
    )  # fmt: skip
    train.follow(config, cluster)


def parse(arguments: Sequence[str], *, program: str = PROGRAM) -> Config:
    """Turns command line arguments into a checked Config; answers `--help` by itself.

    Raises:
        UsageError: an unknown flag, a stray word, or a value that is wrong.
        SystemExit: with code 0, after the help was printed.
    """
    flags = command_line.parse_values(
        arguments,
        option_specs(Config),
        program=program,
        summary="Trains a model on labelled data and leaves a run directory behind.",
        names=NAMES,
    )
    file_text = None
    if "config" in flags:
        from trainer import storage

        file_text = storage.read_text(flags["config"])
    return resolve(flags, file_text, os.environ)


if __name__ == "__main__":
    main()
