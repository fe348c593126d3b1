"""Converts instances of prediction requests, and lines of JSON, to examples.

An instance has one of the forms that Vertex AI sends: for online predictions those of its users,
for batch predictions a row of CSV or BigQuery as a list, a file or record as {"b64": ...}, or a
line of JSON as it is, with a key beside the input.

Source: Vertex AI, "Get batch predictions from a custom trained model", input data requirements.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.dataset import Array, Source
from trainer.data.formats import text
from trainer.data.inputs import InputSignature, decode_base64, type_name
from trainer.data.tables import columns as column_types
from trainer.errors import DataError, Location

_B64 = "b64"
_MAX_NAMED = 5
# Of bytes that are no text, such as a serialized record; these are valid UTF-8.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b]")


@dataclass(frozen=True)
class InstanceReader:
    """Reads instances for one model.

    Attributes:
        input: input of the model.
        columns: columns of the tables that the model was trained on, in the order of the input;
            empty for other data.
    """

    input: InputSignature
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, signature: InputSignature, source: Source | None) -> InstanceReader:
        """Returns a reader for a run.

        Args:
            signature: input of its model.
            source: how its training data was read.
        """
        columns = None if source is None else source.columns
        return cls(signature, () if columns is None else columns.inputs)

    def read(self, instance: Any) -> Array:
        """Returns an example from a value of parsed JSON.

        Args:
            instance: a value of the input: a text; nested lists of numbers; {"b64": ...} with a
                file in base64. Or a list with this value only, as a row of a table; or an object
                that has it under the kind of the input or the name of its column. Other fields of
                the object, such as a key, are ignored. Numbers may be texts, as in CSV.

        Raises:
            DataError: the instance is none of these, or does not fit the model.
        """
        if not isinstance(instance, Mapping):
            return self._value(instance)
        several = len(self.columns) > 1
        if several and any(name in instance for name in self.columns):
            missing = [name for name in self.columns if name not in instance]
            if missing:
                raise DataError(
                    f"found no {column_types.format_columns(missing)}, expected all of "
                    f"{column_types.format_columns(self.columns)}"
                )
            return self._value([instance[name] for name in self.columns])
        known = dict.fromkeys((*self._b64, self.input.kind, *(() if several else self.columns)))
        present = [name for name in known if name in instance]
        if len(present) != 1:
            names = column_types.format_columns([*known, *(self.columns if several else ())])
            both = f"both {' and '.join(map(repr, present))}"
            raise DataError(
                f"found {both if present else type_name(instance)}, expected "
                f"{self.input.expected()} as one of the fields {names}"
            )
        (name,) = present
        return self._content(instance[name]) if name == _B64 else self._value(instance[name])

    @property
    def _b64(self) -> tuple[str, ...]:
        return () if self.input.kind == "vector" else (_B64,)

    def _value(self, value: Any) -> Array:
        """Returns an example from a value, or from a list that is a row with this value."""
        kind = self.input.kind
        if isinstance(value, Mapping):
            if _B64 not in value or kind == "vector":
                raise DataError(f"found {type_name(value)}, expected {self.input.expected()}")
            return self._content(value[_B64])
        if isinstance(value, list) and len(value) == 1 and self._is_row(value[0]):
            return self._value(value[0])
        if kind == "text":
            return self.input.from_text(value)
        size = math.prod(self.input.shape)
        flat = kind == "vector" or len(self.columns) == size
        if flat and isinstance(value, str) and len(self.columns) == 1:
            value = column_types.numbers_in(value) or value
        if flat and _is_flat(value) and (kind == "vector" or len(value) == size):
            numbers = self.numbers(value)
            return self.input.from_numbers(
                numbers if kind == "vector" else numbers.reshape(self.input.shape)
            )
        return self.input.from_json(value)

    def _is_row(self, value: Any) -> bool:
        """Returns whether the only cell of a list is a whole example."""
        if self.input.kind == "text":
            return isinstance(value, str | Mapping)
        if self.input.kind == "image":
            return isinstance(value, Mapping)
        return isinstance(value, list) or (isinstance(value, str) and self.input.shape != (1,))

    def numbers(self, cells: Sequence[Any]) -> Array:
        """Returns numbers of which some may be texts, float64 (n,).

        Raises:
            DataError: a cell is no number.
        """
        numbers = []
        for cell in cells:
            if isinstance(cell, bool) or not isinstance(cell, int | float | str):
                raise DataError(f"found {type_name(cell)}, expected {self.input.expected()}")
            number = column_types.to_number(cell) if isinstance(cell, str) else cell
            if number is None:
                raise DataError(f"found {str(cell)[:40]!r}, expected {self.input.expected()}")
            numbers.append(number)
        try:
            return np.array(numbers, np.float64)
        except OverflowError:
            raise DataError(
                f"found a value that is not a number, expected {self.input.expected()}"
            ) from None

    def _content(self, encoded: Any) -> Array:
        """Returns an example from a file in base64: an image, or a text in UTF-8."""
        content = decode_base64(encoded)
        if self.input.kind == "image":
            return self.input.from_image(content, Location(_B64))
        try:
            decoded = text.decode_line(content.removeprefix(codecs.BOM_UTF8))
        except DataError as error:
            raise error.at(Location(_B64)) from None
        if _CONTROL.search(decoded):
            raise DataError(
                "found control characters, expected UTF-8 text; is it a serialized record?",
                Location(_B64),
            )
        return self.input.from_text(decoded)


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(cell, list) for cell in value)
