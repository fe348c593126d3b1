"""The rule for damaged files and rows: a few are left out and named, more are an error."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.dataset import ReadRequest
from trainer.errors import DamagedFilesError, DataError
from trainer.runtime.log import LOGGER


def are_too_many(errors: Sequence[DataError], count: int, request: ReadRequest) -> bool:
    """Returns whether more are damaged than --max-bad allows.

    Args:
        errors: one per damaged file.
        count: number of all files.
        request: how they are read.
    """
    return len(errors) > request.options.max_bad * count or 0 < len(errors) == count


def check(errors: Sequence[DataError], count: int, unit: str, request: ReadRequest) -> None:
    """Raises DamagedFilesError if too many files are damaged; arguments as `report`."""
    if are_too_many(errors, count, request):
        raise DamagedFilesError(errors, count, unit, request.options.max_bad)


def report(errors: Sequence[DataError], count: int, unit: str, request: ReadRequest) -> None:
    """Logs which files are left out.

    Args:
        errors: one per damaged file.
        count: number of all files.
        unit: what they are, such as "images".
        request: how they are read.

    Raises:
        DamagedFilesError: there are too many.
    """
    check(errors, count, unit, request)
    if errors:
        first = [
            str(error.relocated(request.original))
            for error in errors[: DamagedFilesError.MAX_NAMED]
        ]
        more = "; ..." if len(errors) > len(first) else ""
        LOGGER.warning(
            "left out %d damaged of %d %s: %s%s", len(errors), count, unit, "; ".join(first), more
        )
