"""`--folds K`: a run for each fold, in a run directory of its own, and what they give together.

The runs are ordinary ones: one that is finished is not run again, and one that was killed goes on.
"""

from __future__ import annotations

import dataclasses
import json

from trainer import models, storage, train
from trainer.config import Config, ResolvedConfig
from trainer.errors import RunExistsError
from trainer.log import LOGGER
from trainer.results import names
from trainer.storage import Folder


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
    resolved = train.fill_in(config, models.find(config.model).recipe)
    folder = storage.folder(resolved.out)
    _make_room(folder, resolved, folds)
    results = []
    for fold in range(1, folds + 1):
        LOGGER.info("fold %d of %d", fold, folds)
        out = train.run(
            dataclasses.replace(resolved, fold=fold, out=f"{resolved.out}/{_FOLD}{fold}"),
            started=started,
        )
        started = None
        results.append(json.loads(storage.read_text(f"{out}/{names.METRICS}")))
        _forget_models()
    from trainer.results import metrics

    summary = metrics.across_folds(results)
    with storage.scratch() as place:
        path = place / names.FOLDS
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.put(names.FOLDS, path)
    LOGGER.info("%s", metrics.folds_in_words(summary))
    return resolved.out


_FOLD = "fold-"


def _make_room(folder: Folder, config: ResolvedConfig, folds: int) -> None:
    """Checks that the folder holds nothing but folds; removes what --overwrite replaces."""
    present = folder.names()
    alien = [n for n in present if not n.startswith((".", _FOLD)) and n != names.FOLDS]
    if alien:
        raise RunExistsError(
            f"--out {config.out}: holds files that are no folds ({alien[0]}, {len(alien)} in all), "
            "expected a new or empty folder"
        )
    if config.overwrite:
        kept = tuple(f"{_FOLD}{fold}/" for fold in range(1, folds + 1))
        for name in sorted(present, reverse=True):
            if not name.startswith((".", *kept)):
                folder.remove(name)


def _forget_models() -> None:
    import gc

    import keras

    keras.utils.clear_session()  # Names of layers are counted anew, as in a process of its own.
    gc.collect()
