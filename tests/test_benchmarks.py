"""The benchmarks run and print their tables; the figures are not checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT
from tests.programs import require

pytestmark = pytest.mark.long


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_bench_keeps_the_text_above_its_tables(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    mark = "<!-- make bench writes all below -->\n"
    results.write_text(f"By hand.\n{mark}old\n")
    few = ["--only", "mlp", "cnn_fast, as", "reference"]
    run("benchmarks.bench", "--tiny", "--repeats", 1, "--results", results, *few)
    text = results.read_text()
    assert text.startswith(f"By hand.\n{mark}")
    assert "old" not in text
    for row in (
        "| mlp, trainer, float32 |",
        "| mlp, trainer, bfloat16 / mlp, Keras fit |",
        "| cnn_fast, as in `make train` / reference cnn, 12 epochs, Keras fit |",
        "| --help |",
    ):
        assert row in text


def test_kill_prints_the_number_of_kills() -> None:
    assert "local: " in run("benchmarks.kill", "--kills", 1, "--epochs", 4)


def test_safety_has_a_row_for_each_model() -> None:
    assert "sentiment" in run("benchmarks.safety", "--models", "sentiment", "--repeats", 1)


def test_exports_has_a_row_for_each_format(finished_run: Path) -> None:
    table = run("benchmarks.exports", finished_run)
    for title in ("`saved_model`", "`onnx`", "`litert`", "`keras`", "`h5`", "`litert` int8"):
        assert re.search(rf"\| {title} \| [\d,]+ \| [\d.]+ s \| [\d.]+ ms \| [\d,]+ \|", table)


def test_scaling_has_a_row_for_each_number_of_gpus() -> None:
    table = run("benchmarks.scaling")
    assert re.search(r"\| `cnn` \| 16,384 \| 8 \| [\d.]+ \| \d+% \| [4-8]\.\d \|", table)


def test_streaming_trains_from_shards_from_memory_and_with_tf_data(tmp_path: Path) -> None:
    output = run("benchmarks.streaming", "--gb", 0.02, "--memory-gb", 3, "--folder", tmp_path)
    assert output.count("shards, all 0.02 GB, one epoch:") == 2
    assert output.count("examples/s") == 5


def test_converting_has_a_row_for_each_variant(tmp_path: Path) -> None:
    table = run("benchmarks.converting", "--part", 0.01, "--repeats", 1, "--folder", tmp_path)
    assert (
        len(re.findall(r"\| (images|texts|arrays), .* \| [\d,]+ \| [\d,]+ \| \d+ MB \|", table))
        == 9
    )


def test_formats_compares_local_files_with_a_bucket(tmp_path: Path) -> None:
    output = run("benchmarks.formats", "--only", "CSV, `;`", "--train", 4, "--test", 2)
    assert re.search(r"\| CSV, `;` \| 1 \| [\d,]+ \| [\d.]+ s \| [\d.]+ s \| [\d.]+ % \|", output)
    assert "identical: 1 x 2 locations, one result, bit-identical" in output


def test_workers_prints_tables_and_writes_the_chart(tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    output = run(
        "benchmarks.workers", "--examples", 300, "--epochs", 1, "--chart", chart,
        "--workers", "1 worker", "2 devices",
    )  # fmt: skip
    assert output.count("| epoch | 1 worker | 2 devices |") == 2
    assert chart.read_text().count("<svg") == 5


def test_serving_prints_its_table() -> None:
    require("wrk")
    output = run("benchmarks.serving", "--seconds", 4, "--connections", 1)
    assert "| 1 | trainer serve |" in output
    assert "| 1 | Flask, model.predict |" in output


def test_the_gpu_script_runs_on_a_cpu(tmp_path: Path, digits: Path) -> None:
    results = tmp_path / "GPU.md"
    settings = {"DEVICE": "cpu", "MODELS": "mlp", "EPOCHS": "3", "DATA": str(digits)}
    settings |= {"RESULTS": str(results), "PYTHON": sys.executable}
    process = subprocess.run(
        ["benchmarks/gpu.sh"], cwd=ROOT, env={**os.environ, **settings}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    text = results.read_text()
    assert text.count("| mlp | CPU: ") == 4
    assert text.count(", XLA |") == 2
    assert "the models are bit-identical." in text
