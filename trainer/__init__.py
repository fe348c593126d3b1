"""Trains, tests, explains and serves classifiers of images, texts and vectors.

The Python interface is `train`, `load`, `Run` and `Prediction`, from `trainer.api`; errors are in
`trainer.errors`. `import trainer` imports nothing else: each name is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer import api as api
    from trainer import errors as errors
    from trainer.api import Prediction, Run, load
    from trainer.api import train_module as train

__all__ = ["Prediction", "Run", "__version__", "errors", "load", "train"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports a name of the Python interface at its first use."""
    if name in ("api", "errors", "train"):  # `trainer.train` is a module that can be called.
        return importlib.import_module(f"trainer.{name}")
    if name in __all__:
        return getattr(importlib.import_module("trainer.api"), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
