"""Files of every kind become examples in order; unreadable ones become items with an error."""

from __future__ import annotations

import concurrent.futures
import functools
import gzip
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fault_proxy import FaultProxy
from tests.kills import write_idx
from trainer import storage
from trainer.data.inputs import InputSignature
from trainer.errors import TransientStorageError, UsageError
from trainer.inference.predict.items import Item
from trainer.inference.predict.reader import Reader

GREY = InputSignature(kind="image", shape=(2, 3, 1), dtype="uint8", low=0, high=255)
VECTOR = InputSignature(kind="vector", shape=(3,), dtype="float32", low=-2, high=2)
TEXT = InputSignature(kind="text", shape=(), dtype="string", low=0, high=0)
PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def read_items(signature: InputSignature, *paths: object, column: str | None = None) -> list[Item]:
    items = Reader(signature, column=column).items([str(path) for path in paths])
    return [item for item in items if item is not None]


def summarize(items: Sequence[Item], folder: object) -> dict[str, str]:
    """Returns by name relative to a folder the first value of the example, or the error."""
    summary = {}
    for item in items:
        first = item.error if item.example is None else str(item.example.reshape(-1)[0])
        summary[item.name.removeprefix(f"{folder}/")] = first
    assert len(summary) == len(items)
    return summary


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    good = png(PIXELS + 7)
    for name in ("b/2.png", "b.png", "b/10.png", "a.jpg", ".hidden.png", ".cache/x.png", "c/d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(good)
    (tmp_path / "empty").mkdir()
    summary = summarize(read_items(GREY, tmp_path), tmp_path)
    assert summary == dict.fromkeys(["a.jpg", "b.png", "b/10.png", "b/2.png", "c/d/e"], "7")


def test_damaged_files_have_an_error_and_the_others_are_read(tmp_path: Path) -> None:
    good = png(PIXELS)
    noise = png(np.random.default_rng(0).integers(0, 255, [99, 99], np.uint8))
    contents = {"1": good, "2": noise[:5000], "3": b"", "4": b"hello", "5": good}
    for name, content in contents.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    os.mkfifo(tmp_path / "6.png")
    (tmp_path / "7.png").symlink_to("nowhere")
    (tmp_path / "8").symlink_to(tmp_path)
    (tmp_path / "9.txt").write_text("hello")
    summary = summarize(read_items(GREY, tmp_path, tmp_path / "none.png"), tmp_path)
    assert {
        name[0]: re.split(r": | \(", text)[-1 if ":" in text else 0]
        for name, text in summary.items()
    } == {
        "1": "0",
        "2": "image file is truncated",
        "3": "found an empty file",
        "4": "found 5 bytes of another kind",
        "5": "0",
        "6": "neither a file nor a folder",
        "7": f"{tmp_path}/7.png is a link to nowhere, which does not exist",
        "8": "Is a directory",
        "9": "found texts, expected an image of 2x3x1 whole numbers of 0 to 255",
        "n": "no such file or folder",
    }


def test_an_image_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)
    (item,) = read_items(GREY, tmp_path)
    assert "bytes, expected at most 100,000,000" in item.error


def test_a_folder_without_files_is_one_error(tmp_path: Path) -> None:
    assert read_items(GREY, tmp_path) == [Item(str(tmp_path), None, "no files there")]


def test_patterns_select_files_that_are_not_hidden(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", ".a3.png"):
        (tmp_path / name).write_bytes(png(PIXELS))
    assert list(summarize(read_items(GREY, tmp_path / "a*.png"), tmp_path)) == ["a1.png", "a2.png"]
    assert list(summarize(read_items(GREY, tmp_path / "*"), tmp_path)) == [
        "a1.png",
        "a2.png",
        "b.png",
    ]
    assert summarize(read_items(GREY, tmp_path / "c*"), tmp_path) == {"c*": "no files there"}


def test_each_line_of_a_text_file_is_an_example(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(
        b"\xef\xbb\xbfone\r\n\n \x0c \ntw\xff\n  three  \n" + b"x" * 1_000_001 + b"\nlast"
    )
    assert summarize(read_items(TEXT, file), tmp_path) == {
        "a.txt:1": "one",
        "a.txt:4": "not UTF-8: found byte 0xff; save the file as UTF-8, or give its --encoding",
        "a.txt:5": "three",
        "a.txt:6": "found 1000001 characters, expected one example per line, at most 1000000",
        "a.txt:7": "last",
    }


def test_a_file_that_is_not_text_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\0two\n" * 100)
    (tmp_path / "b").write_bytes(png(PIXELS))
    summary = summarize(read_items(TEXT, tmp_path), tmp_path)
    assert set(summary) == {"a.txt", "b"}
    assert all("found NUL characters" in error for error in summary.values())


def test_csv_texts_are_in_a_named_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('id,text\n1,"one, ""two""\nthree"\n\n2\n3,four\n')
    assert summarize(read_items(TEXT, file), tmp_path) == {
        "a.csv:2": 'one, "two"\nthree',
        "a.csv:5": "found 1 cells, expected 2 as in the other rows",
        "a.csv:6": "four",
    }
    assert list(summarize(read_items(TEXT, file, column="id"), tmp_path).values()) == [
        "1", "found 1 cells, expected 2 as in the other rows", "3",
    ]  # fmt: skip
    ((name, error),) = summarize(read_items(TEXT, file, column="review"), tmp_path).items()
    assert name == "a.csv"
    assert error == ("found the columns 'id', 'text', expected 'review'")


def test_csv_numbers_have_an_optional_header(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    for header, first in (("", 1), ("x,y,z\n", 2)):
        file.write_text(f"{header}1,2,3\n4,5\n1,x,3\n7,8,nan\n\n 9 ,1e3,-2\n")
        summary = summarize(read_items(VECTOR, file), tmp_path)
        assert summary == {
            f"a.csv:{first}": "1.0",
            f"a.csv:{first + 1}": "found 2 cells, expected 3 as in the other rows",
            f"a.csv:{first + 2}": "found 'x', expected a list of 3 numbers",
            f"a.csv:{first + 3}": "found 'nan', expected a list of 3 numbers",
            f"a.csv:{first + 5}": "9.0",
        }


def test_csv_with_a_label_column_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("5,0,1,2,3,4,5\n" * 9)
    assert summarize(read_items(GREY, file), tmp_path) == {
        "a.csv": "found 7 columns, expected 6, an image of 2x3x1 whole numbers of 0 to 255; "
        "remove the first column with cut -d, -f2-"
    }


def test_each_json_line_is_an_example_or_holds_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [
        '"one"',
        "",
        '{"text": "two", "id": 1}',
        '{"id": 1}',
        "{",
        "3",
        '"\\ud800"',
        "[" * 9999,
    ]
    file.write_text("\n".join(lines))
    summary = summarize(read_items(TEXT, file), tmp_path)
    assert list(summary.values())[:3] == [
        "one", "two", "no field 'text', found 'id'; name the field with --column",
    ]  # fmt: skip
    assert [error.split(":")[0] for error in list(summary.values())[3:]] == [
        "not JSON", "found a number, expected a text",
        "found a text that is not valid Unicode", "not JSON",
    ]  # fmt: skip
    file.write_text(f'{json.dumps(PIXELS.tolist())}\n{{"pixels": {(PIXELS + 1).tolist()}}}\n[1]')
    assert list(summarize(read_items(GREY, file, column="pixels"), tmp_path).values())[:2] == [
        "found no object, expected one with the field 'pixels'", "1",
    ]  # fmt: skip


def test_arrays_of_examples_are_read(tmp_path: Path) -> None:
    images = np.stack([PIXELS, PIXELS + 1])
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images[..., np.newaxis].astype(">f4"))
    write_idx(tmp_path / "c-idx3-ubyte.gz", images)
    write_idx(tmp_path / "d.idx", images)
    summary = summarize(read_items(GREY, tmp_path), tmp_path)
    names = ("a.npy", "b.npy", "c-idx3-ubyte.gz", "d.idx")
    assert summary == {f"{name}:{n}": str(n - 1) for name in names for n in (1, 2)}


def test_arrays_that_do_not_fit_or_are_damaged_are_errors(tmp_path: Path) -> None:
    images = np.stack([PIXELS, PIXELS + 1])
    whole = io.BytesIO()
    np.save(whole, images)
    write_idx(tmp_path / "labels-idx1-ubyte", np.arange(3))
    (tmp_path / "long.npy").write_bytes(whole.getvalue() + b"x")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.save(tmp_path / "order.npy", np.asfortranarray(images))
    (tmp_path / "short.npy").write_bytes(whole.getvalue()[:-1])
    np.save(tmp_path / "size.npy", images[:, :1])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "zip-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5000))[:20])
    summary = summarize(read_items(GREY, tmp_path), tmp_path)
    errors = {name.split(".")[0]: error for name, error in summary.items() if not error.isdigit()}
    assert not any(name.startswith("labels") for name in summary)  # Of the examples beside it.
    ((_, error),) = summarize(read_items(GREY, tmp_path / "labels-idx1-ubyte"), tmp_path).items()
    assert "shape ()" in error
    assert errors["long"] == "found more than the 2 examples of the header"
    assert "an array of Python objects" in errors["objects"]
    assert "an array in Fortran order" in errors["order"]
    assert errors["short"] == "found 1 examples, expected 2"
    assert "shape (1, 3)" in errors["size"]
    assert "no .npy, or a damaged one" in errors["text"] or "magic number" in errors["text"]
    assert "damaged or truncated gzip" in errors["zip-idx3-ubyte"]
    assert [name for name, value in summary.items() if value.isdigit()] == [
        "long.npy:1", "long.npy:2", "short.npy:1",
    ]  # fmt: skip


def test_no_file_content_raises_an_internal_error(tmp_path: Path) -> None:
    """Fuzzing: bytes of valid files are changed, removed and inserted at random positions."""
    array = io.BytesIO()
    np.save(array, np.stack([PIXELS, PIXELS]))
    write_idx(tmp_path / "idx", np.stack([PIXELS, PIXELS]))
    contents = {
        ".png": png(PIXELS),
        ".npy": array.getvalue(),
        ".idx": (tmp_path / "idx").read_bytes(),
        ".gz.idx": gzip.compress((tmp_path / "idx").read_bytes()),
        ".csv": b"a,b,c,d,e,f\n0,1,2,3,4,5\n" * 2,
        ".jsonl": b'[[0,1,2],[3,4,5]]\n{"text": "a"}\n"b"\n',
        ".txt": "\ufeffone\r\ntw\N{SNOWMAN}o\n".encode(),
    }
    random = np.random.default_rng(0)
    for number in range(60):
        for suffix, content in contents.items():
            mutated = bytearray(content)
            for _ in range(random.integers(1, 6)):
                start = int(random.integers(len(mutated)))
                end = start + int(random.integers(4))
                mutated[start:end] = random.bytes(int(random.integers(4)))
            (tmp_path / f"{number}{suffix}").write_bytes(mutated)
    for signature in (GREY, VECTOR, TEXT):
        items = read_items(signature, tmp_path)
        assert len(items) > 400
        assert all(bool(item.error) == (item.example is None) for item in items)


@pytest.mark.parametrize("sizes", [[2, 2**31, 2**31, 2**31], [2, *[1] * 200, 2, 3], [2**32 - 1]])
def test_a_header_with_any_shape_is_an_error(tmp_path: Path, sizes: Sequence[int]) -> None:
    header = bytes([0, 0, 8, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes)
    (tmp_path / "a.idx").write_bytes(header + bytes(100))
    ((name, error),) = summarize(read_items(GREY, tmp_path / "a.idx"), tmp_path).items()
    assert (name, error.isdigit()) == ("a.idx", False)


@pytest.mark.parametrize(
    ("signature", "paths", "message"),
    [
        (GREY, ["a.txt"], "a.txt: found texts, expected an image of 2x3x1"),
        (VECTOR, ["a.png", "gs://b/c.JPG"], "a.png: found an image, expected a list of 3 numbers"),
        (TEXT, ["t10k-images-idx3-ubyte.gz"], "found numbers, expected a text"),
    ],
)
def test_file_suffixes_that_do_not_fit_the_model_are_a_usage_error(
    signature: InputSignature, paths: Sequence[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Reader(signature).check(paths)
    Reader(signature).check([*paths, "folder"])


def test_a_bucket_is_read_like_a_folder(tmp_path: Path, bucket: str, proxy: FaultProxy) -> None:
    files = {}
    for number in range(200):
        files[f"images/{number:03}.png"] = tmp_path / f"{number}.png"
        files[f"images/{number:03}.png"].write_bytes(png(PIXELS + number))
    (tmp_path / "bad.png").write_bytes(b"hello")
    (tmp_path / "empty").touch()
    files["images/100.png"] = tmp_path / "bad.png"
    files["images/.hidden"] = files["images/folder/"] = tmp_path / "empty"
    files["images2/000.png"] = files["images/000.png"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        put = functools.partial(storage.folder(bucket).write, if_generation_match=0)
        list(pool.map(put, files.keys(), files.values()))
    proxy.requests.clear()
    summary = summarize(read_items(GREY, f"{bucket}/images"), f"{bucket}/images")
    expected = {f"{number:03}.png": str(number) for number in range(200)}
    expected["100.png"] = "not an image, or a damaged one: found 5 bytes of another kind"
    assert summary == expected
    assert list(summary) == sorted(summary)
    assert len(proxy.requests) <= 203  # A listing, and one request per file.
    summary = summarize(
        read_items(GREY, f"{bucket}/images/00*.png", f"{bucket}/images/010.png"), bucket
    )
    assert list(summary) == [f"images/{n:03}.png" for n in range(11)]
    summary = summarize(
        read_items(GREY, f"{bucket}/none", f"{bucket}/*.png", "gs://none-there"), "gs:/"
    )
    assert [error.partition(" (")[0] for error in summary.values()] == [
        "no files there", "no files there", "no such bucket or object",
    ]  # fmt: skip


def test_a_large_object_is_read_like_a_file(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage._bucket, "_CHUNK_BYTES", 100)
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"line {number} \N{SNOWMAN}" for number in range(100)))
    storage.folder(bucket).write("a.txt", file)
    summary = summarize(read_items(TEXT, f"{bucket}/a.txt"), bucket)
    assert summary == summarize(read_items(TEXT, file), tmp_path)
    assert summary["a.txt:100"] == "line 99 \N{SNOWMAN}"


def test_a_storage_outage_is_not_an_unreadable_file(
    tmp_path: Path, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    storage.folder(bucket).write("a.png", tmp_path / "a.png")
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "0.5")
    proxy.add(match="GET /download", status=503, times=1000)
    with pytest.raises(TransientStorageError, match="a.png"):
        read_items(GREY, f"{bucket}/a.png")
