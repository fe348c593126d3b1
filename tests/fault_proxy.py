"""An HTTP proxy on loopback that injects faults between a client and a server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "expect"}


@dataclass
class Fault:
    """A fault injected into matching requests, `times` times after skipping the first `skip`.

    One kind of fault is set. Offsets and lengths are in bytes of the body.
    """

    match: str = ".*"  # A regular expression for "METHOD /path?query name-of-uploaded-object".
    times: int = 1
    skip: int = 0
    status: int | None = None  # Reply with this status; do not forward the request.
    message: str = "injected"  # Of the reply with `status`, as the service explains an error.
    reason: str = ""  # Of the reply with `status`: the service's code of the error.
    reset: bool = False  # Reset the connection; do not forward the request.
    lose_reply: bool = False  # Forward the request, then reset the connection without a reply.
    stall_s: float = 0.0  # Wait before forwarding.
    corrupt_request: int | None = None  # Flip the byte at this offset of the request's body.
    corrupt_reply: int | None = None  # Flip the byte at this offset of the reply's body.
    cut_reply: int | None = None  # Reset the connection after this many bytes of the body.
    truncate_reply: int | None = (
        None  # Shorten the reply's body to this length, with a matching header.
    )
    hits: int = field(default=0, init=False)


class FaultProxy:
    """Forwards requests to `upstream`; injects the faults that were added."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        address = urlsplit(upstream)
        self._upstream = (str(address.hostname), int(address.port or 80))
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # Broken connections are expected.

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, **settings: object) -> Fault:
        """Adds a fault; of several that match a request, the first is injected."""
        fault = Fault(**settings)  # type: ignore[arg-type]
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Removes all faults and the record of requests."""
        self._faults.clear()
        self.requests.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pick(self, request: str) -> Fault:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.hits < fault.times and re.search(fault.match, request):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.hits += 1
                    return fault
        return Fault()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = _read_body(handler)
        # A multipart upload names its object in the body.
        name = re.search(rb'"name": ?"([^"]+)"', body[:1000])
        suffix = f" {name[1].decode()}" if name else ""
        fault = self._pick(f"{handler.command} {unquote(handler.path)}{suffix}")
        time.sleep(fault.stall_s)
        if fault.reset:
            return _reset(handler)
        if fault.status:
            return _answer(handler, fault)
        if fault.corrupt_request is not None:
            body = _flip(body, fault.corrupt_request)
        reply, headers, content = self._forward(handler, body)
        if fault.lose_reply:
            return _reset(handler)
        if fault.corrupt_reply is not None:
            content = _flip(content, fault.corrupt_reply)
        handler.send_response_only(reply.status, reply.reason)
        for name, value in headers:
            handler.send_header(name, value)
        length = len(content)
        if fault.truncate_reply is not None:
            length = min(length, fault.truncate_reply)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if fault.cut_reply is not None and fault.cut_reply < length:
            handler.wfile.write(content[: fault.cut_reply])
            return _reset(handler)
        if handler.command != "HEAD":
            handler.wfile.write(content[:length])
        return None

    def _forward(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[http.client.HTTPResponse, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP_BY_HOP}
        if body or handler.command in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(len(body))
        connection.request(handler.command, handler.path, body or None, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        forwarded = [pair for pair in reply.getheaders() if pair[0].lower() not in _HOP_BY_HOP]
        return reply, forwarded, content


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _answer(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
    status = int(fault.status or 0)
    reasons = [{"message": fault.message, "domain": "global", "reason": fault.reason}]
    error = {"code": status, "message": fault.message, "errors": reasons}
    message = json.dumps({"error": error}).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(message)))
    handler.end_headers()
    handler.wfile.write(message)


def _flip(content: bytes, offset: int) -> bytes:
    flipped = bytearray(content)
    flipped[offset] ^= 0x5A
    return bytes(flipped)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    linger = struct.pack("ii", 1, 0)  # Close with RST instead of FIN.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.wfile.flush()
    handler.rfile.close()
    handler.connection.close()
