"""A corpus of malformed data, created on demand, and a program that runs the job on all of it.

    python -m tests.data.hostile FOLDER

runs the job's entry point on every case, in one process limited to 3 GB of address space. It prints
one JSON line per case: name, exit code, output, seconds, and the files that are left behind.
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

ADDRESS_SPACE_BYTES = 3 << 30

# Creates the data in an empty folder, and returns the arguments of the job.
Case = Callable[[Path], list[str]]
CASES: dict[str, Case] = {}
# Large contents are functions, so that importing this module does not compress them.
Content = bytes | Callable[[], bytes]

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


def evaluate(content: Content) -> bytes:
    return content() if callable(content) else content


def folder(files: Mapping[str, Content | None], model: str = "mlp") -> Case:
    """Returns a case of a folder with these files; those with content None are left out."""

    def make(root: Path) -> list[str]:
        for name, content in files.items():
            if content is not None:
                (root / name).write_bytes(evaluate(content))
        return [f"--data={root}", f"--model={model}"]

    return make


def one_file(name: str, content: Content, *flags: str, model: str = "mlp") -> Case:
    """Returns a case of a single file."""

    def make(root: Path) -> list[str]:
        (root / name).write_bytes(evaluate(content))
        return [f"--data={root / name}", f"--model={model}", *flags]

    return make


def cuts(content: bytes, *edges: int) -> Iterator[tuple[str, bytes]]:
    """Yields the content truncated near its start and end, in between, and at `edges`.

    A negative edge counts from the end.
    """
    lengths = {0, 1, 2, len(content) // 3, len(content) // 2, len(content) - 1}
    lengths |= {edge % len(content) for edge in edges}
    for length in sorted(lengths):
        yield f"cut at {length}", content[:length]


def _idx_cases() -> None:
    def case(name: str, **changed: Content | None) -> None:
        by_role = {"images": IMAGES, "labels": LABELS, "test_images": TEST_IMAGES,
                   "test_labels": TEST_LABELS}  # fmt: skip
        CASES[f"idx: {name}"] = folder(IDX | {by_role[k]: v for k, v in changed.items()})

    for name, content in cuts(IDX[IMAGES], 3, 4, 5, 8, 12, 15, 16, 17):
        case(f"images {name}", images=content)
    for name, content in cuts(gzip.compress(IDX[IMAGES]), 3, 9, 10, 11, -4, -8, -9):
        case(f"zipped images {name}", images=content)
    for name, content in cuts(IDX[LABELS], 3, 4, 7, 8, 9):
        case(f"labels {name}", labels=content)
    head = bytes([0, 0, 8, 3])
    corrupt = bytearray(gzip.compress(IDX[IMAGES]))
    corrupt[-6] ^= 1
    floats = np.where(X > 200, np.nan, X).astype(">f4")
    case("more bytes than the header says", images=IDX[IMAGES] + b"0")
    case(
        "gzip bomb after the bytes that the header says",
        images=lambda: gzip.compress(IDX[IMAGES] + bytes(1 << 28)),
    )
    case(
        "gzip bomb of the size that the header says",
        images=lambda: gzip.compress(
            head + struct.pack(">3I", 1 << 20, 1 << 14, 1 << 14) + bytes(1 << 28)
        ),
    )
    case("gzip with a wrong checksum", images=bytes(corrupt))
    case("gzip within gzip", images=gzip.compress(gzip.compress(IDX[IMAGES])))
    case("gzip of nothing", images=gzip.compress(b""))
    case("header of terabytes", images=head + b"\xff" * 12)
    case("header of 2^32-1 images", images=head + struct.pack(">3I", 2**32 - 1, 4, 4))
    case("header of an image of 60000 x 60000", images=head + struct.pack(">3I", 1, 60000, 60000))
    case("255 axes", images=bytes([0, 0, 8, 255]) + b"\1" * 2000)
    case("8 axes of 2^32-1", images=bytes([0, 0, 8, 8]) + b"\xff" * 32)
    case("no axes", images=bytes([0, 0, 8, 0]))
    case("unknown type", images=bytes([0, 0, 10, 3]) + IDX[IMAGES][4:])
    case("another magic number", images=b"PK" + IDX[IMAGES][2:])
    case("images of 1 x 0", images=idx(X[:, :1, :0]))
    case("images of 0 x 1", images=idx(X[:, :0, :1]))
    case("no images", images=idx(X[:0]), labels=idx(Y[:0]))
    case("NaN pixels", images=idx(floats, 13))
    case("labels as fractions", labels=idx(Y.astype(">f4") + 0.5, 13))
    case("labels as NaN", labels=idx(np.full(40, np.nan, ">f8"), 14))
    case("negative labels", labels=idx(Y.astype(np.int8) - 1, 9))
    case("a million classes", labels=idx((np.arange(40) * 25_641).astype(">i4"), 12))
    case("labels of 2^31-1", labels=idx(np.full(40, 2**31 - 1).astype(">i4"), 12))
    case("labels in a table that is not one-hot", labels=idx(np.full((40, 2), 1, np.uint8)))
    case("one class", labels=idx(Y * 0), test_labels=idx(Y[:10] * 0))
    case("a class without examples", labels=idx(Y * 2))
    case("fewer labels than images", labels=idx(Y[:39]))
    case("test labels that are not in training", test_labels=idx(Y[:10] + 1))
    case("test images of another size", test_images=idx(X[:10, :3]))
    case("no labels", labels=None)
    case("no images file", images=None)
    case("test images without labels", test_labels=None)
    CASES["idx: the same split twice"] = folder(IDX | {"more-train-images-idx3-ubyte": idx(X)})
    CASES["idx: images of 60000 x 60000, sparse on disk"] = _sparse_on_disk


def _sparse_on_disk(root: Path) -> list[str]:
    folder(IDX)(root)
    with (root / IMAGES).open("wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", 40, 60000, 60000))
        file.truncate(16 + 40 * 60000 * 60000)
    return [f"--data={root}"]


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **{k: v for k, v in arrays.items() if v is not None})
    return content.getvalue()


def members(**contents: Content) -> bytes:
    """Returns a zip file with these contents as .npy files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(f"{name}.npy", evaluate(data))
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
    contents = {name: npy(array) for name, array in whole.items()}

    def case(name: str, **changed: Any) -> None:
        CASES[f"npz: {name}"] = one_file("set.npz", npz(**(whole | changed)))

    def raw(name: str, **changed: Content) -> None:
        CASES[f"npz: {name}"] = one_file("set.npz", lambda: members(**{**contents, **changed}))

    content = npz(**whole)
    directory = content.index(b"PK\1\2") - len(content)
    for name, cut in cuts(content, 4, 30, 41, 42, directory, directory + 1, -22, -21, -4):
        CASES[f"npz: {name}"] = one_file("set.npz", cut)
    for name, cut in cuts(contents["x_train"], 5, 6, 8, 9, 10, 127, 128, 129):
        raw(f"array {name}", x_train=cut)
    for name in whole:
        if name != "y_test":  # Test examples without labels are left out.
            case(f"no {name}", **{name: None})
        case(f"objects in {name}", **{name: np.array([{"a": 1}] * 40, dtype=object)})
    case("labels as fractions", y_train=Y + 0.5)
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
    raw("a header of terabytes", x_train=header(numbers % "1000000000, 28, 28"))
    raw("a header of 60000 x 60000", x_train=header(numbers % "2, 60000, 60000"))
    raw("negative sizes", x_train=header(numbers % "-1, 28"))
    raw("sizes beyond 64 bits", x_train=header(numbers % f"{2**70}, 28"))
    raw("a header that is code", x_train=header("__import__('os').system('id')\n"))
    raw("a header of brackets", x_train=header("(" * 9000 + "\n"))
    raw("a header without its end", x_train=header("{'descr': '|u1'"))
    raw("a header bomb", x_train=lambda: header(" " * (1 << 28), version=2))
    raw("an unknown version", x_train=b"\x93NUMPY\x09\x00" + contents["x_train"][8:])
    raw(
        "an unknown type",
        x_train=header("{'descr': 'zz', 'fortran_order': False, 'shape': (40,)}\n"),
    )
    raw("a pickle instead of an array", x_train=pickle.dumps(Payload()))
    raw("a zip bomb", x_train=lambda: header(numbers % f"{1 << 34}") + bytes(1 << 28))
    raw("nothing", x_train=b"")
    CASES["npz: names that leave the folder"] = one_file(
        "set.npz", members(**{"../../x_train": b"", "/y": b""})
    )
    CASES["npz: an empty zip"] = one_file("set.npz", members())
    CASES["npz: no zip at all"] = one_file("set.npz", b"no zip")
    flags = {"encrypted": (6, b"\1\0"), "unknown compression": (8, b"\x63\0")}
    for name, (offset, value) in {**flags, "wrong checksum": (14, b"\0" * 4)}.items():
        changed = bytearray(content)
        start, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
        changed[start + offset : start + offset + len(value)] = value
        changed[central + offset + 2 : central + offset + 2 + len(value)] = value
        CASES[f"npz: {name}"] = one_file("set.npz", bytes(changed))


def _sparse_cases() -> None:
    matrix = scipy.sparse.csr_array(X.reshape(40, 16))
    whole = {"format": np.array("csr"), "shape": np.array(matrix.shape), "data": matrix.data,
             "indices": matrix.indices, "indptr": matrix.indptr, "labels": Y}  # fmt: skip

    def case(name: str, **changed: Any) -> None:
        CASES[f"sparse: {name}"] = one_file("set.npz", npz(**(whole | changed)))

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
    case("KOI8-R", "хорошо\n".encode("koi8-r") * 50)
    case("UTF-32", "\n".join(WORDS).encode("utf-32-le"))
    case("a lone surrogate", good + b"\n\xed\xa0\x80 film\n" + good)
    case("an overlong NUL", good + b"\n\xc0\x80\n")
    case("beyond Unicode", good + b"\n\xf7\xbf\xbf\xbf\n")
    case("NUL characters", good + b"\n a\0b\n" * 20 + good)
    case("zeros only", bytes(10_000))
    case("one line of 100 MB", b"word " * 20_000_000)
    case("a compressed file by another name", gzip.compress(good))
    CASES["text: a link to nothing"] = _text_link_to_nothing
    CASES["text: a link to itself"] = _text_link_to_itself
    CASES["text: a pipe in the folder"] = _text_pipe
    CASES["text: a folder named as a file"] = _text_folder


def _text_in(root: Path) -> Path:
    inside = root / "inside"
    inside.mkdir()
    (inside / "neg.txt").write_text("\n".join(WORDS))
    return inside


def _text_link_to_nothing(root: Path) -> list[str]:
    (_text_in(root) / "pos.txt").symlink_to("nothing")
    return [f"--data={root / 'inside'}", "--model=sentiment"]


def _text_link_to_itself(root: Path) -> list[str]:
    (_text_in(root) / "pos.txt").symlink_to("pos.txt")
    return [f"--data={root / 'inside'}", "--model=sentiment"]


def _text_pipe(root: Path) -> list[str]:
    os.mkfifo(_text_in(root) / "pos.txt")
    return [f"--data={root / 'inside'}", "--model=sentiment"]


def _text_folder(root: Path) -> list[str]:
    (_text_in(root) / "pos.txt").mkdir()
    return [f"--data={root / 'inside'}", "--model=sentiment"]


class Payload:
    """Creates a file if it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch payload-was-run",)


class EvalPayload:
    """Creates a file by a call of `eval` if it is unpickled."""

    def __reduce__(self) -> Any:
        return eval, ("open('payload-was-run', 'w')",)


def _pickle_cases() -> None:
    whole = [X.reshape(40, 16), Y, X[:10].reshape(10, 16), Y[:10]]

    def case(name: str, content: bytes) -> None:
        CASES[f"pickle: {name}"] = one_file("set.pickle", content, "--allow-pickle")

    CASES["pickle: without --allow-pickle"] = one_file("set.pickle", pickle.dumps(whole))
    CASES["pickle: by content, under another name"] = one_file("set.bin", pickle.dumps(whole))
    for name, content in cuts(pickle.dumps(whole), 3, 11, 40, -2, -40):
        case(name, content)
    case("a payload", pickle.dumps([Payload(), *whole[1:]]))
    case("a payload of protocol 0", pickle.dumps(Payload(), 0))
    case("a payload behind the arrays", pickle.dumps([*whole, Payload()]))
    case("a call of eval", pickle.dumps(EvalPayload()))
    case("a name with dots", b"\x80\x04\x8c\x05numpy\x8c\x12f2py.os.system.foo\x93.")
    case("a memo of gigabytes", b"\x80\x04Nr\xff\xff\xff\xff.")
    case("a text of gigabytes", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.")
    case("a number of gigabytes", b"\x80\x04\x8b\xff\xff\xff\x7f1.")
    case("a frame of gigabytes", b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f].")
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
    case("three arrays", pickle.dumps(whole[:3]))
    case("texts", pickle.dumps(["a", "b", "c", "d"]))
    case("None", pickle.dumps([None] * 4))
    case("ragged lists", pickle.dumps([[[1], [2, 3]], Y, X, Y]))
    case("labels as fractions", pickle.dumps([whole[0], Y / 2.0, whole[2], Y[:10]]))
    broken = scipy.sparse.csr_matrix(X.reshape(40, 16))
    broken.indices = broken.indices + 1000
    case("a sparse matrix out of range", pickle.dumps([broken, Y, broken[:0], Y]))


def _reconstructed(shape: tuple[int, ...]) -> bytes:
    array = np.empty(0, np.uint8).__reduce__()[0]

    class Huge:
        def __reduce__(self) -> Any:
            return array, (np.ndarray, shape, b"b")

    return pickle.dumps([Huge(), Y, X, Y])


def _path_cases() -> None:
    CASES["path: an empty folder"] = folder({})
    CASES["path: hidden files only"] = folder({".train-images-idx3-ubyte": IDX[IMAGES]})
    CASES["path: an unknown file"] = one_file("set.bin", b"\x7fELF" + bytes(range(256)))
    CASES["path: a file of 0 bytes"] = one_file("set", b"")
    CASES["path: /dev/zero"] = lambda root: ["--data=/dev/zero"]
    CASES["path: a NUL in the name"] = lambda root: ["--data=a\0b"]
    CASES["path: a surrogate in the name"] = lambda root: ["--data=a\udc80b"]
    CASES["path: a name too long"] = lambda root: [f"--data={'a' * 5000}"]
    CASES["path: below a file"] = lambda root: [
        *one_file("set", b"x")(root),
        f"--data={root}/set/x",
    ]
    CASES["path: a link to itself"] = _link_to_itself
    CASES["path: a pipe"] = _pipe
    CASES["path: a socket"] = _socket


def _link_to_itself(root: Path) -> list[str]:
    (root / "set").symlink_to("set")
    return [f"--data={root / 'set'}"]


def _pipe(root: Path) -> list[str]:
    os.mkfifo(root / "set.npz")
    return [f"--data={root / 'set.npz'}"]


def _socket(root: Path) -> list[str]:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        # Relative, because the path of a socket must be short.
        server.bind(os.path.relpath(root / "set.npz"))
    return [f"--data={root / 'set.npz'}"]


_idx_cases()
_npz_cases()
_sparse_cases()
_text_cases()
_pickle_cases()
_path_cases()


def main(root: Path) -> None:
    """Runs the job on all cases, in subfolders of `root`."""
    from trainer import task

    work, temporary_directory = root / "work", root / "temporary_directory"
    work.mkdir()
    os.chdir(work)
    for name, make in CASES.items():
        data = root / "data"
        data.mkdir()
        temporary_directory.mkdir()
        tempfile.tempdir = str(temporary_directory)
        arguments = make(data)
        # Set here, because creating the data may take more.
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
        stderr, stdout = io.StringIO(), io.StringIO()
        code: Any = None
        started = time.perf_counter()
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            try:
                task.main(arguments)
            except SystemExit as error:
                code = error.code
        seconds = time.perf_counter() - started
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        leftovers = [
            str(path.relative_to(root))
            for folder in (work, temporary_directory)
            for path in folder.rglob("*")
        ]
        output = stderr.getvalue() + stdout.getvalue()
        result = {"name": name, "code": code, "output": output, "seconds": seconds,
                  "leftovers": leftovers}  # fmt: skip
        print(json.dumps(result), flush=True)
        for used in (data, temporary_directory, *work.iterdir()):
            shutil.rmtree(used) if used.is_dir() else used.unlink()
    print(json.dumps({"name": "tensorflow imported", "value": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
