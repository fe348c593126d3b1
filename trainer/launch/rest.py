"""Sends signed requests to Google's REST APIs, and retries them.

Requests are retried for `TRAINER_RETRY_SECONDS`, as in `storage`; each waits a quarter of that for
its response.
"""

from __future__ import annotations

import time
import warnings
from typing import Any
from urllib.parse import urlsplit

import google.auth
import google.auth.credentials
import requests
from google.auth import exceptions as auth
from google.auth.transport.requests import AuthorizedSession

from trainer.errors import UsageError
from trainer.runtime import variables
from trainer.storage import credentials

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_RETRYABLE = (0, 408, 429, 500, 502, 503, 504)


class RequestError(Exception):
    """A request that failed.

    Attributes:
        status: HTTP status; 0 without a complete response.
        message: explanation by the service.
        reason: code of the cause, such as SERVICE_DISABLED; may be empty.
    """

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        """Creates the error; see the class for the arguments."""
        super().__init__(f"{message} ({status})" if status else message)
        self.status = status
        self.message = message
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _RETRYABLE

    @property
    def ambiguous(self) -> bool:
        """Whether the service may have carried out the request in spite of the error."""
        return self.retryable and self.status != 429


class RequestRetry:
    """Waits between the tries of a request, with exponential backoff, up to a total time.

    Attributes:
        total_s: seconds from the first try to the last.
    """

    def __init__(self) -> None:
        """Starts the clock."""
        self.total_s = _retry_s()
        self._deadline = time.monotonic() + self.total_s
        self._wait_s = self.total_s / 120  # 1 s by default, then 2 s, 4 s, ...
        self._max_wait_s = self.total_s / 4

    def wait(self, error: RequestError) -> None:
        """Waits before the next try; raises `error` if it is not retryable or time is up."""
        if not error.retryable or time.monotonic() + self._wait_s > self._deadline:
            raise error
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self._max_wait_s)


class Client:
    """Sends requests with the user's credentials."""

    def __init__(self, endpoint: str) -> None:
        """Loads the credentials; sends no request to `endpoint`.

        Raises:
            StorageError: there are no credentials, or they are damaged.
        """
        address = urlsplit(endpoint)
        # Plain HTTP on this machine is a test server: it must not receive credentials.
        local = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost")
        anonymous = google.auth.credentials.AnonymousCredentials
        self._session = AuthorizedSession(anonymous() if local else _load_credentials())

    def read(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        """Sends a request that changes nothing, with retries.

        Arguments, result and errors are those of `send`.
        """
        retry = RequestRetry()
        while True:
            try:
                return self.send(method, url, **content)
            except RequestError as error:
                retry.wait(error)

    def send(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        """Sends a request once.

        Args:
            method: HTTP method.
            url: address.
            content: `params` and `json`, as in `requests`.

        Returns:
            The JSON object of the response.

        Raises:
            RequestError: the service reports an error, or sends no complete response.
            UsageError: Google rejects the credentials.
        """
        try:
            response = self._session.request(method, url, timeout=_retry_s() / 4, **content)
        except requests.RequestException as error:
            cause = error.args[0] if error.args else error
            raise RequestError(0, f"no response: {getattr(cause, 'reason', cause)}") from error
        except auth.GoogleAuthError as error:
            if error.retryable or isinstance(error, auth.TransportError):
                raise RequestError(0, f"cannot get an access token now: {error}") from error
            raise credentials.explain_rejection(error) or UsageError(
                f"Google rejects the credentials: {error}; {credentials.LOGIN}"
            ) from error
        return _parse(response)


def _parse(response: requests.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:  # Truncated, or the error page of a proxy.
        content = None
    if response.ok and isinstance(content, dict):
        return content
    if response.ok:
        raise RequestError(0, f"no JSON object in the response: {response.text[:200]!r}")
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        error = {"message": response.reason}
    reasons = [detail.get("reason") for detail in error.get("details", []) if "reason" in detail]
    raise RequestError(response.status_code, str(error.get("message")), "".join(reasons[:1]))


def _load_credentials() -> google.auth.credentials.Credentials:
    credentials.check_file()
    try:
        # google.auth warns of a missing quota project; the service names it if it is needed.
        with warnings.catch_warnings(action="ignore"):
            return google.auth.default(scopes=[_SCOPE])[0]
    except (auth.DefaultCredentialsError, ValueError, TypeError) as error:
        raise credentials.explain(error) from error


def _retry_s() -> float:
    return variables.seconds(variables.RETRY)
