"""Metrics of the server for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trainer.data.dataset import Array
    from trainer.inference.serve.batching import Predict

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_EXAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Creates the metrics, all at zero."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        common: dict[str, Any] = {"namespace": "trainer", "registry": self._registry}
        self.requests = Counter(
            "requests", "Requests, by route and HTTP status.", ("route", "status"), **common
        )
        self.seconds = Histogram(
            "request_seconds",
            "Time from the header of a request to the end of its response, in seconds.",
            ("route",),
            buckets=_SECONDS,
            **common,
        )
        self.in_flight = Gauge("requests_in_flight", "Requests without a response yet.", **common)
        self.waiting = Gauge("examples_waiting", "Examples in the queue for the model.", **common)
        self.batch = Histogram(
            "batch_examples", "Examples per batch of the model.", buckets=_EXAMPLES, **common
        )
        self.model_seconds = Histogram(
            "batch_seconds",
            "Computation time of the model per batch, in seconds.",
            buckets=_SECONDS,
            **common,
        )

    def text(self) -> bytes:
        """Returns all metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def measure(self, predict: Predict) -> Predict:
        """Wraps the model to record the size and the time of each batch."""

        def measured(examples: Array) -> Array:
            start = time.perf_counter()
            probabilities = predict(examples)
            self.model_seconds.observe(time.perf_counter() - start)
            self.batch.observe(len(examples))
            return probabilities

        return measured


class MetricsMiddleware:
    """ASGI middleware that records the number, the status and the time of requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Mapping[str, str]) -> None:
        """Wraps an application.

        Args:
            app: the application.
            metrics: the metrics to record to.
            routes: label of a route by path; other paths have the label "other".
        """
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on to the application, and records it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        route = self._routes.get(scope["path"], "other")
        status = "none"  # The client disconnected before a response.

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, record_status)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
