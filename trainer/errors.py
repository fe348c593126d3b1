"""What can go wrong outside the program, each told to the user in one line.

The text of an error names the flag or file, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class TrainerError(Exception):
    """Base of all errors that `trainer` reports without a traceback."""

    exit_code = 2


class UsageError(TrainerError):
    """A flag, or a combination of flags, that cannot work."""


@dataclass(frozen=True)
class Location:
    """Where in the data something is.

    Attributes:
        file: as a Path, where it lies on this machine, which may be a copy; as a str, what the user
            would call it.
        row: the part of the file, as "line 3"; "" for all of it.
    """

    file: Path | str
    row: str = ""

    def __str__(self) -> str:
        """Returns it as messages begin with it."""
        return f"{self.file}: {self.row}" if self.row else str(self.file)

    @property
    def name(self) -> str:
        """The place without the folders that the file is in."""
        return str(Location(Path(self.file).name, self.row))


class DataError(TrainerError):
    """Data that cannot be trained on: missing, damaged, or of the wrong kind."""

    def __init__(self, found: str, place: Location | None = None) -> None:
        """Makes the error.

        Args:
            found: what was found and what was expected.
            place: where that is; None if it is all of the data, or no file of it.
        """
        super().__init__(found if place is None else f"{place}: {found}")
        self.found, self.place = found, place

    def at(self, place: Location) -> DataError:
        """Returns the error with a place, if it has none."""
        return self.moved(lambda known: known or place)

    def moved(self, move: Callable[[Location | None], Location]) -> DataError:
        """Returns the error with another place, which is found by the one that it has."""
        return DataError(self.found, move(self.place))


class DamagedFilesError(DataError):
    """Files of the data that cannot be read; the message names the first of them."""

    MAX_NAMED = 5

    def __init__(self, findings: Sequence[DataError], of: int) -> None:
        """Makes the error.

        Args:
            findings: what is wrong with each damaged file.
            of: how many files were read.
        """
        more = f" ({len(findings)} of {of} files)" if len(findings) > 1 else ""
        super().__init__("; ".join(map(str, findings[: self.MAX_NAMED])) + more)
        self.findings, self.of = findings, of

    def moved(self, move: Callable[[Location | None], Location]) -> DamagedFilesError:
        """Returns the error with each finding moved."""
        return DamagedFilesError([finding.moved(move) for finding in self.findings], self.of)


class DeviceError(TrainerError):
    """A device that was asked for, or is there, but cannot be opened."""


class DivergedError(TrainerError):
    """Training whose loss is no number any more."""


class StoppedError(TrainerError):
    """A run that was ended by SIGTERM, with a checkpoint saved."""

    exit_code = 143


class RunExistsError(TrainerError):
    """`--out` already holds something that this run would destroy."""


class DamagedRunError(TrainerError):
    """A finished run whose files are not those of its manifest."""

    exit_code = 3


class UnreadableInputError(TrainerError):
    """Files that could not be read, each told of by then; what could be read is done."""

    exit_code = 3


class StorageError(TrainerError):
    """A path or bucket that is missing, or that may not be read or written."""


class ConflictError(StorageError):
    """Storage that another process has changed meanwhile."""


class TransientStorageError(StorageError):
    """Storage that failed though the request was right; trying again may help.

    The exit code is not the user's 2, so that a cloud service runs the job again.
    """

    exit_code = 1


class WorkerLostError(TrainerError):
    """Another worker of the job that is gone, or never came; none can go on without it.

    The exit code is not the user's 2, so that a cloud service starts them all again.
    """

    exit_code = 1


class ExportMismatchError(TrainerError):
    """A converted model that answers otherwise than the one it was made of.

    The exit code is not the user's 2: the fault is a converter's, a runtime's or ours.
    """

    exit_code = 1


class RemoteJobError(TrainerError):
    """A job on other machines that has ended without success; the exit code is that job's."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        """Makes the error; `exit_code` is 1 to 255."""
        super().__init__(message)
        self.exit_code = exit_code
