"""What is trained on: data sets by name, path or gs://, in any of the registered formats."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.datasets.dataset import Dataset, Reading, Source

SHIPPED = ("mnist", "movie_reviews")

# One module a format, tried in this order. Each has `NAME`, what it reads in words;
# `recognises(files)`; and `read(files, options)`, which returns a Source.
FORMATS = ("idx", "npz", "sparse", "text", "pickled", "managed")

_BUILTIN = Path(__file__).parent / "builtin"


def load(
    data: str,
    *,
    seed: int,
    validation: float = 0.0,
    fold: tuple[int, int] | None = None,
    validation_data: str | None = None,
    test_data: str | None = None,
    allow_pickle: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Reads, checks and splits a data set.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path, or a pattern of either.
        seed: decides which examples are held out.
        validation: part of the training examples held out for validation, 0 to below 1.
        fold: (n, of) for the n-th, from 1, of so many folds of the training examples as test part.
        validation_data: where the validation part is, if it lies apart; as `data`.
        test_data: where the test part is, if it lies apart; as `data`.
        allow_pickle: whether a pickle may be read, by an unpickler that admits arrays only.
        image_size: pixels a side that images in files of their own are brought to.

    Raises:
        DataError: the data is damaged, inconsistent or in no known format.
        StorageError: the path is missing or may not be read.
    """
    # NumPy is not imported before the flags are checked.
    from trainer.datasets.dataset import Dataset, Reading

    options = Reading(allow_pickle=allow_pickle, image_size=image_size)
    source = read(data, options)
    for part, place in (("validation", validation_data), ("test", test_data)):
        if place is not None:
            source = _with_part(source, part, place, read(place, options))
    try:
        return Dataset.split(source, seed=seed, validation=validation, fold=fold)
    except DataError as error:
        raise DataError(f"{data}: {error}") from None


def read(data: str, options: Reading) -> Source:
    """Reads a data set, which is neither checked nor split yet.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path, or a pattern of either.
        options: how its files are to be read.

    Raises:
        DataError: it is damaged, or in no known format.
        StorageError: the path is missing or may not be read.
    """
    path = str(_BUILTIN / data) if data in SHIPPED else data
    with storage.local_copy(path) as local:
        files = _files(local)
        module = _recognise(data, files)
        try:
            source: Source = module.read(files, options)
        except DataError as error:
            if str(error).startswith(("gs://", "/")):  # What a line of the data refers to.
                raise
            # Formats name the file inside the data; the user knows it by the path that was given.
            whole = local.is_dir() and not storage.is_pattern(path)
            folder = path if whole else path.rpartition("/")[0]
            raise DataError(f"{folder}/{error}" if folder else str(error)) from None
    return source


def _with_part(source: Source, name: str, place: str, other: Source) -> Source:
    """Returns the source with the examples of another one as its validation or test part.

    Raises:
        DataError: there are two such parts then, or labels that training does not know.
    """
    from trainer.datasets.dataset import numbers_in

    flag = f"--{name}-data {place}"
    if getattr(source, name) is not None:
        raise DataError(f"{flag}: the data of --data has a {name} part of its own")
    if other.validation is not None or other.test is not None:
        raise DataError(f"{flag}: has several parts, expected data in one piece")
    examples, labels = other.train
    if source.classes and other.classes:
        try:
            labels = numbers_in(source.classes, other.classes)[labels]
        except DataError as error:
            raise DataError(f"{flag}: {error}, the classes of the training part") from None
    part: dict[str, Any] = {name: (examples, labels)}
    return dataclasses.replace(source, **part)


def _files(path: Path) -> list[Path]:
    """Returns the file itself, those that a pattern matches, or those directly in the folder.

    Hidden ones are somebody else's.
    """
    if storage.is_pattern(path.name) and not path.exists():
        return storage.local_matches(str(path))
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
