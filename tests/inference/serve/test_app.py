"""The HTTP interface: predictions, limits, and errors as one line of JSON."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.inference.serve.conftest import HOSTILE, serve
from tests.kills import ROOT
from trainer.data.dataset import Dataset
from trainer.runs.finished_run import load_model, read_run

JSON = {"Content-Type": "application/json"}


def predict(url: str, *instances: Any) -> requests.Response:
    return requests.post(f"{url}/predict", json={"instances": instances}, timeout=20)


def png(image: Any) -> dict[str, str]:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "png")
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def metric(url: str, name: str) -> float:
    """Returns the value of a metric, 0 if the server has no such metric."""
    text = requests.get(f"{url}/metrics", timeout=20).text
    match = re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(match[1]) if match else 0


def long_string() -> bytes:
    """Returns a body for which a NumPy array of strings would take 80 GB."""
    return json.dumps({"instances": [["a" * 200_000, *["b"] * 100_000], [1]]}).encode()


def probabilities(response: requests.Response) -> Any:
    assert response.status_code == 200, response.text
    return np.array([each["probabilities"] for each in response.json()["predictions"]])


def test_each_form_of_an_image_gives_the_models_prediction(
    digits_url: str, digits_run: Path, mnist: Dataset
) -> None:
    images = mnist.test.examples[:4]
    with load_model(read_run(str(digits_run))) as model:
        expected = model.predict(images)
    response = predict(
        digits_url, images[0].tolist(), images[1, ..., 0].tolist(), png(images[2]), png(images[3])
    )
    np.testing.assert_allclose(probabilities(response), expected, atol=1e-5)
    np.testing.assert_allclose(
        probabilities(predict(digits_url, *images.tolist())), expected, atol=1e-5
    )
    predictions = response.json()["predictions"]
    assert [each["class"] for each in predictions] == list("7210")
    assert [each["probability"] for each in predictions] == [
        max(each["probabilities"]) for each in predictions
    ]


def test_texts_are_predicted(texts_url: str) -> None:
    predictions = predict(texts_url, "a warm film", "a dull film").json()["predictions"]
    assert [each["class"] for each in predictions] == ["fine", HOSTILE]
    assert predict(texts_url, ["a", "b"]).json() == {
        "error": "instances[0]: found a list, expected a text"
    }


def test_batch_predictions_of_vertex_ai_are_answered(texts_url: str, digits_url: str) -> None:
    """Rows as lists, files and records in base64, objects with a key, and parameters."""
    encoded = {"b64": base64.b64encode(b"a dull film").decode()}
    forms = (["a warm film"], encoded, {"text": "a warm film", "key": 1}, {**encoded, "key": 2})
    body = {"instances": forms, "parameters": {"threshold": 0.5}}
    response = requests.post(f"{texts_url}/predict", json=body, timeout=20)
    assert [each["class"] for each in response.json()["predictions"]] == [
        "fine", HOSTILE, "fine", HOSTILE,
    ]  # fmt: skip
    image = png(np.zeros((28, 28, 1), np.uint8))
    expected = probabilities(predict(digits_url, image))
    for form in ({**image, "key": 1}, {"image": image, "key": "a"}, [image]):
        np.testing.assert_array_equal(probabilities(predict(digits_url, form)), expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"instances": [NaN]}', "the body is not JSON"),
        (b'{"instances": ["\xff"]}', "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[1]", 'expected a JSON object {"instances": [...]}'),
        (b'{"instance": []}', 'expected a JSON object {"instances": [...]}'),
        (b'{"instances": {}}', 'expected a JSON object {"instances": [...]}'),
        (b'{"instances": []}', "found 0 instances, expected 1 to 1024"),
        (b'{"instances": [1], "parameters": {"top": 3}}', "instances[0]: found a number"),
        (b'{"instances": [1], "signature": "x"}', "found 'signature'"),
        (json.dumps({"instances": [0] * 1025}).encode(), "found 1025 instances"),
        (b'{"instances": [[[1, 2], [3]]]}', "instances[0]: found lists of unequal lengths"),
        (b'{"instances": [[[1e400]]]}', "the body is not JSON"),
        (b'{"instances": [[[123456789012345678901234567890]]]}', "instances[0]: found float64"),
        (long_string(), "instances[0]: found a value that is not a number"),
        (b'{"instances": [{"b64": "AAAA"}]}', "instances[0]: b64: not an image, or a damaged one"),
        (b'{"instances": [{"url": "x"}]}', "instances[0]: found an object with 'url'"),
        (b'{"instances": [null]}', "instances[0]: found null, expected an image of 28x28x1"),
        (b'{"instances": [' + b"[" * 500 + b"]" * 500 + b"]}", "instances[0]: found"),
    ],
)
def test_a_bad_body_is_a_one_line_error(digits_url: str, body: bytes, message: str) -> None:
    response = requests.post(f"{digits_url}/predict", body, headers=JSON, timeout=20)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_the_first_bad_instance_is_named(digits_url: str) -> None:
    good = np.zeros((28, 28), int).tolist()
    bad = np.full((28, 28), 256).tolist()
    response = predict(digits_url, good, good, bad, good)
    assert response.status_code == 400
    assert response.json()["error"].startswith("instances[2]: found 256, expected an image")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "image/png"}, "found 'image/png', expected application/json"),
        ({**JSON, "Content-Encoding": "gzip"}, "Content-Encoding: found 'gzip'"),
    ],
)
def test_content_that_is_not_json_is_refused(
    digits_url: str, headers: dict[str, str], message: str
) -> None:
    response = requests.post(f"{digits_url}/predict", b"x", headers=headers, timeout=20)
    assert response.status_code == 415
    assert message in response.json()["error"]


def test_a_body_that_is_too_large_is_refused_before_its_end(digits_url: str) -> None:
    response = requests.post(f"{digits_url}/predict", b" " * 1_000_001, headers=JSON, timeout=20)
    assert response.status_code == 413
    assert response.json()["error"] == "found a body of 1000001 bytes, expected at most 1000000"
    host, port = digits_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        head = "POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(21):  # The body never ends.
            connection.sendall(b"C350\r\n" + b" " * 50_000 + b"\r\n")
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "found a body of more than 1000000 bytes" in answer


def test_concurrent_requests_share_batches_and_get_their_own_predictions(
    digits_url: str, mnist: Dataset
) -> None:
    """A bad request among them fails alone."""
    images = mnist.test.examples[:300]
    alone = probabilities(predict(digits_url, *images[..., 0].tolist()))
    batches = "trainer_batch_examples_count"
    before = metric(digits_url, batches)

    def send(index: int) -> requests.Response:
        if index % 7 == 0:
            return predict(digits_url, [[index]])
        return predict(digits_url, images[index, ..., 0].tolist())

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(send, range(300)))
    for index, response in enumerate(responses):
        if index % 7 == 0:
            assert response.status_code == 400
            assert "instances[0]: found int64 of shape (1, 1)" in response.json()["error"]
        else:
            np.testing.assert_allclose(probabilities(response)[0], alone[index], atol=1e-5)
    assert 0 < metric(digits_url, batches) - before < 200


def test_other_routes_describe_the_model_and_the_interface(
    digits_url: str, digits_run: Path
) -> None:
    def get(path: str, method: str = "GET") -> requests.Response:
        return requests.request(method, digits_url + path, timeout=20)

    assert get("/health").json() == {"status": "ready"}
    assert get("/health", "HEAD").status_code == 200
    description = get("/v1/model").json()
    assert description["classes"] == list("0123456789")
    assert description["input"]["shape"] == [28, 28, 1]
    assert description["accuracy"] > 0.9
    for response, code in ((get("/nothing"), 404), (get("/predict"), 405)):
        assert response.status_code == code
        assert list(response.json()) == ["error"]
    assert get("/docs").headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    openapi = get("/openapi.json").json()
    assert set(openapi["paths"]) == {"/predict", "/health", "/v1/model", "/metrics"}
    content = openapi["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["instances"]["maxItems"] == 1024


def test_requests_in_the_documentation_get_the_responses_it_shows(
    digits_url: str, mnist: Dataset, tmp_path: Path
) -> None:
    Image.fromarray(mnist.test.examples[0, ..., 0]).save(tmp_path / "digit.png")
    page = (ROOT / "docs" / "serving.md").read_text()
    examples = re.findall(r"^    \$ ((?:.*\n)+?)    (\{.*)$", page, re.MULTILINE)
    assert len(examples) == 2
    for command, expected in examples:
        output = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:8080", digits_url)],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert output.partition('"probability"')[0] == expected.partition('"probability"')[0]


def test_metrics_count_requests_and_examples(digits_url: str) -> None:
    names = [
        'trainer_requests_total{route="predict",status="200"}',
        'trainer_requests_total{route="predict",status="400"}',
        'trainer_requests_total{route="other",status="404"}',
        'trainer_request_seconds_count{route="predict"}',
        "trainer_batch_examples_sum",
    ]
    before = [metric(digits_url, name) for name in names]
    blank = np.zeros((28, 28), int).tolist()
    predict(digits_url, blank, blank, blank)
    predict(digits_url, 1)
    requests.get(f"{digits_url}/a/path/of/somebody", timeout=20)
    after = [metric(digits_url, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 2, 3]
    assert metric(digits_url, "trainer_examples_waiting") == 0


class Slow:
    """Slows a model down, and counts its examples."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.examples = 0

    def __call__(self, predict: Any) -> Any:
        def slowly(examples: Any) -> Any:
            self.examples += len(examples)
            time.sleep(self.seconds)
            return predict(examples)

        return slowly


@pytest.fixture
def blank() -> Iterator[Any]:
    return np.zeros((28, 28), int).tolist()


def test_requests_that_disconnected_or_timed_out_are_not_computed(
    digits_run: Path, blank: Any
) -> None:
    slow = Slow(0.9)
    with (
        serve(digits_run, wrap=slow, timeout_s=1, max_batch=1) as url,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        first = pool.submit(predict, url, blank)
        time.sleep(0.2)
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/predict", json={"instances": [blank]}, timeout=0.1)
        late = [pool.submit(predict, url, blank) for _ in range(2)]
        assert first.result().status_code == 200
        for each in late:
            assert each.result().status_code == 504
            assert each.result().json() == {"error": "the model did not answer within 1 s"}
        # The first, and one whose batch had started when it timed out.
        assert slow.examples == 2
        assert metric(url, 'trainer_requests_total{route="predict",status="499"}') == 1


def test_a_body_that_does_not_arrive_times_out(digits_run: Path) -> None:
    with serve(digits_run, timeout_s=0.3) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            answer = b"".join(iter(lambda: connection.recv(10_000), b"")).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "the body did not arrive within 0.3 s" in answer


def test_decoding_stops_at_the_timeout(digits_run: Path) -> None:
    """Otherwise images of a few kB with many million pixels would block other requests."""
    huge = png(np.zeros((6000, 6000, 1), np.uint8))
    with (
        serve(digits_run, timeout_s=1, body_bytes=10_000_000) as url,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        for each in [pool.submit(predict, url, *[huge] * 100) for _ in range(2)]:
            assert each.result().status_code == 504
        # 10 s: on a busy machine the current images take a while, all 200 take minutes.
        small, deadline = png(np.zeros((28, 28, 1), np.uint8)), time.monotonic() + 10
        while predict(url, small).status_code != 200:
            assert time.monotonic() < deadline


def test_a_full_queue_refuses_requests_with_retry_after(texts_run: Path) -> None:
    with (
        serve(texts_run, wrap=Slow(0.5), max_batch=1000) as url,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        futures = [pool.submit(predict, url, *["a film"] * 700) for _ in range(4)]
        responses = sorted((each.result() for each in futures), key=lambda each: each.status_code)
    assert [each.status_code for each in responses] == [200, 200, 200, 503]
    assert responses[-1].headers["Retry-After"] == "1"
    assert responses[-1].json() == {"error": "busy: 1400 examples in the queue; retry later"}


def test_an_output_that_is_not_finite_is_an_error(digits_run: Path, blank: Any) -> None:
    with serve(digits_run, wrap=lambda predict: lambda x: predict(x) * np.nan) as url:
        response = predict(url, blank)
    assert response.status_code == 400
    assert "instances[0]: the model's output is not finite" in response.json()["error"]


def test_an_internal_error_is_json_and_the_server_continues(
    digits_run: Path, blank: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(predict: Any) -> Any:
        def fail(examples: Any) -> Any:
            if examples.max() == 255:
                raise RuntimeError("broken")
            return predict(examples)

        return fail

    with serve(digits_run, wrap=broken) as url:
        response = predict(url, np.full((28, 28), 255).tolist())
        assert response.status_code == 500
        assert response.json() == {"error": "internal error; see the traceback in the server's log"}
        assert predict(url, blank).status_code == 200
        assert metric(url, 'trainer_requests_total{route="predict",status="500"}') == 1
    assert "RuntimeError: broken" in caplog.text
