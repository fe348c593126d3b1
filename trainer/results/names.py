"""Names of the files in a run directory."""

import re

CONFIG = "config.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
REPORT = "report.html"
MODEL_KERAS = "model.keras"
MODEL_H5 = "model.h5"
SAVED_MODEL = "saved_model"
CHECKPOINTS = "checkpoints"
LATEST_SNAPSHOT = "latest.json"
MANIFEST = "manifest.json"
FOLDS = "folds.json"


def is_snapshot(name: str) -> bool:
    """Tells whether a file in a folder of snapshots is one, or says which is the latest."""
    return name == LATEST_SNAPSHOT or re.fullmatch(r"[0-9a-f]{32}\.h5", name) is not None
