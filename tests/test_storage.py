"""Tests of storage: files in local folders and buckets are complete or absent."""

from __future__ import annotations

import gzip
import threading
import time
from pathlib import Path

import pytest

from tests.fault_proxy import FaultProxy
from trainer import storage
from trainer.errors import DataError, StorageError, TransientStorageError

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
    with pytest.raises(StorageError, match="/proc/new/run: "):
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
    proxy.add(match=method, status=403, times=100)
    with pytest.raises(StorageError, match=f"{bucket}.*403.*Storage Object User"):
        storage.folder(f"{bucket}/run").check_writable()


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
