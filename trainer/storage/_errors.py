"""Translates errors of the operating system and the Cloud Storage client.

A TransientStorageError, with exit code 1, is raised only where a later attempt may succeed. Errors
of this machine, such as a full disk, are none, also if they occur during a download.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from trainer.errors import StorageError, TransientStorageError
from trainer.runtime import temporary
from trainer.storage._paths import is_remote
from trainer.storage.credentials import LOGIN, explain_rejection

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_CONNECTION_ERRNOS = (
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL,
    errno.ENOTCONN, errno.EAGAIN, errno.EINTR,
)  # fmt: skip
_PASSING_STATUS = (408, 409, 412, 416, 429)  # Of the client errors, which are 400 to 499.
_RATE_LIMITS = ("rateLimitExceeded", "userRateLimitExceeded")  # Reasons of a 403 that passes.


@contextlib.contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Turns errors of the operating system and the client into one-line errors about `path`."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if not is_remote(path):
            if isinstance(error, OSError):
                raise StorageError(f"{path}: {error.strerror or error}") from error
            raise
        if isinstance(error, OSError) and is_local(error):
            raise _translate_local_error(path, error) from error
        raise _translate_client_error(path, error) from error


def is_local(error: OSError) -> bool:
    """Returns whether an error is one of this machine's files, and not of a connection."""
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _CONNECTION_ERRNOS:
        return False
    return type(error).__module__ == "builtins"  # Those of sockets and of requests have their own.


def disk_problem(error: OSError) -> str:
    """Returns what is wrong with the folder for temporary files, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"temporary files in {temporary.root()}: {reason}. Set TMPDIR to another folder"


def _translate_local_error(path: str, error: OSError) -> StorageError:
    if error.errno in _DISK_FULL:
        return StorageError(f"{path}: {disk_problem(error)}")
    place = f" ({error.filename})" if error.filename else ""
    return StorageError(f"{path}: on this machine: {error.strerror or error}{place}")


def _translate_client_error(path: str, error: Exception) -> Exception:
    import requests
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage import exceptions as media

    if isinstance(error, auth.DefaultCredentialsError):
        return StorageError(f"{path}: no Google credentials: {LOGIN}")
    if isinstance(error, auth.RefreshError) and (rejection := explain_rejection(error)):
        return StorageError(f"{path}: {rejection}")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageError(
            f"{path}: the certificate of the server, or of a proxy before it, is not trusted here. "
            "Set REQUESTS_CA_BUNDLE to a file with the certificate that signed it"
        )
    if isinstance(error, api.GoogleAPICallError | media.InvalidResponse):
        return _translate_response(path, error)
    # A truncated reply is no valid JSON. Errors of requests are OSErrors, some also ValueErrors.
    truncated = isinstance(error, json.JSONDecodeError)
    if isinstance(error, ValueError) and not truncated:
        return StorageError(f"{path}: {error}")
    if isinstance(error, OSError) and not isinstance(error, requests.exceptions.JSONDecodeError):
        return TransientStorageError(f"{path}: no connection: {error}")
    if truncated or isinstance(
        error, api.GoogleAPIError | auth.GoogleAuthError | urllib3.exceptions.HTTPError
    ):
        return TransientStorageError(f"{path}: Cloud Storage failed: {error}")
    return error


def _translate_response(path: str, error: Any) -> Exception:
    """Translates a reply of the service with an error status; keeps the service's own message."""
    response = getattr(error, "response", None)
    status = int(getattr(error, "code", None) or getattr(response, "status_code", None) or 0)
    message, reason = _service_message(response)
    passes = not 400 <= status < 500 or status in _PASSING_STATUS or reason in _RATE_LIMITS
    if passes:
        return TransientStorageError(f"{path}: Cloud Storage failed: {error}")
    detail = f": {message}" if message else ""
    if status == 404:
        return StorageError(f"{path}: no such bucket or object (404)")
    if _lacks_payer(message):
        return StorageError(
            f"{path}: refused by Cloud Storage ({status}){detail} Set --billing-project to a "
            "Google Cloud project of yours, which then pays for the requests"
        )
    if status not in (401, 403):
        return StorageError(f"{path}: refused by Cloud Storage ({status}){detail}")
    headers = getattr(getattr(response, "request", None), "headers", {})
    without_credentials = "Authorization" not in headers
    if without_credentials and (status == 401 or "anonymous caller" in message.lower()):
        return StorageError(f"{path}: no Google credentials: {LOGIN} ({status}{detail})")
    role = ""
    if re.search(r"storage\.objects\.\w+", message):
        role = " The account needs the role Storage Object User on the bucket"
    return StorageError(f"{path}: permission denied ({status}){detail}{role}")


def _service_message(response: Any) -> tuple[str, str]:
    """Returns the service's explanation of an error, and the code of its reason."""
    message = reason = ""
    try:
        error = response.json()["error"]
        message = str(error["message"])
        reason = str(error["errors"][0]["reason"])
    except (AttributeError, LookupError, TypeError, ValueError):
        text = message or str(getattr(response, "text", "") or "")
        fields = re.findall(r"<(?:Message|Details)>(.*?)</", text, re.DOTALL)  # The XML interface.
        # Any other text: a page of a proxy says more in tags than in words.
        message = " ".join(fields) if fields else text if "<" not in text else ""
    message = " ".join(message.split())[:1000]
    if message and message[-1] not in ".!?":
        message += "."
    return message, reason


def _lacks_payer(message: str) -> bool:
    return "requester pays" in message.lower() and "no user project" in message.lower()
