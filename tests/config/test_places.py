"""Places are local paths and gs://bucket/path, as flags, words and settings of a file alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import task
from trainer.cli.data import CheckOptions, ConvertOptions
from trainer.cli.evaluate import EvaluateOptions
from trainer.cli.export import ExportOptions
from trainer.cli.predict import PredictOptions
from trainer.cli.serve import ServeOptions
from trainer.cli.submit import SubmitOptions
from trainer.cli.verify import VerifyOptions
from trainer.config import Config, check, resolve
from trainer.errors import UsageError

OTHER_SCHEMES = [
    "s3://bucket/x", "gs:/bucket/x", "gs:bucket/x", "gcs://bucket/x", "gs://", "gs:///x",
    "http://host/x", "https://storage.googleapis.com/bucket/x", "hdfs:///x", "file://host/x",
    "runs/gs://bucket/x", "C:/data", "C:\\data",
]  # fmt: skip


@pytest.mark.parametrize("path", OTHER_SCHEMES)
@pytest.mark.parametrize(
    "name", ["data", "validation_data", "weights", "out", "checkpoint_dir", "tensorboard_dir"]
)
def test_another_scheme_is_refused_in_each_setting(name: str, path: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UsageError, match=f"{flag}: found .*, expected (a local path or )?gs://b"):
        resolve({name: path, "backbone": "MobileNetV2"})
    with pytest.raises(UsageError, match=f"--config c.json: {name}: found .*, expected "):
        resolve(
            {"config": "c.json"},
            f'{{"backbone": "MobileNetV2", "{name}": {path!r}}}'.replace("'", '"'),
        )


@pytest.mark.parametrize(
    ("kind", "values", "label"),
    [
        (PredictOptions, {"run": "s3://b/r", "files": ("x",)}, "RUN"),
        (PredictOptions, {"run": "r", "files": ("x", "s3://b/x.png")}, "FILES"),
        (PredictOptions, {"run": "r", "files": ("x",), "out": "s3://b/x.csv"}, "--out"),
        (EvaluateOptions, {"run": "s3://b/r"}, "RUN"),
        (EvaluateOptions, {"run": "r", "data": "s3://b/r"}, "--data"),
        (ExportOptions, {"run": "r", "out": "s3://b/r"}, "--out"),
        (ServeOptions, {"run": "s3://b/r"}, "RUN"),
        (VerifyOptions, {"run": "s3://b/r"}, "RUN"),
        (CheckOptions, {"path": "s3://b/r"}, "PATH"),
        (CheckOptions, {"path": "r", "out": "s3://b/r.html"}, "--out"),
        (ConvertOptions, {"path": "r", "out": "s3://b/r"}, "OUT"),
        (SubmitOptions, {"out": "s3://b/r"}, "--out"),
        (Config, {"cache_dir": "s3://b/r"}, "--cache-dir"),
    ],
)
def test_another_scheme_is_refused_by_each_command(
    kind: type, values: dict[str, object], label: str
) -> None:
    with pytest.raises(UsageError, match=f"^{label}: found .*s3://.*, expected .*gs://bucket/path"):
        check(kind, values)


def test_a_config_file_at_another_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="--config: found 's3://b/c.json', expected a local path"):
        task.parse(["--config=s3://b/c.json"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("GS://Bucket/x", "gs://Bucket/x"),
        ("gs://bucket/$folder$/x:/y", "gs://bucket/$folder$/x:/y"),
        ("file:///data/a%20b", "/data/a b"),
        ("file://localhost/data", "/data"),
        ("FILE:/data", "/data"),
        ("~/runs/x", "/home/me/runs/x"),
        ("~", "/home/me"),
        ("$HOME/runs", "/home/me/runs"),
        ("${HOME}", "/home/me"),
        ("run:1", "run:1"),
        ("./a:/b", "./a:/b"),
        ("runs/~/$5", "runs/~/$5"),
        ("/tmp/$HOMER$", "/tmp/$HOMER$"),
    ],
)
def test_a_place_is_understood(monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("data", "out", "checkpoint_dir"):
        assert getattr(resolve({name: path}), name) == expected
        assert getattr(resolve({"config": "c"}, f'{{"{name}": "{path}"}}'), name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~no-such-user/x", "a path without ~, which is no user's home here"),
        ("$RUNS/x", r"a path without variables: \$RUNS is not expanded here"),
        ("gs://bucket/${RUN}", r"a path without variables: \${RUN} is not"),
        ("/data/$(DATE)/x", r"a path without variables: \$\(DATE\) is not"),
        ("$HOMES/x", r"a path without variables: \$HOMES is not expanded"),
        (" gs://bucket/x", "a path without spaces at its ends"),
        ("runs/x\n", "a path without spaces at its ends"),
    ],
)
def test_a_path_that_a_shell_would_have_changed_is_refused(path: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"--out: found .*, expected {expected}"):
        resolve({"out": path})


def test_files_with_such_names_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~notes.csv", "$x", "a "):
        Path(name).touch()
        assert resolve({"data": name}).data == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "--epochs", "1"], "--out: found no value before --epochs, expected a value"),
        (["--tensorboard-dir"], "--tensorboard-dir: found no value, expected a value"),
        (["--checkpoint_dir", "--overwrite"], "--checkpoint-dir: found no value before --overw"),
        (["--overwrite", "--out"], "--out: found no value, expected a value"),
        (["--data="], "--data: found no value, expected a value"),
        (["--data", ""], "--data: found no value, expected a value"),
        (["--model", " "], "--model: found no value, expected a value"),
        (["-o"], "Unknown flag '-o'"),
        (["-out", "-x"], "Unknown flag '-out'. Did you mean --out"),
        (["--noout"], "Unknown flag '--noout'. Did you mean --out"),
        (["--nooverwrite"], "Unknown flag '--nooverwrite'. Did you mean --overwrite"),
        (["--epochs", "--seed", "3"], "--epochs: found no value before --seed"),
    ],
)
def test_a_flag_without_its_value_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task.parse(arguments)


def test_a_switch_needs_no_value_and_a_value_may_be_negative() -> None:
    config = task.parse(["--overwrite", "--dry_run", "--deterministic", "no", "--out", "-"])
    assert (config.overwrite, config.dry_run, config.deterministic) == (True, True, False)
    assert config.out == "-"
    with pytest.raises(UsageError, match="--learning-rate: found '-1', expected greater"):
        task.parse(["--learning-rate", "-1"])
