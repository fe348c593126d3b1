"""Files in a folder a class, images or texts, below a folder a part if the data has parts.

Source: the layout of keras.utils.image_dataset_from_directory and text_dataset_from_directory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trainer.data import splits
from trainer.data.dataset import RawSplits, ReadRequest
from trainer.data.formats import images, text
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location
from trainer.runtime import memory
from trainer.runtime.log import LOGGER

NAME = (
    "images or UTF-8 texts in a folder a class (cats/1.jpg, pos/1.txt), below train/, validation/ "
    "and test/ if the data has such parts"
)

_MAX_NAMED = 5


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there is any image or text."""
    return any(_kind(file) for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads every file; a class is named as its folder, whatever folders are within that one.

    Raises:
        DataError: a file is damaged, lies in no folder of a class, or is an image of another size.
    """
    kind, chosen = _chosen(files)
    _tell(files, chosen, kind)
    labels, part_of = _labels_and_parts(chosen, request)
    items = images.of_files(chosen)
    if kind == "image":
        examples = images.read(items, len(chosen), size=request.options.image_size)
    else:
        size_bytes = sum(file.stat().st_size for file in chosen)
        memory.check_data(4 * size_bytes, f"{len(chosen)} texts")  # Bytes, text, strings.
        examples = text.whole(items, len(chosen))
    return splits.source(examples, labels, part_of)


def stream(files: Sequence[Path], request: ReadRequest) -> Stream | None:
    """Gives images some at a time, so that they need not fit into memory.

    Returns:
        None for texts.

    Raises:
        DataError: as `read`; what is damaged shows when its block is asked for.
    """
    kind, chosen = _chosen(files)
    if kind != "image":
        return None
    _tell(files, chosen, kind)
    return images.stream(chosen, *_labels_and_parts(chosen, request), request)


def _chosen(files: Sequence[Path]) -> tuple[str, list[Path]]:
    """Returns what most files are, and those files."""
    kinds = Counter(kind for kind in map(_kind, files) if kind)
    kind = kinds.most_common(1)[0][0]
    chosen = [file for file in files if _kind(file) == kind]
    return kind, chosen


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    return "image" if suffix in images.SUFFIXES else "text" if suffix == ".txt" else None


def _tell(files: Sequence[Path], chosen: Sequence[Path], kind: str) -> None:
    if others := set(files) - set(chosen):
        some = ", ".join(sorted(file.name for file in others)[:_MAX_NAMED])
        LOGGER.warning("left out: %d files that are no %ss, as %s", len(others), kind, some)


def _labels_and_parts(files: Sequence[Path], request: ReadRequest) -> tuple[list[str], list[str]]:
    """Returns of each file its class, and the part of the data that it belongs to."""
    found = [_label_and_part(file, Path(request.root)) for file in files]
    return [label for label, _ in found], [part for _, part in found]


def _label_and_part(file: Path, root: Path) -> tuple[str, str]:
    folders = file.relative_to(root).parts[:-1]
    part = splits.of_name(folders[0]) if folders else None
    if part is not None:
        folders = folders[1:]
    if not folders:
        raise DataError(f"lies in no folder of a class, expected {NAME}", Location(file))
    return folders[0], part or "train"
