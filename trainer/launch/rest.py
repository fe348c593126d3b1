"""Google's REST interfaces: signed requests, and when to try one again.

As in `storage`, a request is tried again for `TRAINER_RETRY_SECONDS`, and waits a quarter of
that for its answer.
"""

from __future__ import annotations

import os
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

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LOGIN = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
_PASSING = (0, 408, 429, 500, 502, 503, 504)


class RequestError(Exception):
    """A request that was not answered by success.

    Attributes:
        status: of HTTP; 0 if there was no whole answer.
        message: what the service says of it.
        reason: the service's word for the cause, such as SERVICE_DISABLED; may be empty.
    """

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        """Makes the error; the attributes are described with the class."""
        super().__init__(f"{message} ({status})" if status else message)
        self.status = status
        self.message = message
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether trying again may help."""
        return self.status in _PASSING

    @property
    def ambiguous(self) -> bool:
        """Whether the service may have done what it was asked for all the same."""
        return self.passing and self.status != 429


class Patience:
    """How long something is tried again, with waits that grow: 1 s, 2 s, 4 s and so on.

    Attributes:
        total_s: seconds from the first try to the last.
    """

    def __init__(self) -> None:
        """Begins to count the time."""
        self.total_s = _seconds()
        self._until = time.monotonic() + self.total_s
        self._wait_s = self.total_s / 120
        self._longest_s = self.total_s / 4

    def wait(self, error: RequestError) -> None:
        """Waits before the next try; raises the error if there is no use in one, or no time."""
        if not error.passing or time.monotonic() + self._wait_s > self._until:
            raise error
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self._longest_s)


class Client:
    """Sends requests with the user's credentials."""

    def __init__(self, endpoint: str) -> None:
        """Looks for the credentials for an endpoint.

        Raises:
            UsageError: there are none.
        """
        address = urlsplit(endpoint)
        # A server on this machine is a test's: none are looked for, and it gets none.
        local = address.scheme == "http" and address.hostname in ("127.0.0.1", "localhost")
        credentials = google.auth.credentials.AnonymousCredentials() if local else _credentials()
        self._session = AuthorizedSession(credentials)

    def read(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        """Sends a request that changes nothing, and so can be tried again.

        Takes, returns and raises what `send` does.
        """
        patience = Patience()
        while True:
            try:
                return self.send(method, url, **content)
            except RequestError as error:
                patience.wait(error)

    def send(self, method: str, url: str, **content: Any) -> dict[str, Any]:
        """Sends a request once.

        Args:
            method: of HTTP.
            url: where to.
            content: what `requests` calls `params` and `json`.

        Returns:
            The JSON object of the answer.

        Raises:
            RequestError: the answer is no success, or there is none.
            UsageError: Google does not take the credentials.
        """
        try:
            reply = self._session.request(method, url, timeout=_seconds() / 4, **content)
        except requests.RequestException as error:
            cause = error.args[0] if error.args else error
            raise RequestError(0, f"no answer: {getattr(cause, 'reason', cause)}") from error
        except auth.GoogleAuthError as error:
            if error.retryable or isinstance(error, auth.TransportError):
                raise RequestError(0, f"no access token for now: {error}") from error
            raise UsageError(f"Google did not take the credentials: {error}; {_LOGIN}") from error
        return _content(reply)


def _content(reply: requests.Response) -> dict[str, Any]:
    try:
        answer = reply.json()
    except ValueError:  # Cut short, or a page of some proxy.
        answer = None
    if reply.ok and isinstance(answer, dict):
        return answer
    if reply.ok:
        raise RequestError(0, f"no JSON object in the answer: {reply.text[:200]!r}")
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        error = {"message": reply.reason}
    reasons = [detail.get("reason") for detail in error.get("details", []) if "reason" in detail]
    raise RequestError(reply.status_code, str(error.get("message")), "".join(reasons[:1]))


def _credentials() -> google.auth.credentials.Credentials:
    try:
        # Its warning about a quota project is for programs; the service says what it needs.
        with warnings.catch_warnings(action="ignore"):
            return google.auth.default(scopes=[_SCOPE])[0]
    except auth.DefaultCredentialsError:
        raise UsageError(f"no Google credentials: {_LOGIN} to a key file") from None


def _seconds() -> float:
    return float(os.environ.get("TRAINER_RETRY_SECONDS", "120"))
