"""What the operating system and the client raise, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trainer.errors import StorageError, TransientStorageError
from trainer.storage._paths import is_remote


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what the operating system or the client raises into one line about `path`."""
    try:
        yield
    except OSError as error:
        if is_remote(path):
            raise TransientStorageError(f"{path}: no connection: {error}") from error
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except Exception as error:
        if not is_remote(path) or isinstance(error, StorageError):
            raise
        raise _explain_remote(path, error) from error


def _explain_remote(path: str, error: Exception) -> Exception:
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
        # ValueError: a reply cut short is not JSON any more.
        api.GoogleAPIError | auth.GoogleAuthError | media.InvalidResponse | ValueError,
    ):
        return TransientStorageError(f"{path}: Cloud Storage failed: {error}")
    return error
