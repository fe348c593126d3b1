"""Files in a local folder or a bucket, behind one interface. The only module that knows gs://.

Nothing here is visible under its final name before it is whole: a local file is written beside its
place, synced and renamed; an object appears when its upload is complete, and its CRC32C is compared
with the file's. The client's own check is not enough: it is skipped when a download is resumed.
"""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import contextlib
import functools
import io
import itertools
import os
import pathlib
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import google_crc32c

from trainer.errors import ConflictError, DataError, OutageError, StorageError

_SCHEME = "gs://"
PARTIAL = ".partial"
_PROBE = ".probe-"
THREADS = 8  # Below the client's 10 pooled connections; 100 small objects a second at 30 ms each.
_ATTEMPTS = 3  # At a body whose checksum is wrong; the client itself retries failed requests.
_PIECE_BYTES = 8 << 20  # Of a large object that is read in pieces; 0.1 s of a machine's network.

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


class Folder(Protocol):
    """A folder, local or in a bucket. Names in it are relative, with `/` between their parts."""

    path: str

    def names(self) -> list[str]:
        """Returns the names of all files below the folder, sorted; [] if there is no folder."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file, or None if there is no such file."""

    def put(self, name: str, source: Path, *, replaces: int | None = None) -> int:
        """Copies a local file to `name`, replacing what is there in one instant.

        Args:
            name: where it goes.
            source: what goes there.
            replaces: the version that must be there now, 0 for none; None for any. Local folders
                have no versions and take no notice.

        Returns:
            The version that is there now.

        Raises:
            ConflictError: another version is there than the one to replace.
        """

    def version(self, name: str) -> int:
        """Returns a number that changes when a file is put anew; 0 if there is no such file."""

    def remove(self, name: str) -> None:
        """Removes a file; it is no error if there is none."""

    def check_writable(self) -> None:
        """Raises StorageError unless files can be made and removed here; leaves nothing behind."""


class File(Protocol):
    """A file, local or in a bucket, that can be read in pieces."""

    @property
    def path(self) -> str:
        """Where it is."""

    def read(self, most_bytes: int) -> bytes:
        """Returns its content.

        Raises:
            DataError: it is larger than `most_bytes`.
            StorageError: it is gone, or may not be read.
        """

    def open(self) -> contextlib.AbstractContextManager[io.BufferedReader]:
        """Gives a stream of its content, little of which is in memory at a time.

        Reading from it raises StorageError; at its end an OutageError if what was read of an object
        does not match the object's CRC32C.

        Raises:
            StorageError: it is gone, or may not be read.
        """


def folder(path: str) -> Folder:
    """Returns the folder at a local path or gs://bucket/prefix; it need not exist yet.

    Raises:
        StorageError: the path is not of either form, or there are no credentials for gs://.
    """
    return _BucketFolder(path) if is_remote(path) else _LocalFolder(path)


def is_remote(path: str) -> bool:
    """Tells whether a path lies in a bucket."""
    return path.startswith(_SCHEME)


def is_pattern(path: str) -> bool:
    """Tells whether a path stands for all files that it matches, as gs://bucket/part-*.jsonl.

    Of shells' patterns only `*`: the others are often parts of names.
    """
    return "*" in path.rpartition("/")[2]


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Returns those names, with their folders, that a pattern in its last part matches; sorted."""
    return sorted(filter(_shape(pattern).fullmatch, names))


def _shape(pattern: str) -> re.Pattern[str]:
    folder, slash, last = pattern.rpartition("/")
    return re.compile(re.escape(folder + slash) + "[^/]*".join(map(re.escape, last.split("*"))))


def files(path: str) -> Iterator[File]:
    """Gives all files that a path stands for, in the order of their names, as they are found.

    Hidden ones below a folder, or that a pattern matches, are somebody else's.

    Args:
        path: a local file or folder, gs://bucket/path of an object or of all objects below a
            prefix, or a pattern in the last part of either.

    Raises:
        StorageError: nothing is there, or it may not be looked at.
    """
    found = False
    for file in _objects(path) if is_remote(path) else _local_files(path):
        found = True
        yield file
    if not found:
        raise StorageError(f"{path}: no files there")


def parent(path: str) -> tuple[Folder, str]:
    """Returns the folder that a file, local or gs://, is in or goes to, and its name there.

    Raises:
        StorageError: the path cannot be that of a file.
    """
    place, _, name = path.rpartition("/")
    if is_remote(path) and (place + "/" == _SCHEME or not name):
        raise StorageError(f"{path}: expected gs://bucket/path of a file")
    return folder(place or ("/" if path.startswith("/") else ".")), name


def read(path: str) -> bytes:
    """Returns the content of one file, local or gs://.

    Raises:
        StorageError: there is no such file, or it may not be read.
    """
    place, name = parent(path)
    content = place.read(name)
    if content is None:
        raise StorageError(f"{path}: no such file")
    return content


def read_all(paths: Sequence[str]) -> Iterator[bytes]:
    """Gives the contents of many files, in their order, several being read at a time.

    Raises:
        StorageError: as `read`.
    """
    return several_at_once(read, paths)


def several_at_once(
    work: Callable[[_Thing], _Result], things: Iterable[_Thing]
) -> Iterator[_Result]:
    """Gives what `work` returns of each thing, in their order, in several threads, a bit ahead."""
    rest = iter(things)
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    try:
        # Not all at once, as `pool.map`: what is done and not taken yet is in memory.
        begun = collections.deque(
            pool.submit(work, thing) for thing in itertools.islice(rest, 2 * THREADS)
        )
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, thing) for thing in itertools.islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def read_text(path: str) -> str:
    """Returns the text of one file, local or gs://.

    Raises:
        StorageError: there is no such file, it may not be read, or it is not UTF-8.
    """
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not UTF-8 text: {error}") from None


def write_text(path: str, text: str) -> None:
    """Writes one file, local or gs://, which replaces what is there in one instant.

    Raises:
        StorageError: it may not be written.
    """
    place, name = parent(path)
    with scratch() as local:
        (local / "text").write_text(text, encoding="utf-8")
        place.put(name, local / "text")


def is_leftover(name: str) -> bool:
    """Tells whether a file is what a killed process left of a write that it had begun."""
    last = name.rpartition("/")[2]
    return last.startswith(_PROBE) or (last.startswith(".") and last.endswith(PARTIAL))


def put_all(target: Folder, files: Mapping[str, Path]) -> None:
    """Puts local files into a folder, several at a time; all are there when it returns."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(target.put, files.keys(), files.values()))  # Raises what a put raised.


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Gives an empty local folder for what is put elsewhere afterwards; it is removed at the end.

    Raises:
        StorageError: the disk is full, or the folder for temporary files cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="trainer-") as place:
            yield Path(place)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise StorageError(
            f"temporary files in {tempfile.gettempdir()}: {reason}. TMPDIR names another folder"
        ) from error


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Gives a local path with the content of `path`; a download is removed at the end.

    Args:
        path: a local file or folder, which is given as it is, or gs://bucket/path of an object
            or of all objects below a prefix; or a pattern in the last part of either, for the files
            that it matches. A local one is given as it is, too.

    Raises:
        StorageError: nothing is there, or it may not be read.
    """
    if not is_remote(path):
        if not os.path.exists(path) and not (is_pattern(path) and local_matches(path)):
            raise StorageError(f"{path}: no such file or folder")
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="trainer-data-") as parent:
        yield _download(path, Path(parent))


def local_matches(pattern: str) -> list[Path]:
    """Returns the local files that a pattern in the last part of a path matches, sorted."""
    parent = Path(pattern).parent
    if not parent.is_dir():
        return []
    names = (f"{parent}/{file.name}" for file in parent.iterdir() if file.is_file())
    return list(map(Path, matching(names, f"{parent}/{Path(pattern).name}")))


def crc32c(path: Path) -> str:
    """Returns the CRC32C of a file as Cloud Storage writes it: base64, big-endian."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode()


class _LocalFolder:
    def __init__(self, path: str) -> None:
        self.path = path
        self._root = Path(path)
        self._made = False  # By a first write.

    def names(self) -> list[str]:
        with explained(self.path):
            files = (path for path in self._root.rglob("*") if path.is_file())
            return sorted(path.relative_to(self._root).as_posix() for path in files)

    def read(self, name: str) -> bytes | None:
        with explained(f"{self.path}/{name}"):
            try:
                return (self._root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, name: str, source: Path, *, replaces: int | None = None) -> int:
        target = self._root / name
        partial = target.with_name(f".{target.name}{PARTIAL}")
        with explained(str(target)):
            if self._made:  # A folder that was deleted meanwhile stays so.
                self._root.stat()
            target.parent.mkdir(parents=True, exist_ok=True)
            self._made = True
            try:
                shutil.copyfile(source, partial)
                _sync(partial)
                os.replace(partial, target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _sync(target.parent)
        return self.version(name)

    def version(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def remove(self, name: str) -> None:
        target = self._root / name
        with explained(str(target)):
            target.unlink(missing_ok=True)
            for parent in target.relative_to(self._root).parents:
                with contextlib.suppress(OSError):  # Not empty: others' files stay.
                    if parent != pathlib.PurePath("."):
                        (self._root / parent).rmdir()

    def check_writable(self) -> None:
        ancestor = self._root
        while not os.path.lexists(ancestor):
            ancestor = ancestor.parent
        if not ancestor.is_dir():
            raise StorageError(f"{self.path}: {ancestor} is a file, expected a folder")
        # A real file: os.access says yes to root, and to a read-only file system.
        with explained(self.path), tempfile.TemporaryFile(dir=ancestor):
            pass


class _BucketFolder:
    def __init__(self, path: str) -> None:
        bucket, prefix = _split(path)
        prefix = prefix.rstrip("/")
        self.path = path.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with explained(path):
            self._bucket = _client().bucket(bucket)

    def names(self) -> list[str]:
        with explained(self.path):
            blobs = self._bucket.list_blobs(prefix=self._prefix, **_patience())
            return sorted(blob.name.removeprefix(self._prefix) for blob in blobs)

    def read(self, name: str) -> bytes | None:
        with explained(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_patience())
            return None if blob is None else _content(blob)

    def put(self, name: str, source: Path, *, replaces: int | None = None) -> int:
        expected = crc32c(source)
        if replaces is None:
            replaces = self.version(name)
        with explained(f"{self.path}/{name}"):
            for _ in range(_ATTEMPTS):
                blob = self._upload(name, source, expected, replaces)
                if blob is None:
                    continue
                if blob.crc32c == expected:
                    return int(blob.generation)
                replaces = 0
                blob.delete(if_generation_match=blob.generation, **_patience())
        raise OutageError(f"{self.path}/{name}: {_ATTEMPTS} uploads did not match its CRC32C")

    def _upload(self, name: str, source: Path, expected: str, replaces: int) -> Any:
        """Returns the object that was stored; None if the bucket found its checksum wrong."""
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        blob = self._bucket.blob(self._prefix + name)
        try:
            # A precondition makes the request safe to repeat.
            blob.upload_from_filename(
                source, if_generation_match=replaces, checksum="crc32c", **_patience()
            )
        except BadRequest as error:
            if "crc32c" not in str(error).lower():
                raise
            return None
        except (PreconditionFailed, ValueError):
            # Our own write, if its reply was lost, or cut short and so not JSON any more.
            blob.reload(**_patience())
            if blob.crc32c != expected:
                raise ConflictError(
                    f"{self.path}/{name}: another process is writing here"
                ) from None
        return blob

    def version(self, name: str) -> int:
        with explained(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_patience())
            return int(blob.generation) if blob else 0

    def remove(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with explained(f"{self.path}/{name}"), contextlib.suppress(NotFound):
            self._bucket.blob(self._prefix + name).delete(**_patience())

    def check_writable(self) -> None:
        probe = f"{_PROBE}{uuid.uuid4().hex}"
        with tempfile.NamedTemporaryFile() as empty:
            self.put(probe, Path(empty.name))
        self.remove(probe)


@dataclass(frozen=True)
class _LocalFile:
    path: str

    def read(self, most_bytes: int) -> bytes:
        with self.open() as file, explained(self.path):
            _check_size(self.path, os.fstat(file.fileno()).st_size, most_bytes)
            return file.read()

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        with explained(self.path):
            kind = os.stat(self.path).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # A pipe would be waited for.
                raise StorageError(f"{self.path}: neither a file nor a folder")
            file = open(self.path, "rb")  # Of a folder that cannot be listed, this says why.
        with file:
            yield file


def _local_files(path: str) -> Iterator[File]:
    if os.path.isdir(path):
        yield from _below(path)
    elif os.path.lexists(path):
        yield _LocalFile(path)
    elif is_pattern(path):
        paths = map(str, local_matches(path))
        yield from (_LocalFile(each) for each in paths if not _is_hidden(os.path.basename(each)))
    else:
        raise StorageError(f"{path}: no such file or folder")


def _below(folder: str) -> Iterator[File]:
    """Gives the files below a folder, in the order that a bucket would list them in."""
    try:
        with os.scandir(folder) as entries:
            # Links to folders are not followed, for they can lead in circles; they are told of.
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
                if not _is_hidden(entry.name)
            )
    except OSError:
        yield _LocalFile(folder)
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _below(path)
        else:
            yield _LocalFile(path)


@dataclass(frozen=True)
class _Object:
    blob: Any

    @property
    def path(self) -> str:
        return f"{_SCHEME}{self.blob.bucket.name}/{self.blob.name}"

    def read(self, most_bytes: int) -> bytes:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        _check_size(self.path, self.blob.size, most_bytes)
        with explained(self.path):
            try:
                return _content(self.blob)
            except (NotFound, PreconditionFailed):  # Replaced since it was listed, or removed.
                blob = self.blob.bucket.get_blob(self.blob.name, **_patience())
            if blob is None:
                raise StorageError(f"{self.path}: no such object any more")
            _check_size(self.path, blob.size, most_bytes)
            return _content(blob)

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        if self.blob.size <= _PIECE_BYTES:
            yield io.BufferedReader(io.BytesIO(self.read(_PIECE_BYTES)))
        else:
            _check_encoding(self.path, self.blob)
            stream: io.BufferedReader = io.BufferedReader(_Pieces(self.blob, self.path), 1 << 20)
            with stream:
                yield stream


class _Pieces(io.RawIOBase):
    """The content of an object, a piece in memory at a time."""

    def __init__(self, blob: Any, path: str) -> None:
        self._blob, self._path = blob, path
        self._piece = memoryview(b"")
        self._begun = 0  # Bytes of the object in this piece and those before it.
        self._checksum = google_crc32c.Checksum()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(self._next())
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _next(self) -> bytes:
        """Returns the next piece, and b"" at the end of an object that was read as it is stored."""
        first, last = self._begun, min(self._begun + _PIECE_BYTES, self._blob.size) - 1
        if first > last:
            if base64.b64encode(self._checksum.digest()).decode() != self._blob.crc32c:
                raise OutageError(f"{self._path}: what was read did not match its CRC32C")
            return b""
        with explained(self._path):
            for _ in range(_ATTEMPTS):
                piece = bytes(
                    self._blob.download_as_bytes(
                        start=first,
                        end=last,
                        raw_download=True,
                        checksum=None,  # Of a part nobody knows it; the whole is checked here.
                        single_shot_download=True,
                        if_generation_match=self._blob.generation,
                        **_patience(),
                    )
                )
                if len(piece) == last - first + 1:
                    self._begun += len(piece)
                    self._checksum.update(piece)
                    return piece
        raise OutageError(f"{self._path}: {_ATTEMPTS} downloads of a part ended early")


def _objects(path: str) -> Iterator[File]:
    bucket_name, name = _split(path)
    folder = name.rpartition("/")[0] if is_pattern(path) else name.rstrip("/")
    with explained(path):
        bucket = _client().bucket(bucket_name)
        if is_pattern(path):
            listed = bucket.list_blobs(prefix=name.partition("*")[0], delimiter="/", **_patience())
            blobs = (blob for blob in listed if _shape(name).fullmatch(blob.name))
        else:
            alone = bucket.get_blob(name, **_patience()) if name == folder != "" else None
            if alone is not None:
                yield _Object(alone)
                return
            blobs = bucket.list_blobs(prefix=folder and f"{folder}/", **_patience())
        for blob in blobs:
            # A name that ends in "/" is a console's folder.
            if not blob.name.endswith("/") and not _is_hidden(blob.name.removeprefix(folder)):
                yield _Object(blob)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _check_size(path: str, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise DataError(f"{path}: {size:,} bytes, expected at most {most_bytes:,}")


def _content(blob: Any) -> bytes:
    """Returns what an object holds, compared with its CRC32C."""
    name = f"{_SCHEME}{blob.bucket.name}/{blob.name}"
    _check_encoding(name, blob)
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(_data_corruption()):
            content = bytes(
                blob.download_as_bytes(
                    single_shot_download=True,
                    if_generation_match=blob.generation,
                    **_patience(),
                )
            )
            if base64.b64encode(google_crc32c.Checksum(content).digest()).decode() == blob.crc32c:
                return content
    raise OutageError(f"{name}: {_ATTEMPTS} downloads did not match its CRC32C")


def _check_encoding(path: str, blob: Any) -> None:
    """Raises DataError for what would be unpacked on its way, so that its CRC32C says nothing."""
    if "gzip" in (blob.content_encoding or ""):
        raise DataError(
            f"{path}: stored with Content-Encoding: {blob.content_encoding}, expected none (gsutil "
            "cp -z and gcloud storage cp --gzip-local upload so)"
        )


def _download(path: str, parent: Path) -> Path:
    """Downloads an object, those that a pattern matches, or all below a prefix, into `parent`."""
    bucket_name, name = _split(path)
    prefix = name.rstrip("/")
    if is_pattern(name):
        prefix = name.rpartition("/")[0]
    with explained(path):
        bucket = _client().bucket(bucket_name)
        blobs = [
            blob
            for blob in bucket.list_blobs(prefix=prefix, **_patience())
            # "runs/1" must not bring "runs/10"; a name that ends in "/" is a console's folder.
            if (not prefix or blob.name == prefix or blob.name.startswith(prefix + "/"))
            and not blob.name.endswith("/")
        ]
    if is_pattern(name):
        wanted = set(matching((blob.name for blob in blobs), name))
        blobs = [blob for blob in blobs if blob.name in wanted]
    if not blobs:
        raise StorageError(f"{path}: no object there")
    root = parent / (PurePosixPath(prefix).name or bucket_name)
    targets = []
    for blob in blobs:
        relative = PurePosixPath(blob.name.removeprefix(prefix).removeprefix("/"))
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"gs://{bucket_name}/{blob.name}: a name that leaves its folder")
        targets.append(root / relative)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_download_blob, blobs, targets))  # Raises what a download raised.
    return root


def _download_blob(blob: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}{PARTIAL}")
    name = f"{_SCHEME}{blob.bucket.name}/{blob.name}"
    with explained(name):
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_data_corruption()):
                blob.download_to_filename(
                    str(partial),
                    single_shot_download=True,
                    if_generation_match=blob.generation,
                    **_patience(),
                )
                if crc32c(partial) == blob.crc32c:
                    os.replace(partial, target)
                    return
    raise OutageError(f"{name}: {_ATTEMPTS} downloads did not match its CRC32C")


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise StorageError(f"{path}: expected gs://bucket/path")
    return bucket, name


@functools.cache
def _client() -> Any:
    # The client would ask for the bucket's metadata in the background, for traces we do not make.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    from google.cloud import storage

    return storage.Client(project=None)


def _patience() -> dict[str, Any]:
    """Returns how long a request waits for an answer, and how long it is tried again."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    seconds = float(os.environ.get("TRAINER_RETRY_SECONDS", "120"))
    return {"timeout": seconds / 4, "retry": DEFAULT_RETRY.with_timeout(seconds)}


def _data_corruption() -> type[Exception]:
    from google.cloud.storage.exceptions import DataCorruption

    corruption: type[Exception] = DataCorruption
    return corruption


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what the operating system or the client raises into one line about `path`."""
    try:
        yield
    except OSError as error:
        if is_remote(path):
            raise OutageError(f"{path}: no connection: {error}") from error
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:
        if not is_remote(path) or isinstance(error, StorageError):
            raise
        raise _explain_remote(path, error) from error


def _explain_remote(path: str, error: Exception) -> Exception:
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage import exceptions as media

    if isinstance(error, api.NotFound):
        return StorageError(f"{path}: no such bucket or object (404)")
    if isinstance(error, api.Forbidden | api.Unauthorized):
        return StorageError(
            f"{path}: permission denied ({error.code}): the account needs the role "
            "Storage Object User on the bucket"
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return StorageError(
            f"{path}: no Google credentials: run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file"
        )
    if isinstance(error, api.BadRequest):
        return StorageError(f"{path}: refused by Cloud Storage: {error.message}")
    if isinstance(
        error,
        # ValueError: a reply cut short is not JSON any more.
        api.GoogleAPIError | auth.GoogleAuthError | media.InvalidResponse | ValueError,
    ):
        return OutageError(f"{path}: Cloud Storage failed: {error}")
    return error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
