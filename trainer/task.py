"""Entry point of the training job: `python -m trainer.task --model cnn`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from trainer import storage
from trainer.config import Config, check_path, command_line, option_specs, resolve
from trainer.data.loader import SHIPPED
from trainer.distributed.cluster import Cluster, read_cluster
from trainer.errors import UsageError
from trainer.models import MODELS
from trainer.runtime import log, preemption
from trainer.runtime.log import LOGGER

PROGRAM = "python -m trainer.task"
NAMES = {"models": ", ".join(MODELS), "datasets": ", ".join(SHIPPED)}  # Shown in `--help`.


def main(argv: Sequence[str] | None = None, *, program: str = PROGRAM) -> None:
    """Runs the job that the command line describes and exits; with 143 after SIGTERM."""
    started = time.perf_counter()
    preemption.exit_on_sigterm()
    arguments = sys.argv[1:] if argv is None else list(argv)
    with command_line.exit_codes(program, arguments):
        config = parse(arguments, program=program)
        cluster = read_cluster(os.environ)
        log.configure(config.log)
        if cluster is not None:
            check_workers(config, len(cluster.addresses))
            log.suppress_native_errors()
        # Imported after the flags are checked, so that a typo is reported before NumPy and
        # TensorFlow are imported.
        from trainer import train
        from trainer.training import cross_validation, dry_run

        if cluster is not None and not cluster.is_chief:
            _run_worker(config, cluster)
            return
        if config.dry_run:
            dry_run.run(config, started=started)
            return
        if config.folds and not config.fold:
            out = cross_validation.run(config, config.folds, started=started)
        else:
            out = train.run(config, cluster=cluster, started=started)
        # The last line on stdout is the run directory, so that scripts can read it.
        print(log.json_line("INFO", out) if config.log == "json" else out, flush=True)


def check_workers(config: Config, workers: int) -> None:
    """Raises UsageError for flags that one worker supports only, if there are several."""
    for flag, is_set in (
        ("--dry-run", config.dry_run),
        ("--folds", config.folds and not config.fold),
    ):
        if is_set and workers > 1:
            raise UsageError(f"{flag}: found {workers} workers, expected one")


def _run_worker(config: Config, cluster: Cluster) -> None:
    """Trains as a worker that is not the chief; progress and results are in the chief's log."""
    from trainer import train

    LOGGER.info(
        "worker %d of %d started; progress and results are in the log of the chief (%s)",
        cluster.index, len(cluster.addresses), cluster.addresses[0],
    )  # fmt: skip
    train.follow(config, cluster)


def parse(arguments: Sequence[str], *, program: str = PROGRAM) -> Config:
    """Returns the checked Config of command line arguments; `--help` prints and exits.

    Raises:
        UsageError: an unknown flag, an unexpected word, or an invalid value.
        SystemExit: with code 0, after `--help`.
    """
    flags = command_line.parse_values(
        arguments,
        option_specs(Config),
        program=program,
        summary="Trains a model on labelled data and writes a run directory.",
        names=NAMES,
    )
    file_text = None
    storage.set_billing_project(flags.get("billing_project"))
    if "config" in flags:
        file_text = storage.read_text(check_path("--config", flags["config"]))
    config = resolve(flags, file_text, os.environ)
    storage.set_billing_project(config.billing_project)
    return config


if __name__ == "__main__":
    main()
