"""Explains what is wrong with Google's credentials; used for buckets and for Vertex AI."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from trainer.errors import StorageError

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = f"run `gcloud auth application-default login`, or set {VARIABLE} to a key file"

# Of Google's token service: the key or the login is no longer valid.
_REJECTED = re.compile(
    r"\W*(invalid_grant|invalid_client|invalid_scope|invalid_request|unauthorized_client|"
    r"access_denied|deleted_client|disabled_client|Reauthentication)"
)


def check_file() -> None:
    """Raises StorageError if the file of GOOGLE_APPLICATION_CREDENTIALS is missing or damaged."""
    file = os.environ.get(VARIABLE)
    if not file:
        return
    try:
        problem = "" if isinstance(json.loads(Path(file).read_bytes()), dict) else "which is no key"
    except IsADirectoryError:  # docker run -v creates a folder in place of a missing file.
        problem = "a folder"
    except FileNotFoundError:
        problem = "which does not exist"
    except OSError as error:
        problem = f"which cannot be read ({error.strerror})"
    except ValueError as error:
        problem = f"which is not JSON, perhaps cut off ({error})"
    if problem:
        raise StorageError(f"{VARIABLE}: found {file}, {problem}, expected a key file")


def are_missing(error: Exception) -> bool:
    """Returns whether google.auth found no credentials at all, rather than damaged ones."""
    return not os.environ.get(VARIABLE) and "credentials were not found" in str(error)


def explain(error: Exception) -> StorageError:
    """Returns the error for one of google.auth while it loaded the credentials."""
    if are_missing(error):
        return StorageError(f"no Google credentials: {LOGIN}")
    # The last argument is the cause, for some errors.
    reason = " ".join(" ".join(map(str, error.args)).split())
    if file := os.environ.get(VARIABLE):
        return StorageError(f"{VARIABLE}: found {file}, {reason}")
    return StorageError(f"no Google credentials: {reason.rstrip('.')}; {LOGIN}")


def explain_rejection(error: Exception) -> StorageError | None:
    """Returns the error for a RefreshError of google.auth; None if a later attempt may succeed."""
    message = str(error.args[0] if error.args else error).rstrip(".")
    if not _REJECTED.match(message):
        return None
    if file := os.environ.get(VARIABLE):
        return StorageError(
            f"{VARIABLE}: Google rejects the key in {file}: {message}. It may have been deleted, "
            "or the clock of this machine is wrong; expected a valid key file"
        )
    return StorageError(f"Google rejects the credentials: {message}; {LOGIN}")
