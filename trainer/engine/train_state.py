"""Where a training run stands between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field

Logs = dict[str, float]  # Metrics of an epoch by name, as Keras callbacks take them.


@dataclass
class TrainState:
    """Position of a run and the sums of its current epoch.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        loss_sum: sum of the losses of the current epoch's examples so far.
        correct: number of them that were predicted correctly.
        seconds: training time of the current epoch so far, over all attempts.
        history: the logs of each finished epoch.
        stopped: whether a callback ended the training.
        uses_epochs: whether a callback has read the number of epochs of the run, so that its
            effects may depend on it.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    history: list[Logs] = field(default_factory=list)
    stopped: bool = False
    uses_epochs: bool = False

    def end_epoch(self, logs: Logs, *, stopped: bool) -> None:
        """Moves to the start of the next epoch."""
        self.history.append(logs)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum = self.correct = self.seconds = 0.0
        self.stopped = stopped
