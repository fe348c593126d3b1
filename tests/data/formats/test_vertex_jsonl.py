"""JSON lines of Vertex AI's managed data sets."""

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


def put(place: str, content: bytes, temporary_directory: Path) -> str:
    folder, _, name = place.rpartition("/")
    (temporary_directory / "put").write_bytes(content)
    storage.folder(folder).write(name, temporary_directory / "put")
    return place


def png(value: int, side: int = 4) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_texts_in_parts_that_lie_apart(tmp_path: Path) -> None:
    for part, size in (("training", 20), ("validation", 4), ("test", 6)):
        for shard in (0, 1):
            numbers = range(shard, size, 2)
            write(tmp_path / f"{part}-0000{shard}.jsonl", *map(text, numbers))
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


def test_lines_that_say_what_they_are_for_make_the_parts(tmp_path: Path) -> None:
    lines = [text(n, use=["training", "validation", "test"][n // 4]) for n in range(12)]
    data = loader.load(DataOptions(data=write(tmp_path / "all.jsonl", *lines), seed=0))
    assert data.spec.sizes == {"train": 4, "validation": 4, "test": 4}


def test_images_and_texts_are_fetched_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    lines = []
    for number in range(30):
        place = put(f"{bucket}/images/{number}.png", png(number), tmp_path)
        lines.append(line(str(number % 3), imageGcsUri=place))
    put(f"{bucket}/data/training-00000.jsonl", "\n".join(lines[:10]).encode(), tmp_path)
    put(f"{bucket}/data/training-00001.jsonl", "\n".join(lines[10:]).encode(), tmp_path)
    put(f"{bucket}/data/deeper/training-00002.jsonl", b"not ours", tmp_path)
    data = loader.load(DataOptions(data=f"{bucket}/data/training-*.jsonl", seed=0))
    assert data.spec.shape == (4, 4, 1)
    assert data.spec.sizes == {"train": 27, "test": 3}
    assert (data.train.examples[:, 0, 0, 0] % 3 == data.train.labels).all()

    stored = put(f"{bucket}/review.txt", b"a text in a file", tmp_path)
    lines = [text(n) for n in range(20)] + [line(textGcsUri=stored)] * 20
    data = loader.load(DataOptions(data=write(tmp_path / "texts.jsonl", *lines), seed=0))
    assert "a text in a file" in data.train.examples


def test_more_images_than_fit_are_refused_at_the_first(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = put(f"{bucket}/a.png", png(1, side=64), tmp_path)
    lines = [line(str(n % 2), imageGcsUri=place) for n in range(300)]
    monkeypatch.setattr(memory, "limit", lambda: 4_000_000)
    with pytest.raises(DataError, match="300 images takes 2 MB in memory, expected at most 2 MB"):
        loader.load(DataOptions(data=write(tmp_path / "data.jsonl", *lines), seed=0))


def test_only_a_star_makes_a_pattern(bucket: str, tmp_path: Path) -> None:
    """Brackets and question marks are in many a name."""
    for place in (str(tmp_path), bucket):
        for name in ("set[1].jsonl", "set1.jsonl", "d[1]/part-1.jsonl", "d[1]/part-2.jsonl"):
            folder, _, last = f"{place}/{name}".rpartition("/")
            write(tmp_path / "x", *(text(n, use="training") for n in range(len(name))))
            storage.folder(folder).write(last, tmp_path / "x")
        data = loader.load(DataOptions(data=f"{place}/set[1].jsonl", seed=0))
        assert len(data.train) + len(data.test) == len("set[1].jsonl")
        data = loader.load(DataOptions(data=f"{place}/d[1]/part-*.jsonl", seed=0))
        assert len(data.train) + len(data.test) == 2 * len("d[1]/part-1.jsonl")


def test_images_of_different_sizes_are_brought_to_one(bucket: str, tmp_path: Path) -> None:
    places = [put(f"{bucket}/{n}.png", png(n, side=4 + n), tmp_path) for n in range(8)]
    lines = [line(str(n % 2), imageGcsUri=place) for n, place in enumerate(places)]
    path = write(tmp_path / "data.jsonl", *lines)
    with pytest.raises(DataError, match=rf"^{bucket}/1\.png: an image of 5x5.*--image-size"):
        loader.load(DataOptions(data=path, seed=0))
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
            [line(textGcsUri="/etc/workers")],
            "textGcsUri is '/etc/workers', expected gs:// or /gcs/",
        ),
        ([line(imageGcsUri="../a.png")], "imageGcsUri is '../a.png', expected gs:// or /gcs/"),
        ([text(0, use="tuning")], "ml_use is 'tuning', expected training, validation or test"),
        ([text(0), line(imageGcsUri="gs://a/b.png")], "images and texts in one data set"),
        ([""], "no examples"),
        (
            [text(0, use="test"), text(1, use="validation")],
            ": no part to train on, found validation and t",
        ),
    ],
)
def test_what_is_no_item_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader.load(DataOptions(data=write(tmp_path / "data.jsonl", *lines), seed=0))


def test_an_image_that_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", line(imageGcsUri=f"{bucket}/none.png"))
    with pytest.raises(StorageError, match=f"^{bucket}/none.png: no such file"):
        loader.load(DataOptions(data=path, seed=0))


def test_parts_must_have_the_same_labels(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *map(text, range(8)))
    other = write(tmp_path / "test.jsonl", line("ugly", textContent="a"))
    with pytest.raises(DataError, match="--test-data .*: found class 'ugly', .* bad, good"):
        loader.load(DataOptions(data=train, seed=0, test_data=other))


def test_a_data_set_has_one_test_part(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(DataError, match="--test-data mnist: the data of --data has a test part"):
        loader.load(DataOptions(data=str(digits), seed=0, test_data="mnist"))
    train = write(tmp_path / "train.jsonl", *map(text, range(8)))
    with pytest.raises(DataError, match="--test-data .*: has several parts, expected data in one"):
        loader.load(DataOptions(data=train, seed=0, test_data=str(digits)))


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, bucket: str) -> None:
    for place in (str(tmp_path), bucket):
        with pytest.raises(StorageError, match=r"part-\*\.jsonl: no "):
            loader.load(DataOptions(data=f"{place}/part-*.jsonl", seed=0))
