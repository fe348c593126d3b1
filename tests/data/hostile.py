"""A corpus of malformed data, each made on demand; and a program that gives all of it to the job.

    python -m tests.data.hostile FOLDER

runs the job's entry point on every case in one process with 3 GB of addresses, and prints a JSON
line for each: name, exit code, what it said, seconds, and what it left behind.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import socket
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

ADDRESSES = 3 << 30

# Makes the data in an empty folder, and returns the arguments of the job.
Case = Callable[[Path], list[str]]
CASES: dict[str, Case] = {}

X = np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4)
Y = (np.arange(40) % 2).astype(np.uint8)
WORDS = np.array([f"word{n} good film" for n in range(40)])


def idx(array: np.ndarray, code: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


IDX = {
    "train-images-idx3-ubyte": idx(X),
    "train-labels-idx1-ubyte": idx(Y),
    "t10k-images-idx3-ubyte": idx(X[:10]),
    "t10k-labels-idx1-ubyte": idx(Y[:10]),
}
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = IDX


def folder(files: dict[str, bytes | None], model: str = "mlp") -> Case:
    def make(place: Path) -> list[str]:
        for name, content in files.items():
            if content is not None:
                (place / name).write_bytes(content)
        return [f"--data={place}", f"--model={model}"]

    return make


def one(name: str, content: bytes, *flags: str, model: str = "mlp") -> Case:
    def make(place: Path) -> list[str]:
        (place / name).write_bytes(content)
        return [f"--data={place / name}", f"--model={model}", *flags]

    return make


def cuts(content: bytes, *edges: int) -> Iterator[tuple[str, bytes]]:
    """Gives the content cut at its start, its end, some edges from either side, and in between."""
    places = {0, 1, 2, len(content) // 3, len(content) // 2, len(content) - 1}
    places |= {edge % len(content) for edge in edges}
    for at in sorted(places):
        yield f"cut at {at}", content[:at]


def _idx_cases() -> None:
    def case(name: str, **changed: bytes | None) -> None:
        by_part = {"images": IMAGES, "labels": LABELS, "test_images": TEST_IMAGES,
                   "test_labels": TEST_LABELS}  # fmt: skip
        CASES[f"idx: {name}"] = folder(IDX | {by_part[k]: v for k, v in changed.items()})

    for name, content in cuts(IDX[IMAGES], 3, 4, 5, 8, 12, 15, 16, 17):
        case(f"images {name}", images=content)
    for name, content in cuts(gzip.compress(IDX[IMAGES]), 3, 9, 10, 11, -4, -8, -9):
        case(f"zipped images {name}", images=content)
    for name, content in cuts(IDX[LABELS], 3, 4, 7, 8, 9):
        case(f"labels {name}", labels=content)
    head = bytes([0, 0, 8, 3])
    bomb = gzip.compress(IDX[IMAGES] + bytes(1 << 28))
    corrupt = bytearray(gzip.compress(IDX[IMAGES]))
    corrupt[-6] ^= 1
    floats = np.where(X > 200, np.nan, X).astype(">f4")
    case("more bytes than promised", images=IDX[IMAGES] + b"0")
    case("gzip bomb behind what is promised", images=bomb)
    case(
        "gzip bomb that promises itself",
        images=gzip.compress(head + struct.pack(">3I", 1 << 20, 1 << 14, 1 << 14) + bytes(1 << 28)),
    )
    case("gzip with a wrong checksum", images=bytes(corrupt))
    case("gzip within gzip", images=gzip.compress(gzip.compress(IDX[IMAGES])))
    case("gzip of nothing", images=gzip.compress(b""))
    case("terabytes promised", images=head + b"\xff" * 12)
    case("many images promised", images=head + struct.pack(">3I", 2**32 - 1, 4, 4))
    case("images of 60000 x 60000 promised", images=head + struct.pack(">3I", 1, 60000, 60000))
    case("255 axes", images=bytes([0, 0, 8, 255]) + b"\1" * 2000)
    case("8 axes of 2^32-1", images=bytes([0, 0, 8, 8]) + b"\xff" * 32)
    case("no axes", images=bytes([0, 0, 8, 0]))
    case("unknown type", images=bytes([0, 0, 10, 3]) + IDX[IMAGES][4:])
    case("another magic number", images=b"PK" + IDX[IMAGES][2:])
    case("images of 1 x 0", images=idx(X[:, :1, :0]))
    case("images of 0 x 1", images=idx(X[:, :0, :1]))
    case("no images", images=idx(X[:0]), labels=idx(Y[:0]))
    case("NaN pixels", images=idx(floats, 13))
    case("labels as floats", labels=idx(Y.astype(">f4"), 13))
    case("labels as NaN", labels=idx(np.full(40, np.nan, ">f8"), 14))
    case("negative labels", labels=idx(Y.astype(np.int8) - 1, 9))
    case("a million classes", labels=idx((np.arange(40) * 25_641).astype(">i4"), 12))
    case("labels of 2^31-1", labels=idx(np.full(40, 2**31 - 1).astype(">i4"), 12))
    case("labels in a table that is not one-hot", labels=idx(np.full((40, 2), 1, np.uint8)))
    case("one class", labels=idx(Y * 0), test_labels=idx(Y[:10] * 0))
    case("a class without examples", labels=idx(Y * 2))
    case("fewer labels than images", labels=idx(Y[:39]))
    case("test labels that training has not", test_labels=idx(Y[:10] + 1))
    case("test images of another size", test_images=idx(X[:10, :3]))
    case("no labels", labels=None)
    case("no images file", images=None)
    case("test images without labels", test_labels=None)
    CASES["idx: the same part twice"] = folder(IDX | {"more-train-images-idx3-ubyte": idx(X)})
    CASES["idx: a link out of the folder"] = _link_out
    CASES["idx: images of 60000 x 60000, sparse on disk"] = _sparse_on_disk


def _link_out(place: Path) -> list[str]:
    outside = place / "outside"
    inside = place / "inside"
    outside.mkdir()
    inside.mkdir()
    for name, content in IDX.items():
        (inside / name).write_bytes(content)
    (outside / "secret").write_bytes(IDX[LABELS])
    (inside / LABELS).unlink()
    (inside / LABELS).symlink_to("../outside/secret")
    return [f"--data={inside}"]


def _sparse_on_disk(place: Path) -> list[str]:
    folder(IDX)(place)
    with (place / IMAGES).open("wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 60000, 60000))
        file.truncate(16 + 40 * 60000 * 60000)
    return [f"--data={place}"]


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **{k: v for k, v in arrays.items() if v is not None})
    return content.getvalue()


def members(**contents: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(text: str, *, version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


def _npz_cases() -> None:
    whole = {"x_train": X, "y_train": Y, "x_test": X[:10], "y_test": Y[:10]}
    parts = {name: npy(array) for name, array in whole.items()}

    def case(name: str, **changed: Any) -> None:
        CASES[f"npz: {name}"] = one("set.npz", npz(**(whole | changed)))

    def raw(name: str, **changed: bytes) -> None:
        CASES[f"npz: {name}"] = one("set.npz", members(**(parts | changed)))

    content = npz(**whole)
    directory = content.index(b"PK\1\2") - len(content)
    for name, cut in cuts(content, 4, 30, 41, 42, directory, directory + 1, -22, -21, -4):
        CASES[f"npz: {name}"] = one("set.npz", cut)
    for name, cut in cuts(parts["x_train"], 5, 6, 8, 9, 10, 127, 128, 129):
        raw(f"array {name}", x_train=cut)
    for name in whole:
        case(f"no {name}", **{name: None})
        case(f"objects in {name}", **{name: np.array([{"a": 1}] * 40, dtype=object)})
    case("labels as floats", y_train=Y.astype(float))
    case("labels as texts", y_train=np.array(["a", "b"] * 20))
    case("labels as booleans", y_train=Y.astype(bool))
    case("labels of 2^63", y_train=Y.astype(np.uint64) + 2**63)
    case("a million classes", y_train=np.arange(40) * 25_641)
    case("labels without an axis", y_train=np.array(3))
    case("labels in a table that is not one-hot", y_train=np.full((40, 2), 0.5))
    case("complex examples", x_train=X.astype(complex))
    case("dates", x_train=X.astype("datetime64[s]"))
    case("records", x_train=np.zeros(40, dtype=[("a", "u1"), ("b", "f4")]))
    case("NaN", x_train=np.full(X.shape, np.nan))
    case("infinity", x_train=np.full(X.shape, np.inf))
    case("more than float32 holds", x_train=np.full(X.shape, 1e300))
    case("examples without an axis", x_train=np.array(3))
    case("examples of one axis", x_train=np.arange(40), x_test=np.arange(10))
    case("examples of five axes", x_train=X.reshape(40, 2, 2, 2, 2))
    case("images of 1 x 0", x_train=X[:, :1, :0], x_test=X[:10, :1, :0])
    case("no examples", x_train=X[:0], y_train=Y[:0])
    case("fewer labels than examples", y_train=Y[:39])
    surrogates = np.array(["\ud800 film", "bad film"] * 20)
    case("lone surrogates", x_train=surrogates, x_test=surrogates[:10])
    nuls = np.array(["a\0b", "c\0d"] * 20)
    case("NUL characters", x_train=nuls, x_test=nuls[:10])
    case("texts in a table", x_train=WORDS.reshape(20, 2), y_train=Y[:20])
    numbers = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s,)}\n"
    raw("terabytes promised", x_train=header(numbers % "1000000000, 28, 28"))
    raw("60000 x 60000 promised", x_train=header(numbers % "2, 60000, 60000"))
    raw("negative sizes", x_train=header(numbers % "-1, 28"))
    raw("sizes beyond 64 bits", x_train=header(numbers % f"{2**70}, 28"))
    raw("a header that is code", x_train=header("__import__('os').system('id')\n"))
    raw("a header of brackets", x_train=header("(" * 9000 + "\n"))
    raw("a header without its end", x_train=header("{'descr': '|u1'"))
    raw("a header bomb", x_train=header(" " * (1 << 28), version=2))
    raw("an unknown version", x_train=b"\x93NUMPY\x09\x00" + parts["x_train"][8:])
    raw(
        "an unknown type",
        x_train=header("{'descr': 'zz', 'fortran_order': False, 'shape': (40,)}\n"),
    )
    raw("a pickle in place of an array", x_train=pickle.dumps(Payload()))
    raw("a zip bomb", x_train=header(numbers % f"{1 << 34}") + bytes(1 << 28))
    raw("nothing", x_train=b"")
    CASES["npz: names that leave the folder"] = one(
        "set.npz", members(**{"../../x_train": b"", "/y": b""})
    )
    CASES["npz: an empty zip"] = one("set.npz", members())
    CASES["npz: no zip at all"] = one("set.npz", b"no zip")
    flags = {"encrypted": (6, b"\1\0"), "unknown compression": (8, b"\x63\0")}
    for name, (offset, value) in {**flags, "wrong checksum": (14, b"\0" * 4)}.items():
        changed = bytearray(content)
        start, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
        changed[start + offset : start + offset + len(value)] = value
        changed[central + offset + 2 : central + offset + 2 + len(value)] = value
        CASES[f"npz: {name}"] = one("set.npz", bytes(changed))


def _sparse_cases() -> None:
    matrix = scipy.sparse.csr_array(X.reshape(40, 16))
    whole = {"format": np.array("csr"), "shape": np.array(matrix.shape), "data": matrix.data,
             "indices": matrix.indices, "indptr": matrix.indptr, "labels": Y}  # fmt: skip

    def case(name: str, **changed: Any) -> None:
        CASES[f"sparse: {name}"] = one("set.npz", npz(**(whole | changed)))

    case("no labels", labels=None)
    case("no indptr", indptr=None)
    case("no indices", indices=None)
    case("unknown format", format=np.array("xyz"))
    case("format as a number", format=np.array(3))
    case("format as objects", format=np.array(["csr"], dtype=object))
    case("no rows", shape=np.array([0, 16]), indptr=np.array([0]))
    case("negative shape", shape=np.array([-40, 16]))
    case("huge rows", shape=np.array([2**60, 16]))
    case("huge columns", shape=np.array([40, 2**40]))
    case("shape of one number", shape=np.array([40]))
    case("shape as text", shape=np.array(["a", "b"]))
    case("indices out of range", indices=matrix.indices + 100)
    case("negative indices", indices=matrix.indices - 1)
    case("indices as floats", indices=matrix.indices.astype(float))
    case("falling indptr", indptr=matrix.indptr[::-1].copy())
    case("long indptr", indptr=np.arange(41) * 1000)
    case("short data", data=matrix.data[:5])
    case("data as texts", data=np.array(["a"] * len(matrix.data)))
    case("data as NaN", data=np.full(len(matrix.data), np.nan))
    case("data as objects", data=np.array([None] * len(matrix.data), dtype=object))
    case("complex data", data=matrix.data.astype(complex))
    case("fewer labels", labels=Y[:3])
    case("bsr of one axis", format=np.array("bsr"))


def _text_cases() -> None:
    good = "\n".join(WORDS).encode()

    def case(name: str, content: bytes, other: bytes | None = good) -> None:
        CASES[f"text: {name}"] = folder({"neg.txt": content, "pos.txt": other}, "sentiment")

    case("0 bytes", b"")
    case("blank lines only", b"\n \r\n\t\n" * 100)
    case("a byte order mark only", "\ufeff".encode())
    case("one class", good, None)
    case("one example", b"good film")
    case("Latin-1", "schön\n".encode("latin1") * 50)
    case("UTF-16", "\n".join(WORDS).encode("utf-16"))
    case("UTF-16 without a mark", "\n".join(WORDS).encode("utf-16-le"))
    case("UTF-32", "\n".join(WORDS).encode("utf-32-le"))
    case("a lone surrogate", good + b"\n\xed\xa0\x80 film\n" + good)
    case("an overlong NUL", good + b"\n\xc0\x80\n")
    case("beyond Unicode", good + b"\n\xf7\xbf\xbf\xbf\n")
    case("cut within a character", good + "\nschö".encode()[:-1])
    case("NUL characters", good + b"\n a\0b\n" + good)
    case("zeros only", bytes(10_000))
    case("one line of 100 MB", b"word " * 20_000_000)
    case("a compressed file by another name", gzip.compress(good))
    CASES["text: a link out of the folder"] = _text_link
    CASES["text: a link to nothing"] = _text_link_to_nothing
    CASES["text: a link to itself"] = _text_link_to_itself
    CASES["text: a pipe in the folder"] = _text_pipe
    CASES["text: a folder named as a file"] = _text_folder


def _text_in(place: Path) -> Path:
    inside = place / "inside"
    inside.mkdir()
    (inside / "neg.txt").write_text("\n".join(WORDS))
    return inside


def _text_link(place: Path) -> list[str]:
    inside = _text_in(place)
    (place / "secret").write_text("secret\nsecrets\n" * 20)
    (inside / "pos.txt").symlink_to(place / "secret")
    return [f"--data={inside}", "--model=sentiment"]


def _text_link_to_nothing(place: Path) -> list[str]:
    (_text_in(place) / "pos.txt").symlink_to("nothing")
    return [f"--data={place / 'inside'}", "--model=sentiment"]


def _text_link_to_itself(place: Path) -> list[str]:
    (_text_in(place) / "pos.txt").symlink_to("pos.txt")
    return [f"--data={place / 'inside'}", "--model=sentiment"]


def _text_pipe(place: Path) -> list[str]:
    os.mkfifo(_text_in(place) / "pos.txt")
    return [f"--data={place / 'inside'}", "--model=sentiment"]


def _text_folder(place: Path) -> list[str]:
    (_text_in(place) / "pos.txt").mkdir()
    return [f"--data={place / 'inside'}", "--model=sentiment"]


class Payload:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch payload-was-run",)


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, ("open('payload-was-run', 'w')",)


def _pickle_cases() -> None:
    whole = [X.reshape(40, 16), Y, X[:10].reshape(10, 16), Y[:10]]

    def case(name: str, content: bytes) -> None:
        CASES[f"pickle: {name}"] = one("set.pickle", content, "--allow-pickle")

    CASES["pickle: without --allow-pickle"] = one("set.pickle", pickle.dumps(whole))
    CASES["pickle: by content, under another name"] = one("set.bin", pickle.dumps(whole))
    for name, content in cuts(pickle.dumps(whole), 3, 11, 40, -2, -40):
        case(name, content)
    case("a payload", pickle.dumps([Payload(), *whole[1:]]))
    case("a payload of protocol 0", pickle.dumps(Payload(), 0))
    case("a payload behind the arrays", pickle.dumps([*whole, Payload()]))
    case("a call of eval", pickle.dumps(Evaluated()))
    case("a name with dots", b"\x80\x04\x8c\x05numpy\x8c\x12f2py.os.system.foo\x93.")
    case("a memo of gigabytes", b"\x80\x04Nr\xff\xff\xff\xff.")
    case("a text of gigabytes promised", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.")
    case("a number of gigabytes promised", b"\x80\x04\x8b\xff\xff\xff\x7f1.")
    case("a frame of gigabytes promised", b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f].")
    case("an array of terabytes", _reconstructed((10**12,)))
    case("an array of negative size", _reconstructed((-5,)))
    case("an array of objects", pickle.dumps([np.array([{}] * 40), *whole[1:]]))
    case("an unknown opcode", b"\x80\x04\xff.")
    case("an unknown protocol", b"\x80\x63N.")
    case("a stack that is empty", b"\x80\x04.")
    case("lists within lists", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    case("tuples within tuples", b"\x80\x04)" + b"\x85" * 100_000 + b".")
    case("a list that holds itself", b"\x80\x04]\x94h\x00a.")
    case("a dictionary", pickle.dumps({"x_train": X}))
    case("three parts", pickle.dumps(whole[:3]))
    case("texts", pickle.dumps(["a", "b", "c", "d"]))
    case("None", pickle.dumps([None] * 4))
    case("ragged lists", pickle.dumps([[[1], [2, 3]], Y, X, Y]))
    case("labels as floats", pickle.dumps([whole[0], Y / 1.0, whole[2], Y[:10]]))
    broken = scipy.sparse.csr_matrix(X.reshape(40, 16))
    broken.indices = broken.indices + 1000
    case("a sparse matrix out of range", pickle.dumps([broken, Y, broken[:0], Y]))


def _reconstructed(shape: tuple[int, ...]) -> bytes:
    array = np.empty(0, np.uint8).__reduce__()[0]

    class Huge:
        def __reduce__(self) -> Any:
            return array, (np.ndarray, shape, b"b")

    return pickle.dumps([Huge(), Y, X, Y])


def _place_cases() -> None:
    CASES["place: an empty folder"] = folder({})
    CASES["place: hidden files only"] = folder({".train-images-idx3-ubyte": IDX[IMAGES]})
    CASES["place: an unknown file"] = one("set.bin", b"\x7fELF" + bytes(range(256)))
    CASES["place: a file of 0 bytes"] = one("set", b"")
    CASES["place: /dev/zero"] = lambda place: ["--data=/dev/zero"]
    CASES["place: a NUL in the name"] = lambda place: ["--data=a\0b"]
    CASES["place: a surrogate in the name"] = lambda place: ["--data=a\udc80b"]
    CASES["place: a name too long"] = lambda place: [f"--data={'a' * 5000}"]
    CASES["place: below a file"] = lambda place: [*one("set", b"x")(place), f"--data={place}/set/x"]
    CASES["place: a link to itself"] = _link_to_itself
    CASES["place: a pipe"] = _pipe
    CASES["place: a socket"] = _socket


def _link_to_itself(place: Path) -> list[str]:
    (place / "set").symlink_to("set")
    return [f"--data={place / 'set'}"]


def _pipe(place: Path) -> list[str]:
    os.mkfifo(place / "set.npz")
    return [f"--data={place / 'set.npz'}"]


def _socket(place: Path) -> list[str]:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(os.path.relpath(place / "set.npz"))  # A socket's path is short.
    return [f"--data={place / 'set.npz'}"]


_idx_cases()
_npz_cases()
_sparse_cases()
_text_cases()
_pickle_cases()
_place_cases()


def main(place: Path) -> None:
    from trainer import task

    work, temporary_directory = place / "work", place / "temporary_directory"
    work.mkdir()
    os.chdir(work)
    for name, make in CASES.items():
        data = place / "data"
        data.mkdir()
        temporary_directory.mkdir()
        tempfile.tempdir = str(temporary_directory)
        arguments = make(data)
        # Address space is what a hostile header asks for; the limit is off while data is made.
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, resource.RLIM_INFINITY))
        said, out = io.StringIO(), io.StringIO()
        code: Any = None
        started = time.perf_counter()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
            try:
                task.main(arguments)
            except SystemExit as ended:
                code = ended.code
        seconds = time.perf_counter() - started
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        left = [
            str(path.relative_to(place))
            for at in (work, temporary_directory)
            for path in at.rglob("*")
        ]
        result = {"name": name, "code": code, "said": said.getvalue() + out.getvalue(),
                  "seconds": seconds, "left": left}  # fmt: skip
        print(json.dumps(result), flush=True)
        for used in (data, temporary_directory, *work.iterdir()):
            shutil.rmtree(used) if used.is_dir() else used.unlink()
    print(json.dumps({"name": "heavy imports", "found": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
