"""The HTTP interface: Vertex AI's contract for predictions, and pages for people.

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
from trainer.inference.serve import schemas
from trainer.inference.serve.batching import DynamicBatcher
from trainer.inference.serve.metrics import CONTENT_TYPE, Metrics, MetricsMiddleware
from trainer.inference.serve.predictions import MAX_WAITING, Limits, Predictions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from trainer.inference.serve.batching import Predict
    from trainer.runs.finished_run import FinishedRun

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Paths that a cloud service decides on."""

    predict: str = "/predict"
    health: str = "/health"


class _PlainRoute(APIRoute):
    """A route whose function takes the request as it is, and makes the response itself.

    FastAPI would check bodies by models of pydantic's, which takes longer than all else that it
    does for a request, and not before they are read whole. It still describes the route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def create_app(
    run: FinishedRun, predict: Predict, *, max_batch: int, limits: Limits, routes: Routes
) -> ASGIApp:
    """Makes the application.

    Args:
        run: the finished run that is served.
        predict: its model, from examples (N, ...) to class probabilities (N, classes).
        max_batch: examples that the model is given at once.
        limits: of each request.
        routes: of predictions and health.
    """
    metrics = Metrics()
    batcher = DynamicBatcher(
        metrics.measured(predict), max_batch=max_batch, max_queue_size=MAX_WAITING
    )
    metrics.waiting.set_function(lambda: batcher.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title=f"{run.config['model']} on {run.config['data']}",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page takes its scripts from another server.
        redoc_url=None,
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.router.route_class = _PlainRoute
    asked = Predictions(run.input, run.classes, batcher, limits)
    _answer_the_service(app, run, asked, batcher, routes)
    _answer_others(app, run, metrics, routes)
    own = ("/", "/v1/model", "/metrics", "/docs", "/openapi.json")
    names = {routes.predict: "predict", routes.health: "health"}
    return MetricsMiddleware(app, metrics, {path: path for path in own} | names)


def _answer_the_service(
    app: FastAPI, run: FinishedRun, asked: Predictions, batcher: DynamicBatcher, routes: Routes
) -> None:
    async def health(request: Request) -> Response:
        if not batcher.alive:
            raise HTTPException(503, "the model is not being asked any more")
        return _json({"status": "ready"})

    app.add_api_route(
        routes.predict,
        asked,
        methods=["POST"],
        summary="Ask the model",
        name="predict",
        response_model=schemas.Predictions,
        responses={code: {"model": schemas.Failure} for code in (400, 408, 413, 415, 503, 504)},
        openapi_extra=schemas.body(run.input),
    )
    app.add_api_route(
        routes.health,
        health,
        summary="Whether the model can be asked",
        response_model=schemas.Health,
        responses={503: {"model": schemas.Failure}},
    )
    app.add_api_route(routes.health, health, methods=["HEAD"], include_in_schema=False)


def _answer_others(app: FastAPI, run: FinishedRun, metrics: Metrics, routes: Routes) -> None:
    described = schemas.Description.of(run, predict_route=routes.predict).model_dump()
    page = _page((_HERE / "page.html").read_text("utf-8"))

    async def model(request: Request) -> Response:
        return _json(described)

    async def counted(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def front(request: Request) -> Response:
        return page

    async def documented(request: Request) -> Response:
        return _page(_documentation(app.openapi(), str(request.base_url).rstrip("/")))

    app.add_api_route(
        "/v1/model", model, summary="What the model is", response_model=schemas.Description
    )
    app.add_api_route(
        "/metrics", counted, summary="Figures for Prometheus", response_class=PlainTextResponse
    )
    app.add_api_route("/", front, include_in_schema=False)
    app.add_api_route("/docs", documented, include_in_schema=False)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _page(html: str) -> Response:
    """Returns a page that loads nothing from elsewhere, and runs no other script than its own."""
    policy = (
        f"default-src 'none'; script-src {_digests('script', html)}; "
        f"style-src {_digests('style', html)}; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def _digests(tag: str, html: str) -> str:
    """Returns what a policy says to allow the page's own scripts, or styles, and no others."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _documentation(openapi: Mapping[str, Any], base: str) -> str:
    template = (_HERE / "docs.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(openapi=openapi, base=base)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": "a defect of the server; its log says more"}, 500)
