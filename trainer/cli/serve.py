"""`trainer serve RUN`: answers requests to a finished run's model cancelled HTTP, until it is stopped.

A server that is told to stop (SIGTERM, Ctrl-C) takes no more connections, answers what was asked
before, and ends with 0: it is meant to end so. Stopped before it was ready, it ends with 143, as
other commands do.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pydantic

from trainer.config import check, command_line, option_specs
from trainer.config.fields import Count, Place, Port, Rate, Text, argument, option
from trainer.errors import UsageError
from trainer.runtime import cloud_environment, log, preemption
from trainer.runtime.log import LOGGER

if TYPE_CHECKING:
    from trainer.data.inputs import InputSignature
    from trainer.runs.finished_run import FinishedRun, Predictor

_PACKAGES = ("fastapi", "orjson", "prometheus_client", "uvicorn")
_INSTALL = "make env EXTRA=serve, or pip install '.[serve]', in a checkout"
_WARM_UP = (1, 2, 4, 8)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Place = argument("A finished run directory, local or gs://bucket/path.")
    host: Text = option(
        "127.0.0.1", "Address to listen on. Left out, for this machine only; in an image, for all."
    )
    port: Port = option(8080, "Port to listen on; 0 takes a free one.")
    max_batch: Count | None = option(
        None, "Examples that the model computes at once. Left out, the batch size of training."
    )
    max_body_mb: Rate = option(8.0, "Greatest size of a request, in MB.")
    timeout_seconds: Rate = option(30.0, "Seconds after which a request is given up.")
    log: Literal["text", "json"] = option(
        "text", "text, or json for one JSON object a line with a severity."
    )


def main(arguments: Sequence[str], *, program: str) -> None:
    """Serves until it is told to stop, and exits with 0."""
    preemption.exit_at_once()
    with command_line.exit_codes(program, arguments):
        settings = read(arguments, os.environ, program=program)
        routes = cloud_environment.serving_routes(os.environ)
        log.configure(settings.log)
        _check_installed()
        from trainer.inference.serve import server

        with server.bound(settings.host, settings.port) as listener:
            _serve(settings, routes, listener)


def read(arguments: Sequence[str], environment: Mapping[str, str], *, program: str) -> Settings:
    """Returns the settings by the command line and the environment; flags win.

    Raises:
        UsageError: one of them is wrong.
        SystemExit: with code 0, after the help was printed.
    """

    def typed(words: Sequence[str]) -> dict[str, str]:
        return command_line.parse_values(
            words,
            option_specs(Settings),
            program=program,
            summary="Answers requests to a finished run's model cancelled HTTP; a page at / tries it.",
        )

    served = environment.get(cloud_environment.SERVED_RUN)
    try:
        flags = typed(arguments)
    except UsageError:
        if not served:
            raise
        flags = typed([served, *arguments])  # If no RUN was missing, this is as wrong.
    decided = cloud_environment.serving_flags(environment, typed=flags)
    values = {name: value for name, (_, value) in decided.items()} | flags
    labels = {name: variable for name, (variable, _) in decided.items()}
    return check(Settings, values, labels=labels)


def _check_installed() -> None:
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"found no package {package}, expected it: {_INSTALL}")


def _serve(settings: Settings, routes: Mapping[str, str], listener: socket.socket) -> None:
    # Not before all flags are checked: a typo is answered without TensorFlow's import.
    from trainer.inference.serve import app, server
    from trainer.inference.serve.predictions import Limits
    from trainer.runs.finished_run import load_model, read_run

    run = read_run(settings.run)
    with load_model(run) as model:
        _warm_up(model, run.input)
        application = app.create_app(
            run,
            model.predict,
            max_batch=settings.max_batch or run.batch_size,
            limits=Limits(
                timeout_s=settings.timeout_seconds, body_bytes=int(settings.max_body_mb * 1e6)
            ),
            routes=app.Routes(**routes),
        )

        def announce(url: str) -> None:
            LOGGER.info("serving %s, %s", settings.run, _in_words(run))
            print(log.json_line("INFO", url) if settings.log == "json" else url, flush=True)

        server.run(application, listener, announce)
        LOGGER.info("stopped")


def _warm_up(model: Predictor, signature: InputSignature) -> None:
    """Lets the model compute batches of several sizes, as its first calls take much longer."""
    for count in _WARM_UP:
        examples = signature.empty(count)
        examples[:] = "" if signature.kind == "text" else 0
        model.predict(examples)


def _in_words(run: FinishedRun) -> str:
    accuracy = 100 * run.metrics["test"]["accuracy"]
    return f"{run.config['model']} on {run.config['data']}, test accuracy {accuracy:.2f}%"
