"""What is read piece by piece is what is read whole, in whatever format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.test_images import encoded
from tests.data.formats.test_table import make_parquet, tf_records
from tests.data.hostile import idx
from trainer import storage
from trainer.config import ReadOptions
from trainer.data import checks, loader
from trainer.data.dataset import checked
from trainer.data.shards.shard_format import Stream
from trainer.errors import DamagedFilesError, DataError

COUNT = 150
LABELS = np.arange(COUNT) // 70
PIXELS = (np.arange(COUNT * 30) % 251).astype(np.uint8).reshape(COUNT, 5, 6)
PICTURES = [encoded(picture) for picture in PIXELS]
COLOURED = [*PICTURES[:-1], encoded(np.full((5, 6, 3), 99, np.uint8))]
TEXTS = [f'a "text", no {n}\n' + "word " * (n % 7) for n in range(COUNT)]

Make = Callable[[Path], None]


def image_rows(pictures: list[bytes]) -> dict[str, list[object]]:
    content = [{"bytes": content, "path": None} for content in pictures]
    return {"image": content, "label": LABELS.tolist()}


def csv_of_texts(place: Path) -> None:
    rows = [f'"{text.replace(chr(34), chr(34) * 2)}",{label}' for text, label in
            zip(TEXTS, LABELS, strict=True)]  # fmt: skip
    (place / "train.csv").write_text("\n".join(["text,label", *rows[:140], ","]))
    (place / "test.csv").write_text("\n".join(["text,label", *rows[60:80]]))


def json_lines_of_paths(place: Path) -> None:
    (place / "in").mkdir()
    for number, picture in enumerate(COLOURED):
        (place / f"in/{number}.png").write_bytes(picture)
    rows = [{"path": f"in/{n}.png", "label": int(LABELS[n])} for n in range(COUNT)]
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def parquet_of_images(place: Path) -> None:
    make_parquet(place / "train-0.parquet", image_rows(PICTURES))
    make_parquet(place / "train-1.parquet", image_rows(COLOURED))
    make_parquet(place / "validation.parquet", image_rows(PICTURES))


def parquet_of_texts(place: Path) -> None:
    make_parquet(place / "a.parquet", {"text": TEXTS, "label": LABELS.tolist()})


def records_of_images(place: Path) -> None:
    tf_records(
        place / "a.tfrecord",
        [{"image": PICTURES[n], "label": int(LABELS[n])} for n in range(COUNT)],
    )


def class_folders(place: Path) -> None:
    for number, picture in enumerate(COLOURED):
        folder = place / ("test" if number % 5 == 0 else "train") / str(LABELS[number])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(picture)


def idx_files(place: Path) -> None:
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS)))
    (place / "train-labels-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    (place / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9]))
    (place / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:9].astype(np.uint8)))


def npz_of(train: np.ndarray, test: np.ndarray | None = None, compressed: bool = True) -> Make:
    def make(place: Path) -> None:
        arrays = {"x_train": train, "y_train": LABELS}
        if test is not None:
            arrays |= {"x_test": test, "y_test": LABELS[: len(test)]}
        (np.savez_compressed if compressed else np.savez)(place / "a.npz", **arrays)

    return make


VECTORS = PIXELS.reshape(COUNT, 30)
MAKERS: dict[str, Make] = {
    "CSV of texts": csv_of_texts,
    "JSON lines of paths": json_lines_of_paths,
    "Parquet of images": parquet_of_images,
    "Parquet of texts": parquet_of_texts,
    "TFRecord of images": records_of_images,
    "class folders": class_folders,
    "IDX": idx_files,
    "npz of pixels": npz_of(PIXELS, PIXELS[:20]),
    "npz of pixels in 64 bits": npz_of(PIXELS.astype(np.int64) // 2),
    "npz of bytes": npz_of(VECTORS, compressed=False),
    "npz of small integers": npz_of(VECTORS.astype(np.int64) // 2, VECTORS[:9]),
    "npz of integers, small ones in the test part": npz_of(VECTORS.astype(int) * 9, VECTORS[:9]),
    "npz of floats": npz_of(PIXELS / 7 - 3, PIXELS[:9]),
    "npz in Fortran's order": npz_of(np.asfortranarray(VECTORS)),
    "npz of texts": npz_of(np.array(TEXTS)),
}


def drained(stream: Stream) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (np.concatenate(list(blocks)), labels)
        for name, (blocks, labels) in stream.parts.items()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_pieces_are_what_is_read_whole(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    source = loader.read(str(tmp_path), ReadOptions())
    whole = checked(source)
    train = whole["train"].examples
    for mix in (False, True):
        with loader.streamed(str(tmp_path), ReadOptions(), shuffled=mix) as stream:
            found = drained(stream)
        assert stream.classes == (source.classes or checks.class_names(whole["train"].labels))
        assert stream.texts == (train.dtype == object)
        if not stream.texts:
            pixels = train.dtype == np.uint8 and train.ndim == 4
            limits = (0, 255) if pixels else (train.min(), train.max())
            assert (stream.low, stream.high) == limits
        assert list(found) == list(whole)
        assert np.array_equal(found["train"][1], whole["train"].labels) != mix
        for part, (examples, labels) in found.items():
            expected = whole[part]
            assert examples.dtype == expected.examples.dtype
            if not mix:
                np.testing.assert_array_equal(examples, expected.examples)
                np.testing.assert_array_equal(labels, expected.labels)
            assert pairs(examples, labels) == pairs(expected.examples, expected.labels)


def pairs(examples: np.ndarray, labels: np.ndarray) -> list[tuple[object, int]]:
    return sorted(
        (x if isinstance(x, str) else x.tobytes(), int(y))
        for x, y in zip(examples, labels, strict=True)
    )


def test_images_of_a_managed_data_set_too(tmp_path: Path, bucket: str) -> None:
    files, lines = {}, []
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(COLOURED[-1 - number])
        files[f"{number}.png"] = tmp_path / f"{number}.png"
        use = {"aiplatform.googleapis.com/ml_use": "test" if number % 4 == 0 else "training"}
        lines.append({
            "imageGcsUri": f"{bucket}/{number}.png",
            "classificationAnnotation": {"displayName": str(number % 2)},
            "dataItemResourceLabels": use,
        })  # fmt: skip
    storage.write_all(storage.folder(bucket), files)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    whole = checked(loader.read(str(path), ReadOptions()))
    with loader.streamed(str(path), ReadOptions()) as stream:
        for part, (examples, labels) in drained(stream).items():
            np.testing.assert_array_equal(examples, whole[part].examples)
            np.testing.assert_array_equal(labels, whole[part].labels)


def broken_gzip(place: Path) -> None:
    idx_files(place)
    file = place / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])


def broken_zip(place: Path) -> None:
    npz_of(PIXELS)(place)
    content = bytearray((place / "a.npz").read_bytes())
    content[200:220] = bytes(20)
    (place / "a.npz").write_bytes(content)


def short_idx(place: Path) -> None:
    idx_files(place)
    (place / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9])[:-1])


def long_idx(place: Path) -> None:
    idx_files(place)
    (place / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9]) + b"0")


def text_that_is_none(place: Path) -> None:
    rows = [{"text": text, "label": 1} for text in [*TEXTS, "a\0b"]]
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def another_size_in_the_test_part(place: Path) -> None:
    class_folders(place)
    for file in (place / "test").rglob("*.png"):
        file.write_bytes(encoded(np.zeros((6, 5), np.uint8)))


def rows_without_labels(place: Path) -> None:
    (place / "a.csv").write_text("text,label\na,b\nc,\n")


DAMAGED: dict[Make, str] = {
    broken_gzip: "/train-images-idx3-ubyte.gz: damaged or truncated gzip",
    broken_zip: "/a.npz: array 'x_train': damaged: ",
    short_idx: "/t10k-images-idx3-ubyte: its header promises 9 x 5 x 6 values in 270 bytes, fou",
    long_idx: "/t10k-images-idx3-ubyte: its header promises 9 x 5 x 6 values .* found more",
    text_that_is_none: "/a.jsonl: line 151: a NUL character",
    another_size_in_the_test_part: r"/test/\d/\d+.png: an image of 5x6, expected 6x5 as in \d+.png",
    rows_without_labels: ": 1 of 2 rows lack a label or an example: a.csv: line 3; expected at",
    npz_of(np.where(PIXELS == 7, np.nan, PIXELS)): ": training examples: example 0 holds NaN or in",
    npz_of(PIXELS, PIXELS[:9, :4]): r": test examples of shape \(4, 6\), expected \(5, 6\) as in t",
    npz_of(PIXELS[:9]): ": training part: 9 examples but 150 labels",
    npz_of(PIXELS[:, 0, 0]): r": training examples: found uint8 of shape \(150,\), expected numb",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.items())
def test_what_is_damaged_is_named_by_the_path_that_was_given(
    damage: Make, message: str, tmp_path: Path
) -> None:
    damage(tmp_path)
    with (
        pytest.raises(DataError, match=f"^{tmp_path}{message}"),
        loader.streamed(str(tmp_path), ReadOptions(), shuffled=True) as stream,
    ):
        drained(stream)


def test_damaged_images_of_a_table_are_named_by_their_rows(tmp_path: Path) -> None:
    pictures = [*PICTURES]
    pictures[3], pictures[149] = b"", PICTURES[0][:50]
    make_parquet(tmp_path / "a.parquet", image_rows(pictures))
    with (
        pytest.raises(DamagedFilesError) as caught,
        loader.streamed(str(tmp_path), ReadOptions()) as stream,
    ):
        drained(stream)
    assert [str(found)[: len(str(tmp_path)) + 20] for found in caught.value.findings] == [
        f"{tmp_path}/a.parquet: row 4: n",
        f"{tmp_path}/a.parquet: row 150:",
    ]
