"""Times the stages of a run."""

from __future__ import annotations

import time


class StageTimer:
    """Measures the seconds that each stage of a run takes."""

    def __init__(self, started: float | None = None) -> None:
        """Starts at `started`, an earlier value of time.perf_counter(), or now."""
        self._started = self._stage_started = time.perf_counter() if started is None else started
        self._stages: dict[str, float] = {}

    def record(self, stage: str) -> None:
        """Adds the time since the previous call, or since the start, to `stage`."""
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + now - self._stage_started
        self._stage_started = now

    def add_earlier_attempts(self, seconds: float) -> None:
        """Adds the seconds of earlier attempts at the same run."""
        self._stages["earlier_attempts"] = seconds

    def total(self) -> float:
        """Returns the seconds since the start, plus those of earlier attempts."""
        return time.perf_counter() - self._started + self._stages.get("earlier_attempts", 0.0)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each stage, and their `total`."""
        return {"total": self.total(), **self._stages}
