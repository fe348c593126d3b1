"""The benchmarks run; what they find is asserted nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT

pytestmark = pytest.mark.long


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_bench_writes_its_tables_below_what_a_person_wrote(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    mark = "<!-- make bench writes all below -->\n"
    results.write_text(f"By hand.\n{mark}old\n")
    few = ["--only", "mlp", "cnn_fast, as", "the seed"]
    run("benchmarks.bench", "--tiny", "--repeats", 1, "--results", results, *few)
    text = results.read_text()
    assert text.startswith(f"By hand.\n{mark}")
    assert "old" not in text
    for row in (
        "| mlp, trainer, float32 |",
        "| mlp, trainer, bfloat16 / mlp, Keras fit |",
        "| cnn_fast, as `make train` has it / the seed's cnn, 12 epochs, Keras fit |",
        "| --help |",
    ):
        assert row in text


def test_kill_counts_its_kills() -> None:
    assert "local: " in run("benchmarks.kill", "--kills", 1)


def test_safety_prints_what_safety_costs() -> None:
    assert "sentiment" in run("benchmarks.safety", "--models", "sentiment", "--repeats", 1)


def test_exports_has_a_row_for_each_format(finished_run: Path) -> None:
    table = run("benchmarks.exports", finished_run)
    for title in ("`saved_model`", "`onnx`", "`litert`", "`keras`", "`h5`", "`litert` int8"):
        assert re.search(rf"\| {title} \| [\d,]+ \| [\d.]+ s \| [\d.]+ ms \| [\d,]+ \|", table)


def test_scaling_counts_what_a_network_computes() -> None:
    table = run("benchmarks.scaling")
    assert re.search(r"\| `cnn` \| 16,384 \| 8 \| [\d.]+ \| \d+% \| [4-8]\.\d \|", table)


def test_streaming_trains_from_shards_and_beside_them(tmp_path: Path) -> None:
    said = run("benchmarks.streaming", "--gb", 0.02, "--memory-gb", 3, "--folder", tmp_path)
    assert said.count("shards, all 0.02 GB, one epoch:") == 2
    assert said.count("examples/s") == 5


def test_converting_has_a_row_for_each_way(tmp_path: Path) -> None:
    table = run("benchmarks.converting", "--part", 0.01, "--repeats", 1, "--folder", tmp_path)
    assert (
        len(re.findall(r"\| (images|texts|arrays), .* \| [\d,]+ \| [\d,]+ \| \d+ MB \|", table))
        == 9
    )


def test_formats_compares_what_is_kept_in_several(tmp_path: Path) -> None:
    said = run("benchmarks.formats", "--only", "CSV, `;`", "--train", 4, "--test", 2)
    assert re.search(r"\| CSV, `;` \| 1 \| [\d,]+ \| [\d.]+ s \| [\d.]+ s \| [\d.]+ % \|", said)
    assert "the same: 1 x 2 places, one result, to the bit" in said


def test_workers_draws_what_several_have_in_common(tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    said = run(
        "benchmarks.workers", "--examples", 300, "--epochs", 1, "--chart", chart,
        "--workers", "1 worker", "2 devices",
    )  # fmt: skip
    assert said.count("| epoch | 1 worker | 2 devices |") == 2
    assert chart.read_text().count("<svg") == 5


@pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk here; apt-get install wrk")
def test_serving_prints_its_table() -> None:
    said = run("benchmarks.serving", "--seconds", 4, "--connections", 1)
    assert "| 1 | trainer serve |" in said
    assert "| 1 | Flask, model.predict |" in said


def test_what_is_to_run_on_a_gpu_runs_on_a_cpu(tmp_path: Path, digits: Path) -> None:
    results = tmp_path / "GPU.md"
    settings = {"DEVICE": "cpu", "MODELS": "mlp", "EPOCHS": "3", "DATA": str(digits)}
    settings |= {"RESULTS": str(results), "PYTHON": sys.executable}
    done = subprocess.run(
        ["benchmarks/gpu.sh"], cwd=ROOT, env={**os.environ, **settings}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    text = results.read_text()
    assert text.count("| mlp | CPU: ") == 4
    assert text.count(", XLA |") == 2
    assert "the models are the same to the bit." in text
