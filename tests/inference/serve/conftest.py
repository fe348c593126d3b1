"""Runs to serve, and servers for them on free ports in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from trainer.inference.serve import app
from trainer.inference.serve.endpoint import Limits
from trainer.runs.finished_run import load_model, read_run

HOSTILE = "<img src=x onerror=document.title=1>"


@pytest.fixture(scope="session")
def digits_run(shared_run: Callable[..., Path]) -> Path:
    """Run directory of an mlp trained for one epoch on all of MNIST."""
    return shared_run("mnist", "--model=mlp", "--epochs=1")


@pytest.fixture(scope="session")
def texts_run(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a text model with two separable classes, one named like HTML markup."""
    data = tmp_path_factory.mktemp("texts")
    for name, words in (("fine", "good warm"), (HOSTILE, "bad dull")):
        lines = (f"a {word} film, number {n}" for n in range(100) for word in words.split())
        (data / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = "--model=sentiment_small --epochs=8 --batch-size=16 --learning-rate=0.01"
    return shared_run("texts", *flags.split(), f"--data={data}")


@contextlib.contextmanager
def serve(
    run: Path,
    *,
    wrap: Callable[[Any], Any] = lambda predict: predict,
    max_batch: int = 32,
    timeout_s: float = 20,
    body_bytes: int = 1_000_000,
) -> Iterator[str]:
    """Yields the URL of a server for a run; `wrap` replaces the model's predict function."""
    finished = read_run(str(run))
    with load_model(finished) as model, socket.socket() as listener:
        application = app.create_app(
            finished,
            wrap(model.predict),
            max_batch=max_batch,
            limits=Limits(timeout_s=timeout_s, body_bytes=body_bytes),
            routes=app.Routes(),
        )
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def digits_url(digits_run: Path) -> Iterator[str]:
    """URL of a server of `digits_run`."""
    with serve(digits_run) as url:
        yield url


@pytest.fixture(scope="session")
def texts_url(texts_run: Path) -> Iterator[str]:
    """URL of a server of `texts_run`."""
    with serve(texts_run) as url:
        yield url
