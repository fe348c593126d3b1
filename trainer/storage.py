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
import itertools
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import google_crc32c

from trainer.errors import ConflictError, DataError, OutageError, StorageError

_SCHEME = "gs://"
_PARTIAL = ".partial"
_PROBE = ".probe-"
THREADS = 8  # Below the client's 10 pooled connections; 100 small objects a second at 30 ms each.
_ATTEMPTS = 3  # At a body whose checksum is wrong; the client itself retries failed requests.


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
    folder, _, last = pattern.rpartition("/")
    shape = re.compile(".*".join(map(re.escape, last.split("*"))), re.DOTALL)
    return sorted(
        name
        for name in names
        if name.rpartition("/")[0] == folder and shape.fullmatch(name.rpartition("/")[2])
    )


def parted(path: str) -> tuple[Folder, str]:
    """Returns the folder of one file, local or gs://, and its name there.

    Raises:
        StorageError: as `folder`.
    """
    parent, slash, name = path.rpartition("/")
    if is_remote(path) and not (len(parent) > len(_SCHEME) and name):
        raise StorageError(f"{path}: expected gs://bucket/path of a file")
    return folder(parent or slash or "."), name


def read(path: str) -> bytes:
    """Returns the content of one file, local or gs://.

    Raises:
        StorageError: there is no such file, or it may not be read.
    """
    parent, name = parted(path)
    content = parent.read(name)
    if content is None:
        raise StorageError(f"{path}: no such file")
    return content


def read_all(paths: Sequence[str]) -> Iterator[bytes]:
    """Gives the contents of many files, in their order, several being read at a time.

    Raises:
        StorageError: as `read`.
    """
    rest = iter(paths)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        # Not all at once, as `pool.map`: what is read and not taken yet is in memory.
        begun = collections.deque(
            pool.submit(read, path) for path in itertools.islice(rest, 2 * THREADS)
        )
        while begun:
            content = begun.popleft().result()
            begun.extend(pool.submit(read, path) for path in itertools.islice(rest, 1))
            yield content


def read_text(path: str) -> str:
    """Returns the text of one file, local or gs://.

    Raises:
        StorageError: there is no such file, it may not be read, or it is not UTF-8.
    """
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not UTF-8 text: {error}") from None


def is_leftover(name: str) -> bool:
    """Tells whether a file is what a killed process left of a write that it had begun."""
    last = name.rpartition("/")[2]
    return last.startswith(_PROBE) or (last.startswith(".") and last.endswith(_PARTIAL))


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
        partial = target.with_name(f".{target.name}{_PARTIAL}")
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
            if blob is None:
                return None
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(_data_corruption()):
                    content = bytes(
                        blob.download_as_bytes(
                            single_shot_download=True,
                            if_generation_match=blob.generation,
                            **_patience(),
                        )
                    )
                    if base64.b64encode(google_crc32c.Checksum(content).digest()) == (
                        blob.crc32c.encode()
                    ):
                        return content
        raise OutageError(f"{self.path}/{name}: {_ATTEMPTS} downloads did not match its CRC32C")

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
    partial = target.with_name(f".{target.name}{_PARTIAL}")
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
