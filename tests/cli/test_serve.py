"""`trainer serve` as its users and Vertex AI start it, ask it and stop it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.kills import ROOT
from trainer import storage
from trainer.cli import main, serve

BLANK = json.dumps({"instances": [[[0] * 28] * 28]}).encode()


@contextlib.contextmanager
def started(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Gives a server, and the URL that it printed when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "serve", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, line.strip()
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_as_vertex_ai_starts_it_and_stops_it(finished_run: Path, bucket: str) -> None:
    """From a bucket, with what a request that is under way at SIGTERM gets."""
    files = {
        path.relative_to(finished_run).as_posix(): path
        for path in finished_run.rglob("*")
        if path.is_file()
    }
    storage.write_all(storage.folder(f"{bucket}/run"), files)
    port = free_port()
    routes = {
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
    }
    variables = {"AIP_STORAGE_URI": f"{bucket}/run/", "AIP_HTTP_PORT": str(port), **routes}
    with started(**variables) as (process, url):
        assert url == f"http://localhost:{port}"
        host = f"http://127.0.0.1:{port}"
        assert requests.get(host + routes["AIP_HEALTH_ROUTE"], timeout=20).status_code == 200
        asked = requests.post(host + routes["AIP_PREDICT_ROUTE"], BLANK, timeout=20)
        assert len(asked.json()["predictions"][0]["probabilities"]) == 10
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            head = f"POST {routes['AIP_PREDICT_ROUTE']} HTTP/1.1\r\nHost: x\r\n"
            connection.sendall(f"{head}Content-Length: {len(BLANK)}\r\n\r\n".encode() + BLANK[:9])
            requests.get(host + routes["AIP_HEALTH_ROUTE"], timeout=20)  # So that has arrived.
            process.send_signal(signal.SIGTERM)
            with pytest.raises(OSError):
                while True:
                    requests.get(host + routes["AIP_HEALTH_ROUTE"], timeout=20)
            connection.sendall(BLANK[9:])
            answer = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == asked.json()
        assert process.wait(10) == 0
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert lines[0].startswith(f"serving {bucket}/run, mlp on ")
    assert lines[1:] == ["stopped"]


def serve_wrongly(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main.main(["serve", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return ended.value.code, err.removeprefix("trainer serve: error: ").rstrip()


def test_a_damaged_run_is_not_served(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "saved_model/saved_model.pb").write_bytes(b"another model")
    code, message = serve_wrongly(capsys, run, "--port=0")
    assert code == 3
    assert "saved_model.pb: is not the file of the manifest" in message
    code, message = serve_wrongly(capsys, tmp_path, "--port=0")
    assert (code, message) == (2, f"{tmp_path}: no manifest.json there, expected a finished run")


def test_an_address_that_is_not_to_be_had(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve_wrongly(capsys, finished_run, f"--port={port}") == (
            2,
            f"--host 127.0.0.1 --port {port}: cannot listen there: address already in use",
        )
    code, message = serve_wrongly(capsys, finished_run, "--host=192.0.2.1", "--port=0")
    assert code == 2
    assert "cannot assign requested address" in message


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["run", "--port=65536"], {}, "--port: found '65536', expected less than or equal to"),
        (["run", "--max-batch=0"], {}, "--max-batch: found '0'"),
        (["run", "--timeout-seconds=nan"], {}, "--timeout-seconds: found 'nan'"),
        ([], {}, "Missing RUN."),
        ([], {"AIP_STORAGE_URI": ""}, "Missing RUN."),
        (
            ["--prot=1"],
            {"AIP_STORAGE_URI": "gs://b/run"},
            "Unknown flag '--prot=1'. Did you mean --port",
        ),
        (["run"], {"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT: found 'http'"),
        (["run"], {"AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE: found 'predict', expected"),
        (["run"], {"AIP_HEALTH_ROUTE": "/{x}"}, "AIP_HEALTH_ROUTE: found '/{x}', expected a path"),
    ],
)
def test_a_slip_is_told_at_once(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, said = serve_wrongly(capsys, *arguments)
    assert code == 2
    assert said.startswith(message)


def test_without_the_extra_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_PACKAGES", ("fastapi", "a_package_that_is_not_there"))
    code, message = serve_wrongly(capsys, "run")
    assert code == 2
    assert message == (
        "found no package a_package_that_is_not_there, expected it: make env EXTRA=serve, or "
        "pip install '.[serve]', in a checkout"
    )


def test_where_it_listens_unless_it_is_told() -> None:
    def found(*arguments: str, **environment: str) -> tuple[str, str, int, str]:
        settings = serve.read(["run", *arguments], environment, program="trainer serve")
        return settings.run, settings.host, settings.port, settings.log

    assert found() == ("run", "127.0.0.1", 8080, "text")
    assert found(TRAINER_IMAGE="serve") == ("run", "0.0.0.0", 8080, "text")
    assert found(AIP_HTTP_PORT="81", AIP_STORAGE_URI="gs://b/run") == ("run", "0.0.0.0", 81, "text")
    assert found("--port=82", "--host=::1", AIP_HTTP_PORT="81") == ("run", "::1", 82, "text")
    assert found(CLOUD_RUN_JOB="x")[-1] == "json"
