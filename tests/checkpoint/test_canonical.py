"""Tests of descriptions of objects: the same in every process, and another for other code."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.kills import ROOT
from trainer.checkpoint import canonical


def load(source: str, name: str) -> Any:
    """Returns an object of a module with this source, as one of a user's own."""
    namespace: dict[str, Any] = {"__name__": "own"}
    exec(compile(textwrap.dedent(source), "own.py", "exec"), namespace)
    return namespace[name]


SAME = [
    ("def f(x):\n    return x * 2", 'def f(x):\n    """Doc."""\n    # comment\n    return x * 2'),
    ("def f(x):\n    y = x\n    return y", "def f(x):\n    z = x\n    return z"),
    ("R = 2\ndef f(x):\n    return x * R", "A, B = 1, 3\n\nR = 2\ndef f(x):\n    return x * R"),
    ("f = lambda x: x + 1", "\n\n\nf = lambda x: x + 1"),
    ("class f:\n    a = {'x', 'y'}", "class f:\n    'Doc.'\n    a = {'y', 'x'}"),
]
OTHER = [
    ("def f(x):\n    return x * 2", "def f(x):\n    return x * 3"),
    ("def f(x):\n    return x * 2", "def f(x):\n    return x + 2"),
    ("def f(x):\n    return x.a", "def f(x):\n    return x.b"),
    ("def f(x, y=1):\n    return x", "def f(x, y=2):\n    return x"),
    ("def f(x, *, y=1):\n    return x", "def f(x, *, y=2):\n    return x"),
    ("R = 2\ndef f(x):\n    return x * R", "R = 3\ndef f(x):\n    return x * R"),
    (
        "def g(x):\n    return x\ndef f(x):\n    return g(x)",
        "def g(x):\n    return -x\ndef f(x):\n    return g(x)",
    ),
    (
        "def make(a):\n    return lambda x: x * a\nf = make(0.5)",
        "def make(a):\n    return lambda x: x * a\nf = make(0.6)",
    ),
    ("def f(x):\n    return [i + 1 for i in x]", "def f(x):\n    return [i + 2 for i in x]"),
    ("def f(x):\n    return x in {1, 2}", "def f(x):\n    return x in {1, 3}"),
    (
        "def f(x):\n    try:\n        return 1\n    finally:\n        x()",
        "def f(x):\n    x()\n    return 1",
    ),
    (
        "class f:\n    def call(self):\n        return 1",
        "class f:\n    def call(self):\n        return 2",
    ),
    ("class b:\n    a = 1\nclass f(b):\n    pass", "class b:\n    a = 2\nclass f(b):\n    pass"),
    (
        "class f:\n    @property\n    def a(self):\n        return 1",
        "class f:\n    @property\n    def a(self):\n        return 2",
    ),
    (
        "class f:\n    @staticmethod\n    def a():\n        return 1",
        "class f:\n    @staticmethod\n    def a():\n        return 2",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_comments_positions_and_names_of_variables_do_not_count(one: str, other: str) -> None:
    assert canonical.describe(load(one, "f")) == canonical.describe(load(other, "f"))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_code_or_another_value_that_it_reads_is_another_description(
    one: str, other: str
) -> None:
    assert canonical.describe(load(one, "f")) != canonical.describe(load(other, "f"))


def test_values_of_a_closure_are_named() -> None:
    source = "def make(rate):\n    return lambda x: x * rate\nf = make(0.5)"
    assert canonical.describe(load(source, "f"))["rate"] == 0.5


def test_a_partial_function_is_described_by_function_and_arguments() -> None:
    def scale(x: float, by: float) -> float:
        return x * by

    one, same, other = (functools.partial(scale, by=by) for by in (2.0, 2.0, 3.0))
    assert canonical.describe(one) == canonical.describe(same) != canonical.describe(other)


def test_an_attribute_of_a_module_of_the_users_own_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    descriptions = []
    for number in 1, 2:
        (tmp_path / f"rates{number}.py").write_text(f"def rate(x):\n    return x * {number}\n")
        source = f"import rates{number} as rates\ndef f(x):\n    return rates.rate(x)"
        descriptions.append(canonical.describe(load(source, "f")))
    assert descriptions[0] != descriptions[1]


def test_an_array_is_described_by_its_content() -> None:
    one, same, other = np.arange(3), np.arange(3), np.arange(1, 4)
    assert canonical.describe(one) == canonical.describe(same) != canonical.describe(other)


def test_objects_that_contain_themselves_are_described() -> None:
    loop: list[Any] = []
    loop.append(loop)
    holder = load("class f:\n    pass", "f")()
    holder.me, holder.items = holder, {"me": holder}
    for value in (loop, holder):
        json.dumps(canonical.describe(value))


def test_the_state_that_keras_gives_to_a_callback_is_no_configuration() -> None:
    one, other = (keras.callbacks.EarlyStopping(patience=3) for _ in range(2))
    other.set_params({"epochs": 3})
    assert canonical.describe(one) == canonical.describe(other)
    third = keras.callbacks.EarlyStopping(patience=4)
    assert canonical.describe(one) != canonical.describe(third)


@pytest.mark.long
def test_descriptions_are_equal_in_processes_with_other_hashes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import keras\n"
        "WORDS = {'a', 'b', 'c', 'd'}\n"
        "class Own(keras.callbacks.Callback):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.on, self.set = (lambda e: e in WORDS), frozenset(WORDS)\n"
        "    def on_epoch_end(self, epoch, logs=None):\n"
        "        return epoch in {'x', 'y', 'z'}\n"
        "from trainer.checkpoint import canonical\n"
        "import json\n"
        "print(json.dumps(canonical.describe(Own()), sort_keys=True))\n"
    )
    outputs = set()
    for seed in "1", "2":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(tmp_path / "own.py")]
        outputs.add(subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL))
    assert len(outputs) == 1


@pytest.mark.parametrize("make", [lambda: keras.ops.relu, lambda: len, lambda: np.mean])
def test_functions_of_libraries_are_described_by_their_name(make: Callable[[], Any]) -> None:
    assert "code" not in canonical.describe(make())
