"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fault_proxy import FaultProxy
from trainer import storage
from trainer.results import tensorboard


@pytest.fixture(params=["local", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "logs")
    return f"{request.getfixturevalue('bucket')}/logs"


def rows(count: int) -> list[dict[str, float]]:
    return [{"epoch": n, "loss": 1 / n, "val_accuracy": n / 8} for n in range(1, count + 1)]


def read(place: str, scratch: Path) -> dict[str, list[tuple[int, float]]]:
    with storage.local_copy(place) as local:
        accumulator = EventAccumulator(str(local))
        accumulator.Reload()
        return {
            tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }


def test_the_history_of_a_run_can_be_followed(place: str, tmp_path: Path) -> None:
    with tensorboard.event_file(place, "run") as events:
        assert events is not None
        events(rows(2))
        while not storage.folder(place).names():  # It is put there in the background.
            time.sleep(0.01)
        assert read(place, tmp_path)["loss/train"] == [(1, 1.0), (2, 0.5)]
        events(rows(4))
        events.close({"accuracy": 0.75})
    found = read(place, tmp_path)
    assert found["loss/train"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert found["accuracy/validation"] == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert found["accuracy/test"] == [(4, 0.75)]


def test_a_run_that_goes_on_has_one_history(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in (2, 4):  # The first attempt is killed: its file is never closed.
        folder = tmp_path / str(epochs)
        folder.mkdir()
        file = tensorboard.EventFile(place, "run", folder)
        file(rows(epochs))
        file._uploads.shutdown()
        now = tensorboard._now() + 5
        monkeypatch.setattr(tensorboard, "_now", lambda now=now: now)
    assert [step for step, _ in read(place, tmp_path)["loss/train"]] == [1, 2, 3, 4]
    assert len(storage.folder(place).names()) == 1


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    """Another program's, and another run's."""
    (tmp_path / "events.out.tfevents.1700000000.host.v2").touch()
    for run in ("first", "second", "first"):
        with tensorboard.event_file(str(tmp_path), run) as events:
            assert events is not None
            events.close()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_bucket_that_fails_costs_no_run(
    bucket: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with tensorboard.event_file(f"{bucket}/logs", "run") as events:
        assert events is not None
        proxy.add(match="upload.*tfevents", status=403, times=100)
        events(rows(1))
        while "TensorBoard is behind: " not in caplog.text:
            time.sleep(0.01)
        proxy.clear()
        events.close()
    assert len(storage.folder(f"{bucket}/logs").names()) == 1


def test_there_is_none_unless_asked_for() -> None:
    with tensorboard.event_file(None, "run") as events:
        assert events is None
