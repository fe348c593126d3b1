"""The HTTP application: predictions by Vertex AI's contract, and HTML pages.

Source of the contract: Vertex AI, "Custom container requirements for prediction".
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from trainer import __version__
from trainer.data.instances import InstanceReader
from trainer.inference.serve import schemas
from trainer.inference.serve.batching import DynamicBatcher
from trainer.inference.serve.endpoint import MAX_QUEUE_SIZE, Limits, PredictEndpoint
from trainer.inference.serve.metrics import CONTENT_TYPE, Metrics, MetricsMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from trainer.inference.serve.batching import Predict
    from trainer.runs.finished_run import FinishedRun

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Paths that a cloud service may set."""

    predict: str = "/predict"
    health: str = "/health"


class _PlainRoute(APIRoute):
    """A route whose function receives the raw request and returns the response.

    FastAPI would validate bodies with pydantic, which takes longer than all its other work on a
    request, and reads the whole body first. The route still appears in the OpenAPI document.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def create_app(
    run: FinishedRun, predict: Predict, *, max_batch: int, limits: Limits, routes: Routes
) -> ASGIApp:
    """Creates the application.

    Args:
        run: the finished run to serve.
        predict: its model, from examples (N, ...) to class probabilities, float32 (N, classes).
        max_batch: maximum examples per call of `predict`.
        limits: limits of each request.
        routes: paths for predictions and health.
    """
    metrics = Metrics()
    batcher = DynamicBatcher(
        metrics.measure(predict), max_batch=max_batch, max_queue_size=MAX_QUEUE_SIZE
    )
    metrics.waiting.set_function(lambda: batcher.queue_size)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title=f"{run.config['model']} on {run.config['data']}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads its scripts from another server.
        redoc_url=None,
        exception_handlers={HTTPException: _handle_http_error, Exception: _handle_internal_error},
    )
    app.router.route_class = _PlainRoute
    reader = InstanceReader.of(run.input, run.source)
    endpoint = PredictEndpoint(reader, run.classes, batcher, limits)
    _add_service_routes(app, run, endpoint, batcher, routes)
    _add_information_routes(app, run, metrics, routes)
    fixed = ("/", "/v1/model", "/metrics", "/docs", "/openapi.json")
    labels = {routes.predict: "predict", routes.health: "health"}
    return MetricsMiddleware(app, metrics, {path: path for path in fixed} | labels)


def _add_service_routes(
    app: FastAPI,
    run: FinishedRun,
    endpoint: PredictEndpoint,
    batcher: DynamicBatcher,
    routes: Routes,
) -> None:
    """Adds the routes of Vertex AI's contract: predictions and health."""

    async def health(request: Request) -> Response:
        if not batcher.alive:
            raise HTTPException(503, "the model accepts no more requests; restart the server")
        return _json({"status": "ready"})

    app.add_api_route(
        routes.predict,
        endpoint,
        methods=["POST"],
        summary="Predict the classes of instances",
        name="predict",
        response_model=schemas.PredictResponse,
        responses={
            code: {"model": schemas.ErrorResponse} for code in (400, 408, 413, 415, 503, 504)
        },
        openapi_extra=schemas.request_body(InstanceReader.of(run.input, run.source)),
    )
    app.add_api_route(
        routes.health,
        health,
        summary="Check that the model accepts requests",
        response_model=schemas.HealthResponse,
        responses={503: {"model": schemas.ErrorResponse}},
    )
    app.add_api_route(routes.health, health, methods=["HEAD"], include_in_schema=False)


def _add_information_routes(
    app: FastAPI, run: FinishedRun, metrics: Metrics, routes: Routes
) -> None:
    """Adds the description of the model, the metrics, and the HTML pages."""
    description = schemas.ModelDescription.from_run(run, predict_route=routes.predict).model_dump()
    page = _html_response((_HERE / "page.html").read_text("utf-8"))

    async def show_model(request: Request) -> Response:
        return _json(description)

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def show_page(request: Request) -> Response:
        return page

    async def show_docs(request: Request) -> Response:
        return _html_response(_render_docs(app.openapi(), str(request.base_url).rstrip("/")))

    app.add_api_route(
        "/v1/model",
        show_model,
        summary="Describe the model",
        response_model=schemas.ModelDescription,
    )
    app.add_api_route(
        "/metrics",
        show_metrics,
        summary="Return metrics in Prometheus's text format",
        response_class=PlainTextResponse,
    )
    app.add_api_route("/", show_page, include_in_schema=False)
    app.add_api_route("/docs", show_docs, include_in_schema=False)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _html_response(html: str) -> Response:
    """Returns a page with a policy that forbids foreign resources, and scripts but its own."""
    policy = (
        f"default-src 'none'; script-src {_csp_sources('script', html)}; "
        f"style-src {_csp_sources('style', html)}; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def _csp_sources(tag: str, html: str) -> str:
    """Returns the policy's source list that allows just the page's own scripts, or styles."""
    contents = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (
        base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in contents
    )
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _render_docs(openapi: Mapping[str, Any], base_url: str) -> str:
    template = (_HERE / "docs.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(openapi=openapi, base_url=base_url)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _handle_internal_error(request: Request, error: Exception) -> Response:
    return _json({"error": "internal error; see the traceback in the server's log"}, 500)
