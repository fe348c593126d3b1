"""Tests of what a job settles before it trains: its default run directory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from trainer.config import Config, LocatedConfig, complete
from trainer.errors import DataError, StorageError
from trainer.training import setup


def located(out: str) -> LocatedConfig:
    return complete(LocatedConfig, Config(), data="mnist", out=out)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_jobs_of_one_second_have_directories_of_their_own(tmp_path: Path) -> None:
    default = located("runs/mlp-20261128-100000")
    with ExitStack() as stack:

        def start(_: int) -> str:
            return stack.enter_context(setup.new_directory(Config(), default)).out

        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(start, range(40)))
        assert len(names) == 40
        assert {default.out, f"{default.out}-2"} < names
        assert {
            str(path.relative_to(tmp_path)) for path in Path("runs").resolve().iterdir()
        } == names
    assert not Path("runs").exists()


def test_a_directory_with_files_is_kept_and_an_empty_one_is_not() -> None:
    with setup.new_directory(Config(), located("runs/a")) as config:
        Path(config.out, "config.json").touch()
    with (
        pytest.raises(DataError),
        setup.new_directory(Config(), located("runs/a")) as config,
    ):
        assert config.out == "runs/a-2"
        raise DataError("wrong")
    assert [path.name for path in Path("runs").iterdir()] == ["a"]


def test_a_directory_that_the_user_names_is_left_alone() -> None:
    with setup.new_directory(Config(out="x/a"), located("x/a")) as config:
        assert config.out == "x/a"
    assert not Path("x").exists()


def test_a_default_that_cannot_be_created_is_one_line() -> None:
    Path("runs").touch()
    with (
        pytest.raises(StorageError, match="runs/a: "),
        setup.new_directory(Config(), located("runs/a")),
    ):
        pass
