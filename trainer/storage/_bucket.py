"""Objects in Cloud Storage buckets.

An object appears when its upload is complete. CRC32C is compared after each upload and download;
the client's own check does not suffice, since it is skipped when a download is resumed.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c

from trainer.errors import ConflictError, DataError, StorageError, TransientStorageError
from trainer.runtime import temporary, variables
from trainer.storage import credentials
from trainer.storage._errors import (
    disk_problem,
    translate_errors,
)
from trainer.storage._paths import (
    MAX_NAME_BYTES,
    PARTIAL,
    PROBE,
    SCHEME,
    THREADS,
    check_size,
    crc32c,
    is_hidden,
    is_pattern,
    matching,
    pattern_regex,
)

EMULATOR = "STORAGE_EMULATOR_HOST"
_ANSWER_S = 5.0
_ATTEMPTS = 3  # Per transfer with a wrong checksum; the client itself retries failed requests.
_CHUNK_BYTES = 8 << 20  # Range of one request for a large object: about 0.1 s at 1 Gbit/s.


class BucketFolder:
    """The `Folder` of a prefix in a bucket: each file is an object below it."""

    def __init__(self, path: str) -> None:
        """Opens gs://bucket/prefix; the first one finds the credentials of the process."""
        bucket, prefix = _split(path)
        prefix = prefix.rstrip("/")
        self.path = path.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with translate_errors(path):
            self._bucket = _open(bucket)

    def names(self) -> list[str]:
        with translate_errors(self.path):
            blobs = self._bucket.list_blobs(prefix=self._prefix, **_request_options())
            return sorted(
                blob.name.removeprefix(self._prefix) for blob in blobs if not _is_placeholder(blob)
            )

    def read(self, name: str) -> bytes | None:
        with translate_errors(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_request_options())
            return None if blob is None else _content(blob)

    def write(self, name: str, source: Path, *, if_generation_match: int | None = None) -> int:
        with translate_errors(str(source)):
            expected = crc32c(source)
        if if_generation_match is None:
            if_generation_match = self.generation(name)
        with translate_errors(f"{self.path}/{name}"):
            for _ in range(_ATTEMPTS):
                blob = self._upload(name, source, expected, if_generation_match)
                if blob is None:
                    continue
                if blob.crc32c == expected:
                    return int(blob.generation)
                if_generation_match = 0
                blob.delete(if_generation_match=blob.generation, **_request_options())
        raise TransientStorageError(
            f"{self.path}/{name}: {_ATTEMPTS} uploads did not match its CRC32C"
        )

    def _upload(self, name: str, source: Path, expected: str, if_generation_match: int) -> Any:
        """Returns the stored object; None if the bucket rejected it for a wrong checksum."""
        from google.api_core.exceptions import BadRequest, PreconditionFailed

        blob = self._bucket.blob(self._prefix + name)
        try:
            # The precondition makes the request idempotent, so that the client may retry it.
            blob.upload_from_filename(
                source,
                if_generation_match=if_generation_match,
                checksum="crc32c",
                **_request_options(),
            )
        except BadRequest as error:
            if "crc32c" not in str(error).lower():
                raise
            return None
        except (PreconditionFailed, ValueError):
            # This is our own write if its reply was lost, or truncated and so no valid JSON.
            blob.reload(**_request_options())
            if blob.crc32c != expected:
                raise ConflictError(
                    f"{self.path}/{name}: another process is writing here"
                ) from None
        return blob

    def generation(self, name: str) -> int:
        with translate_errors(f"{self.path}/{name}"):
            blob = self._bucket.get_blob(self._prefix + name, **_request_options())
            return int(blob.generation) if blob else 0

    def remove(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with translate_errors(f"{self.path}/{name}"), contextlib.suppress(NotFound):
            self._bucket.blob(self._prefix + name).delete(**_request_options())

    def check_writable(self) -> None:
        probe = f"{PROBE}{uuid.uuid4().hex}"
        try:
            with tempfile.NamedTemporaryFile(dir=temporary.root()) as empty:
                self.write(probe, Path(empty.name))
        except OSError as error:
            raise StorageError(disk_problem(error)) from error
        self.remove(probe)


@dataclass(frozen=True)
class BucketFile:
    """The `File` of an object, as it was when it was listed.

    Attributes:
        blob: object of the client, a google.cloud.storage.Blob.
    """

    blob: Any

    @property
    def path(self) -> str:
        return f"{SCHEME}{self.blob.bucket.name}/{self.blob.name}"

    def read(self, max_bytes: int) -> bytes:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        check_size(self.path, self.blob.size, max_bytes)
        with translate_errors(self.path):
            try:
                return _content(self.blob)
            except (NotFound, PreconditionFailed):  # Replaced or removed since it was listed.
                blob = self.blob.bucket.get_blob(self.blob.name, **_request_options())
            if blob is None:
                raise StorageError(f"{self.path}: no longer exists")
            check_size(self.path, blob.size, max_bytes)
            return _content(blob)

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        if self.blob.size <= _CHUNK_BYTES:
            yield io.BufferedReader(io.BytesIO(self.read(_CHUNK_BYTES)))
        else:
            _check_encoding(self.path, self.blob)
            stream: io.BufferedReader = io.BufferedReader(
                _ObjectStream(self.blob, self.path), 1 << 20
            )
            with stream:
                yield stream


class _ObjectStream(io.RawIOBase):
    """Reads an object by range requests, one chunk in memory at a time."""

    def __init__(self, blob: Any, path: str) -> None:
        self._blob, self._path = blob, path
        self._chunk = memoryview(b"")
        self._position = 0  # End of the current chunk in the object, in bytes.
        self._checksum = google_crc32c.Checksum()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk:
            self._chunk = memoryview(self._next())
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def _next(self) -> bytes:
        """Returns the next chunk, or b"" at the end of an object whose CRC32C matches."""
        first, last = self._position, min(self._position + _CHUNK_BYTES, self._blob.size) - 1
        if first > last:
            if base64.b64encode(self._checksum.digest()).decode() != self._blob.crc32c:
                raise TransientStorageError(f"{self._path}: the content did not match its CRC32C")
            return b""
        with translate_errors(self._path):
            for _ in range(_ATTEMPTS):
                chunk = bytes(
                    self._blob.download_as_bytes(
                        start=first,
                        end=last,
                        raw_download=True,
                        checksum=None,  # Not known for a range; the whole object is checked.
                        single_shot_download=True,
                        if_generation_match=self._blob.generation,
                        **_request_options(),
                    )
                )
                if len(chunk) == last - first + 1:
                    self._position += len(chunk)
                    self._checksum.update(chunk)
                    return chunk
        raise TransientStorageError(f"{self._path}: {_ATTEMPTS} downloads of a range ended early")


def files(path: str) -> Iterator[BucketFile]:
    bucket_name, name = _split(path)
    folder = name.rpartition("/")[0] if is_pattern(path) else name.rstrip("/")
    with translate_errors(path):
        bucket = _open(bucket_name)
        if is_pattern(path):
            candidates = bucket.list_blobs(
                prefix=name.partition("*")[0], delimiter="/", **_request_options()
            )
            blobs = (blob for blob in candidates if pattern_regex(name).fullmatch(blob.name))
        else:
            single = bucket.get_blob(name, **_request_options()) if name == folder != "" else None
            if single is not None:
                yield BucketFile(single)
                return
            blobs = bucket.list_blobs(prefix=folder and f"{folder}/", **_request_options())
        for blob in blobs:
            if not _is_placeholder(blob) and not is_hidden(blob.name.removeprefix(folder)):
                yield BucketFile(blob)


def _is_placeholder(blob: Any) -> bool:
    """Returns whether an object stands for a folder, as the Cloud Console makes them."""
    return bool(blob.name.endswith("/") and not blob.size)


def _content(blob: Any) -> bytes:
    """Returns the content of an object after comparing it with its CRC32C."""
    name = f"{SCHEME}{blob.bucket.name}/{blob.name}"
    _check_encoding(name, blob)
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(_data_corruption()):
            content = bytes(
                blob.download_as_bytes(
                    single_shot_download=True,
                    if_generation_match=blob.generation,
                    **_request_options(),
                )
            )
            if base64.b64encode(google_crc32c.Checksum(content).digest()).decode() == blob.crc32c:
                return content
    raise TransientStorageError(f"{name}: {_ATTEMPTS} downloads did not match its CRC32C")


def _check_encoding(path: str, blob: Any) -> None:
    """Raises DataError for an object that is decompressed in transit: its CRC32C cannot match."""
    if "gzip" in (blob.content_encoding or ""):
        raise DataError(
            f"{path}: stored with Content-Encoding: {blob.content_encoding}, expected none; "
            "upload it again without gsutil cp -z or gcloud storage cp --gzip-local"
        )


def download(path: str, parent: Path) -> Path:
    """Downloads an object, all that match a pattern, or all below a prefix, into `parent`."""
    bucket_name, name = _split(path)
    prefix = name.rstrip("/")
    if is_pattern(name):
        prefix = name.rpartition("/")[0]
    with translate_errors(path):
        bucket = _open(bucket_name)
        blobs = [
            blob
            for blob in bucket.list_blobs(prefix=prefix, **_request_options())
            # "runs/1" must not match "runs/10".
            if (not prefix or blob.name == prefix or blob.name.startswith(prefix + "/"))
            and not _is_placeholder(blob)
        ]
    if is_pattern(name):
        matches = set(matching((blob.name for blob in blobs), name))
        blobs = [blob for blob in blobs if blob.name in matches]
    if not blobs:
        raise StorageError(f"{path}: no object there")
    top = PurePosixPath(prefix).name or bucket_name
    targets = _local_names(blobs, prefix, top)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        # Raises the first error of a download.
        list(pool.map(_download_blob, targets.values(), (parent / name for name in targets)))
    return parent / top


def _local_names(blobs: Iterable[Any], prefix: str, top: str) -> dict[PurePosixPath, Any]:
    """Returns the objects by their paths on this machine, below the folder `top`.

    Raises:
        DataError: a name leads out of the folder, is too long, or is that of another object or of a
            folder, too.
    """
    targets: dict[PurePosixPath, Any] = {}
    for blob in blobs:
        target = PurePosixPath(top, blob.name.removeprefix(prefix).removeprefix("/"))
        if target.is_absolute() or ".." in target.parts:
            raise DataError(f"{_path(blob)}: the name leads out of its folder")
        if "\0" in blob.name or blob.name.endswith("/"):
            raise DataError(f"{_path(blob)}: {blob.size} bytes, expected the name of a file")
        for part in target.parts:
            if (size := len(part.encode())) > MAX_NAME_BYTES:
                raise DataError(
                    f"{_path(blob)}: a name of {size} bytes, expected at most {MAX_NAME_BYTES}, "
                    "since files are copied to this machine. Rename the object"
                )
        if target in targets:
            raise DataError(f"{_path(blob)}: is the same file as {_path(targets[target])} here")
        targets[target] = blob
    folders = {folder: blob for target, blob in targets.items() for folder in target.parents}
    for target in [*targets]:
        if target not in folders:
            continue
        if targets[target].size:
            raise DataError(
                f"{_path(targets[target])}: an object and also the folder of "
                f"{_path(folders[target])}, expected one of them. Rename the object"
            )
        del targets[target]  # Some programs represent folders by empty objects of that name.
    return targets


def _path(blob: Any) -> str:
    return f"{SCHEME}{blob.bucket.name}/{blob.name}"


def _download_blob(blob: Any, target: Path) -> None:
    # Not the name of the object with a suffix, which could be too long.
    partial = target.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    name = _path(blob)
    _check_encoding(name, blob)
    with translate_errors(name):
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(_data_corruption()):
                blob.download_to_filename(
                    str(partial),
                    single_shot_download=True,
                    if_generation_match=blob.generation,
                    **_request_options(),
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
    """Returns the client of this process, a google.cloud.storage.Client.

    Raises:
        StorageError: the credentials are wrong; or there are none, and no connection.
    """
    # Else the client requests the bucket's metadata in the background, for traces not used here.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    if not os.environ.get(EMULATOR):
        credentials.check_file()
    try:
        return storage.Client(project=None)
    except (DefaultCredentialsError, ValueError, TypeError) as error:
        if not credentials.are_missing(error):
            raise credentials.explain(error) from error
        return _anonymous_client()


def _anonymous_client() -> Any:
    """Returns a client for public buckets; others refuse its requests, which names the login.

    Raises:
        StorageError: the service cannot be reached. With retries, this would take minutes on a
            machine that has neither credentials nor a network.
    """
    import requests
    from google.cloud import storage

    anonymous = storage.Client.create_anonymous_client()
    try:
        requests.head(anonymous.api_endpoint, timeout=_ANSWER_S)
    except requests.RequestException as error:
        raise StorageError(
            f"no Google credentials: {credentials.LOGIN}. Public buckets need none, but Cloud "
            f"Storage does not answer ({type(error).__name__})"
        ) from error
    return anonymous


_billing_project: str | None = None


def set_billing_project(project: str | None) -> None:
    """Sets the Google Cloud project that pays for all requests of this process; None: as before."""
    global _billing_project
    if project is not None:
        _billing_project = project


def _open(bucket: str) -> Any:
    try:
        return client().bucket(bucket, user_project=_billing_project)
    except ValueError as error:  # The client checks the first and the last character.
        raise StorageError(f"{SCHEME}{bucket}: no name of a bucket: {error}") from None


def _request_options() -> dict[str, Any]:
    """Returns the timeout of a request and the period over which it is retried, in seconds."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    seconds = variables.seconds(variables.RETRY)
    return {"timeout": seconds / 4, "retry": DEFAULT_RETRY.with_timeout(seconds)}


def _data_corruption() -> type[Exception]:
    from google.cloud.storage.exceptions import DataCorruption

    corruption: type[Exception] = DataCorruption
    return corruption
