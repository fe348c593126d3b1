"""Tests of the JSON lines of Vertex AI's managed data sets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.errors import DataError, StorageError
from trainer.runtime import memory

USE = "aiplatform.googleapis.com/ml_use"


def line(label: str = "good", use: str | None = None, **content: Any) -> str:
    fields = {**content, "classificationAnnotation": {"displayName": label}}
    if use:
        fields["dataItemResourceLabels"] = {USE: use}
    return json.dumps(fields)


def text(number: int, **settings: Any) -> str:
    return line(["bad", "good"][number % 2], textContent=f"text {number}", **settings)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines))
    return str(path)


def upload(path: str, content: bytes, temporary_directory: Path) -> str:
    """Writes an object to a bucket, and returns its path."""
    folder, _, name = path.rpartition("/")
    (temporary_directory / "upload").write_bytes(content)
    storage.folder(folder).write(name, temporary_directory / "upload")
    return path


def png(value: int, side: int = 4) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_texts_in_separate_files_per_split(tmp_path: Path) -> None:
    for split, size in (("training", 20), ("validation", 4), ("test", 6)):
        for shard in (0, 1):
            numbers = range(shard, size, 2)
            write(tmp_path / f"{split}-0000{shard}.jsonl", *map(text, numbers))
    data = loader.load(
        DataOptions(
            data=f"{tmp_path}/training-*.jsonl",
            seed=0,
            validation_data=f"{tmp_path}/validation-*.jsonl",
            test_data=f"{tmp_path}/test-*.jsonl",
        )
    )
    assert data.spec.sizes == {"train": 20, "validation": 4, "test": 6}
    assert data.spec.classes == ("bad", "good")
    assert set(data.test.examples) == {f"text {number}" for number in range(6)}
    for example, label in zip(data.test.examples, data.test.labels, strict=True):
        assert int(example.split()[1]) % 2 == label


def test_the_split_of_a_line_is_its_ml_use(tmp_path: Path) -> None:
    lines = [text(n, use=["training", "validation", "test"][n // 4]) for n in range(12)]
    data = loader.load(DataOptions(data=write(tmp_path / "all.jsonl", *lines), seed=0))
    assert data.spec.sizes == {"train": 4, "validation": 4, "test": 4}


def test_images_and_texts_are_read_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    lines = []
    for number in range(30):
        path = upload(f"{bucket}/images/{number}.png", png(number), tmp_path)
        lines.append(line(str(number % 3), imageGcsUri=path))
    upload(f"{bucket}/data/training-00000.jsonl", "\n".join(lines[:10]).encode(), tmp_path)
    upload(f"{bucket}/data/training-00001.jsonl", "\n".join(lines[10:]).encode(), tmp_path)
    upload(f"{bucket}/data/deeper/training-00002.jsonl", b"not part of the pattern", tmp_path)
    data = loader.load(DataOptions(data=f"{bucket}/data/training-*.jsonl", seed=0))
    assert data.spec.shape == (4, 4, 1)
    assert data.spec.sizes == {"train": 27, "test": 3}
    assert (data.train.examples[:, 0, 0, 0] % 3 == data.train.labels).all()

    stored = upload(f"{bucket}/review.txt", b"a text in a file", tmp_path)
    lines = [text(n) for n in range(20)] + [line(textGcsUri=stored)] * 20
    data = loader.load(DataOptions(data=write(tmp_path / "texts.jsonl", *lines), seed=0))
    assert "a text in a file" in data.train.examples


def test_images_that_do_not_fit_into_memory_are_refused_at_the_first(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = upload(f"{bucket}/a.png", png(1, side=64), tmp_path)
    lines = [line(str(n % 2), imageGcsUri=path) for n in range(300)]
    monkeypatch.setattr(memory, "limit", lambda: 4_000_000)
    with pytest.raises(DataError, match="300 images of 64x64 takes 2 MB in memory.*--image-size"):
        loader.load(DataOptions(data=write(tmp_path / "data.jsonl", *lines), seed=0))


def test_only_a_star_makes_a_pattern(bucket: str, tmp_path: Path) -> None:
    """Brackets and question marks are common in file names."""
    for root in (str(tmp_path), bucket):
        for name in ("set[1].jsonl", "set1.jsonl", "d[1]/part-1.jsonl", "d[1]/part-2.jsonl"):
            folder, _, last = f"{root}/{name}".rpartition("/")
            write(tmp_path / "x", *(text(n, use="training") for n in range(len(name))))
            storage.folder(folder).write(last, tmp_path / "x")
        data = loader.load(DataOptions(data=f"{root}/set[1].jsonl", seed=0))
        assert len(data.train) + len(data.test) == len("set[1].jsonl")
        data = loader.load(DataOptions(data=f"{root}/d[1]/part-*.jsonl", seed=0))
        assert len(data.train) + len(data.test) == 2 * len("d[1]/part-1.jsonl")


def test_images_of_different_sizes_are_resized_to_image_size(bucket: str, tmp_path: Path) -> None:
    paths = [upload(f"{bucket}/{n}.png", png(n, side=4 + n), tmp_path) for n in range(8)]
    lines = [line(str(n % 2), imageGcsUri=path) for n, path in enumerate(paths)]
    path = write(tmp_path / "data.jsonl", *lines)
    data = loader.load(DataOptions(data=path, seed=0))
    assert (data.spec.shape, data.auto_settings) == ((32, 32, 1), {"image_size": 32})
    assert loader.load(DataOptions(data=path, seed=0, image_size=6)).spec.shape == (6, 6, 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "data.jsonl: line 1: not JSON"),
        (["[" * 100_000], "data.jsonl: line 1: not JSON"),
        (['"text"'], "line 1: found str, expected a JSON object"),
        ([text(0), "", '{"textContent": "a"}'], "line 3: no label, .*found textContent"),
        ([line()], "line 1: expected one of imageGcsUri, textContent, textGcsUri"),
        ([line(textContent="a", imageGcsUri="b")], "line 1: expected one of"),
        ([line(textContent=5)], "line 1: expected one of"),
        (
            [line(textGcsUri="/etc/hosts")],
            "textGcsUri is '/etc/hosts', expected gs:// or /gcs/",
        ),
        ([line(imageGcsUri="../a.png")], "imageGcsUri is '../a.png', expected gs:// or /gcs/"),
        ([text(0, use="tuning")], "ml_use is 'tuning', expected training, validation or test"),
        ([text(0), line(imageGcsUri="gs://a/b.png")], "found images and texts in one data set"),
        ([""], "no examples"),
        (
            [text(0, use="test"), text(1, use="validation")],
            ": no training split, found validation and test",
        ),
    ],
)
def test_the_error_names_an_invalid_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader.load(DataOptions(data=write(tmp_path / "data.jsonl", *lines), seed=0))


def test_the_error_names_a_missing_image(bucket: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", line(imageGcsUri=f"{bucket}/none.png"))
    with pytest.raises(DataError, match=f"^{bucket}/none.png: no such file .1 of 1 images, "):
        loader.load(DataOptions(data=path, seed=0))


def test_a_few_missing_images_are_left_out(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [upload(f"{bucket}/{n}.png", png(n), tmp_path) for n in range(12)]
    lines = [line(str(n % 2), imageGcsUri=path) for n, path in enumerate(paths)]
    path = write(tmp_path / "data.jsonl", *lines, line("1", imageGcsUri=f"{bucket}/none.png"))
    assert sum(loader.load(DataOptions(data=path, seed=0)).spec.sizes.values()) == 12
    assert f"left out 1 damaged of 13 images: {bucket}/none.png: no such file" in caplog.text


def test_test_data_with_another_class_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *map(text, range(8)))
    other = write(tmp_path / "test.jsonl", line("ugly", textContent="a"))
    with pytest.raises(DataError, match="--test-data .*: found class 'ugly', .* bad, good"):
        loader.load(DataOptions(data=train, seed=0, test_data=other))


def test_test_data_is_refused_if_the_data_has_a_test_split_or_it_has_several_splits(
    tmp_path: Path, digits: Path
) -> None:
    with pytest.raises(DataError, match="--test-data mnist: the data of --data has a test split"):
        loader.load(DataOptions(data=str(digits), seed=0, test_data="mnist"))
    train = write(tmp_path / "train.jsonl", *map(text, range(8)))
    with pytest.raises(
        DataError, match="--test-data .*: has several splits, expected unsplit data"
    ):
        loader.load(DataOptions(data=train, seed=0, test_data=str(digits)))


def test_the_error_names_a_pattern_that_matches_no_file(tmp_path: Path, bucket: str) -> None:
    for root in (str(tmp_path), bucket):
        with pytest.raises(StorageError, match=r"part-\*\.jsonl: no "):
            loader.load(DataOptions(data=f"{root}/part-*.jsonl", seed=0))
