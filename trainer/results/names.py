"""Names of the files in a run directory."""

CONFIG = "config.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
MODEL_KERAS = "model.keras"
MODEL_H5 = "model.h5"
SAVED_MODEL = "saved_model"
MANIFEST = "manifest.json"
