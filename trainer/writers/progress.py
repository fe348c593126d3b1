"""Shows training progress: a bar per epoch on a terminal, else a log line per epoch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.config import ResolvedConfig
from trainer.runtime.log import LOGGER


@contextlib.contextmanager
def progress_callback(
    config: ResolvedConfig, *, examples: int
) -> Iterator[keras.callbacks.Callback]:
    """Yields the progress callback for the current log, and closes it at the end."""
    if config.log == "text" and sys.stderr.isatty():
        bar = ProgressBar(config.batch_size, examples)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield EpochLines()


def format_epoch(epoch: int, epochs: int, row: dict[str, float]) -> str:
    """Formats the metrics of an epoch as one line."""
    items = [f"epoch {epoch}/{epochs}", *_format_metrics(row)]
    items += [f"{row['seconds']:.1f} s", f"{row['examples_per_second']:,.0f} examples/s"]
    return "  ".join(items)


class EpochLines(keras.callbacks.Callback):
    """Logs one line per epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the metrics of the epoch."""
        LOGGER.info(format_epoch(epoch + 1, self.params["epochs"], logs))


class ProgressBar(keras.callbacks.Callback):
    """Draws a progress bar per epoch, and replaces it with a log line at the end of the epoch."""

    def __init__(self, batch_size: int, examples: int) -> None:
        """Creates a bar on stderr for epochs of `examples` examples in steps of `batch_size`."""
        super().__init__()
        self._batch_size, self._examples = batch_size, examples
        self._progress: Progress | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the bar of the epoch."""
        self._progress = Progress(
            TextColumn(f"epoch {epoch + 1}/{self.params['epochs']}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=self._examples, metrics="")
        self._progress.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Updates the bar."""
        if self._progress is not None:
            completed = min((batch + 1) * self._batch_size, self._examples)
            speed = self._progress.tasks[0].speed
            metrics = [*_format_metrics(logs), *([f"{speed:,.0f} examples/s"] if speed else [])]
            self._progress.update(self._task, completed=completed, metrics="  ".join(metrics))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Removes the bar and logs the metrics of the epoch."""
        self.close()
        LOGGER.info(format_epoch(epoch + 1, self.params["epochs"], logs))

    def close(self) -> None:
        """Removes the bar and restores the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _format_metrics(row: dict[str, float]) -> list[str]:
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [f"{name} {row[name]:.4f}" for name in names if name in row]
