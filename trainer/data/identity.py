"""What a data set is, by its content: to tell whether it is the same, and what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset

_MAX_NAMED = 3  # Classes and counts in a message.


def describe(data: Dataset) -> dict[str, Any]:
    """Returns the content of a data set in short; equal descriptions have a bit-identical content.

    Returns:
        `fingerprint`, the SHA-256 of the data set; `shape` and `dtype` of an example; `classes`,
        the names; and `examples`, by split the number of examples of each class.
    """
    import numpy as np  # Not at the top, since it is slow.

    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    count = len(data.spec.classes)
    return {
        "fingerprint": data.fingerprint,
        "shape": list(data.spec.shape),
        "dtype": data.spec.dtype,
        "classes": list(data.spec.classes),
        "examples": {
            name: np.bincount(split.labels, minlength=count).tolist()
            for name, split in splits.items()
            if split is not None
        },
    }


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists what differs between two data sets, given by `describe`; [] if they are the same."""
    if saved.get("fingerprint") == now["fingerprint"]:
        return []
    lines = [
        f"{name} of the examples was {_format(saved.get(name))}, now {_format(now[name])}"
        for name in ("shape", "dtype")
        if saved.get(name) != now[name]
    ]
    return lines + _class_differences(saved, now) or [
        "the numbers of examples and the classes are the same, the content of examples is not"
    ]


def _class_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    was, classes = saved.get("classes", []), now["classes"]
    if was != classes:
        removed = [name for name in was if name not in classes]
        added = [name for name in classes if name not in was]
        changes = [
            f"{change} {_list(names)}"
            for change, names in (("without", removed), ("with", added))
            if names
        ]
        return [f"{len(was)} classes, now {len(classes)}, {' and '.join(changes) or 'reordered'}"]
    lines = []
    for split in dict.fromkeys([*saved.get("examples", {}), *now["examples"]]):
        before, after = (each.get("examples", {}).get(split, []) for each in (saved, now))
        if sum(before) != sum(after):
            lines.append(f"{split} had {sum(before)} examples, now {sum(after)}")
        elif before != after:
            changed = [
                f"class {name!r} {a}, now {b}"
                for name, a, b in zip(classes, before, after, strict=True)
                if a != b
            ]
            lines.append(f"examples of {split}: {_list(changed)}")
    return lines


def _list(texts: list[str]) -> str:
    more = len(texts) - _MAX_NAMED
    return ", ".join(texts[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _format(value: Any) -> str:
    return " x ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
