"""`trainer serve RUN`: serves a finished run's model over HTTP until it is stopped.

On SIGTERM or Ctrl-C a server that is ready accepts no more connections, answers the requests in
flight, and exits with 0, since this is its normal end. Before it is ready, SIGTERM exits with 143,
as in other commands.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pydantic

from trainer.config import check, command_line, option_specs
from trainer.config.fields import (
    FolderPath,
    Port,
    PositiveFloat,
    PositiveInt,
    Text,
    argument,
    option,
)
from trainer.errors import UsageError
from trainer.runtime import cloud_environment, log, preemption
from trainer.runtime.log import LOGGER

if TYPE_CHECKING:
    from trainer.data.inputs import InputSignature
    from trainer.runs.finished_run import FinishedRun, Predictor

_PACKAGES = ("fastapi", "orjson", "prometheus_client", "uvicorn")
_INSTALL = "in a checkout run make env EXTRA=serve, or pip install '.[serve]'"
_WARM_UP_SIZES = (1, 2, 4, 8)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `trainer serve`."""

    run: FolderPath = argument("Finished run directory, local or gs://bucket/path.")
    host: Text = option(
        "127.0.0.1",
        "Address to listen on. Default: 127.0.0.1, this machine only; in the container image "
        "0.0.0.0, all addresses.",
    )
    port: Port = option(8080, "Port to listen on; 0 for any free port.")
    max_batch: PositiveInt | None = option(
        None, "Maximum examples per batch of the model. Default: the batch size of the training."
    )
    max_body_mb: PositiveFloat = option(8.0, "Maximum size of a request body, in 10^6 bytes.")
    timeout_seconds: PositiveFloat = option(30.0, "Time limit of a request, in seconds.")
    log: Literal["text", "json"] = option(
        "text", "Format of the log: text, or json with one object per line and its severity."
    )


def main(arguments: Sequence[str], *, program: str) -> None:
    """Serves until SIGTERM or Ctrl-C, and exits with 0."""
    preemption.exit_on_sigterm()
    with command_line.exit_codes(program, arguments):
        options = read_options(arguments, os.environ, program=program)
        routes = cloud_environment.serving_routes(os.environ)
        log.configure(options.log)
        _check_installed()
        from trainer.inference.serve import server

        with server.bind(options.host, options.port) as listener:
            _serve(options, routes, listener)


def read_options(
    arguments: Sequence[str], environment: Mapping[str, str], *, program: str
) -> ServeOptions:
    """Returns the options from the command line and the environment; flags win.

    Raises:
        UsageError: an option is wrong.
        SystemExit: with code 0, after printing the help.
    """

    def parse_flags(words: Sequence[str]) -> dict[str, str]:
        return command_line.parse_values(
            words,
            option_specs(ServeOptions),
            program=program,
            summary="Serves a finished run's model over HTTP: predictions at /predict, a page to "
            "try the model at /, the documentation of the interface at /docs.",
        )

    environment_run = environment.get(cloud_environment.SERVED_RUN)
    try:
        flags = parse_flags(arguments)
    except UsageError:
        if not environment_run:
            raise
        # Raises again unless the error was a missing RUN.
        flags = parse_flags([environment_run, *arguments])
    from_service = cloud_environment.serving_flags(environment, from_flags=flags)
    values = {name: value for name, (_, value) in from_service.items()} | flags
    labels = {name: variable for name, (variable, _) in from_service.items()}
    return check(ServeOptions, values, labels=labels)


def _check_installed() -> None:
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"trainer serve needs the package {package}: {_INSTALL}")


def _serve(options: ServeOptions, routes: Mapping[str, str], listener: socket.socket) -> None:
    # Imported after the flags are checked: a typo is reported before TensorFlow's import.
    from trainer.inference.serve import app, server
    from trainer.inference.serve.endpoint import Limits
    from trainer.runs.finished_run import load_model, read_run

    run = read_run(options.run)
    with load_model(run) as model:
        _warm_up(model, run.input)
        application = app.create_app(
            run,
            model.predict,
            max_batch=options.max_batch or run.batch_size,
            limits=Limits(
                timeout_s=options.timeout_seconds, body_bytes=int(options.max_body_mb * 1e6)
            ),
            routes=app.Routes(**routes),
        )

        def announce(url: str) -> None:
            LOGGER.info("serving %s, %s", options.run, _format_run(run))
            print(log.json_line("INFO", url) if options.log == "json" else url, flush=True)

        server.run(application, listener, announce)
        LOGGER.info("stopped")


def _warm_up(model: Predictor, signature: InputSignature) -> None:
    """Runs the model on batches of several sizes, since its first calls are much slower."""
    for count in _WARM_UP_SIZES:
        examples = signature.empty(count)
        examples[:] = "" if signature.kind == "text" else 0
        model.predict(examples)


def _format_run(run: FinishedRun) -> str:
    accuracy = 100 * run.metrics["test"]["accuracy"]
    return f"{run.config['model']} on {run.config['data']}, test accuracy {accuracy:.2f}%"
