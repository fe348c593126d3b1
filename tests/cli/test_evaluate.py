"""`trainer evaluate` computes the metrics of a run's model on its own or on other labelled data."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.kills import write_digits, write_idx
from trainer import storage
from trainer.cli import main
from trainer.data.dataset import Dataset

Evaluate = Callable[..., tuple[object, str, str]]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Returns a function that runs the command: arguments to exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main.main(["evaluate", *map(str, arguments)])
        return exit_info.value.code, *capsys.readouterr()

    return run


def read_metrics(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "metrics.json").read_text()))


def save_npz(path: Path, **splits: tuple[np.ndarray, np.ndarray]) -> Path:
    arrays = {}
    for name, (examples, labels) in splits.items():
        arrays |= {f"x_{name}": examples, f"y_{name}": labels}
    np.savez(path, **arrays)
    return path


def test_the_own_test_split_gives_the_metrics_of_the_run(
    evaluate: Evaluate, finished_run: Path, tmp_path: Path
) -> None:
    code, out, err = evaluate(finished_run, f"--out={tmp_path}/new/metrics.json")
    assert (code, err) == (0, "")
    original, now = (
        read_metrics(finished_run),
        json.loads((tmp_path / "new/metrics.json").read_text()),
    )
    assert now["test"]["accuracy"] == original["test"]["accuracy"]
    assert now["test"]["loss"] == pytest.approx(original["test"]["loss"], rel=1e-4)
    assert now["confusion"] == original["confusion"]
    assert (now["split"], now["examples"], now["shared"]) == ("own", 300, 300)
    assert now["training"]["test"] == original["test"]
    lines = out.splitlines()
    accuracy = f"{original['test']['accuracy']:.2%}"
    assert lines[0].endswith(": the run's test split, 300 examples")
    assert [line.split()[:2] for line in lines if accuracy in line] == [
        ["now", accuracy], ["in", "the"],
    ]  # fmt: skip
    assert sum(line.startswith(tuple("0123456789")) for line in lines) >= 10 + 5


def test_changed_test_examples_are_counted(
    evaluate: Evaluate, finished_run: Path, digits: Path, mnist: Dataset, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    data = shutil.copytree(digits, tmp_path / "digits")
    # The run's config names its data; the manifest must match the changed config.
    config = json.loads((run / "config.json").read_text()) | {"data": str(data)}
    (run / "config.json").write_text(json.dumps(config))
    manifest = json.loads((run / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == "config.json":
            entry["sha256"] = hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))
    write_idx(data / "t10k-images-idx3-ubyte.gz", mnist.test.examples[2:302, ..., 0])
    code, out, _ = evaluate(run)
    assert code == 0
    assert re.search(r"\n\d+ test examples changed since the run\n", out)
    shutil.rmtree(data)
    code, out, err = evaluate(run)
    assert (code, out) == (2, "")
    assert err.endswith("no such file or folder; set --data to its current path\n")


def test_a_copy_of_the_runs_data_is_recognised(
    evaluate: Evaluate, finished_run: Path, digits: Path, bucket: str
) -> None:
    files = {path.name: path for path in digits.iterdir()}
    storage.write_all(storage.folder(f"{bucket}/digits"), files)
    code, out, _ = evaluate(
        finished_run, "--data", f"{bucket}/digits", "--format=json", f"--out={bucket}/out.json"
    )
    now = json.loads(out)
    assert (code, now["split"], now["shared"]) == (0, "own", 300)
    assert storage.read_text(f"{bucket}/out.json") == out


def test_other_data_is_evaluated_on_its_test_split_or_on_all_of_it(
    evaluate: Evaluate, finished_run: Path, mnist: Dataset, tmp_path: Path
) -> None:
    first = (mnist.train.examples[:50], mnist.train.labels[:50])
    other = (mnist.test.examples[280:480], mnist.test.labels[280:480])
    for splits, split, examples, shared, text in (
        ({"train": first, "test": other}, "test", 200, 20, "its test split, 200 examples"),
        (
            {"train": other},
            "all",
            200,
            20,
            "20 of these examples are in the run's test split; others",
        ),
        ({"test": other}, "all", 200, 20, "all of it, since it has no test split"),
    ):
        data = save_npz(tmp_path / "data.npz", **splits)
        code, out, _ = evaluate(finished_run, "--data", data)
        assert code == 0
        assert text in out
        now = json.loads(evaluate(finished_run, "--data", data, "--format=json")[1])
        assert (now["split"], now["examples"], now["shared"]) == (split, examples, shared)
        assert np.sum(now["confusion"]) == examples
    test_files = tmp_path / "test_files"
    test_files.mkdir()
    for file in write_digits(tmp_path / "digits", examples=20).glob("t10k*"):
        shutil.move(file, test_files)
    out = evaluate(finished_run, "--data", test_files)[1]
    assert "all of these examples are in the run's test split" in out


def test_classes_are_matched_by_name(
    evaluate: Evaluate, finished_run: Path, mnist: Dataset, tmp_path: Path, bucket: str
) -> None:
    """The data is Vertex AI's JSON lines with three of the ten classes, the last one first."""
    indices = [n for n in range(300) if mnist.test.labels[n] in (9, 4, 1)][:30]
    files, lines = {}, []
    for n in indices:
        files[f"{n}.png"] = tmp_path / f"{n}.png"
        image = Image.fromarray(mnist.test.examples[n, ..., 0]).resize([56, 56], 0)
        image.save(files[f"{n}.png"])  # 56x56, which the command resizes to 28x28.
        label = {"displayName": str(mnist.test.labels[n])}
        lines += [{"imageGcsUri": f"{bucket}/{n}.png", "classificationAnnotation": label}]
    storage.write_all(storage.folder(bucket), files)
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = evaluate(finished_run, "--data", data, "--format=json")
    now = json.loads(out)
    assert (code, now["split"], now["shared"]) == (0, "all", 30)
    support = {each["class"]: each["support"] for each in now["per_class"]}
    assert {name for name, count in support.items() if count} == {"1", "4", "9"}
    assert now["test"]["accuracy"] > 0.5  # Impossible if labels were matched by number.
    lines[0]["classificationAnnotation"] = {"displayName": "ten"}
    data.write_text("\n".join(map(json.dumps, lines)))
    code, _, err = evaluate(finished_run, "--data", data)
    assert (code, err) == (
        2,
        f"trainer evaluate: error: {data}: found class 'ten', expected 0, 1, 2, 3, 4, 5, 6, 7, 8, "
        "9\n",
    )


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (np.zeros([9, 14, 14]), np.arange(9), "found examples of 14 x 14 x 1 numbers, expected an"),
        (np.full([9, 28, 28], 0.5), np.arange(9), "found 0.5, expected an image of 28x28x1 whole"),
        (np.full([9, 28, 28], 256), np.arange(9), "found 256.0, expected an image of 28x28x1"),
        (np.array(list("abcdefghi")), np.arange(9), "found texts, expected an image of 28x28x1"),
        (np.zeros([9, 28, 28], int), np.arange(9) + 3, "found class '10', expected 0, 1, 2"),
        (np.zeros([9, 28, 28], int), np.arange(8), "training split: 9 examples but 8 labels"),
    ],
)
def test_data_that_does_not_fit_is_a_one_line_error(
    evaluate: Evaluate,
    finished_run: Path,
    tmp_path: Path,
    examples: np.ndarray,
    labels: np.ndarray,
    message: str,
) -> None:
    data = save_npz(tmp_path / "data.npz", train=(examples, labels))
    code, out, err = evaluate(finished_run, "--data", data)
    assert (code, out) == (2, "")
    assert err.startswith(f"trainer evaluate: error: {data}: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing RUN."),
        (["/none"], "/none: no manifest.json there, expected a finished run"),
        (["RUN", "--dta=x"], "Unknown flag '--dta=x'. Did you mean --data?"),
        (["RUN", "--data=/none"], "/none: no such file or folder"),
        (["RUN", "--data=movie_reviews"], "movie_reviews: found class 'neg', expected 0, 1"),
        (["RUN", "--format=xml"], "--format: found 'xml', expected 'text' or 'json'"),
        (["RUN", "--out=/dev/null"], "--out: found '/dev/null', expected the path of a file"),
        (["RUN", "--out=/proc/new/metrics"], "--out /proc/new: cannot be written: "),
        (["RUN", "--label-column=so"], "--label-column: requires --data"),
        (["RUN", "--max-bad=0.3"], "--max-bad: requires --data"),
        (["RUN", "--data=mnist", "--data-format=table"], "mnist: --data-format table: found "),
        (["RUN", "--data=mnist", "--image-size=14"], "--image-size: found 14, expected images of "),
    ],
)
def test_a_usage_error_is_one_line(
    evaluate: Evaluate, finished_run: Path, arguments: list[str], message: str
) -> None:
    code, out, err = evaluate(*(finished_run if a == "RUN" else a for a in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"trainer evaluate: error: {message}")


@pytest.fixture(scope="module")
def table_run(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a model that was trained on a table, whose columns have unusual names."""
    data = tmp_path_factory.mktemp("table") / "train.csv"
    lines = [f"a {word} film {n};{word}" for n in range(30) for word in ("warm", "dull")]
    data.write_text("\n".join(["what, they said;so", *lines]))
    flags = "--model=sentiment --epochs=4 --batch-size=8 --learning-rate=0.01"
    return shared_run("table", *flags.split(), f"--data={data}", "--label-column=so")


def test_another_table_is_read_by_the_columns_of_the_run(
    evaluate: Evaluate, table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new.csv"
    rows = [f"{n},{word},a {word} film" for n in range(9) for word in ("warm", "dull")]
    data.write_text("\n".join(['id,so,"what, they said"', *rows]))
    code, out, _ = evaluate(table_run, "--data", data, "--format=json")
    now = json.loads(out)
    assert (code, now["examples"], now["test"]["accuracy"]) == (0, 18, 1)
    data.write_text("\n".join(['id,class,"what, they said"', *rows]))
    code, out, err = evaluate(table_run, "--data", data)
    assert (code, out) == (2, "")
    assert err.endswith(
        "found the columns 'class', 'id', 'what, they said', expected 'so' as in training; name "
        "another with --label-column\n"
    )
    code, out, _ = evaluate(table_run, "--data", data, "--label-column=class", "--format=json")
    assert (code, json.loads(out)["examples"]) == (0, 18)
    code, _, err = evaluate(table_run, "--label-column=class")
    assert (code, err) == (
        2,
        "trainer evaluate: error: --label-column: requires --data\n",
    )
    with pytest.raises(SystemExit) as exit_info:
        main.main(["predict", str(table_run), str(data)])
    assert exit_info.value.code == 0
    predicted = [json.loads(line)["predicted"] for line in capsys.readouterr().out.splitlines()]
    assert predicted == ["warm", "dull"] * 9
