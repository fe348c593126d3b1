"""Images or texts in one folder per class, below one folder per split if the data is split.

Source: the layout of keras.utils.image_dataset_from_directory and text_dataset_from_directory.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data import splits
from trainer.data.dataset import RawSplits, ReadRequest
from trainer.data.formats import images, text
from trainer.data.listing import Candidate, Listing
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = (
    "images or UTF-8 texts in one folder per class (cats/1.jpg, pos/1.txt), below train/, "
    "validation/ and test/ if the data is split"
)

_TEXT_SUFFIXES = (".txt", ".text")
# Folders of examples without labels, beside train/ and test/ or beside the classes.
_UNLABELLED = frozenset({
    "unsup", "unsupervised", "unlabeled", "unlabelled", "pred", "predict", "prediction",
    "submission",
})  # fmt: skip
# Names of folders of any files.
_GENERIC = re.compile(r"(images?|imgs?|jpe?gs?|pngs?|pics|pictures|photos?|files|data)", re.I)
_HEAD_BYTES = 4096
_MAX_NAMED = 5
# Pictures that Pillow does not read, or not safely.
_UNREADABLE = (
    ".heic", ".heif", ".svg", ".eps", ".ps", ".psd", ".raw", ".cr2", ".nef", ".dng", ".dcm",
    ".webm", ".mp4", ".mov", ".jxl", ".xcf", ".ai",
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """A file with its class and split."""

    file: Path
    label: str
    split: str


def propose(listing: Listing, request: ReadRequest) -> Candidate | None:
    """Returns how the folders would be read as classes; None if no images or texts are in them."""
    if not listing.is_folder:
        return None
    files_of_kind: dict[str, list[Path]] = {"image": [], "text": []}
    for file in listing.files:
        if len(listing.relative(file)) > 1 and (kind := _kind(file)):
            files_of_kind[kind].append(file)
    kind = max(files_of_kind, key=lambda name: len(files_of_kind[name]))
    # Texts beside images describe them, or list them.
    if files_of_kind["image"] and len(_folders(files_of_kind["image"])) >= len(
        _folders(files_of_kind["text"])
    ):
        kind = "image"
    files = files_of_kind[kind]
    if not files:
        return None
    left_out: dict[Path, str] = {}
    try:
        forced = request.options.data_format is not None
        members = _members(listing, files, left_out, forced=forced)
        _check_lost(listing, members, kind)
    except DataError as error:
        return Candidate(
            format=sys.modules[__name__],
            files=tuple(files),
            evidence=0,
            summary=f"{kind}s",
            error=error,
        )
    selected = set(files)
    for file in listing.files:
        if file not in left_out and file not in selected:
            inside = len(listing.relative(file)) > 1 or _kind(file) != kind
            left_out[file] = f"no {kind}" if inside else "in no folder of a class"
    classes = {member.label for member in members}
    return Candidate(
        format=sys.modules[__name__],
        files=tuple(member.file for member in members),
        evidence=2 if len(classes) > 1 else 1,
        summary=f"{kind}s in one folder per class",
        left_out=left_out,
        plan=(kind, members),
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads all files; the class is the folder below the split, whatever subfolders it has.

    Raises:
        DataError: a file is damaged, or is an image of another size.
    """
    kind, members = candidate.plan
    files = [member.file for member in members]
    layout = None
    if kind == "image":
        examples, readable, layout = images.read(images.file_items(files), request)
    else:
        size_bytes = sum(file.stat().st_size for file in files)
        memory.check_data(4 * size_bytes, f"{len(files)} texts")  # Bytes, text, strings.
        examples, readable = text.read_whole(files, request)
    raw = splits.group_by_split(examples, *_labels_and_splits(members), readable)
    return dataclasses.replace(raw, layout=layout)


def stream(candidate: Candidate, request: ReadRequest) -> Stream | None:
    """Returns images as a stream; None for texts.

    Raises:
        DataError: as `read`; for damaged images when their block is read.
    """
    kind, members = candidate.plan
    if kind != "image":
        return None
    items = images.file_items(member.file for member in members)
    return images.stream(items, *_labels_and_splits(members), request)


def _labels_and_splits(members: Sequence[_Member]) -> tuple[list[str], list[str]]:
    return [member.label for member in members], [member.split for member in members]


def _kind(file: Path) -> str | None:
    """Returns "image" or "text" by the name of a file, or by its content if that says nothing."""
    suffix = file.suffix.lower()
    if images.is_image_name(file.name):
        return "image"
    if suffix in _TEXT_SUFFIXES:
        return "text"
    if not suffix or suffix[1:].isdigit():  # 49960, as in 20 Newsgroups; 1.0 as in movie reviews.
        with file.open("rb") as content:
            head = content.read(_HEAD_BYTES)
        if images.is_image(head):
            return "image"
        return "text" if head and b"\0" not in head else None
    return None


def _folders(files: Iterable[Path]) -> set[Path]:
    return {file.parent for file in files}


def _members(
    listing: Listing, files: list[Path], left_out: dict[Path, str], *, forced: bool
) -> list[_Member]:
    """Returns the class and split of each file.

    Args:
        listing: the files of the data set.
        files: images or texts in folders.
        left_out: files that are left out are added here, with the reason.
        forced: whether the user says that folders are classes.

    Raises:
        DataError: the folders are no classes.
    """
    paths = _below_common_folder([(file, listing.relative(file)[:-1]) for file in files])
    split_of_top = _split_folders(paths)
    members: list[_Member] = []
    if split_of_top:
        below = collections.defaultdict(set)
        for _, around in paths:
            below[around[0]].add(around[1] if len(around) > 1 else "")
        for file, (top, *inner_folders) in paths:
            split = split_of_top.get(top)
            repeated = below[top] == {top}  # seg_train/seg_train/forest
            folders = inner_folders[1:] if repeated else inner_folders
            if split is None:
                left_out[file] = f"{top}/ is neither train, validation nor test"
            elif not folders or folders[0].lower() in _UNLABELLED:
                left_out[file] = "in no folder of a class"
            else:
                members.append(_Member(file, _class_name(folders[0]), split))
        return _labelled(members, left_out)
    inner = _inner_splits([folders for _, folders in paths])
    if not inner and not forced:
        _check_several(paths)
    for file, (label, *within) in paths:
        if label.lower() in _UNLABELLED:
            left_out[file] = "in no folder of a class"
        else:
            split = inner.get(within[0]) if inner else None
            members.append(_Member(file, _class_name(label), split or "train"))
    return members


def _below_common_folder(
    paths: Sequence[tuple[Path, tuple[str, ...]]],
) -> list[tuple[Path, tuple[str, ...]]]:
    """Returns files with their folders, without those that are around all files and others."""
    while True:
        tops = {folders[0] for _, folders in paths}
        depths = {len(folders) for _, folders in paths}
        if len(tops) > 1 or min(depths) < 2 or splits.from_name(next(iter(tops))) is not None:
            return list(paths)
        paths = [(file, folders[1:]) for file, folders in paths]


def _labelled(members: list[_Member], left_out: dict[Path, str]) -> list[_Member]:
    """Returns the members without those of splits whose only folder is no class, but images/."""
    folders: dict[str, set[str]] = {}
    for member in members:
        folders.setdefault(member.split, set()).add(member.label)
    training = folders.get("train", set())
    unlabelled = {
        split for split, names in folders.items()
        if training and not names & training and all(map(_GENERIC.fullmatch, names))
    }  # fmt: skip
    for member in members:
        if member.split in unlabelled:  # As val/images of Tiny ImageNet.
            left_out[member.file] = "in no folder of a class"
    return [member for member in members if member.split not in unlabelled]


def _check_several(paths: Sequence[tuple[Path, tuple[str, ...]]]) -> None:
    """Raises DataError if the folders look like data sets of the same classes, not like classes."""
    within: dict[str, set[str]] = {}
    for _, folders in paths:
        within.setdefault(folders[0], set()).update(folders[1:2])
    first = max(within.values(), key=len)
    if any(len(first & names) > 1 for names in within.values() if names is not first):
        names = ", ".join(sorted(within)[:_MAX_NAMED])
        shared = ", ".join(sorted(first)[:_MAX_NAMED])
        raise DataError(
            f"found the same folders (such as {shared}) in each of {names}: several data sets? "
            f"Give one of them to --data, or --data-format class_folders if {names} are the classes"
        )


def _class_name(folder: str) -> str:
    """Returns the class of a folder, in one Unicode form: macOS stores "é" as two characters.

    Raises:
        DataError: the name is not UTF-8.
    """
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"found a folder whose name is not UTF-8: {os.fsencode(folder)!r}; rename it"
        ) from None
    return unicodedata.normalize("NFC", folder)


def _split_folders(paths: Sequence[tuple[Path, Sequence[str]]]) -> dict[str, str]:
    """Returns the split of each top folder; empty if the top folders are classes.

    Folders are splits if one is for training and has folders within, and others are for validation
    or test, or there are no others. So train_station/, or valid/ beside invalid/, is a class.

    Args:
        paths: files, with the folders that they are in.

    Raises:
        DataError: it is not clear whether they are splits, or their examples have no classes.
    """
    within: dict[str, set[str]] = {}
    for _, folders in paths:
        within.setdefault(folders[0], set()).update(folders[1:2])
    split_of = {top: split for top in within if (split := splits.from_name(top)) is not None}
    training = {name for top, split in split_of.items() if split == "train" for name in within[top]}
    others = {top for top in within if top not in split_of and not _is_unlabelled(top)}
    several = len(set(split_of.values())) > 1
    if not training:
        nested = any(within[top] for top in split_of)
        if nested and not others:
            return split_of  # Without a training split, which is an error.
        if several and not others:
            raise DataError(
                f"found examples directly in {', '.join(sorted(split_of))}, expected one folder "
                "per class in each, or a table with their labels"
            )
        return {}
    if not others or several:
        return _without_variants(split_of)
    if len(training) == 1 or all(training <= within[top] for top in others):
        return {}  # train/set1 beside bus/set1 and car/set1
    top = next(iter(split_of))
    raise DataError(
        f"found the folders {', '.join(sorted(within))}: is {top} a split, or a class? Move the "
        "folders that are no splits elsewhere, or put all classes into train/"
    )


def _without_variants(split_of: dict[str, str]) -> dict[str, str]:
    """Returns the splits without folders such as train_masks/ beside train/."""
    plain = {split for top, split in split_of.items() if splits.from_word(top.lower()) == split}
    return {
        top: split for top, split in split_of.items()
        if split not in plain or splits.from_word(top.lower()) == split
    }  # fmt: skip


def _check_lost(listing: Listing, members: Sequence[_Member], kind: str) -> None:
    """Raises DataError if the files of a class are of a kind that cannot be read."""
    read = {member.file.parent for member in members}
    around = {folder.parent for folder in read}
    lost: dict[Path, list[Path]] = collections.defaultdict(list)
    for file in listing.files:
        unreadable = file.suffix.lower() in _UNREADABLE
        if unreadable and file.parent.parent in around and file.parent not in read:
            lost[file.parent].append(file)
    for folder, files in lost.items():
        raise DataError(
            f"found {len(files)} files such as {files[0].name} and no {kind} that can be read; "
            "convert them to PNG or JPEG, or move the folder elsewhere",
            Location(folder),
        )


def _inner_splits(paths: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns the split of each folder within the class folders; empty if they are no splits."""
    below = {(folders[0], folders[1] if len(folders) > 1 else "") for folders in paths}
    split_of = {name: splits.from_name(name) for _, name in below}
    training = {label for label, name in below if split_of[name] == "train"}
    if None in split_of.values() or training != {label for label, _ in below}:
        return {}
    return {name: split for name, split in split_of.items() if split is not None}


def _is_unlabelled(name: str) -> bool:
    return any(word in _UNLABELLED for word in name.lower().replace("-", "_").split("_"))
