"""The endpoint for predictions: `{"instances": [...]}` in, `{"predictions": [...]}` out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from trainer.errors import DataError
from trainer.inference.serve.batching import DynamicBatcher, QueueFullError

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.data.instances import InstanceReader

MAX_INSTANCES = 1024
MAX_QUEUE_SIZE = 2 * MAX_INSTANCES
_MAX_HELD_BYTES = 512_000_000  # Of all bodies that are being received or processed.
# Bodies up to this size are parsed in the event loop, which is faster than a thread. Image files
# are the exception: a few bytes of them can decode to millions of pixels.
_SMALL_BYTES = 50_000
_READERS = 2
_WATCH_AFTER_S = 0.05  # A request that takes longer is watched for a client that disconnects.
_CLOSE = {"Connection": "close"}
_CLIENT_CLOSED_REQUEST = 499  # nginx's status, for the metrics; no client receives it.


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request.

    Attributes:
        timeout_s: maximum time from its header to its response.
        body_bytes: maximum size of its body.
    """

    timeout_s: float
    body_bytes: int


class PredictEndpoint:
    """Answers requests for predictions."""

    def __init__(
        self,
        reader: InstanceReader,
        classes: Sequence[str],
        batcher: DynamicBatcher,
        limits: Limits,
    ) -> None:
        """Creates the endpoint.

        Args:
            reader: converts instances to examples.
            classes: class names, in the order of the model's outputs.
            batcher: runs the model.
            limits: limits of each request.
        """
        self._reader = reader
        self._classes = classes
        self._batcher = batcher
        self._limits = limits
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "reader")
        self._held_bytes = 0

    async def __call__(self, request: Request) -> Response:
        """Returns the response to a request.

        Raises:
            HTTPException: 400 for instances that do not fit the model; 408, 413, 415, 503 or 504.
        """
        _check_media_type(request.headers)
        body = bytearray()
        received = False
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._receive(request, body)
                received = True
                probabilities = await self._predict(await self._examples(body), request)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:  # By the server, at the end of its grace period.
            raise HTTPException(503, "the server is stopping", _CLOSE) from None
        except TimeoutError:
            limit = f"within {self._limits.timeout_s:g} s"
            if received:
                raise HTTPException(504, f"the model did not answer {limit}") from None
            raise HTTPException(408, f"the body did not arrive {limit}", _CLOSE) from None
        finally:
            self._held_bytes -= len(body)
        return Response(self._to_json(probabilities), media_type="application/json")

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Appends the request's body to `body`, which may hold its beginning if this raises."""
        max_bytes = self._limits.body_bytes
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > max_bytes:
            raise HTTPException(
                413, f"found a body of {length} bytes, expected at most {max_bytes}"
            )
        async for chunk in request.stream():
            body += chunk
            self._held_bytes += len(chunk)
            if len(body) > max_bytes:
                raise HTTPException(413, f"found a body of more than {max_bytes} bytes")
            if self._held_bytes > _MAX_HELD_BYTES:
                raise _busy_error(f"{self._held_bytes} bytes of requests are being processed")

    async def _examples(self, body: bytearray) -> Array:
        if len(body) > _SMALL_BYTES:
            return await self._in_thread(
                lambda cancelled: self._convert(parse_instances(body), cancelled)
            )
        instances = parse_instances(body)
        if any(isinstance(instance, dict) for instance in instances):
            return await self._in_thread(lambda cancelled: self._convert(instances, cancelled))
        return self._convert(instances, threading.Event())

    async def _in_thread(self, convert: Callable[[threading.Event], Array]) -> Array:
        cancelled = threading.Event()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._readers, convert, cancelled)
        finally:
            cancelled.set()

    def _convert(self, instances: Sequence[Any], cancelled: threading.Event) -> Array:
        """Returns examples (N, ...) from values of JSON; stops when the request is cancelled.

        Raises:
            HTTPException: 400, naming the first instance that does not fit the model.
        """
        if isinstance(instances[0], list):
            try:
                return self._reader.input.batch_from_json(instances)
            except DataError:
                pass  # At least one does not fit; the loop below finds the first.
        examples = []
        for index, instance in enumerate(instances):
            if cancelled.is_set():  # A thousand images of a few kB can take minutes.
                raise TimeoutError
            try:
                examples.append(self._reader.read(instance))
            except DataError as error:
                raise HTTPException(400, f"instances[{index}]: {error}") from None
        return self._reader.input.stack(examples)

    async def _predict(self, examples: Array, request: Request) -> Array:
        try:
            result = self._batcher.submit(examples)
        except QueueFullError as error:
            raise _busy_error(str(error)) from None
        try:
            done, _ = await asyncio.wait([result], timeout=_WATCH_AFTER_S)
            if not done:
                await _wait_while_connected(request, result)
            return result.result()
        finally:
            result.cancel()  # Without effect on a result that is there.

    def _to_json(self, probabilities: Array) -> bytes:
        not_finite = ~np.isfinite(probabilities).all(axis=1)
        if not_finite.any():
            raise HTTPException(
                400,
                f"instances[{not_finite.argmax()}]: the model's output is not finite; the values "
                "are probably far outside of the range of the training data",
            )
        predictions = [
            {"class": self._classes[best], "probability": row[best], "probabilities": row}
            for best, row in zip(probabilities.argmax(axis=1), probabilities, strict=True)
        ]
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_instances(body: bytes | bytearray) -> list[Any]:
    """Returns the instances of a request body; its parameters are ignored.

    Raises:
        HTTPException: 400: the body is not of the form `{"instances": [...]}`.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("instances"), list):
        raise HTTPException(400, 'expected a JSON object {"instances": [...]}')
    # Vertex AI sends the parameters of a batch prediction job with each request.
    unknown = set(content) - {"instances", "parameters"}
    if unknown:
        raise HTTPException(
            400, f"found {min(unknown)!r}, expected only 'instances' and 'parameters'"
        )
    instances: list[Any] = content["instances"]
    if not 1 <= len(instances) <= MAX_INSTANCES:
        raise HTTPException(400, f"found {len(instances)} instances, expected 1 to {MAX_INSTANCES}")
    return instances


def _check_media_type(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"Content-Type: found {kind!r}, expected application/json")
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"Content-Encoding: found {encoding!r}, expected none")


async def _wait_while_connected(request: Request, result: asyncio.Future[Array]) -> None:
    """Waits for a result; raises ClientDisconnect as soon as the client disconnects."""
    disconnect = asyncio.ensure_future(request.receive())
    either: list[asyncio.Future[Any]] = [result, disconnect]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnect.cancel()
    if not result.done():
        raise ClientDisconnect


def _busy_error(message: str) -> HTTPException:
    return HTTPException(503, f"busy: {message}; retry later", {"Retry-After": "1"})
