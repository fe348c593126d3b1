"""Images or texts in one folder per class, below one folder per split if the data is split.

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
    "images or UTF-8 texts in one folder per class (cats/1.jpg, pos/1.txt), below train/, "
    "validation/ and test/ if the data is split"
)

_MAX_NAMED = 5


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether there is any image or text."""
    return any(_kind(file) for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads all files; the class is the folder below the split, whatever subfolders it has.

    Raises:
        DataError: a file is damaged, is in no class folder, or is an image of another size.
    """
    kind, selected = _most_common_kind(files)
    _warn_about_skipped(files, selected, kind)
    labels, split_names = _labels_and_splits(selected, request)
    items = images.read_files(selected)
    if kind == "image":
        examples = images.read(items, len(selected), size=request.options.image_size)
    else:
        size_bytes = sum(file.stat().st_size for file in selected)
        memory.check_data(4 * size_bytes, f"{len(selected)} texts")  # Bytes, text, strings.
        examples = text.read_whole(items, len(selected))
    return splits.group_by_split(examples, labels, split_names)


def stream(files: Sequence[Path], request: ReadRequest) -> Stream | None:
    """Returns images as a stream; None for texts.

    Raises:
        DataError: as `read`; for damaged images when their block is read.
    """
    kind, selected = _most_common_kind(files)
    if kind != "image":
        return None
    _warn_about_skipped(files, selected, kind)
    return images.stream(selected, *_labels_and_splits(selected, request), request)


def _most_common_kind(files: Sequence[Path]) -> tuple[str, list[Path]]:
    """Returns the kind of most files, "image" or "text", and the files of that kind."""
    kinds = Counter(kind for kind in map(_kind, files) if kind)
    kind = kinds.most_common(1)[0][0]
    selected = [file for file in files if _kind(file) == kind]
    return kind, selected


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    return "image" if suffix in images.SUFFIXES else "text" if suffix == ".txt" else None


def _warn_about_skipped(files: Sequence[Path], selected: Sequence[Path], kind: str) -> None:
    if skipped := set(files) - set(selected):
        names = ", ".join(sorted(file.name for file in skipped)[:_MAX_NAMED])
        LOGGER.warning(
            "skipped %d files that are not %ss, for example %s", len(skipped), kind, names
        )


def _labels_and_splits(files: Sequence[Path], request: ReadRequest) -> tuple[list[str], list[str]]:
    """Returns the class name and the split of each file."""
    pairs = [_label_and_split(file, Path(request.root)) for file in files]
    return [label for label, _ in pairs], [split for _, split in pairs]


def _label_and_split(file: Path, root: Path) -> tuple[str, str]:
    folders = file.relative_to(root).parts[:-1]
    split = splits.from_folder_name(folders[0]) if folders else None
    if split is not None:
        folders = folders[1:]
    if not folders:
        raise DataError(f"is not in a class folder, expected {NAME}", Location(file))
    return folders[0], split or "train"
