"""Where the time of a run goes."""

from __future__ import annotations

import time


class StageTimer:
    """Seconds that each stage of a run took."""

    def __init__(self, started: float | None = None) -> None:
        """Starts at `started`, a time.perf_counter() of the past, or now."""
        self._started = self._lapped = time.perf_counter() if started is None else started
        self._laps: dict[str, float] = {}

    def record(self, stage: str) -> None:
        """Ends a stage, or a part of one, which began when the one before it ended."""
        now = time.perf_counter()
        self._laps[stage] = self._laps.get(stage, 0.0) + now - self._lapped
        self._lapped = now

    def add_earlier(self, seconds: float) -> None:
        """Counts in what earlier attempts at the same run took."""
        self._laps["earlier_attempts"] = seconds

    def total(self) -> float:
        """Returns the seconds in all, those of earlier attempts among them."""
        return time.perf_counter() - self._started + self._laps.get("earlier_attempts", 0.0)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each stage, and in all."""
        return {"total": self.total(), **self._laps}
