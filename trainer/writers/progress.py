"""What is shown while training runs: a bar an epoch on a terminal, else a line an epoch."""

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
    """Gives the callback that fits where the log goes, and ends it when training does."""
    if config.log == "text" and sys.stderr.isatty():
        bar = ProgressBar(config.batch_size, examples)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield EpochLines()


def epoch_line(epoch: int, epochs: int, row: dict[str, float]) -> str:
    """Returns an epoch's figures as one line."""
    parts = [f"epoch {epoch}/{epochs}", *_figures(row)]
    parts += [f"{row['seconds']:.1f} s", f"{row['examples_per_second']:,.0f} examples/s"]
    return "  ".join(parts)


class EpochLines(keras.callbacks.Callback):
    """Logs a line after each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs the figures of the epoch."""
        LOGGER.info(epoch_line(epoch + 1, self.params["epochs"], logs))


class ProgressBar(keras.callbacks.Callback):
    """Draws a bar that moves with the steps, and leaves the epoch's figures in its place."""

    def __init__(self, batch_size: int, examples: int) -> None:
        """Draws on stderr, for epochs of `examples` in steps of `batch_size`."""
        super().__init__()
        self._batch_size, self._examples = batch_size, examples
        self._progress: Progress | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the bar of an epoch."""
        self._progress = Progress(
            TextColumn(f"epoch {epoch + 1}/{self.params['epochs']}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=self._examples, figures="")
        self._progress.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        if self._progress is not None:
            seen = min((batch + 1) * self._batch_size, self._examples)
            speed = self._progress.tasks[0].speed
            figures = [*_figures(logs), *([f"{speed:,.0f} examples/s"] if speed else [])]
            self._progress.update(self._task, completed=seen, figures="  ".join(figures))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Takes the bar away and leaves the epoch's line."""
        self.close()
        LOGGER.info(epoch_line(epoch + 1, self.params["epochs"], logs))

    def close(self) -> None:
        """Gives the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _figures(row: dict[str, float]) -> list[str]:
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [f"{name} {row[name]:.4f}" for name in names if name in row]
