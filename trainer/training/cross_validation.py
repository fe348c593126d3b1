"""`--folds K`: a run for each fold, in a run directory of its own, and what they give together.

The runs are ordinary ones: one that is finished is not run again, and one that was killed goes on.
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
from trainer.runs import filenames, manifest
from trainer.runs.directory import RunDirectory
from trainer.runtime.log import LOGGER
from trainer.storage import Folder
from trainer.training import setup


def run(config: Config, folds: int, *, started: float | None = None) -> str:
    """Trains on all folds in turn, and writes `folds.json`.

    Args:
        config: the settings.
        folds: how many there are.
        started: when the program started, by time.perf_counter(); now, if left out.

    Returns:
        The path of the folder that holds the runs.

    Raises:
        TrainerError: as `train.run`.
    """
    located, model_entry = setup.resolve(config)
    settings = [of_fold(located, fold) for fold in range(1, folds + 1)]
    models.check_data(model_entry, loader.load(settings[0]).spec)
    folder = storage.folder(located.out)
    _check_alone(folder, folds)
    if located.overwrite and folder.generation(filenames.FOLDS):
        for each in settings:
            with RunDirectory(each).locked():  # Empties it.
                pass
        folder.remove(filenames.FOLDS)
    # From here on a fold that is finished is one of ours, after a kill too.
    settings = [_looked_at(each) for each in settings]
    results = []
    for each in settings:
        LOGGER.info("fold %d of %d", each.fold, folds)
        out = train.run(each, started=started)
        started = None
        results.append(json.loads(storage.read_text(f"{out}/{filenames.METRICS}")))
        if "keras" in sys.modules:  # Not where all folds were finished already.
            from trainer.engine import model_builder

            model_builder.clear_session()
    from trainer.runs import metrics

    summary = metrics.summarize_folds(results)
    with storage.temporary_directory() as place:
        path = place / filenames.FOLDS
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.write(filenames.FOLDS, path)
    LOGGER.info("%s", metrics.format_folds(summary))
    return located.out


def of_fold(config: LocatedConfig, fold: int) -> LocatedConfig:
    """Returns the settings of one fold, which has folders of its own."""
    places: dict[str, Any] = {
        name: f"{place}/fold-{fold}"
        for name in ("out", "checkpoint_dir", "tensorboard_dir")
        if (place := getattr(config, name)) is not None
    }
    return dataclasses.replace(config, fold=fold, **places)


def _check_alone(folder: Folder, folds: int) -> None:
    """Raises RunExistsError if the folder holds anything but such folds."""
    ours = tuple(f"fold-{fold}/" for fold in range(1, folds + 1))
    alien = [name for name in folder.names() if not name.startswith((".", filenames.FOLDS, *ours))]
    if alien:
        raise RunExistsError(
            f"--out {folder.path}: holds files that are none of {folds} folds "
            f"({alien[0]}, {len(alien)} in all), expected a new or empty folder"
        )


def _looked_at(run: LocatedConfig) -> LocatedConfig:
    """Returns the settings of a fold, with `overwrite` only if there is something to replace.

    Raises:
        RunExistsError: there is, and it was not given.
    """
    kept = dataclasses.replace(run, overwrite=False)
    try:
        finished = RunDirectory(kept).is_finished()
        if finished:
            was = manifest.read(storage.folder(run.out))["data_fingerprint"]
            if was != loader.load(run).fingerprint:
                raise RunExistsError(f"--out {run.out}: holds this fold of data that has changed")
    except RunExistsError:
        if not run.overwrite:
            raise
        return run
    return kept
