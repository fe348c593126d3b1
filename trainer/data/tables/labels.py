"""Turns the labels of rows, of whatever type, into class names."""

from __future__ import annotations

import ast
import collections
import contextlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from trainer.data.tables import columns
from trainer.errors import DataError
from trainer.runtime.log import LOGGER

_LITERAL = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_MISSING_MARKS = frozenset({"nan", "none", "null", "na", "n/a", "n.a.", "?", "-", "<na>", "#n/a"})
_MAX_FRACTIONS = 20
_MAX_NAMED = 5


def to_name(label: Any, *, one_hot: bool = True) -> str:
    """Returns the class name of a label; "" for a missing label.

    Args:
        label: a cell of a table.
        one_hot: whether a list of zeros and a one is the index of a class; else it is of labels.

    Raises:
        DataError: it is no single class.
    """
    if isinstance(label, str) and _LITERAL.fullmatch(label.strip()):
        # As pandas writes lists and objects into CSV.
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            label = ast.literal_eval(label.strip())
    if isinstance(label, dict):
        raise DataError(
            f"the label is an object with {', '.join(map(repr, label))}, expected a class"
        )
    if hasattr(label, "tolist"):
        label = label.tolist()
    if isinstance(label, list | tuple):
        if len(label) == 1:
            return to_name(label[0])
        if one_hot and all(value in (0, 1) for value in label) and sum(label) == 1:
            return str(list(label).index(1))
        raise DataError(f"found {len(label)} labels, expected one class for each example")
    if columns.is_missing(label):
        return ""
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    number = None if isinstance(label, str | bool) else columns.to_number(label)
    if number is not None and number.is_integer():
        label = int(number)
    # macOS writes "é" as two characters in file names.
    return unicodedata.normalize("NFC", str(label)).strip()


def unify(names: Sequence[str]) -> list[str]:
    """Returns class names of which each is written in one way: 1.0 becomes 1 where 1 is meant.

    Warns of classes that differ only in capital letters, and of marks of missing values.

    Raises:
        DataError: the labels are measured numbers, and no classes.
    """
    distinct = collections.Counter(names)
    numbers = {name: number for name in distinct if (number := columns.to_number(name)) is not None}
    if len(numbers) == len(distinct):
        fractions = [name for name, number in numbers.items() if not number.is_integer()]
        if len(fractions) > _MAX_FRACTIONS or 2 * len(fractions) > len(names) > 2:
            raise DataError(
                f"found {len(fractions)} labels such as {fractions[0]}, expected classes; numbers "
                "cannot be predicted yet"
            )
        if any("." in name for name in distinct) and not fractions:
            whole = {name: str(int(number)) for name, number in numbers.items()}
            return [whole[name] for name in names]
    _warn(distinct)
    return list(names)


def _warn(distinct: collections.Counter[str]) -> None:
    by_case = collections.defaultdict(list)
    for name in distinct:
        by_case[name.casefold()].append(name)
    alike = [" and ".join(map(repr, sorted(group))) for group in by_case.values() if len(group) > 1]
    if alike:
        LOGGER.warning(
            "classes that differ only in capital letters: %s", "; ".join(alike[:_MAX_NAMED])
        )
    marks = sorted(name for name in distinct if name.casefold() in _MISSING_MARKS)
    if marks:
        count = sum(distinct[name] for name in marks)
        LOGGER.warning(
            "%s is a class of %d examples; if it marks missing labels, leave the cells empty",
            " and ".join(map(repr, marks)), count,
        )  # fmt: skip
