"""Translates errors of the operating system and the Cloud Storage client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trainer.errors import StorageError, TransientStorageError
from trainer.storage._paths import is_remote


@contextlib.contextmanager
def translate_errors(path: str) -> Iterator[None]:
    """Turns errors of the operating system and the client into one-line errors about `path`."""
    try:
        yield
    except OSError as error:
        if is_remote(path):
            raise TransientStorageError(f"{path}: no connection: {error}") from error
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:
        if not is_remote(path) or isinstance(error, StorageError):
            raise
        raise _translate_client_error(path, error) from error


def _translate_client_error(path: str, error: Exception) -> Exception:
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage import exceptions as media

    if isinstance(error, api.NotFound):
        return StorageError(f"{path}: no such bucket or object (404)")
    if isinstance(error, api.Forbidden | api.Unauthorized):
        return StorageError(
            f"{path}: permission denied ({error.code}): the account needs the role "
            "Storage Object User on the bucket"
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return StorageError(
            f"{path}: no Google credentials: run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file"
        )
    if isinstance(error, api.BadRequest):
        return StorageError(f"{path}: refused by Cloud Storage: {error.message}")
    if isinstance(
        error,
        # ValueError: a truncated reply is no valid JSON.
        api.GoogleAPIError | auth.GoogleAuthError | media.InvalidResponse | ValueError,
    ):
        return TransientStorageError(f"{path}: Cloud Storage failed: {error}")
    return error
