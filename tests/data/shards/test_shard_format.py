"""Tests of shards: reading on demand, shuffle blocks, cache, and damaged files."""

from __future__ import annotations

import concurrent.futures
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fault_proxy import FaultProxy
from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.shards import shard_format
from trainer.data.shards.reader import Shards, parse_npy
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

CLASSES = ("odd", "even", "none")
EXAMPLES = np.arange(1000 * 6, dtype=np.float32).reshape(1000, 6)
LABELS = np.arange(1000) % 3


def write(
    folder: str, *, shard_bytes: int = 1000, shuffle_block_bytes: int = 8000, **other_splits: Any
) -> str:
    """Writes EXAMPLES as the training split, and other splits; returns the folder."""
    limits = ((0, 333), (333, 334), (334, 1000))
    blocks = iter([(EXAMPLES[start:end], LABELS[start:end]) for start, end in limits])
    others = {name: ([(x, y)], y) for name, (x, y) in other_splits.items()}
    splits = {"train": (blocks, LABELS), **others}
    shard_format.write(
        storage.folder(folder),
        Stream(splits, CLASSES),
        shard_bytes=shard_bytes,
        shuffle_block_bytes=shuffle_block_bytes,
    )
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    raw = shard_format.read(storage.folder(write(str(tmp_path))))
    assert raw is not None
    assert isinstance(raw.train[0], Shards)
    return raw.train[0]


@pytest.fixture
def pool() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        yield executor


def test_shards_are_indexed_as_an_array(shards: Shards) -> None:
    assert (shards.shape, shards.ndim, str(shards.dtype)) == ((1000, 6), 2, "float32")
    assert len(shards.files) == 1000 // (1000 // 24) + 1
    mask = np.zeros(1000, bool)
    mask[[3, 400, 999]] = True
    for rows in (slice(0, 5), slice(995, None), [7, 999, 7, 0], mask, 500, -1):
        np.testing.assert_array_equal(shards[rows], EXAMPLES[rows])
    np.testing.assert_array_equal(np.stack(list(shards)), EXAMPLES)


def test_a_selection_of_shards_is_indexed_as_an_array(shards: Shards) -> None:
    mask = LABELS != 1
    selection = shards.select(mask).select(np.arange(mask.sum()) % 2 == 0)
    np.testing.assert_array_equal(np.stack(list(selection)), EXAMPLES[mask][::2])
    np.testing.assert_array_equal(selection[[5, 1]], EXAMPLES[mask][::2][[5, 1]])


def test_the_order_has_each_row_once_and_depends_on_seed_and_epoch_only(shards: Shards) -> None:
    blocks = list(shards.shuffle_blocks(1, 2))
    # A shuffle block has 8,000 bytes of shards of 984 bytes; the first block an eighth of that.
    assert [len(block) for block in blocks][:2] == [41, 8 * 41]
    assert sorted(np.concatenate(blocks)) == list(range(1000))
    again = np.concatenate(list(shards.shuffle_blocks(1, 2)))
    np.testing.assert_array_equal(again, np.concatenate(blocks))
    assert not np.array_equal(again, np.concatenate(list(shards.shuffle_blocks(1, 3))))
    assert not np.array_equal(again, np.concatenate(list(shards.shuffle_blocks(2, 2))))
    # A block consists of shards from all over the data.
    assert all(np.ptp(block) > 2 * len(block) for block in blocks[1:-1])


def test_the_order_of_shards_is_the_same_on_every_machine(shards: Shards) -> None:
    first = next(iter(shards.shuffle_blocks(1, 2)))
    assert first[:8].tolist() == [60, 64, 66, 70, 79, 43, 61, 72]


def test_a_shuffle_block_is_read_in_its_order(
    shards: Shards, pool: concurrent.futures.Executor
) -> None:
    selection = shards.select(LABELS > 0)
    for rows in selection.shuffle_blocks(0, 0):
        np.testing.assert_array_equal(selection.read(rows, pool), EXAMPLES[LABELS > 0][rows])


def test_the_same_examples_are_held_out_as_of_data_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x_train=EXAMPLES, y_train=LABELS)
    whole = loader.load(DataOptions(data=f"{tmp_path}/whole.npz", seed=3, validation_split=0.2))
    data = loader.load(DataOptions(data=write(f"{tmp_path}/shards"), seed=3, validation_split=0.2))
    assert data.spec.classes == CLASSES
    assert (data.spec.low, data.spec.high) == (0, 5999)
    for split, expected in zip(
        (data.train, data.validation, data.test),
        (whole.train, whole.validation, whole.test),
        strict=True,
    ):
        assert split is not None
        assert expected is not None
        np.testing.assert_array_equal(np.stack(list(split.examples)), expected.examples)
        np.testing.assert_array_equal(split.labels, expected.labels)
    other = loader.load(DataOptions(data=f"{tmp_path}/shards", seed=4, validation_split=0.2))
    assert len({data.fingerprint, whole.fingerprint, other.fingerprint}) == 3


def test_shards_are_read_from_a_bucket(tmp_path: Path, bucket: str) -> None:
    test = {"test": (EXAMPLES[:10], LABELS[:10])}
    local = loader.load(DataOptions(data=write(str(tmp_path), **test), seed=0))
    test = {"test": (EXAMPLES[:10], LABELS[:10])}
    remote = loader.load(DataOptions(data=write(f"{bucket}/d", shard_bytes=8000, **test), seed=0))
    assert (remote.spec.sizes, local.spec.sizes) == ({"train": 1000, "test": 10},) * 2
    np.testing.assert_array_equal(remote.train.examples[::7], EXAMPLES[::7])


def test_the_cache_stores_shards_up_to_its_size(
    tmp_path: Path, bucket: str, proxy: FaultProxy, pool: concurrent.futures.Executor
) -> None:
    write(f"{bucket}/d", shard_bytes=4000)

    def epoch(cache_bytes: int, damaged: bool = False) -> int:
        """Reads an epoch, and returns how many shards were downloaded."""
        data = loader.load(
            DataOptions(
                data=f"{bucket}/d",
                seed=0,
                cache_dir=f"{tmp_path}/cache",
                cache_gb=cache_bytes / 1e9,
            )
        )
        if damaged:
            next((tmp_path / "cache").glob("*train-00002*")).write_bytes(b"")
        proxy.requests.clear()
        assert isinstance(data.train.examples, Shards)
        for rows in data.train.examples.shuffle_blocks(0, 0):
            expected = np.stack(list(data.train.examples[np.sort(rows)]))
            block = data.train.examples.read(rows, pool)
            np.testing.assert_array_equal(block[np.argsort(rows)], expected)
        return len({name for name in proxy.requests if "train-0" in name and "alt=media" in name})

    assert epoch(13_000) == 7
    # Three of the six full shards, and the small last one.
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert epoch(13_000) == 3
    assert epoch(100_000) == 3
    assert epoch(100_000) == 0
    assert epoch(100_000, damaged=True) == 1


def change(index: Path, **values: Any) -> None:
    index.write_text(json.dumps({**json.loads(index.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "trainer-shards-1"}, "format 'trainer-shards-1', expected 'trainer-shards-2'"),
        ({"shape": []}, "shape: List should have at least 1 item"),
        ({"dtype": "object"}, "dtype: Input should be 'uint8' or 'float32'"),
        ({"splits": {}}, "no training split"),
        ({"splits": {"train": {"labels": 3, "examples": []}}}, "splits.train"),
        ({"more": 1}, "more: Unexpected keyword argument"),
        ({"shuffle_block_bytes": 0}, "shuffle_block_bytes: Input should be greater than 0"),
    ],
)
def test_the_error_names_a_damaged_index(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = write(str(tmp_path))
    change(tmp_path / shard_format.INDEX, **values)
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=folder, seed=0))
    assert f"{folder}/index.json" in str(caught.value)


def test_an_index_cannot_name_files_of_other_folders(tmp_path: Path) -> None:
    folder = write(str(tmp_path))
    splits = json.loads((tmp_path / shard_format.INDEX).read_text())["splits"]
    splits["train"]["examples"][0]["file"] = "../train-00000.npy"
    change(tmp_path / shard_format.INDEX, splits=splits)
    with pytest.raises(DataError, match=r"examples.0.file: String should match pattern"):
        loader.load(DataOptions(data=folder, seed=0))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_the_error_names_a_damaged_shard_when_it_is_read(
    tmp_path: Path, content: bytes | None
) -> None:
    data = loader.load(DataOptions(data=write(str(tmp_path)), seed=0))
    file = tmp_path / "train-00003.npy"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00003.npy: (missing|damaged)"):
        list(data.train.examples)
    (tmp_path / "train-labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match="train-labels.npy: missing, or damaged"):
        loader.load(DataOptions(data=str(tmp_path), seed=0))


def test_leaked_examples_are_counted_without_reading_the_shards(tmp_path: Path) -> None:
    """Including those of splits that are held out, and of --test-data."""
    folder = str(tmp_path / "shards")
    again = np.concatenate([EXAMPLES[[3, 3, 900]], EXAMPLES[:5] + 0.5])
    write(folder, test=(again, np.arange(8) % 3), validation=(again[4:], LABELS[:4]))
    for file in (tmp_path / "shards").glob("*-0*.npy"):
        file.unlink()
    assert loader.load(DataOptions(data=folder, seed=0)).leaked == {"validation": 0, "test": 3}
    np.savez(tmp_path / "test.npz", x_train=EXAMPLES[10:30], y_train=LABELS[10:30])
    write(str(tmp_path / "alone"))
    separate = loader.load(
        DataOptions(
            data=str(tmp_path / "alone"),
            seed=0,
            validation_split=0.5,
            test_data=str(tmp_path / "test.npz"),
        )
    )
    kept = separate.train.examples.rows
    assert separate.leaked == {"validation": 0, "test": int(np.isin(np.arange(10, 30), kept).sum())}


def test_shards_without_digests_are_read_and_leaks_are_unknown(
    tmp_path: Path,
) -> None:
    write(str(tmp_path), test=(EXAMPLES[:9], LABELS[:9]))
    index = json.loads((tmp_path / "index.json").read_text())
    for split in index["splits"].values():
        del split["digests"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert loader.load(DataOptions(data=str(tmp_path), seed=0)).leaked == {}


@pytest.mark.parametrize("kind", ["|u1", "<f4", "<i4", "<u8"])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 5, 4, 3)])
def test_npy_files_are_parsed_as_numpy_writes_them(kind: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    file = io.BytesIO()
    np.save(file, values)
    np.testing.assert_array_equal(parse_npy(file.getvalue(), Location("a")), values, strict=True)
    for damaged in (file.getvalue()[:-1], file.getvalue()[:60], b"", b"x" + file.getvalue()):
        with pytest.raises(DataError, match=r"a: not an .npy file of numbers"):
            parse_npy(damaged, Location("a"))


def test_a_write_that_was_interrupted_leaves_no_readable_data(tmp_path: Path) -> None:
    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield EXAMPLES, LABELS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream = Stream({"train": (blocks(), LABELS)}, CLASSES)
        shard_format.write(storage.folder(str(tmp_path)), stream, shard_bytes=1000)
    assert not (tmp_path / shard_format.INDEX).exists()
    with pytest.raises(
        DataError, match="no training examples with labels. Found the arrays train-0"
    ):
        loader.load(DataOptions(data=str(tmp_path), seed=0))
