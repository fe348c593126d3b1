"""Cross-validation, `--folds K`: one run per fold, and a summary of all folds.

The runs are ordinary runs in their own run directories: a finished run is not repeated, and an
unfinished one is resumed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from trainer import models, storage, train
from trainer.config import Config, LocatedConfig
from trainer.data import loader
from trainer.errors import RunExistsError
from trainer.models import ModelEntry
from trainer.runs import filenames
from trainer.runs.directory import RunDirectory
from trainer.runtime.log import LOGGER
from trainer.storage import Folder
from trainer.training import setup


def run(config: Config, folds: int, *, started: float | None = None) -> str:
    """Trains on each fold in turn and writes `folds.json`.

    Args:
        config: the settings.
        folds: number of folds.
        started: start of the program, by time.perf_counter(). Default: now.

    Returns:
        Path of the folder with the runs.

    Raises:
        TrainerError: as `train.run`.
    """
    located, model_entry = setup.resolve(config)
    with setup.new_directory(config, located) as located:
        return _run(located, model_entry, folds, started)


def _run(located: LocatedConfig, model_entry: ModelEntry, folds: int, started: float | None) -> str:
    settings = [fold_config(located, fold) for fold in range(1, folds + 1)]
    models.check_data(model_entry, loader.load(settings[0]).spec)
    folder = storage.folder(located.out)
    _check_only_folds(folder, folds)
    if located.overwrite and folder.generation(filenames.FOLDS):
        for each in settings:
            with RunDirectory(each).locked():  # Removes the earlier run.
                pass
        folder.remove(filenames.FOLDS)
    # A fold that is finished from now on belongs to this cross-validation, also after a restart.
    settings = [_check_fold(each) for each in settings]
    results = []
    for each in settings:
        LOGGER.info("fold %d of %d", each.fold, folds)
        out = train.run(each, started=started)
        started = None
        results.append(json.loads(storage.read_text(f"{out}/{filenames.METRICS}")))
        if "keras" in sys.modules:  # Not imported if all folds were finished already.
            from trainer.engine import model_builder

            model_builder.clear_session()
    from trainer.runs import metrics

    summary = metrics.summarize_folds(results)
    with storage.temporary_directory() as temporary:
        path = temporary / filenames.FOLDS
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.write(filenames.FOLDS, path)
    LOGGER.info("%s", metrics.format_folds(summary))
    return located.out


def fold_config(config: LocatedConfig, fold: int) -> LocatedConfig:
    """Returns the settings of one fold, with its own subfolder of each output folder."""
    folders: dict[str, Any] = {
        name: f"{folder}/fold-{fold}"
        for name in ("out", "checkpoint_dir", "tensorboard_dir")
        if (folder := getattr(config, name)) is not None
    }
    return dataclasses.replace(config, fold=fold, **folders)


def _check_only_folds(folder: Folder, folds: int) -> None:
    """Raises RunExistsError if the folder holds files that do not belong to `folds` folds."""
    prefixes = tuple(f"fold-{fold}/" for fold in range(1, folds + 1))
    others = [
        name for name in folder.names() if not name.startswith((".", filenames.FOLDS, *prefixes))
    ]
    if others:
        raise RunExistsError(
            f"--out {folder.path}: holds files that do not belong to {folds} folds "
            f"({others[0]}, {len(others)} in total), expected a new or empty folder. "
            "Set another --out"
        )


def _check_fold(config: LocatedConfig) -> LocatedConfig:
    """Returns the settings of a fold, with `overwrite` only if another run is in the way.

    Raises:
        RunExistsError: another run is in the way, and `overwrite` is not set.
    """
    keep = dataclasses.replace(config, overwrite=False)
    try:
        directory = RunDirectory(keep)
        if directory.is_finished():
            setup.check_content(keep, directory)
    except RunExistsError:
        if not config.overwrite:
            raise
        return config
    return keep
