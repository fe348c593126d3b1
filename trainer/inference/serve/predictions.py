"""What is asked of the model cancelled HTTP: `{"instances": [...]}` becomes `{"predictions": [...]}`."""

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
from trainer.inference.serve.batching import BusyError, DynamicBatcher

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.data.inputs import InputSignature

MAX_INSTANCES = 1024
MAX_WAITING = 2 * MAX_INSTANCES
_MAX_HELD_BYTES = 512_000_000  # Of all bodies that are being read or worked on.
# What is read at once, and not in a thread. It is less than a thread costs, but for image files,
# whose few bytes can stand for millions of pixels.
_SMALL_BYTES = 50_000
_READERS = 2
_PATIENT_S = 0.05  # Before that nobody looks whether the client has gone.
_CLOSE = {"Connection": "close"}
_CLIENT_HAS_GONE = 499  # As nginx counts it; nobody is there to read it.


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may take.

    Attributes:
        timeout_s: from the head of a request to its answer.
        body_bytes: size of its body.
    """

    timeout_s: float
    body_bytes: int


class Predictions:
    """The endpoint for predictions."""

    def __init__(
        self,
        signature: InputSignature,
        classes: Sequence[str],
        batcher: DynamicBatcher,
        limits: Limits,
    ) -> None:
        """Makes it.

        Args:
            signature: what the model takes.
            classes: names, in the order of the model's outputs.
            batcher: asks the model.
            limits: of each request.
        """
        self._taken = signature
        self._classes = classes
        self._batcher = batcher
        self._limits = limits
        self._readers = concurrent.futures.ThreadPoolExecutor(_READERS, "reader")
        self._held_bytes = 0

    async def __call__(self, request: Request) -> Response:
        """Answers a request.

        Raises:
            HTTPException: 400 for what the model cannot be asked; 408, 413, 415, 503 or 504.
        """
        _check_media_type(request.headers)
        body = bytearray()
        received = False
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._receive(request, body)
                received = True
                answers = await self._answers(await self._examples(body), request)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_HAS_GONE)
        except asyncio.CancelledError:  # What the server gave requests to end is cancelled.
            raise HTTPException(503, "the server is being stopped", _CLOSE) from None
        except TimeoutError:
            waited = f"within {self._limits.timeout_s:g} s"
            if received:
                raise HTTPException(504, f"the model had no answer {waited}") from None
            raise HTTPException(408, f"the body did not arrive {waited}", _CLOSE) from None
        finally:
            self._held_bytes -= len(body)
        return Response(self._told(answers), media_type="application/json")

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Reads the body into `body`, which may hold a part of it when this raises."""
        most = self._limits.body_bytes
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told) > most:
            raise HTTPException(413, f"found a body of {told} bytes, expected at most {most}")
        async for part in request.stream():
            body += part
            self._held_bytes += len(part)
            if len(body) > most:
                raise HTTPException(413, f"found a body of more than {most} bytes")
            if self._held_bytes > _MAX_HELD_BYTES:
                raise _busy(f"{self._held_bytes} bytes of requests are being worked on")

    async def _examples(self, body: bytearray) -> Array:
        if len(body) > _SMALL_BYTES:
            return await self._in_thread(lambda cancelled: self._read(instances(body), cancelled))
        asked = instances(body)
        if any(isinstance(each, dict) for each in asked):
            return await self._in_thread(lambda cancelled: self._read(asked, cancelled))
        return self._read(asked, threading.Event())

    async def _in_thread(self, read: Callable[[threading.Event], Array]) -> Array:
        cancelled = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read, cancelled)
        finally:
            cancelled.set()

    def _read(self, asked: Sequence[Any], cancelled: threading.Event) -> Array:
        """Returns examples (N, ...) from what JSON can say; stops when the request is cancelled.

        Raises:
            HTTPException: 400, which names the first instance that is none.
        """
        if isinstance(asked[0], list):
            try:
                return self._taken.batch_from_json(asked)
            except DataError:
                pass  # For one of them at least; which one is told below.
        examples = []
        for index, each in enumerate(asked):
            if cancelled.is_set():  # A thousand images of some kB each can take minutes.
                raise TimeoutError
            try:
                examples.append(self._taken.from_json(each))
            except DataError as error:
                raise HTTPException(400, f"instances[{index}]: {error}") from None
        return self._taken.stacked(examples)

    async def _answers(self, asked: Array, request: Request) -> Array:
        try:
            answers = self._batcher.submit(asked)
        except BusyError as error:
            raise _busy(str(error)) from None
        try:
            done, _ = await asyncio.wait([answers], timeout=_PATIENT_S)
            if not done:
                await _unless_gone(request, answers)
            return answers.result()
        finally:
            answers.cancel()  # Unless it is there.

    def _told(self, answers: Array) -> bytes:
        strange = ~np.isfinite(answers).all(axis=1)
        if strange.any():
            raise HTTPException(
                400,
                f"instances[{strange.argmax()}]: the model gives no probabilities for it; its "
                "values are far from those it was trained on",
            )
        predictions = [
            {"class": self._classes[best], "probability": row[best], "probabilities": row}
            for best, row in zip(answers.argmax(axis=1), answers, strict=True)
        ]
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def instances(body: bytes | bytearray) -> list[Any]:
    """Returns what a body asks.

    Raises:
        HTTPException: 400: it is not of the form `{"instances": [...]}`.
    """
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("instances"), list):
        raise HTTPException(400, 'expected a JSON object {"instances": [...]}')
    unknown = set(asked) - {"instances", "parameters"}
    if unknown or asked.get("parameters"):
        named = min(unknown) if unknown else "parameters"
        raise HTTPException(400, f"found {named!r}, expected nothing but 'instances'")
    found: list[Any] = asked["instances"]
    if not 1 <= len(found) <= MAX_INSTANCES:
        raise HTTPException(400, f"found {len(found)} instances, expected 1 to {MAX_INSTANCES}")
    return found


def _check_media_type(headers: Mapping[str, str]) -> None:
    found = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if found != "application/json":
        raise HTTPException(415, f"Content-Type: found {found!r}, expected application/json")
    coded = headers.get("content-encoding", "identity")
    if coded != "identity":
        raise HTTPException(415, f"Content-Encoding: found {coded!r}, expected none")


async def _unless_gone(request: Request, answers: asyncio.Future[Array]) -> None:
    """Waits for answers; raises ClientDisconnect as soon as nobody waits for them any more."""
    gone = asyncio.ensure_future(request.receive())
    either: list[asyncio.Future[Any]] = [answers, gone]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not answers.done():
        raise ClientDisconnect


def _busy(message: str) -> HTTPException:
    return HTTPException(503, f"busy: {message}; try again", {"Retry-After": "1"})
