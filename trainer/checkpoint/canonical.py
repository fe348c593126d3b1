"""Describes Python objects as JSON values that are the same in every process, to compare them.

An object is described by its class and its configuration. Functions and classes of the user's own
modules are described by a digest of their code: its instructions with their constants and names,
and what they read from defaults, closures and their module. Comments, docstrings, line numbers,
file names and the names of local variables do not count.

Code of Keras, TensorFlow, NumPy, this program and the standard library is described by its name:
their versions are compared elsewhere. Not seen are values that code reaches in other ways, such as
files, environment variables, and attributes of attributes; and the code of extension modules.
"""

from __future__ import annotations

import collections
import contextlib
import dis
import enum
import functools
import hashlib
import json
import math
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Packages whose code is known by their version.
_LIBRARIES = frozenset(
    {"keras", "tensorflow", "numpy", "scipy", "h5py", "trainer", *sys.stdlib_module_names}
)
_WALKED_LIBRARIES = ("keras", "trainer")  # Their objects are described by their attributes.
_MAX_DEPTH = 12
_MAX_ITEMS = 1000  # A longer list or mapping, such as a vocabulary, is described by a digest.
_NOT_CONFIGURATION = ("_model", "params", "validation_data", "history")  # Of Keras callbacks.
_WITHOUT_EFFECT = ("CACHE", "NOP", "RESUME")  # Instructions.
_READS_OF_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_NOT_CODE = ("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__")


def describe(value: Any) -> Any:
    """Returns a description of a value, of the types that JSON has."""
    return _Describer().describe(value)


def describe_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a description of what `get_config` of a Keras object returns."""
    return {name: describe(value) for name, value in config.items() if name not in _NAMES}


def own_parts(value: Any) -> dict[str, Any]:
    """Returns descriptions of the parts of a Keras object that its configuration leaves out.

    These are the code of its class, and attributes that are functions or objects of classes, all
    of them of the user's own modules. Keras's configuration has only the names of such functions.
    """
    parts: dict[str, Any] = {}
    if not _is_library(type(value).__module__):
        parts["code"] = _digest(describe(type(value)))
    for name, part in sorted(vars(value).items()):
        function = isinstance(part, types.FunctionType)
        kind = part if function or isinstance(part, type) else type(part)
        if isinstance(part, keras.Layer) or _is_library(kind.__module__):
            continue
        if name not in _attributes_of_layers():
            parts[name] = describe(part)
    return parts


@functools.cache
def _attributes_of_layers() -> frozenset[str]:
    """Returns the attributes that Keras gives to every layer, such as wrappers of methods."""
    return frozenset(vars(keras.Layer()))


# Keys of a configuration that cannot change a result: names, which Keras numbers, and ids.
_NAMES = ("name", "shared_object_id", "registered_name", "build_config", "module")


def _is_library(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _LIBRARIES


def _digest(description: Any) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class _Describer:
    """Describes one value; functions, classes and objects that occur again, by their name."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # By id; keeps the objects, so that ids stay unique.
        self._depth = 0

    def describe(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value.name if isinstance(value, enum.Enum) else value
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if id(value) in self._seen or self._depth >= _MAX_DEPTH:
            return {"again": _name(value)}
        if not isinstance(value, list | tuple | types.CodeType):
            self._seen[id(value)] = value
        self._depth += 1
        try:
            return self._describe(value)
        finally:
            self._depth -= 1

    def _describe(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list | tuple | collections.deque):
            if len(value) > _MAX_ITEMS and all(isinstance(each, str) for each in value):
                return _shorten(list(value))  # A vocabulary.
            return _shorten([self.describe(each) for each in value])
        if isinstance(value, set | frozenset):
            return _shorten(sorted((self.describe(each) for each in value), key=json.dumps))
        if isinstance(value, bytes | bytearray):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, tf.Tensor | np.ndarray):
            return self._array(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, functools.partial):
            return {
                "function": self.describe(value.func),
                "arguments": self.describe([*value.args, value.keywords]),
            }
        if isinstance(value, types.MethodType):
            return {
                "function": self.describe(value.__func__),
                "object": self.describe(value.__self__),
            }
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, staticmethod | classmethod):
            return self.describe(value.__func__)
        if isinstance(value, property):
            return self.describe([value.fget, value.fset])
        if isinstance(value, type):
            return self._class(value)
        return self._object(value)

    def _mapping(self, mapping: Mapping[Any, Any]) -> Any:
        if "class_name" in mapping and "config" in mapping:  # An object that Keras serialized.
            return self._serialized(mapping)
        items = {
            str(name): self.describe(value) for name, value in mapping.items() if name not in _NAMES
        }
        return _shorten(items)

    def _serialized(self, mapping: Mapping[Any, Any]) -> Any:
        config = mapping["config"]
        if not isinstance(config, Mapping):
            return config  # The name of a function.
        if mapping["class_name"] == "__lambda__":  # Holds the path of its file; see `own_parts`.
            return "lambda"
        if set(config) == {"name"}:  # A DTypePolicy.
            return config["name"]
        return {"class": str(mapping["class_name"]), **self._plain_mapping(config)}

    def _plain_mapping(self, config: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(n): self.describe(v) for n, v in config.items() if n not in _NAMES}

    def _array(self, value: Any) -> Any:
        try:
            array = np.ascontiguousarray(value)
        except Exception:  # A symbolic tensor.
            return {"class": _name(value)}
        if array.dtype == object:
            return self.describe(array.tolist())
        return {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }

    def _function(self, function: types.FunctionType) -> Any:
        if _is_library(function.__module__):
            return {"function": _name(function)}
        values = dict(self._values(function))
        plain = {
            name: value for name, value in values.items() if not isinstance(value, dict | list)
        }
        rest = {name: value for name, value in values.items() if name not in plain}
        return {"code": _digest([self.describe(function.__code__), rest]), **plain}

    def _values(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """Yields the values that a function reads from outside of its arguments, by name."""
        code = function.__code__
        arguments = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        first = len(arguments) - len(defaults)
        yield from zip(arguments[first:], map(self.describe, defaults), strict=True)
        for name, value in (function.__kwdefaults__ or {}).items():
            yield name, self.describe(value)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # An empty cell.
                yield name, self.describe(cell.cell_contents)
        attributes = set(_names(code, None))
        for name in sorted(set(_names(code, _READS_OF_GLOBALS))):
            if name not in function.__globals__:
                continue  # A built-in function.
            value = function.__globals__[name]
            if not isinstance(value, types.ModuleType):
                yield name, self.describe(value)
            elif not _is_library(value.__name__):
                for attribute in sorted(attributes & set(vars(value))):
                    yield f"{name}.{attribute}", self.describe(vars(value)[attribute])

    def _code(self, code: types.CodeType) -> Any:
        instructions = [
            [each.opname, each.arg if each.opcode in dis.haslocal else self.describe(each.argval)]
            for each in dis.get_instructions(code)
            if each.opname not in _WITHOUT_EFFECT
        ]
        counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        return [instructions, counts, self.describe(code.co_exceptiontable)]

    def _class(self, kind: type) -> Any:
        if _is_library(kind.__module__):
            return {"class": _name(kind)}
        members = {
            name: self.describe(value)
            for name, value in vars(kind).items()
            if name not in _NOT_CODE
        }
        return {"members": members, "bases": [self.describe(base) for base in kind.__bases__]}

    def _object(self, value: Any) -> Any:
        kind = type(value)
        description: dict[str, Any] = {"class": _short_name(kind)}
        if isinstance(value, tf.Variable | keras.Variable):  # Their values change in training.
            return description
        if not _is_library(kind.__module__):
            description["code"] = _digest(_Describer().describe(kind))
        with contextlib.suppress(Exception):  # For example, the class does not implement it.
            return description | self._plain_mapping(value.get_config())
        walked = kind.__module__.partition(".")[0] in _WALKED_LIBRARIES
        if walked or not _is_library(kind.__module__):
            attributes = getattr(value, "__dict__", {})
            description |= {
                name: self.describe(each)
                for name, each in attributes.items()
                if name not in _NOT_CONFIGURATION
            }
        elif callable(value) or isinstance(value, types.ModuleType):
            description["function"] = _name(value)
        return description


def _shorten(value: Any) -> Any:
    if len(value) <= _MAX_ITEMS:
        return value
    return {"items": len(value), "sha256": _digest(value)}


def _names(code: types.CodeType, operations: tuple[str, ...] | None) -> Iterator[str]:
    """Yields the names that code and the functions within it use, with some of the operations."""
    if operations is None:
        yield from code.co_names
    else:
        for each in dis.get_instructions(code):
            if each.opname in operations:
                yield str(each.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant, operations)


def _short_name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _name(value: Any) -> str:
    module = getattr(value, "__module__", None) or ""
    return f"{module}.{_short_name(value)}".removeprefix("builtins.").removeprefix(".")
