"""What is trained on: data sets by name, path or gs://, in any of the registered formats."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.datasets.dataset import Dataset

SHIPPED = ("mnist", "movie_reviews")

# One module a format, tried in this order. Each has `NAME`, what it reads in words;
# `recognises(files)`; and `read(files, *, allow_pickle)`, which returns a Source.
FORMATS = ("idx", "npz", "sparse", "text", "pickled")

_BUILTIN = Path(__file__).parent / "builtin"


def load(
    data: str,
    *,
    seed: int,
    validation: float = 0.0,
    fold: tuple[int, int] | None = None,
    allow_pickle: bool = False,
) -> Dataset:
    """Reads, checks and splits a data set.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path.
        seed: decides which examples are held out.
        validation: part of the training examples held out for validation, 0 to below 1.
        fold: (n, of) for the n-th, from 1, of so many folds of the training examples as test part.
        allow_pickle: whether a pickle may be read, by an unpickler that admits arrays only.

    Raises:
        DataError: the data is damaged, inconsistent or in no known format.
        StorageError: the path is missing or may not be read.
    """
    # NumPy is not imported before the flags are checked.
    from trainer.datasets.dataset import Dataset

    path = str(_BUILTIN / data) if data in SHIPPED else data
    with storage.local_copy(path) as local:
        files = _files(local)
        module = _recognise(data, files)
        try:
            source = module.read(files, allow_pickle=allow_pickle)
        except DataError as error:
            # Formats name the file inside the data; the user knows it by the path that was given.
            folder = path if local.is_dir() else path.rpartition("/")[0]
            raise DataError(f"{folder}/{error}" if folder else str(error)) from None
    try:
        return Dataset.split(source, seed=seed, validation=validation, fold=fold)
    except DataError as error:
        raise DataError(f"{data}: {error}") from None


def _files(path: Path) -> list[Path]:
    """Returns the file itself or those directly in the folder; hidden ones are somebody else's."""
    if not path.is_dir():
        if not path.is_file():  # A pipe would be waited for, and /dev/zero has no end.
            raise DataError(f"{path}: neither a file nor a folder")
        return [path]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    root = path.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{file}: a link that leads out of the data folder")
    return files


def _recognise(data: str, files: list[Path]) -> Any:
    modules = [importlib.import_module(f"{__name__}.{name}") for name in FORMATS]
    for module in modules:
        if module.recognises(files):
            return module
    found = ", ".join(file.name for file in files[:5]) or "no files"
    raise DataError(
        f"{data}: no known format, found {found}. Expected one of: "
        f"{'; '.join(module.NAME for module in modules)}."
    )
