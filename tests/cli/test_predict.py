"""`trainer predict` reads files of all kinds, and predicts what the run's own test predicted."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from trainer import storage
from trainer.cli import main
from trainer.config import DataOptions
from trainer.data import loader
from trainer.runs import predictions


@pytest.fixture(scope="module")
def text_run(trained: Callable[[str], Path]) -> Path:
    return trained("sentiment_small")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder with the run's test images as PNG, named in their order."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(
        loader.load(DataOptions(data=str(digits), seed=0)).test.examples
    ):
        Image.fromarray(pixels[..., 0]).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns a function that runs the command: arguments to exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main.main(["predict", *map(str, arguments)])
        return exit_info.value.code, *capsys.readouterr()

    return run


def start_predict(*arguments: object) -> subprocess.Popen[bytes]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "predict", *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def json_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def check_like_own_test(run: Path, predicted: list[tuple[str, float]]) -> None:
    """Asserts that classes and probabilities equal those of the run's own test."""
    expected = predictions.read(storage.folder(str(run)))
    assert [name for name, _ in predicted] == [row.predicted for row in expected]
    confidence = np.array([probability for _, probability in predicted])
    np.testing.assert_allclose(confidence, [row.probability for row in expected], atol=2e-6)


def test_predictions_for_the_runs_test_images_equal_its_own_test(
    predict: Any, finished_run: Path, images: Path
) -> None:
    code, out, err = predict(finished_run, images)
    assert (code, err) == (0, "")
    rows = json_rows(out)
    assert [row["input"] for row in rows] == [str(file) for file in sorted(images.iterdir())]
    check_like_own_test(finished_run, [(row["predicted"], row["probability"]) for row in rows])


def test_arrays_and_csv_give_the_same_predictions(
    predict: Any, finished_run: Path, digits: Path, tmp_path: Path
) -> None:
    pixels = loader.load(DataOptions(data=str(digits), seed=0)).test.examples
    lines = [",".join(map(str, example.reshape(-1))) for example in pixels]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    for file in (digits / "t10k-images-idx3-ubyte.gz", tmp_path / "a.csv"):
        code, out, _ = predict(finished_run, file, "--format=csv")
        rows = list(csv.DictReader(io.StringIO(out, newline="")))
        assert code == 0
        assert [row["input"] for row in rows[:2]] == [f"{file}:1", f"{file}:2"]
        check_like_own_test(
            finished_run, [(row["predicted"], float(row["probability"])) for row in rows]
        )


def test_predictions_for_the_runs_test_texts_equal_its_own_test(
    predict: Any, text_run: Path, sentences: Path, tmp_path: Path
) -> None:
    texts = loader.load(DataOptions(data=str(sentences), seed=0)).test.examples
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    code, out, err = predict(text_run, tmp_path / "a.txt", "--probabilities")
    assert (code, err) == (0, "")
    rows = json_rows(out)
    assert [row["input"] for row in rows[:2]] == [f"{tmp_path}/a.txt:1", f"{tmp_path}/a.txt:3"]
    check_like_own_test(text_run, [(row["predicted"], row["probability"]) for row in rows])
    for row in rows:
        assert list(row["probabilities"]) == ["neg", "pos"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert max(row["probabilities"].values()) == row["probability"]


@pytest.mark.parametrize("format", ["table", "jsonl", "csv"])
def test_unreadable_files_are_reported_and_the_others_predicted(
    predict: Any, finished_run: Path, images: Path, tmp_path: Path, format: str
) -> None:
    content = (images / "000.png").read_bytes()
    for name, data in (("1", content), ("2", content[:99]), ("3", b""), ("4", content)):
        (tmp_path / f"{name}.png").write_bytes(data)
    code, out, err = predict(finished_run, tmp_path, "none.png", f"--format={format}")
    assert code == 3
    lines = err.replace(f"{tmp_path}/", "").splitlines()
    assert re.match(r"2\.png: not an image, or a damaged one: ", lines[0])
    assert lines[1:] == [
        "3.png: not an image, or a damaged one: found an empty file",
        "none.png: no such file or folder",
        "trainer predict: error: 3 of 5 inputs could not be read",
    ]
    if format == "table":
        assert [line.split()[2:] for line in out.splitlines()[1:]] == [
            [f"{tmp_path}/1.png"], [f"{tmp_path}/4.png"],
        ]  # fmt: skip
        return
    rows = json_rows(out) if format == "jsonl" else list(csv.DictReader(io.StringIO(out)))
    names = [row["input"].removeprefix(f"{tmp_path}/") for row in rows]
    assert names == ["1.png", "2.png", "3.png", "4.png", "none.png"]
    assert [bool(row.get("error")) for row in rows] == [False, True, True, False, True]
    assert [bool(row.get("predicted")) for row in rows] == [True, False, False, True, False]


def test_the_model_is_not_loaded_if_nothing_can_be_read(
    predict: Any, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "saved_model")
    (tmp_path / "empty").mkdir()
    code, out, err = predict(run, tmp_path / "empty", "--format=csv")
    assert (code, out.count("\n")) == (3, 2)
    assert err.startswith(f"{tmp_path}/empty: no files there\n")


def test_rows_go_to_a_file_in_a_bucket(
    predict: Any, finished_run: Path, images: Path, bucket: str
) -> None:
    files = {
        f"run/{path.relative_to(finished_run)}": path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    files |= {f"images/{n:03}.png": images / f"{n:03}.png" for n in range(40)}
    storage.write_all(storage.folder(bucket), files)
    expected = [f"{bucket}/images/{n:03}.png" for n in range(40)]
    code, out, err = predict(f"{bucket}/run", f"{bucket}/images", f"--out={bucket}/rows.csv")
    assert (code, out, err) == (0, "", "")
    rows = list(csv.DictReader(io.StringIO(storage.read_text(f"{bucket}/rows.csv"))))
    assert [row["input"] for row in rows] == expected
    code, _, _ = predict(f"{bucket}/run", f"{bucket}/none", f"--out={bucket}/rows.jsonl")
    assert code == 3
    assert json_rows(storage.read_text(f"{bucket}/rows.jsonl")) == [
        {"input": f"{bucket}/none", "error": "no files there"}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "Missing FILES."),
        (["RUN", "a.txt", "b.md", "--formt=csv"], "Unknown flag '--formt=csv'. Did you mean"),
        (["RUN", "-a.png"], "Unknown flag '-a.png'.*Words that begin with - may follow a bare --"),
        (["RUN", "a.png", "--format=xml"], "--format: found 'xml', expected 'table', 'jsonl' or"),
        (["RUN", "-", "-"], "FILES: found - 2 times, expected it at most once"),
        (["RUN", ""], "FILES: found '', expected a text"),
        (["RUN", "a.png", "--out=/dev/null"], "--out: found '/dev/null', expected the path of a"),
        (["RUN", "a.png", "--out=/tmp"], "--out: found '/tmp', expected the path of a file"),
        (["RUN", "a.png", "--out=/proc/new/rows"], "--out /proc/new: cannot be written: "),
        (["RUN", "a.png", "--out=gs://b"], "gs://b: expected gs://bucket/path of a file"),
        (["RUN", "a.txt"], "a.txt: found texts, expected an image of 28x28x1"),
        (["/none", "a.png"], "/none: no manifest.json there, expected a finished run"),
    ],
)
def test_a_usage_error_is_one_line(
    predict: Any, finished_run: Path, arguments: list[str], message: str
) -> None:
    code, out, err = predict(*(str(finished_run) if a == "RUN" else a for a in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err)


def test_file_names_that_look_like_flags_or_values_are_files(
    predict: Any, finished_run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["1_0", "-5", "./-", "[a]", "--help", "-x.png", "--", "None"]
    for name in names:
        shutil.copy(images / "000.png", name)
    code, out, _ = predict(finished_run, *names[:4], "--probabilities", "None", "--", *names[4:7])
    assert code == 0
    assert [row["input"] for row in json_rows(out)] == [*names[:4], "None", *names[4:7]]


def test_a_stream_is_predicted_as_it_arrives_in_constant_memory(text_run: Path) -> None:
    """A line does not wait for more; 200 MB do not raise memory; a closed stdout ends it."""
    with start_predict(text_run, "-") as job:
        assert job.stdin is not None and job.stdout is not None and job.stderr is not None
        for number, line in ((1, b"a great film\n"), (2, b"dull\n")):
            job.stdin.write(line)
            job.stdin.flush()
            assert json.loads(job.stdout.readline())["input"] == f"-:{number}"
        before = peak_memory(job)
        piece = b"good\n" * 20 + b"x" * 2_000_000 + b"\n"
        writer = threading.Thread(target=lambda: job.stdin.write(piece * 100))
        writer.start()
        rows = [json.loads(job.stdout.readline()) for _ in range(100 * 21)]
        writer.join()
        assert sum("error" in row for row in rows) == 100
        assert rows[-1]["input"] == "-:2102"
        assert peak_memory(job) - before < 80e6
        job.stdout.close()
        job.stdin.write(b"bad\n")
        job.stdin.flush()
        assert job.wait(10) == 128 + signal.SIGPIPE
        job.stdin.close()
        assert job.stderr.read().count(b"found 2000000 characters") == 100


def peak_memory(process: subprocess.Popen[bytes]) -> float:
    """Returns the peak resident memory of a process, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return 1024 * float(match[1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_leaves_no_incomplete_file(
    finished_run: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "rows.jsonl"
    with start_predict(finished_run, "none.png", "-", f"--out={out}") as job:
        assert job.stderr is not None
        assert job.stderr.readline() == b"none.png: no such file or folder\n"
        job.send_signal(number)
        assert job.wait(10) == code
        assert not out.exists()
