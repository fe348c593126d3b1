"""Objects in buckets of Cloud Storage.

An object appears when its upload is complete, and its CRC32C is compared with the file's. The
client's own check is not enough: it is skipped when a download is resumed.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c

from trainer.errors import ConflictError, DataError, StorageError, TransientStorageError
from trainer.storage._faults import explained
from trainer.storage._paths import (
    PARTIAL,
    PROBE,
    SCHEME,
    THREADS,
    check_size,
    crc32c,
    is_hidden,
    is_pattern,
    matching,
    shape,
)

_ATTEMPTS = 3  # At a body whose checksum is wrong; the client itself retries failed requests.
_PIECE_BYTES = 8 << 20  # Of a large object that is read in pieces; 0.1 s of a machine's network.


class BucketFolder:
    def __init__(self, path: str) -> None:
        bucket, prefix = _split(path)
        prefix = prefix.rstrip("/")
        self.path = path.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with explained(path):
            self._bucket = client().bucket(bucket)

    def names(self) -> list[str]:
        with explained(self.path):
            blobs = self._bucket.list_blobs(prefix=self._prefix, **_patience())
            return sorted(blob.name.removeprefix(self._prefix) for blob in blobs)

    def read(self, name: str) -> bytes | None:
        with explained(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_patience())
            return None if blob is None else _content(blob)

    def write(self, name: str, source: Path, *, if_generation_match: int | None = None) -> int:
        expected = crc32c(source)
        if if_generation_match is None:
            if_generation_match = self.generation(name)
        with explained(f"{self.path}/{name}"):
            for _ in range(_ATTEMPTS):
                blob = self._upload(name, source, expected, if_generation_match)
                if blob is None:
                    continue
                if blob.crc32c == expected:
                    return int(blob.generation)
                if_generation_match = 0
                blob.delete(if_generation_match=blob.generation, **_patience())
        raise TransientStorageError(
            f"{self.path}/{name}: {_ATTEMPTS} uploads did not match its CRC32C"
        )

    def _upload(self, name: str, source: Path, expected: str, if_generation_match: int) -> Any:
        """Returns the object that was stored; None if the bucket found its checksum wrong."""
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        blob = self._bucket.blob(self._prefix + name)
        try:
            # A precondition makes the request safe to repeat.
            blob.upload_from_filename(
                source, if_generation_match=if_generation_match, checksum="crc32c", **_patience()
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

    def generation(self, name: str) -> int:
        with explained(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_patience())
            return int(blob.generation) if blob else 0

    def remove(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with explained(f"{self.path}/{name}"), contextlib.suppress(NotFound):
            self._bucket.blob(self._prefix + name).delete(**_patience())

    def check_writable(self) -> None:
        probe = f"{PROBE}{uuid.uuid4().hex}"
        with tempfile.NamedTemporaryFile() as empty:
            self.write(probe, Path(empty.name))
        self.remove(probe)


@dataclass(frozen=True)
class Object:
    blob: Any

    @property
    def path(self) -> str:
        return f"{SCHEME}{self.blob.bucket.name}/{self.blob.name}"

    def read(self, max_bytes: int) -> bytes:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        check_size(self.path, self.blob.size, max_bytes)
        with explained(self.path):
            try:
                return _content(self.blob)
            except (NotFound, PreconditionFailed):  # Replaced since it was listed, or removed.
                blob = self.blob.bucket.get_blob(self.blob.name, **_patience())
            if blob is None:
                raise StorageError(f"{self.path}: no such object any more")
            check_size(self.path, blob.size, max_bytes)
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
                raise TransientStorageError(f"{self._path}: what was read did not match its CRC32C")
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
        raise TransientStorageError(f"{self._path}: {_ATTEMPTS} downloads of a part ended early")


def files(path: str) -> Iterator[Object]:
    bucket_name, name = _split(path)
    folder = name.rpartition("/")[0] if is_pattern(path) else name.rstrip("/")
    with explained(path):
        bucket = client().bucket(bucket_name)
        if is_pattern(path):
            listed = bucket.list_blobs(prefix=name.partition("*")[0], delimiter="/", **_patience())
            blobs = (blob for blob in listed if shape(name).fullmatch(blob.name))
        else:
            alone = bucket.get_blob(name, **_patience()) if name == folder != "" else None
            if alone is not None:
                yield Object(alone)
                return
            blobs = bucket.list_blobs(prefix=folder and f"{folder}/", **_patience())
        for blob in blobs:
            # A name that ends in "/" is a console's folder.
            if not blob.name.endswith("/") and not is_hidden(blob.name.removeprefix(folder)):
                yield Object(blob)


def _content(blob: Any) -> bytes:
    """Returns what an object holds, compared with its CRC32C."""
    name = f"{SCHEME}{blob.bucket.name}/{blob.name}"
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
    raise TransientStorageError(f"{name}: {_ATTEMPTS} downloads did not match its CRC32C")


def _check_encoding(path: str, blob: Any) -> None:
    """Raises DataError for what would be unpacked on its way, so that its CRC32C says nothing."""
    if "gzip" in (blob.content_encoding or ""):
        raise DataError(
            f"{path}: stored with Content-Encoding: {blob.content_encoding}, expected none (gsutil "
            "cp -z and gcloud storage cp --gzip-local upload so)"
        )


def download(path: str, parent: Path) -> Path:
    """Downloads an object, those that a pattern matches, or all below a prefix, into `parent`."""
    bucket_name, name = _split(path)
    prefix = name.rstrip("/")
    if is_pattern(name):
        prefix = name.rpartition("/")[0]
    with explained(path):
        bucket = client().bucket(bucket_name)
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
    name = f"{SCHEME}{blob.bucket.name}/{blob.name}"
    _check_encoding(name, blob)
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
    raise TransientStorageError(f"{name}: {_ATTEMPTS} downloads did not match its CRC32C")


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise StorageError(f"{path}: expected gs://bucket/path")
    return bucket, name


@functools.cache
def client() -> Any:
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
