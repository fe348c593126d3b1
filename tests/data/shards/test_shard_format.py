"""Data in shards, read as it is needed: the same examples, in an order of windows."""

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
from trainer.data.shards.reader import Shards, array
from trainer.data.shards.shard_format import Stream
from trainer.errors import DataError, Location

CLASSES = ("odd", "even", "none")
EXAMPLES = np.arange(1000 * 6, dtype=np.float32).reshape(1000, 6)
LABELS = np.arange(1000) % 3


def write(place: str, *, shard_bytes: int = 1000, window_bytes: int = 8000, **more: Any) -> str:
    blocks = iter([EXAMPLES[:333], EXAMPLES[333:334], EXAMPLES[334:]])
    parts = {"train": (blocks, LABELS), **more}
    shard_format.write(
        storage.folder(place),
        Stream(parts, CLASSES, low=0, high=5999),
        shard_bytes=shard_bytes,
        window_bytes=window_bytes,
    )
    return place


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    source = shard_format.source(storage.folder(write(str(tmp_path))))
    assert source is not None
    assert isinstance(source.train[0], Shards)
    return source.train[0]


@pytest.fixture
def pool() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(4) as made:
        yield made


def test_rows_are_had_as_those_of_an_array(shards: Shards) -> None:
    assert (shards.shape, shards.ndim, str(shards.dtype)) == ((1000, 6), 2, "float32")
    assert len(shards.files) == 1000 // (1000 // 24) + 1
    mask = np.zeros(1000, bool)
    mask[[3, 400, 999]] = True
    for rows in (slice(0, 5), slice(995, None), [7, 999, 7, 0], mask, 500, -1):
        np.testing.assert_array_equal(shards[rows], EXAMPLES[rows])
    np.testing.assert_array_equal(np.stack(list(shards)), EXAMPLES)


def test_what_is_chosen_of_them_is_like_an_array_too(shards: Shards) -> None:
    mask = LABELS != 1
    some = shards.chosen(mask).chosen(np.arange(mask.sum()) % 2 == 0)
    np.testing.assert_array_equal(np.stack(list(some)), EXAMPLES[mask][::2])
    np.testing.assert_array_equal(some[[5, 1]], EXAMPLES[mask][::2][[5, 1]])


def test_an_order_has_every_row_once_and_is_a_function_of_seed_and_epoch(shards: Shards) -> None:
    windows = list(shards.windows(1, 2))
    # A window has 8,000 bytes of shards of 984 bytes; the first one, an eighth of that.
    assert [len(window) for window in windows][:2] == [41, 8 * 41]
    assert sorted(np.concatenate(windows)) == list(range(1000))
    again = np.concatenate(list(shards.windows(1, 2)))
    np.testing.assert_array_equal(again, np.concatenate(windows))
    assert not np.array_equal(again, np.concatenate(list(shards.windows(1, 3))))
    assert not np.array_equal(again, np.concatenate(list(shards.windows(2, 2))))
    # No window is a piece of the data as it lies.
    assert all(np.ptp(window) > 2 * len(window) for window in windows[1:-1])


def test_their_order_is_the_same_on_every_machine(shards: Shards) -> None:
    first = next(iter(shards.windows(1, 2)))
    assert first[:8].tolist() == [60, 64, 66, 70, 79, 43, 61, 72]


def test_a_window_is_read_in_its_order(shards: Shards, pool: concurrent.futures.Executor) -> None:
    some = shards.chosen(LABELS > 0)
    for rows in some.windows(0, 0):
        np.testing.assert_array_equal(some.read(rows, pool), EXAMPLES[LABELS > 0][rows])


def test_parts_are_held_out_as_of_data_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x_train=EXAMPLES, y_train=LABELS)
    whole = loader.load(DataOptions(data=f"{tmp_path}/whole.npz", seed=3, validation_split=0.2))
    data = loader.load(DataOptions(data=write(f"{tmp_path}/shards"), seed=3, validation_split=0.2))
    assert data.spec.classes == CLASSES
    assert (data.spec.low, data.spec.high) == (0, 5999)
    for ours, theirs in zip(
        (data.train, data.validation, data.test),
        (whole.train, whole.validation, whole.test),
        strict=True,
    ):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(np.stack(list(ours.examples)), theirs.examples)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    other = loader.load(DataOptions(data=f"{tmp_path}/shards", seed=4, validation_split=0.2))
    assert len({data.fingerprint, whole.fingerprint, other.fingerprint}) == 3


def test_a_bucket_holds_them_too(tmp_path: Path, bucket: str) -> None:
    test = {"test": (iter([EXAMPLES[:10]]), LABELS[:10])}
    local = loader.load(DataOptions(data=write(str(tmp_path), **test), seed=0))
    test = {"test": (iter([EXAMPLES[:10]]), LABELS[:10])}
    remote = loader.load(DataOptions(data=write(f"{bucket}/d", shard_bytes=8000, **test), seed=0))
    assert (remote.spec.sizes, local.spec.sizes) == ({"train": 1000, "test": 10},) * 2
    np.testing.assert_array_equal(remote.train.examples[::7], EXAMPLES[::7])


def test_a_cache_keeps_what_it_has_room_for(
    tmp_path: Path, bucket: str, proxy: FaultProxy, pool: concurrent.futures.Executor
) -> None:
    write(f"{bucket}/d", shard_bytes=4000)

    def epoch(cache_bytes: int, damaged: bool = False) -> int:
        """Reads all, and returns how many files the bucket was asked for."""
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
        for rows in data.train.examples.windows(0, 0):
            expected = np.stack(list(data.train.examples[np.sort(rows)]))
            found = data.train.examples.read(rows, pool)
            np.testing.assert_array_equal(found[np.argsort(rows)], expected)
        return len({name for name in proxy.requests if "train-0" in name and "alt=media" in name})

    assert epoch(13_000) == 7
    # Three of six that are full, and the last one, which is small.
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
        ({"format": "trainer-shards-2"}, "format: InputSignature should be 'trainer-shards-1'"),
        ({"shape": []}, "shape: List should have at least 1 item"),
        ({"dtype": "object"}, "dtype: InputSignature should be 'uint8' or 'float32'"),
        ({"parts": {}}, "no part to train on"),
        ({"parts": {"train": {"labels": 3, "examples": []}}}, "parts.train"),
        ({"more": 1}, "more: Unexpected keyword argument"),
        ({"window_bytes": 0}, "window_bytes: InputSignature should be greater than 0"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    place = write(str(tmp_path))
    change(tmp_path / shard_format.INDEX, **values)
    with pytest.raises(DataError, match=message) as caught:
        loader.load(DataOptions(data=place, seed=0))
    assert f"{place}/index.json" in str(caught.value)


def test_an_index_names_files_of_its_own_folder_only(tmp_path: Path) -> None:
    place = write(str(tmp_path))
    parts = json.loads((tmp_path / shard_format.INDEX).read_text())["parts"]
    parts["train"]["examples"][0]["file"] = "../train-00000.npy"
    change(tmp_path / shard_format.INDEX, parts=parts)
    with pytest.raises(DataError, match=r"examples.0.file: String should match pattern"):
        loader.load(DataOptions(data=place, seed=0))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_damaged_file_is_named_when_it_is_read(tmp_path: Path, content: bytes | None) -> None:
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


def test_examples_that_parts_share_are_counted_without_reading_them(tmp_path: Path) -> None:
    """Also of parts that are held out later, and of data that lies apart."""
    place = str(tmp_path / "shards")
    again = np.concatenate([EXAMPLES[[3, 3, 900]], EXAMPLES[:5] + 0.5])
    write(place, test=(iter([again]), np.arange(8) % 3), validation=(iter([again[4:]]), LABELS[:4]))
    for file in (tmp_path / "shards").glob("*-0*.npy"):
        file.unlink()
    assert loader.load(DataOptions(data=place, seed=0)).leaked == {"validation": 0, "test": 3}
    np.savez(tmp_path / "test.npz", x_train=EXAMPLES[10:30], y_train=LABELS[10:30])
    write(str(tmp_path / "alone"))
    apart = loader.load(
        DataOptions(
            data=str(tmp_path / "alone"),
            seed=0,
            validation_split=0.5,
            test_data=str(tmp_path / "test.npz"),
        )
    )
    kept = apart.train.examples.rows
    assert apart.leaked == {"validation": 0, "test": int(np.isin(np.arange(10, 30), kept).sum())}


def test_shards_that_were_made_without_digests_are_read_and_share_nobody_knows_what(
    tmp_path: Path,
) -> None:
    write(str(tmp_path), test=(iter([EXAMPLES[:9]]), LABELS[:9]))
    index = json.loads((tmp_path / "index.json").read_text())
    for part in index["parts"].values():
        del part["digests"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert loader.load(DataOptions(data=str(tmp_path), seed=0)).leaked == {}


@pytest.mark.parametrize("kind", ["|u1", "<f4", "<i4", "<u8"])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 5, 4, 3)])
def test_arrays_are_read_as_numpy_writes_them(kind: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    file = io.BytesIO()
    np.save(file, values)
    np.testing.assert_array_equal(array(file.getvalue(), Location("a")), values, strict=True)
    for damaged in (file.getvalue()[:-1], file.getvalue()[:60], b"", b"x" + file.getvalue()):
        with pytest.raises(DataError, match=r"a: no .npy file of numbers"):
            array(damaged, Location("a"))


def test_data_that_was_cut_short_is_none(tmp_path: Path) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield EXAMPLES
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream = Stream({"train": (blocks(), LABELS)}, CLASSES)
        shard_format.write(storage.folder(str(tmp_path)), stream, shard_bytes=1000)
    assert not (tmp_path / shard_format.INDEX).exists()
    with pytest.raises(DataError, match="no known format"):
        loader.load(DataOptions(data=str(tmp_path), seed=0))
