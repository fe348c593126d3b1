"""Lets a module be called like a function of another module: `trainer.train(...)`."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


def make_callable(module: str, *, module_of: str, name: str) -> None:
    """Makes an imported module callable: a call of it is a call of a function elsewhere.

    The other module is imported by the call, or when `__doc__` is read, and not before.

    Args:
        module: name of the imported module.
        module_of: name of the module with the function.
        name: name of the function.
    """
    sys.modules[module].__class__ = _CallableModule
    vars(sys.modules[module])["_call_target"] = (module_of, name)


class _CallableModule(types.ModuleType):
    """A module that passes calls on to the function `_call_target`, (module, name)."""

    _call_target: tuple[str, str]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function and returns what it returns."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's parameters, for `help()` and for completion in editors."""
        return inspect.signature(self._function())

    def _function(self) -> Callable[..., Any]:
        module, name = self._call_target
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


# Python fills in `__doc__` of a class that has a docstring, so the property is set afterwards. It
# takes the place of the module's own docstring in `help()`.
_CallableModule.__doc__ = property(  # type: ignore[assignment]
    lambda module: inspect.getdoc(module._function())
)
