"""Tests of streams: they hold the same examples as data that is read whole, in each format."""

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
from trainer.config import DataOptions, ReadOptions
from trainer.data import checks, convert, loader, statistics
from trainer.data.dataset import check_splits
from trainer.data.shards.shard_format import Stream
from trainer.errors import DamagedFilesError, DataError

COUNT = 150
LABELS = np.arange(COUNT) // 70
PIXELS = (np.arange(COUNT * 30) % 251).astype(np.uint8).reshape(COUNT, 5, 6)
PICTURES = [encoded(picture) for picture in PIXELS]
WITH_ONE_COLOUR_IMAGE = [*PICTURES[:-1], encoded(np.full((5, 6, 3), 99, np.uint8))]
TEXTS = [f'a "text", no {n}\n' + "word " * (n % 7) for n in range(COUNT)]

Make = Callable[[Path], None]  # Writes a data set to an empty folder.


def image_rows(pictures: list[bytes]) -> dict[str, list[object]]:
    content = [{"bytes": content, "path": None} for content in pictures]
    return {"image": content, "label": LABELS.tolist()}


def csv_of_texts(folder: Path) -> None:
    rows = [f'"{text.replace(chr(34), chr(34) * 2)}",{label}' for text, label in
            zip(TEXTS, LABELS, strict=True)]  # fmt: skip
    (folder / "train.csv").write_text("\n".join(["text,label", *rows[:140], ","]))
    (folder / "test.csv").write_text("\n".join(["text,label", *rows[60:80]]))


def json_lines_of_paths(folder: Path) -> None:
    (folder / "in").mkdir()
    for number, picture in enumerate(WITH_ONE_COLOUR_IMAGE):
        (folder / f"in/{number}.png").write_bytes(picture)
    rows = [{"path": f"in/{n}.png", "label": int(LABELS[n])} for n in range(COUNT)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def parquet_of_images(folder: Path) -> None:
    make_parquet(folder / "train-0.parquet", image_rows(PICTURES))
    make_parquet(folder / "train-1.parquet", image_rows(WITH_ONE_COLOUR_IMAGE))
    make_parquet(folder / "validation.parquet", image_rows(PICTURES))


def parquet_of_texts(folder: Path) -> None:
    make_parquet(folder / "a.parquet", {"text": TEXTS, "label": LABELS.tolist()})


def records_of_images(folder: Path) -> None:
    tf_records(
        folder / "a.tfrecord",
        [{"image": PICTURES[n], "label": int(LABELS[n])} for n in range(COUNT)],
    )


def class_folders(folder: Path) -> None:
    for number, picture in enumerate(WITH_ONE_COLOUR_IMAGE):
        class_folder = folder / ("test" if number % 5 == 0 else "train") / str(LABELS[number])
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / f"{number}.png").write_bytes(picture)


def idx_files(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9]))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:9].astype(np.uint8)))


def npz_of(train: np.ndarray, test: np.ndarray | None = None, compressed: bool = True) -> Make:
    def make(folder: Path) -> None:
        arrays = {"x_train": train, "y_train": LABELS}
        if test is not None:
            arrays |= {"x_test": test, "y_test": LABELS[: len(test)]}
        (np.savez_compressed if compressed else np.savez)(folder / "a.npz", **arrays)

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
    "npz of integers, small ones in the test split": npz_of(VECTORS.astype(int) * 9, VECTORS[:9]),
    "npz of floats": npz_of(PIXELS / 7 - 3, PIXELS[:9]),
    "npz in Fortran order": npz_of(np.asfortranarray(VECTORS)),
    "npz of texts": npz_of(np.array(TEXTS)),
}


def read_stream(stream: Stream) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the examples and labels of each split."""
    return {
        name: tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True))
        for name, (pairs, _) in stream.splits.items()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_a_stream_holds_the_same_examples_as_data_that_is_read_whole(
    name: str, tmp_path: Path
) -> None:
    MAKERS[name](tmp_path)
    raw = loader.read(str(tmp_path), ReadOptions())
    whole = check_splits(raw)
    train = whole["train"].examples
    for shuffled in (False, True):
        with loader.open_stream(str(tmp_path), ReadOptions(), shuffled=shuffled) as stream:
            streamed = read_stream(stream)
        assert stream.classes == (raw.classes or checks.class_names(whole["train"].labels))
        assert stream.texts == (train.dtype == object)
        assert list(streamed) == list(whole)
        assert np.array_equal(streamed["train"][1], whole["train"].labels) != shuffled
        for split, (examples, labels) in streamed.items():
            expected = whole[split]
            assert examples.dtype == expected.examples.dtype
            if not shuffled:
                np.testing.assert_array_equal(examples, expected.examples)
                np.testing.assert_array_equal(labels, expected.labels)
            assert sorted_pairs(examples, labels) == sorted_pairs(
                expected.examples, expected.labels
            )


def sorted_pairs(examples: np.ndarray, labels: np.ndarray) -> list[tuple[object, int]]:
    return sorted(
        (x if isinstance(x, str) else x.tobytes(), int(y))
        for x, y in zip(examples, labels, strict=True)
    )


def test_a_stream_of_a_vertex_data_set_holds_the_same_images(tmp_path: Path, bucket: str) -> None:
    files, lines = {}, []
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(WITH_ONE_COLOUR_IMAGE[-1 - number])
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
    whole = check_splits(loader.read(str(path), ReadOptions()))
    with loader.open_stream(str(path), ReadOptions()) as stream:
        for split, (examples, labels) in read_stream(stream).items():
            np.testing.assert_array_equal(examples, whole[split].examples)
            np.testing.assert_array_equal(labels, whole[split].labels)


def broken_gzip(folder: Path) -> None:
    idx_files(folder)
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])


def broken_zip(folder: Path) -> None:
    npz_of(PIXELS)(folder)
    content = bytearray((folder / "a.npz").read_bytes())
    content[200:220] = bytes(20)
    (folder / "a.npz").write_bytes(content)


def short_idx(folder: Path) -> None:
    idx_files(folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9])[:-1])


def long_idx(folder: Path) -> None:
    idx_files(folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS[:9]) + b"0")


def rows_without_labels(folder: Path) -> None:
    (folder / "a.csv").write_text("text,label\na,b\nc,\n")


DAMAGED: dict[Make, str] = {
    broken_gzip: "/train-images-idx3-ubyte.gz: damaged or truncated gzip",
    broken_zip: "/a.npz: array 'x_train': damaged: ",
    short_idx: "/t10k-images-idx3-ubyte: its header says 9 x 5 x 6 values in 270 bytes, fou",
    long_idx: "/t10k-images-idx3-ubyte: its header says 9 x 5 x 6 values .* found more",
    rows_without_labels: ": found 1 of 2 rows without a label or an example: a.csv: line 3: no ",
    npz_of(
        np.where(PIXELS == 7, np.nan, PIXELS)
    ): "/a.npz: training examples: example 0 holds NaN or in",
    npz_of(
        PIXELS, PIXELS[:9, :4]
    ): r"/a.npz: test examples of shape \(4, 6\), expected \(5, 6\) as in t",
    npz_of(PIXELS[:9]): "/a.npz: training split: 9 examples but 150 labels",
    npz_of(
        PIXELS[:, 0, 0]
    ): r"/a.npz: training examples: found uint8 of shape \(150,\), expected numb",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.items())
def test_errors_name_a_damaged_file_by_the_path_of_the_user(
    damage: Make, message: str, tmp_path: Path
) -> None:
    damage(tmp_path)
    with (
        pytest.raises(DataError, match=f"^{tmp_path}{message}"),
        loader.open_stream(str(tmp_path), ReadOptions(), shuffled=True) as stream,
    ):
        read_stream(stream)


def test_errors_name_damaged_images_of_a_table_by_their_rows(tmp_path: Path) -> None:
    pictures = [*PICTURES]
    pictures[3], pictures[149] = b"", PICTURES[0][:50]
    make_parquet(tmp_path / "a.parquet", image_rows(pictures))
    with (
        pytest.raises(
            DamagedFilesError, match=r"\(2 of 150 images, expected at most 0 of all"
        ) as caught,
        loader.open_stream(str(tmp_path), ReadOptions(max_bad=0)) as stream,
    ):
        read_stream(stream)
    assert [str(error)[: len(str(tmp_path)) + 20] for error in caught.value.errors] == [
        f"{tmp_path}/a.parquet: row 4: n",
        f"{tmp_path}/a.parquet: row 150:",
    ]


def damage_some(pictures: list[bytes]) -> list[bytes]:
    """Returns images of which one is empty, one no image, and two are truncated."""
    damaged = [*pictures]
    damaged[3], damaged[40], damaged[149] = b"", b"no image", pictures[149][:50]
    damaged[77] = pictures[77][: len(pictures[77]) // 2]
    return damaged


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kind", ["Parquet", "folders", "JSON lines"])
def test_a_few_damaged_images_are_left_out_with_their_labels(
    kind: str, shuffled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = damage_some(WITH_ONE_COLOUR_IMAGE)
    if kind == "Parquet":
        make_parquet(tmp_path / "a.parquet", image_rows(pictures))
    for number, picture in enumerate(pictures):
        folder = tmp_path / ("in" if kind == "JSON lines" else str(LABELS[number]))
        if kind != "Parquet":
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.png").write_bytes(picture)
    if kind == "JSON lines":
        rows = [{"path": f"in/{n}.png", "label": int(LABELS[n])} for n in range(COUNT)]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = loader.read(str(tmp_path), ReadOptions())
    assert "left out 4 damaged of 150 images: " in caplog.text
    caplog.clear()
    with loader.open_stream(str(tmp_path), ReadOptions(), shuffled=shuffled) as stream:
        examples, labels = read_stream(stream)["train"]
    assert "left out 4 damaged of 150 images: " in caplog.text
    assert len(raw.train[0]) == len(examples) == len(labels) == COUNT - 4
    assert stream.classes == raw.classes
    assert sorted_pairs(examples, labels) == sorted_pairs(*raw.train)
    assert (
        statistics.collect(str(tmp_path), ReadOptions()).counts("train")
        == np.bincount(raw.train[1]).tolist()
    )
    out = tmp_path / "shards"
    conversion = convert.convert(str(tmp_path), str(out), ReadOptions())
    assert conversion.sizes == {"train": COUNT - 4}
    assert len(loader.read(str(out), ReadOptions()).train[1]) == COUNT - 4
    for options in (ReadOptions(max_bad=0), ReadOptions(max_bad=0.02)):
        with pytest.raises(
            DamagedFilesError, match=r"4 of 150 images, expected at most 0(\.02)? of"
        ):
            loader.read(str(tmp_path), options)
        with pytest.raises(
            DamagedFilesError, match=r"4 of 150 images, expected at most 0(\.02)? of"
        ):
            statistics.collect(str(tmp_path), options)


def test_a_class_is_never_lost_with_its_damaged_images(tmp_path: Path) -> None:
    for number, picture in enumerate(PICTURES[:40]):
        folder = tmp_path / ("rare" if number == 0 else "common")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(picture[:50] if number == 0 else picture)
    for read in (loader.read, statistics.collect):
        with pytest.raises(DataError, match="all 1 training examples of class 'rare' are damaged"):
            read(str(tmp_path), ReadOptions())


def test_images_of_more_than_8_bits_keep_their_values_in_a_stream(tmp_path: Path) -> None:
    values = (PIXELS.astype(np.float32) - 100) / 7
    for number, picture in enumerate(values):
        folder = tmp_path / "data" / ("test" if number % 5 == 0 else "train") / str(LABELS[number])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.tif").write_bytes(encoded(picture, "TIFF"))
    whole = check_splits(loader.read(str(tmp_path / "data"), ReadOptions()))
    train = np.arange(COUNT) % 5 > 0
    np.testing.assert_array_equal(whole["train"].examples[..., 0], values[train])
    convert.convert(str(tmp_path / "data"), str(tmp_path / "shards"), ReadOptions())
    shards = loader.load(DataOptions(data=str(tmp_path / "shards"), seed=0))
    assert (shards.spec.low, shards.spec.high) == (values[train].min(), values[train].max())
    np.testing.assert_array_equal(
        np.sort(shards.test.array.ravel()), np.sort(values[~train].ravel())
    )
