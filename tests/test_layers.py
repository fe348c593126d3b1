"""Tests of the layout: how modules are grouped and what each layer may know.

Which module may import which is checked by import-linter in `make lint`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT

PACKAGE = ROOT / "trainer"
PACKAGES = sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE})
MODULES_OUTSIDE_STORAGE = [
    path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "storage" not in path.parents
]
# Libraries that take long to import, or are large.
HEAVY = {
    "fastapi", "google.auth", "google.cloud.storage", "h5py", "jinja2", "keras", "matplotlib",
    "numpy", "PIL", "pyarrow", "requests", "rich", "scipy", "tensorflow",
}  # fmt: skip


def test_the_top_level_holds_at_most_eight_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_holds_at_most_fifteen_modules(package: Path) -> None:
    assert len([path for path in package.glob("*.py") if path.name != "__init__.py"]) <= 15


def bucket_paths(source: str) -> list[str]:
    """Returns the strings of the code that name a scheme or mount of buckets and are no prose.

    A string without a space is no prose: it is compared, searched for, or put before a path.
    """
    constants = (node.value for node in ast.walk(ast.parse(source)) if _is_string(node))
    return [text for text in constants if ("gs:" in text or "/gcs" in text) and " " not in text]


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize(
    "code",
    [
        'path.startswith("gs://")',
        'path[:3] == "gs:"',
        'f"gs://{bucket}/{name}"',
        're.match(r"(gs://|/gcs/)([^/]+)/", path)',
        'MOUNT = "/gcs/"',
    ],
)
def test_code_that_knows_the_scheme_of_buckets_is_recognised(code: str) -> None:
    assert bucket_paths(code) != []


def test_texts_that_mention_buckets_are_not_code() -> None:
    assert bucket_paths('"""Reads gs:// paths."""\nHELP = "Folder, local or gs://bucket."') == []


@pytest.mark.parametrize(
    "module", MODULES_OUTSIDE_STORAGE, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_only_storage_knows_the_scheme_of_buckets(module: Path) -> None:
    assert bucket_paths(module.read_text(encoding="utf-8")) == []


def test_the_configuration_is_imported_without_heavy_libraries() -> None:
    code = "import sys, trainer.config; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(process.stdout.split())
