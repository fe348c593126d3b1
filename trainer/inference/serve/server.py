"""Runs an ASGI application on a socket until SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from trainer.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_BACKLOG = 2048
_GRACE_S = 8  # Below the 10 s after which docker stop kills.
# Google's load balancers keep a connection for 600 s, and may reuse it until then.
_KEEP_ALIVE_S = 620


class _HttpServer(uvicorn.Server):
    """Announces when it is ready, and returns normally after a signal."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler raises the signal again at the end, and aborts at a second Ctrl-C.
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket bound to an address; it does not listen yet, and refuses connections.

    Raises:
        UsageError: the address is in use, or not one of this machine.
    """
    with _translate_errors(host, port):
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
        return listener


def run(app: ASGIApp, listener: socket.socket, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; then answers the requests in flight, for at most 8 s.

    Args:
        app: the application.
        listener: a socket from `bind`.
        announce: called with the server's URL when the server is ready.

    Raises:
        UsageError: another process listens on the address.
    """
    host, port = listener.getsockname()[:2]
    with _translate_errors(host, port):
        listener.listen(_BACKLOG)
    config = uvicorn.Config(
        app,
        access_log=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ws="none",
    )
    if ipaddress.ip_address(host).is_unspecified:
        host = "localhost"
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server = _HttpServer(config, lambda: announce(url))
    for number in uvicorn.server.HANDLED_SIGNALS:
        signal.signal(number, server.handle_exit)  # uvicorn installs it too, a moment later.
    # A garbage collection of TensorFlow's million objects would stop all requests for 0.2 s.
    gc.freeze()
    server.run(sockets=[listener])


@contextlib.contextmanager
def _translate_errors(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"--host {host} --port {port}: cannot listen there: {reason}; choose another --host or "
            "--port"
        ) from None
