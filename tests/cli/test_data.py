"""Tests of `trainer data check` and `trainer data convert`."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from playwright.sync_api import Browser
from pyarrow import parquet

from tests.browser import check_page
from tests.conftest import ROOT
from trainer import storage
from trainer.cli import main
from trainer.config import DataOptions, ReadOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.data.shards import shard_format
from trainer.data.shards.reader import Shards

Command = Callable[..., tuple[object, list[str], str]]


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `trainer data`; returns the exit code, the lines on stdout, and stderr."""

    def run(*arguments: object) -> tuple[object, list[str], str]:
        with pytest.raises(SystemExit) as exit_info:
            main.main(["data", *map(str, arguments)])
        out, err = capsys.readouterr()
        return exit_info.value.code, [line.rstrip() for line in out.splitlines()], err

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Returns a folder of distinct images: 100 in the class folder red, 10 in green."""
    for name, channel, count in (("red", 0, 100), ("green", 1, 10)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((5, 6, 3), np.uint8)
            pixels[..., channel], pixels[0, 0] = 200, number
            Image.fromarray(pixels).save(tmp_path / f"pictures/{name}/{number}.png")
    return tmp_path / "pictures"


def test_check_prints_the_statistics_of_a_data_set(data: Command, digits: Path) -> None:
    code, lines, err = data("check", digits)
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"{digits}: IDX files of images and labels")
    assert lines[1] == f"{digits}: images of 28x28, 1 channel, uint8"
    assert lines[2].split() == ["class", "train", "test"]
    assert lines[-2].split() == ["all", "1,000", "300"]
    assert lines[-1] == "no duplicate examples"


def test_check_reports_duplicates_conflicts_and_uniform_images(
    data: Command, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "red/7 again.png").write_bytes((pictures / "red/7.png").read_bytes())
    (pictures / "green/red.png").write_bytes((pictures / "red/8.png").read_bytes())
    Image.fromarray(np.full((5, 6, 3), 9, np.uint8)).save(pictures / "red/blank.png")
    page = tmp_path / "page.html"
    code, lines, _ = data("check", pictures, "--out", page)
    assert code == 0
    findings = [
        "2 of 113 training examples are duplicates",
        "1 examples have more than one class",
        "1 image has a single colour",
    ]
    assert lines[-4:] == [*findings, str(page)]
    text = page.read_text()
    assert all(finding in text for finding in findings)
    assert text.count("<img src=") == 11 + 12  # At most twelve per class.


@pytest.mark.parametrize("fixture", ["digits", "sentences"])
def test_the_page_is_self_contained_fits_and_is_readable(
    data: Command, browser: Browser, tmp_path: Path, fixture: str, request: pytest.FixtureRequest
) -> None:
    page = tmp_path / "page.html"
    assert data("check", request.getfixturevalue(fixture), "--out", page)[0] == 0
    check_page(browser, page)


def test_check_reports_leaked_examples_and_rare_classes(data: Command, tmp_path: Path) -> None:
    lines = [f"text {n},{'rare' if n < 3 else 'often'}" for n in range(60)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "test.csv").write_text("\n".join(["text,label", lines[5], "new,often"]))
    code, output, _ = data("check", tmp_path)
    assert (code, output[-2:]) == (0, [
        "1 of 2 test examples are also in the training split",
        "57 training examples of class 'often' and 3 of 'rare'; --class-weights "
        "balanced gives all classes the same weight in the loss",
    ])  # fmt: skip


@pytest.mark.parametrize("remote", [False, True])
def test_images_are_converted_to_shards_of_shuffled_classes(
    data: Command, pictures: Path, tmp_path: Path, remote: bool, request: pytest.FixtureRequest
) -> None:
    out = f"{request.getfixturevalue('bucket')}/shards" if remote else tmp_path / "shards"
    code, lines, err = data("convert", pictures, out)
    assert (code, lines, err) == (0, [f"{out}: 2 classes; train 110; 4 files"], "")
    raw = shard_format.read(storage.folder(str(out)))
    assert raw is not None
    examples, labels = raw.train
    assert isinstance(examples, Shards)
    assert raw.classes == ("green", "red")
    assert 0 < labels[:30].sum() < 30
    channel = examples[:][:, 2, 2].argmax(axis=1)
    np.testing.assert_array_equal(channel == 0, labels == 1)
    assert len({image.tobytes() for image in examples}) == 110


def test_a_converted_data_set_has_the_same_examples_in_each_split(
    data: Command, digits: Path, tmp_path: Path
) -> None:
    assert data("convert", digits, tmp_path / "shards")[0] == 0
    assert data("check", tmp_path / "shards")[1][1:] == data("check", digits)[1][2:]
    before, after = (
        loader.load(DataOptions(data=str(path), seed=0)) for path in (digits, tmp_path / "shards")
    )
    assert (after.spec.classes, after.spec.low, after.spec.high) == (before.spec.classes, 0, 255)

    def pairs(data: Dataset) -> list[set[tuple[bytes, int]]]:
        return [
            {
                (np.asarray(x).tobytes(), int(y))
                for x, y in zip(split.examples, split.labels, strict=True)
            }
            for split in (data.train, data.test)
        ]

    assert pairs(before) == pairs(after)


def test_texts_are_converted_to_parquet_with_their_classes(
    data: Command, sentences: Path, tmp_path: Path
) -> None:
    assert data("convert", sentences, tmp_path / "texts")[0] == 0
    assert parquet.read_table(tmp_path / "texts/train.parquet").num_rows == 1200
    before, after = (
        loader.read(str(path), ReadOptions()) for path in (sentences, tmp_path / "texts")
    )
    pairs = [
        sorted(zip(raw.train[0], raw.train[1].tolist(), strict=True)) for raw in (before, after)
    ]
    assert pairs[0] == pairs[1]
    assert after.classes == before.classes


@pytest.mark.parametrize("remote", [False, True])
def test_one_file_is_converted_as_a_folder_is(
    data: Command, tmp_path: Path, remote: bool, request: pytest.FixtureRequest
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=np.arange(40) % 2)
    rows = "".join(f"a text with the number {number},{'ab'[number % 2]}\n" for number in range(40))
    (tmp_path / "one.csv").write_text(f"text,label\n{rows}")
    place = str(tmp_path)
    if remote:
        place = request.getfixturevalue("bucket")
        for name in ("one.npz", "one.csv"):
            storage.folder(place).write(name, tmp_path / name)
    for name, count in (("one.npz", 4), ("one.csv", 1)):
        out = tmp_path / f"out-{name}"
        code, lines, err = data("convert", f"{place}/{name}", out)
        assert (code, err) == (0, "")
        assert lines == [f"{out}: 2 classes; train 40; {count} files"]
        before, after = (loader.read(path, ReadOptions()) for path in (f"{place}/{name}", str(out)))
        assert sorted(map(str, before.train[0])) == sorted(map(str, after.train[0][:]))


def test_check_prints_every_damaged_file(data: Command, pictures: Path) -> None:
    for number in range(3, 10):
        (pictures / f"red/{number}.png").write_bytes(b"")
    code, lines, err = data("check", pictures, "--max-bad", 0)
    assert (code, len(lines)) == (3, 7)
    assert lines[0].startswith(f"{pictures}/red/3.png: not an image, or a damaged one")
    assert err == f"trainer data check: error: {pictures}: 7 of 110 files are damaged\n"


def test_user_errors_are_one_line(data: Command, pictures: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    assert data("convert", pictures, shards)[0] == 0
    damaged = tmp_path / "damaged"
    for name in ("a/1.png", "b/1.png"):
        (damaged / name).parent.mkdir(parents=True)
        (damaged / name).write_bytes(b"")
    (tmp_path / "notes.html").write_text("another page")
    for arguments, message in (
        (("convert", pictures, shards), f"OUT {shards}: holds files (index.json), expected a new"),
        (("convert", shards, tmp_path / "x"), f"PATH {shards}: is already in shards"),
        (("convert", damaged, tmp_path / "x"), "(2 of 2 images, expected at most 0.1 of all"),
        (("convert", tmp_path / "nowhere", tmp_path / "x"), "nowhere: no such file or folder"),
        (("convert", pictures), "Missing OUT"),
        (("check", pictures, "--out", "page.pdf"), "--out: found 'page.pdf', expected a name that"),
        (
            ("check", pictures, "--out", tmp_path / "notes.html"),
            "exists and is not a page of trainer",
        ),
        (("chek", pictures), "Unknown command 'chek'. Did you mean check?"),
        (("check", pictures, "--image-sise", "8"), "Did you mean --image-size?"),
    ):
        code, lines, err = data(*arguments)
        assert (code, lines, err.count("\n")) == (2, [], 1)
        assert message in err
    assert not (tmp_path / "x" / shard_format.INDEX).exists()


def test_a_grey_image_among_colour_images_is_converted(
    data: Command, pictures: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    Image.new("L", (6, 5), 77).save(content, "PNG")
    (pictures / "green/0 grey.png").write_bytes(content.getvalue())
    assert data("convert", pictures, tmp_path / "shards")[0] == 0
    raw = shard_format.read(storage.folder(str(tmp_path / "shards")))
    assert raw is not None
    assert (raw.train[0][:] == 77).all(axis=(1, 2, 3)).sum() == 1


def test_check_prints_the_damaged_files_of_all_splits(
    data: Command, pictures: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.copytree(pictures, tmp_path / "splits" / split)
        (tmp_path / "splits" / split / "red/5.png").write_bytes(b"")
    code, lines, err = data("check", tmp_path / "splits", "--max-bad", 0)
    assert (code, len(lines)) == (3, 2)
    assert err.endswith("/splits: 2 of 220 files are damaged\n")


def table_of_images(folder: Path) -> None:
    """Writes 1.2 GB of images with random pixels."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "BMP")
    header, pixels = content.getvalue()[:54], np.random.default_rng(0).bytes(1 << 20)
    schema = pyarrow.schema({"image": pyarrow.binary(), "label": pyarrow.int64()})
    with parquet.ParquetWriter(folder / "data.parquet", schema, compression="none") as writer:
        for group in range(1000):
            starts = [(group * 1009 + number * 8191) % 1_000_000 for number in range(100)]
            images = [header + pixels[start : start + 64 * 64 * 3] for start in starts]
            columns = [images, [group // 500] * 100]
            writer.write_table(pyarrow.table(columns, schema=schema))


def table_of_texts(folder: Path) -> None:
    """Writes 1.2 GB of texts of 2,000 words."""
    words = np.random.default_rng(0).integers(10_000, 99_999, 100_000)
    texts = [" ".join(map(str, words[at : at + 2000])) for at in range(0, 90_000, 900)]
    with (folder / "data.csv").open("w") as file:
        file.write("text,label\n")
        for group in range(1000):
            file.writelines(f"{group} {text},{group // 500}\n" for text in texts)


@pytest.mark.long
@pytest.mark.parametrize("make", [table_of_images, table_of_texts])
def test_a_table_larger_than_memory_is_checked_and_converted(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """Python, Arrow and the stacks of threads alone take 300 of the 700 MB."""
    limit = 700_000_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:2])  # Each thread needs memory.

    (tmp_path / "table").mkdir()
    make(tmp_path / "table")
    assert sum(file.stat().st_size for file in (tmp_path / "table").iterdir()) > 1.5 * limit
    for command in (["check", "table"], ["convert", "table", "out"]):
        process = subprocess.run(
            [sys.executable, "-m", "trainer", "data", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=limited,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (process.returncode, process.stderr) == (0, "")
    assert "train 100,000" in process.stdout
    shutil.rmtree(tmp_path)
