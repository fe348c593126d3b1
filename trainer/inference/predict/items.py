"""The examples of an input, or the reasons why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trainer.data.dataset import Array
from trainer.errors import DataError, TransientStorageError


class Item(NamedTuple):
    """One example to predict, or the error of an input that could not be read.

    Attributes:
        name: path of the file; with ":" and the number of the line, row or example, from 1, if the
            file holds several.
        example: as `InputSignature` returns it; None if it could not be read.
        error: why it could not be read; "" for an example.
    """

    name: str
    example: Array | None
    error: str = ""


# Yielded instead of an item when the input is idle: the items before it must not wait for more.
PAUSE = None
Items = Iterator[Item | None]


def error_item(name: str, error: Exception) -> Item:
    """Returns the item of an input that could not be read.

    Raises:
        TransientStorageError: if this is the error, as it says nothing about the input.
    """
    if isinstance(error, TransientStorageError):
        raise error
    if isinstance(error, DataError):
        message = error.problem
    else:
        message = str(error).removeprefix(f"{name}: ")
    return Item(name, None, " ".join(message.split()))
