"""What a monitoring system reads off the server, in the format of Prometheus."""

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
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Starts from zero."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        mine: dict[str, Any] = {"namespace": "trainer", "registry": self._registry}
        self.requests = Counter("requests", "Requests answered.", ("route", "status"), **mine)
        self.seconds = Histogram(
            "request_seconds", "From the head of a request to the end of its answer.", ("route",),
            buckets=_SECONDS, **mine,
        )  # fmt: skip
        self.in_flight = Gauge("requests_in_flight", "Requests being answered.", **mine)
        self.waiting = Gauge("examples_waiting", "Examples that wait for the model.", **mine)
        self.batch = Histogram(
            "batch_examples", "Examples that the model computed at once.", buckets=_EXAMPLES, **mine
        )
        self.model_seconds = Histogram(
            "batch_seconds", "What the model took for a batch.", buckets=_SECONDS, **mine
        )

    def text(self) -> bytes:
        """Returns all of them in the text format."""
        return generate_latest(self._registry)

    def measured(self, predict: Predict) -> Predict:
        """Returns the model, with its batches counted."""

        def counted(examples: Array) -> Array:
            began = time.perf_counter()
            answers = predict(examples)
            self.model_seconds.observe(time.perf_counter() - began)
            self.batch.observe(len(examples))
            return answers

        return counted


class MetricsMiddleware:
    """ASGI middleware that counts requests, and how long they took."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Mapping[str, str]) -> None:
        """Wraps `app`; `routes` has names by path, and any other path is "other"."""
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, and counts it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        route = self._routes.get(scope["path"], "other")
        status = "none"  # The client has gone before it was answered.

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
