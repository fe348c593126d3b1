"""Tests of event files, which are read with TensorBoard's own reader."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from tests.fault_proxy import FaultProxy
from trainer import storage
from trainer.config import ResolvedConfig
from trainer.reports import charts
from trainer.runs import filenames
from trainer.writers import tensorboard

MODEL = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="the_only_layer")])


def config(out: str, **settings: Any) -> ResolvedConfig:
    defaults = {"data": "mnist", "epochs": 2, "batch_size": 8, "learning_rate": 0.1}
    return ResolvedConfig(**{**defaults, "out": out, **settings})


def result(accuracy: float) -> dict[str, Any]:
    """Returns the entries of `metrics.json` that are written."""
    per_class = [{"class": "no"}, {"class": "yes"}]
    return {"test": {"accuracy": accuracy}, "confusion": [[3, 1], [0, 2]], "per_class": per_class}


@pytest.fixture(params=["local", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "logs")
    return f"{request.getfixturevalue('bucket')}/logs"


def rows(count: int) -> list[dict[str, float]]:
    return [{"epoch": n, "loss": 1 / n, "val_accuracy": n / 8} for n in range(1, count + 1)]


def read(place: str) -> dict[str, list[tuple[int, float]]]:
    with storage.local_copy(place) as local:
        accumulator = EventAccumulator(str(local))
        accumulator.Reload()
        return {
            tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }


def sessions(logs: Path) -> list[Any]:
    """Returns the rows of the HParams tab."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logs))
    handler = list_session_groups.Handler(
        context.RequestContext(),
        backend_context.Context(TBContext(data_provider=provider)),
        experiment_id="",
        request=api_pb2.ListSessionGroupsRequest(
            slice_size=9, allowed_statuses=api_pb2.Status.values()
        ),
    )
    return list(handler.run().session_groups)


def test_the_history_is_written_during_the_run(place: str, tmp_path: Path) -> None:
    with tensorboard.event_file(place, config("run"), MODEL) as events:
        assert events is not None
        events(rows(2))
        while not storage.folder(place).names():  # Uploaded in the background.
            time.sleep(0.01)
        assert read(place)["loss/train"] == [(1, 1.0), (2, 0.5)]
        events(rows(4))
        events.close(result(0.75))
    scalars = read(place)
    assert scalars["loss/train"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert scalars["accuracy/validation"] == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert scalars["accuracy/test"] == [(4, 0.75)]


def test_a_resumed_run_has_one_event_file(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in (2, 4):  # The first attempt is killed, so its file is not closed.
        folder = tmp_path / str(epochs)
        folder.mkdir()
        file = tensorboard.EventFile(place, config("run"), MODEL, folder)
        file(rows(epochs))
        file._uploads.shutdown()
        now = tensorboard._now() + 5
        monkeypatch.setattr(tensorboard, "_now", lambda now=now: now)
    assert [step for step, _ in read(place)["loss/train"]] == [1, 2, 3, 4]
    assert len(storage.folder(place).names()) == 1


def test_files_of_other_programs_and_runs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1700000000.host.v2").touch()
    for run in ("first", "second", "first"):
        with tensorboard.event_file(str(tmp_path), config(run), MODEL) as events:
            assert events is not None
            events.close()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failed_upload_does_not_fail_the_run(
    bucket: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with tensorboard.event_file(f"{bucket}/logs", config("run"), MODEL) as events:
        assert events is not None
        proxy.add(match="upload.*tfevents", status=403, times=100)
        events(rows(1))
        while "TensorBoard events not uploaded: " not in caplog.text:
            time.sleep(0.01)
        proxy.clear()
        events.close()
    assert len(storage.folder(f"{bucket}/logs").names()) == 1


def test_the_model_summary_and_the_confusion_matrix_are_written(place: str) -> None:
    with tensorboard.event_file(place, config("run"), MODEL) as events:
        assert events is not None
        events(rows(2))
        events.close(result(0.75))
    with storage.local_copy(place) as local:
        accumulator = EventAccumulator(str(local))
        accumulator.Reload()
        (confusion,) = accumulator.Images("confusion")
        (summary,) = accumulator.Tensors("model")
    image = Image.open(io.BytesIO(confusion.encoded_image_string))
    assert (confusion.step, confusion.width, confusion.height) == (2, *image.size)
    assert "model" in accumulator.PluginTagToContent("text")
    (text,) = summary.tensor_proto.string_val
    assert "the_only_layer (Dense)" in text.decode()
    assert "Param #" in text.decode()
    assert "Total params: 9" in text.decode()


@pytest.mark.parametrize("classes", [1, 2, 30, 100])
def test_a_confusion_matrix_of_any_size_is_drawn(classes: int) -> None:
    """Class names look like TeX, or contain characters that the font lacks."""
    names = tuple(f"$class_{n}^ {'é日' * n}" for n in range(classes))
    counts = 9 * np.eye(classes, dtype=int)
    pixels = np.asarray(Image.open(io.BytesIO(charts.confusion(counts, names))))
    assert pixels.shape == (charts.SIDE, charts.SIDE, 4)
    blue = (pixels[..., 2].astype(int) - pixels[..., 0] > 60).mean()
    assert 0.15 < blue * classes < 1  # The diagonal of the matrix, which shrinks with long names.


def test_an_internal_error_in_an_image_is_logged_and_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {**result(0.75), "confusion": "none"}
    tensorboard.write(config("run"), MODEL, rows(2), broken, tmp_path)
    assert read(str(tmp_path / filenames.TENSORBOARD))["accuracy/test"] == [(2, 0.75)]
    assert "internal error; a summary is left out" in caplog.text


def test_the_hparams_tab_shows_the_settings(tmp_path: Path) -> None:
    for run, rate in (("first", 0.5), ("second", 0.25)):
        with tensorboard.event_file(
            str(tmp_path / run), config(run, learning_rate=rate), MODEL
        ) as events:
            assert events is not None
            events(rows(2))
            if run == "first":
                events.close(result(0.75))
    first, second = sessions(tmp_path)
    assert first.hparams["learning_rate"].number_value == 0.5
    assert second.hparams["learning_rate"].number_value == 0.25
    assert first.hparams["model"].string_value == "cnn"
    assert first.hparams["deterministic"].bool_value is False
    assert "out" not in first.hparams
    assert {each.name.tag: each.value for each in first.metric_values}["accuracy/test"] == 0.75
    states = [session.status for group in (first, second) for session in group.sessions]
    assert states == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN]


def test_a_finished_run_contains_an_event_file(finished_run: Path) -> None:
    (file,) = (finished_run / filenames.TENSORBOARD).iterdir()
    scalars = read(str(file))
    assert len(scalars["loss/train"]) == 3
    assert len(scalars["accuracy/test"]) == 1
    (session,) = sessions(finished_run)
    assert session.hparams["model"].string_value == "mlp"


def test_epochs_that_are_written_together_have_their_own_end_times(tmp_path: Path) -> None:
    history = [{**row, "seconds": 60.0} for row in rows(3)]
    tensorboard.write(config("run"), MODEL, history, result(0.5), tmp_path)
    accumulator = EventAccumulator(str(tmp_path / filenames.TENSORBOARD))
    accumulator.Reload()
    times = [event.wall_time for event in accumulator.Scalars("loss/train")]
    assert np.diff(times) == pytest.approx([60, 60], abs=1)
