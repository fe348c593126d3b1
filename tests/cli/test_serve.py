"""`trainer serve`, started, queried and stopped as users and Vertex AI do."""

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
def start_server(
    *arguments: object, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields a server process, and the URL that it printed when it was ready."""
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


def test_vertex_ai_can_start_query_and_stop_it(finished_run: Path, bucket: str) -> None:
    """The run is in a bucket; a request in flight at SIGTERM is answered."""
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
    with start_server(**variables) as (process, url):
        assert url == f"http://localhost:{port}"
        host = f"http://127.0.0.1:{port}"
        assert requests.get(host + routes["AIP_HEALTH_ROUTE"], timeout=20).status_code == 200
        response = requests.post(host + routes["AIP_PREDICT_ROUTE"], BLANK, timeout=20)
        assert len(response.json()["predictions"][0]["probabilities"]) == 10
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            head = f"POST {routes['AIP_PREDICT_ROUTE']} HTTP/1.1\r\nHost: x\r\n"
            connection.sendall(f"{head}Content-Length: {len(BLANK)}\r\n\r\n".encode() + BLANK[:9])
            requests.get(
                host + routes["AIP_HEALTH_ROUTE"], timeout=20
            )  # The bytes above arrived before.
            process.send_signal(signal.SIGTERM)
            with pytest.raises(OSError):
                while True:
                    requests.get(host + routes["AIP_HEALTH_ROUTE"], timeout=20)
            connection.sendall(BLANK[9:])
            raw = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert raw.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(raw.partition(b"\r\n\r\n")[2]) == response.json()
        assert process.wait(10) == 0
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert lines[0].startswith(f"serving {bucket}/run, mlp on ")
    assert lines[1:] == ["stopped"]


def failing_serve(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    """Returns the exit code and the error message, which must be one line."""
    with pytest.raises(SystemExit) as exit_info:
        main.main(["serve", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return exit_info.value.code, err.removeprefix("trainer serve: error: ").rstrip()


def test_a_damaged_run_is_not_served(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "saved_model/saved_model.pb").write_bytes(b"another model")
    code, message = failing_serve(capsys, run, "--port=0")
    assert code == 3
    assert "saved_model.pb: differs from the manifest" in message
    code, message = failing_serve(capsys, tmp_path, "--port=0")
    assert (code, message) == (2, f"{tmp_path}: no manifest.json there, expected a finished run")


def test_an_address_that_cannot_be_bound_is_an_error(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert failing_serve(capsys, finished_run, f"--port={port}") == (
            2,
            f"--host 127.0.0.1 --port {port}: cannot listen there: address already in use; "
            "choose another --host or --port",
        )
    code, message = failing_serve(capsys, finished_run, "--host=192.0.2.1", "--port=0")
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
        (["run"], {"PORT": "tcp://10.0.0.1:80"}, "PORT: found 'tcp://10.0.0.1:80'"),
        (["run"], {"AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE: found 'predict', expected"),
        (["run"], {"AIP_HEALTH_ROUTE": "/{x}"}, "AIP_HEALTH_ROUTE: found '/{x}', expected a path"),
    ],
)
def test_a_usage_error_is_reported_before_anything_is_loaded(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, error = failing_serve(capsys, *arguments)
    assert code == 2
    assert error.startswith(message)


def test_a_missing_package_is_named_with_the_command_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_PACKAGES", ("fastapi", "a_package_that_is_not_there"))
    code, message = failing_serve(capsys, "run")
    assert code == 2
    assert message == (
        "trainer serve needs the package a_package_that_is_not_there: in a checkout run "
        "make env EXTRA=serve, or pip install '.[serve]'"
    )


def test_defaults_come_from_the_environment_and_flags_win() -> None:
    def read(*arguments: str, **environment: str) -> tuple[str, str, int, str]:
        options = serve.read_options(["run", *arguments], environment, program="trainer serve")
        return options.run, options.host, options.port, options.log

    assert read() == ("run", "127.0.0.1", 8080, "text")
    assert read(TRAINER_IMAGE="serve") == ("run", "0.0.0.0", 8080, "text")
    assert read(AIP_HTTP_PORT="81", AIP_STORAGE_URI="gs://b/run") == ("run", "0.0.0.0", 81, "text")
    assert read("--port=82", "--host=::1", AIP_HTTP_PORT="81") == ("run", "::1", 82, "text")
    # PORT of Cloud Run comes last; the machine of a developer may have it for other programs.
    assert read(PORT="83") == ("run", "0.0.0.0", 83, "text")
    assert read(PORT="83", AIP_HTTP_PORT="81") == ("run", "0.0.0.0", 81, "text")
    assert read("--port=82", PORT="83") == ("run", "127.0.0.1", 82, "text")
    assert read("--host=::1", PORT="83") == ("run", "::1", 83, "text")
    assert read(CLOUD_RUN_JOB="x")[-1] == "json"
