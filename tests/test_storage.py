"""Tests of storage: files in local folders and buckets are complete or absent."""

from __future__ import annotations

import errno
import gzip
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import google.auth
import pytest
import requests
import urllib3
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from tests.fault_proxy import FaultProxy
from trainer import storage
from trainer.errors import DataError, StorageError, TrainerError, TransientStorageError
from trainer.runs.finished_run import read_run
from trainer.training import setup

_MEDIA = "GET /download/"
CONTENT = bytes(range(256)) * 1000


@pytest.fixture(params=["local", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Path of a folder that does not exist yet, local and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "new" / "folder")
    return f"{request.getfixturevalue('bucket')}/new/folder"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def test_a_written_file_can_be_listed_read_and_removed(place: str, source: Path) -> None:
    folder = storage.folder(place)
    assert folder.names() == []
    assert folder.read("a/b") is None
    storage.write_all(folder, {"a/b": source, "c": source})
    assert folder.names() == ["a/b", "c"]
    assert folder.read("a/b") == CONTENT
    folder.remove("a/b")
    folder.remove("a/b")
    assert folder.names() == ["c"]


def test_a_second_write_replaces_the_file(place: str, source: Path) -> None:
    folder = storage.folder(place)
    folder.write("name", source)
    source.write_bytes(b"other")
    folder.write("name", source)
    assert folder.read("name") == b"other"


def test_check_writable_leaves_no_file_behind(place: str, tmp_path: Path) -> None:
    storage.folder(place).check_writable()
    assert storage.folder(place).names() == []
    assert not (tmp_path / "new").exists()


def test_text_is_read_from_a_file(place: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("größer")
    storage.folder(place).write("name.json", text)
    assert storage.read_text(f"{place}/name.json") == "größer"
    with pytest.raises(StorageError, match=r"other\.json: no such file"):
        storage.read_text(f"{place}/other.json")


def test_a_file_in_place_of_a_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file is a file, expected a folder"):
        storage.folder(str(tmp_path / "file" / "below")).check_writable()


def test_a_folder_that_cannot_be_written_is_named_in_the_error() -> None:
    """/proc cannot be written even by root, which os.access does not report."""
    with pytest.raises(
        StorageError,
        match="/proc/new/run: cannot be written: No such file or directory; set another",
    ):
        storage.folder("/proc/new/run").check_writable()


def test_a_failed_local_write_keeps_the_old_file(tmp_path: Path, source: Path) -> None:
    folder = storage.folder(str(tmp_path / "run"))
    folder.write("name", source)
    with pytest.raises(StorageError):
        folder.write("name", tmp_path / "missing")
    assert folder.read("name") == CONTENT
    assert folder.names() == ["name"]


def test_a_deleted_local_folder_is_not_created_again(tmp_path: Path, source: Path) -> None:
    folder = storage.folder(str(tmp_path / "run"))
    folder.write("a", source)
    (tmp_path / "run").rename(tmp_path / "gone")
    with pytest.raises(StorageError, match="No such file"):
        folder.write("b/c", source)
    assert not (tmp_path / "run").exists()


def test_a_prefix_is_downloaded_without_its_neighbours(bucket: str, source: Path) -> None:
    folder = storage.folder(bucket)
    storage.write_all(folder, {"runs/1/x": source, "runs/1/y/z": source, "runs/10/x": source})
    with storage.local_copy(f"{bucket}/runs/1") as local:
        dotted = sorted(path.relative_to(local).as_posix() for path in local.rglob("*.*"))
        files = sorted(path.relative_to(local).as_posix() for path in local.rglob("*"))
        assert (local / "x").read_bytes() == CONTENT
    assert (dotted, files) == ([], ["x", "y", "y/z"])
    assert not local.exists()


def test_one_object_is_downloaded_under_its_name(bucket: str, source: Path) -> None:
    storage.folder(bucket).write("data/set.npz", source)
    with storage.local_copy(f"{bucket}/data/set.npz") as local:
        assert (local.name, local.read_bytes()) == ("set.npz", CONTENT)


def test_an_object_name_that_leads_out_of_its_folder_is_refused(bucket: str, source: Path) -> None:
    blob = storage._bucket.client().bucket(bucket.removeprefix("gs://")).blob("data/../../evil")
    blob.upload_from_filename(source)
    with pytest.raises(DataError, match="leads out of its folder"):
        storage.local_copy(f"{bucket}/data").__enter__()


@pytest.mark.parametrize("path", ["gs://", "gs:///name"])
def test_a_path_without_a_bucket_is_refused(path: str) -> None:
    with pytest.raises(StorageError, match="expected gs://bucket/path"):
        storage.folder(path)


def test_a_missing_bucket_is_named_in_the_error(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"gs://no-such-bucket/x/.*: no such bucket .*404"):
        storage.folder("gs://no-such-bucket/x").check_writable()


def test_a_missing_prefix_is_named_in_the_error(bucket: str) -> None:
    with pytest.raises(StorageError, match="nothing: no object there"):
        storage.local_copy(f"{bucket}/nothing").__enter__()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_403_names_the_missing_role(bucket: str, proxy: FaultProxy, method: str) -> None:
    message = "a@b does not have storage.objects.create access to the object."
    proxy.add(match=method, status=403, times=100, message=message)
    with pytest.raises(StorageError, match=f"{bucket}.*403.: {message}.*Storage Object User"):
        storage.folder(f"{bucket}/run").check_writable()


REFUSALS = [
    (403, "forbidden", "Permission denied on Cloud KMS key."),
    (403, "accountDisabled", "The billing account for the owning project is disabled"),
    (403, "vpcServiceControls", "Request is prohibited by organization's policy."),
    (403, "retentionPolicyNotMet", "Object is subject to bucket's retention policy"),
    (401, "authError", "Invalid Credentials"),
    (400, "invalid", "Invalid argument."),
    (410, "gone", "The object is gone"),
]


@pytest.mark.parametrize(("status", "reason", "message"), REFUSALS)
@pytest.mark.parametrize("method", ["GET /storage", "GET /download", "POST"])
def test_the_reason_of_a_refusal_is_the_one_of_the_service(
    bucket: str,
    proxy: FaultProxy,
    source: Path,
    method: str,
    status: int,
    reason: str,
    message: str,
) -> None:
    storage.folder(bucket).write("name", source)
    proxy.add(match=method, status=status, times=100, reason=reason, message=message)
    with pytest.raises(StorageError) as caught:
        storage.folder(bucket).read("name")
        storage.folder(bucket).check_writable()
    assert caught.value.exit_code == 2
    assert (message.rstrip(".") + "." in str(caught.value)) == (status != 401)
    assert "Storage Object User" not in str(caught.value)
    assert "http://" not in str(caught.value)


def test_a_rate_limit_may_pass(bucket: str, proxy: FaultProxy) -> None:
    proxy.add(status=403, times=100, reason="rateLimitExceeded", message="Too many requests.")
    with pytest.raises(TransientStorageError, match="Too many requests"):
        storage.folder(bucket).read("name")


def test_a_bucket_whose_reader_pays_needs_a_project(
    bucket: str, proxy: FaultProxy, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.folder(bucket).write("a/name", source)
    message = "Bucket is a requester pays bucket but no user project provided."
    proxy.add(status=400, reason="required", message=message)
    with pytest.raises(StorageError, match=f"{message} Set --billing-project to a"):
        storage.folder(bucket).read("a/name")
    monkeypatch.setattr(storage._bucket, "_billing_project", None)
    storage.set_billing_project("my-project")
    proxy.requests.clear()
    folder = storage.folder(bucket)
    folder.write("a/name", source)
    assert folder.read("a/name") == CONTENT
    assert folder.names() == ["a/name"]
    with storage.local_copy(f"{bucket}/a") as local:
        assert (local / "name").read_bytes() == CONTENT
    (file,) = storage.files(f"{bucket}/a")
    file.read(10**6)
    folder.remove("a/name")
    assert len(proxy.requests) >= 8
    assert [each for each in proxy.requests if "userProject=my-project" not in each] == []


def write_object(bucket: str, name: str, content: bytes = b"") -> None:
    client = storage._bucket.client()
    client.bucket(bucket.removeprefix("gs://")).blob(name).upload_from_string(content)


def test_placeholders_of_the_console_are_no_files(bucket: str) -> None:
    for name in ("runs/1/", "runs/1/checkpoints/", "runs/1/a/x"):
        write_object(bucket, name)
    assert storage.folder(f"{bucket}/runs/1").names() == ["a/x"]
    with storage.local_copy(f"{bucket}/runs") as local:
        assert [path for path in local.rglob("*") if path.is_file()] == [local / "1/a/x"]
    assert [file.path for file in storage.files(f"{bucket}/runs")] == [f"{bucket}/runs/1/a/x"]


def test_an_object_whose_name_ends_in_a_slash_is_not_left_out_if_it_has_content(
    bucket: str,
) -> None:
    write_object(bucket, "data/a/", b"text")
    write_object(bucket, "data/b", b"text")
    with pytest.raises(DataError, match="data/a/: 4 bytes, expected the name of a file"):
        storage.local_copy(f"{bucket}/data").__enter__()


@pytest.mark.parametrize("name", ["写真" * 41 + ".txt", "x" * 255], ids=["utf8", "ascii"])
def test_a_name_as_long_as_a_disk_holds_is_read_and_written(
    place: str, source: Path, name: str
) -> None:
    folder = storage.folder(place)
    folder.write(f"a/{name}", source)
    assert folder.names() == [f"a/{name}"]
    with storage.local_copy(place) as local:
        assert (local / "a" / name).read_bytes() == CONTENT
        assert [path.name for path in (local / "a").iterdir()] == [name]


def test_a_name_that_is_too_long_for_a_disk_is_refused(bucket: str, tmp_path: Path) -> None:
    write_object(bucket, "data/" + "写真" * 43)
    with pytest.raises(DataError, match="真: a name of 258 bytes, expected at most 255") as caught:
        storage.local_copy(f"{bucket}/data").__enter__()
    assert caught.value.exit_code == 2
    with pytest.raises(StorageError, match="File name too long") as error:
        storage.write_text(str(tmp_path / ("x" * 256)), "")
    assert error.value.exit_code == 2


def test_an_object_and_a_folder_of_one_name_are_refused(bucket: str) -> None:
    write_object(bucket, "data/a", b"text")
    write_object(bucket, "data/a/1.txt", b"text")
    message = f"{bucket}/data/a: an object and also the folder of {bucket}/data/a/1.txt"
    for path in (bucket, f"{bucket}/data", f"{bucket}/data/a"):
        with pytest.raises(DataError, match=message):
            storage.local_copy(path).__enter__()
    write_object(bucket, "data/a")  # An empty one stands for the folder.
    with storage.local_copy(f"{bucket}/data") as local:
        assert (local / "a" / "1.txt").read_bytes() == b"text"


def test_objects_that_would_be_one_file_are_refused(bucket: str) -> None:
    write_object(bucket, "data/a/1.txt", b"text")
    write_object(bucket, "data/a//1.txt", b"other")
    with pytest.raises(DataError, match=r"data/a/+1.txt: is the same file as .*data/a/+1.txt"):
        storage.local_copy(f"{bucket}/data").__enter__()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "temporary files in .*: No space left on device. Set TMPDIR to another"),
        (errno.EDQUOT, "temporary files in .*: Disk quota exceeded. Set TMPDIR"),
        (errno.ENAMETOOLONG, "on this machine: File name too long"),
        (errno.EACCES, "on this machine: Permission denied"),
        (errno.EMFILE, "on this machine: Too many open files"),
    ],
)
def test_an_error_of_this_machine_is_no_outage(
    bucket: str, source: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    storage.folder(bucket).write("name", source)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match=f"{bucket}/name: {message}") as caught:
        storage.local_copy(f"{bucket}/name").__enter__()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        TimeoutError("timed out"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        requests.exceptions.ConnectionError("reset"),
        urllib3.exceptions.ProtocolError("broken"),
    ],
    ids=repr,
)
def test_an_error_of_the_connection_may_pass(error: Exception) -> None:
    with pytest.raises(TransientStorageError), storage.translate_errors("gs://bucket/x"):
        raise error


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    for use in (storage.temporary_directory(), storage.local_copy("gs://bucket/x")):
        with pytest.raises(StorageError, match="no folder for temporary files: .* set TMPDIR"), use:
            pass


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("gone")
    message = f"{link} is a link to gone, which does not exist"
    for use in (
        lambda: storage.folder(str(link)).check_writable(),
        lambda: storage.folder(f"{link}/below").check_writable(),
        lambda: storage.local_copy(str(link)).__enter__(),
        lambda: storage.local_copy(f"{link}/x.npz").__enter__(),
        lambda: [file.read(9) for file in storage.files(str(link))],
        lambda: storage.read(str(link)),
        lambda: storage.folder(str(link)).read("manifest.json"),
        lambda: read_run(str(link)),
        lambda: setup._check_exists("--weights", str(link)),
    ):
        with pytest.raises(TrainerError, match=message):
            use()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync = os.fsync

    def no_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    storage.folder(str(tmp_path / "run")).write("name", source)
    assert (tmp_path / "run" / "name").read_bytes() == CONTENT


def test_a_file_that_cannot_be_synced_is_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.folder(str(tmp_path / "run")).write("name", source)
    assert storage.folder(str(tmp_path / "run")).names() == []


@pytest.fixture
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client as for Google's own service; no request may reach it."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    storage._bucket.client.cache_clear()
    yield
    storage._bucket.client.cache_clear()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "which does not exist, expected a key file"),
        ("folder", "a folder, expected a key file"),
        ('{"type": "service_account"', r"which is not JSON, perhaps cut off \("),
        ("[]", "which is no key, expected a key file"),
        ('{"type": "service_account"}', "Service account info was not in the expected format"),
        ('{"type": "other"}', "does not have a valid type"),
    ],
)
@pytest.mark.usefixtures("no_emulator")
def test_a_wrong_key_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, problem: str
) -> None:
    key = tmp_path / "key.json"
    if content == "folder":
        key.mkdir()
    elif content is not None:
        key.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with pytest.raises(StorageError, match=f"CREDENTIALS: found {key}, .*{problem}") as caught:
        storage.folder("gs://bucket/x")
    assert caught.value.exit_code == 2


def test_a_deleted_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/keys/a.json")
    message = "invalid_grant: Invalid JWT Signature."
    with (
        pytest.raises(StorageError, match=f"rejects the key in /keys/a.json: {message}") as caught,
        storage.translate_errors("gs://bucket/x"),
    ):
        raise RefreshError(message, {"error": "invalid_grant"})
    assert caught.value.exit_code == 2
    with pytest.raises(TransientStorageError), storage.translate_errors("gs://bucket/x"):
        raise RefreshError("Failed to retrieve the token: 503")


def test_a_public_bucket_is_read_without_credentials(
    bucket: str, proxy: FaultProxy, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.folder(bucket).write("name", source)

    def none_found(*_: object, **__: object) -> None:
        raise DefaultCredentialsError("Your default credentials were not found. See ...")

    # The client, which for an emulator would look for no credentials, as for Google's service.
    monkeypatch.setattr(google.auth, "default", none_found)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", proxy.url)
    storage._bucket.client.cache_clear()
    assert storage.folder(bucket).read("name") == CONTENT
    message = "Anonymous caller does not have storage.objects.get access"
    for status in (401, 403):
        proxy.clear()
        proxy.add(status=status, message=message, times=9)
        with pytest.raises(StorageError, match="no Google credentials: run `gcloud "):
            storage.folder(bucket).read("name")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", "http://127.0.0.1:1")
    storage._bucket.client.cache_clear()
    with pytest.raises(StorageError, match="no Google credentials: .* does not answer") as caught:
        storage.folder(bucket)
    assert caught.value.exit_code == 2
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)  # For the end of the fixture.


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 2},
        {"status": 429, "times": 2},
        {"reset": True, "times": 2},
        {"lose_reply": True},
        {"corrupt_reply": 1000},
        {"cut_reply": 1000, "times": 2},
    ],
    ids=str,
)
def test_a_download_survives_a_fault(
    bucket: str, proxy: FaultProxy, source: Path, fault: dict[str, object]
) -> None:
    storage.folder(bucket).write("name", source)
    injected = proxy.add(match=_MEDIA, **fault)
    with storage.local_copy(f"{bucket}/name") as local:
        assert local.read_bytes() == CONTENT
        assert [path.name for path in local.parent.iterdir()] == ["name"]
    assert injected.hits == fault.get("times", 1)
    proxy.add(match=_MEDIA, **fault)
    assert storage.folder(bucket).read("name") == CONTENT


def test_corruption_before_an_interruption_is_detected(
    bucket: str, proxy: FaultProxy, source: Path
) -> None:
    """The client resumes an interrupted download without a checksum of the whole."""
    storage.folder(bucket).write("name", source)
    proxy.add(match=_MEDIA, corrupt_reply=10, cut_reply=100_000)
    with storage.local_copy(f"{bucket}/name") as local:
        assert local.read_bytes() == CONTENT


def test_a_download_corrupted_each_time_is_an_error(
    bucket: str, proxy: FaultProxy, source: Path
) -> None:
    storage.folder(bucket).write("name", source)
    proxy.add(match=_MEDIA, corrupt_reply=10, times=100)
    with pytest.raises(TransientStorageError, match="did not match its CRC32C"):
        storage.local_copy(f"{bucket}/name").__enter__()
    with pytest.raises(TransientStorageError, match="did not match its CRC32C"):
        storage.folder(bucket).read("name")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 2},
        {"reset": True, "times": 2},
        {"lose_reply": True},
        {"truncate_reply": 20},
    ],
    ids=str,
)
def test_an_upload_survives_a_fault(
    bucket: str, proxy: FaultProxy, source: Path, fault: dict[str, object]
) -> None:
    injected = proxy.add(match="POST /upload/", **fault)
    storage.folder(bucket).write("name", source)
    assert injected.hits == fault.get("times", 1)
    assert storage.folder(bucket).read("name") == CONTENT


def test_a_corrupted_upload_is_removed(bucket: str, proxy: FaultProxy, source: Path) -> None:
    proxy.add(match="POST /upload/", corrupt_request=100_000, times=100)
    with pytest.raises(TransientStorageError, match=r"name: "):
        storage.folder(bucket).write("name", source)
    assert storage.folder(bucket).names() == []


def test_retries_during_an_outage_end_with_an_error(bucket: str, proxy: FaultProxy) -> None:
    proxy.add(status=503, times=1000)
    started = time.monotonic()
    with pytest.raises(
        TransientStorageError, match=f"{bucket}/run/.*: Cloud Storage failed"
    ) as caught:
        storage.folder(f"{bucket}/run").check_writable()
    assert time.monotonic() - started < 30
    assert caught.value.exit_code == 1


def test_local_files_are_listed_in_the_order_of_a_bucket(
    tmp_path: Path, bucket: str, source: Path
) -> None:
    files = dict.fromkeys(["a/1", "a-b", "a/10", "a/2/x", "b/.hidden/x", "b/.x", "c"], source)
    storage.write_all(storage.folder(bucket), files)
    storage.write_all(storage.folder(str(tmp_path / "f")), files)
    for place in (bucket, str(tmp_path / "f")):
        names = [file.path.removeprefix(f"{place}/") for file in storage.files(place)]
        assert names == ["a-b", "a/1", "a/10", "a/2/x", "c"]
        (file,) = storage.files(f"{place}/a/1")
        assert file.read(10**6) == CONTENT
        with file.open() as stream:
            assert stream.read() == CONTENT
        with pytest.raises(DataError, match=r"a/1: 256,000 bytes, expected at most 1,000"):
            file.read(1000)
        assert [f.path for f in storage.files(f"{place}/a*")] == [f"{place}/a-b"]
        for empty in ("none", "a/none", "b", "*x"):
            with pytest.raises(StorageError, match="no such file|no files there"):
                list(storage.files(f"{place}/{empty}"))


@pytest.fixture
def large_object(bucket: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> storage.File:
    """An object that is read in 26 chunks."""
    monkeypatch.setattr(storage._bucket, "_CHUNK_BYTES", 10_000)
    storage.folder(bucket).write("large", source)
    (file,) = storage.files(f"{bucket}/large")
    return file


def test_a_large_object_is_read_in_chunks(large_object: storage.File, proxy: FaultProxy) -> None:
    proxy.requests.clear()
    with large_object.open() as stream:
        assert stream.read(5) == CONTENT[:5]
        assert len(proxy.requests) == 1
        assert stream.read() == CONTENT[5:]
    assert len(proxy.requests) == 26


@pytest.mark.parametrize("fault", [{"cut_reply": 5000}, {"truncate_reply": 5000}, {"status": 503}])
def test_a_truncated_chunk_is_read_again(
    large_object: storage.File, proxy: FaultProxy, fault: dict[str, int]
) -> None:
    proxy.add(match=_MEDIA, skip=3, **fault)
    with large_object.open() as stream:
        assert stream.read() == CONTENT


def test_a_corrupted_chunk_is_detected_at_the_end_of_the_object(
    large_object: storage.File, proxy: FaultProxy
) -> None:
    proxy.add(match=_MEDIA, skip=3, corrupt_reply=77)
    with large_object.open() as stream:
        assert stream.read(len(CONTENT)) != CONTENT
        with pytest.raises(
            TransientStorageError, match="large: the content did not match its CRC32C"
        ):
            stream.read()


def test_an_object_replaced_since_it_was_listed_is_read_again(bucket: str, source: Path) -> None:
    folder = storage.folder(bucket)
    folder.write("a", source)
    (file,) = storage.files(f"{bucket}/a")
    source.write_bytes(b"new")
    folder.write("a", source)
    assert file.read(100_000_000) == b"new"
    folder.remove("a")
    with pytest.raises(StorageError, match="no longer exists"):
        file.read(100_000_000)


def test_an_object_that_is_decompressed_in_transit_is_refused(bucket: str) -> None:
    blob = storage._bucket.client().bucket(bucket.removeprefix("gs://")).blob("a.txt")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"hello"))
    (file,) = storage.files(f"{bucket}/a.txt")
    expected = r"a.txt: stored with Content-Encoding: gzip, expected"
    with pytest.raises(DataError, match=expected):
        file.read(1000)
    with pytest.raises(DataError, match=expected), storage.local_copy(f"{bucket}/a.txt"):
        pass


def test_concurrent_map_keeps_the_order() -> None:
    def slow(number: int) -> int:
        time.sleep(0.02 * (number % 3))
        return number

    assert list(storage.concurrent_map(slow, range(30))) == list(range(30))


def test_giving_up_a_concurrent_map_does_not_wait_for_its_calls() -> None:
    """The garbage collector closes such generators, in threads that must not wait."""
    ended = threading.Event()

    def first_or_wait(number: int) -> bool:
        return number == 0 or ended.wait(60)

    results = storage.concurrent_map(first_or_wait, range(4))
    assert next(results)
    started = time.monotonic()
    del results
    assert time.monotonic() - started < 30
    ended.set()
