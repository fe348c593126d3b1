"""Errors that are reported to the user in one line, with their exit codes.

A message names the flag or file, what was found, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class TrainerError(Exception):
    """Base class of all errors that are reported without a traceback."""

    exit_code = 2


class UsageError(TrainerError):
    """A flag or a combination of flags is invalid."""


@dataclass(frozen=True)
class Location:
    """A position in a data set, for error messages.

    Attributes:
        file: a Path on this machine, perhaps of a temporary copy; or a str, the name that the user
            knows the file by.
        row: position in the file, such as "line 3"; "" for the whole file.
    """

    file: Path | str
    row: str = ""

    def __str__(self) -> str:
        """Returns the prefix of a message: the file and the row."""
        return f"{self.file}: {self.row}" if self.row else str(self.file)

    @property
    def name(self) -> str:
        """The location without the folders of the file."""
        return str(Location(Path(self.file).name, self.row))


class DataError(TrainerError):
    """Data is missing, damaged, or of the wrong kind."""

    def __init__(self, problem: str, location: Location | None = None) -> None:
        """Creates the error.

        Args:
            problem: what was found and what was expected.
            location: position of the problem; None for the data set as a whole.
        """
        super().__init__(problem if location is None else f"{location}: {problem}")
        self.problem, self.location = problem, location

    def at(self, location: Location) -> DataError:
        """Returns the error with `location`, unless it has a location already."""
        return self.relocated(lambda current: current or location)

    def relocated(self, relocate: Callable[[Location | None], Location]) -> DataError:
        """Returns the error with its location replaced by `relocate(location)`."""
        return DataError(self.problem, relocate(self.location))


class DamagedFilesError(DataError):
    """Several files of a data set cannot be read; the message names the first ones."""

    MAX_NAMED = 5

    def __init__(
        self,
        errors: Sequence[DataError],
        file_count: int,
        unit: str = "files",
        max_bad: float = 0.0,
    ) -> None:
        """Creates the error.

        Args:
            errors: one per damaged file.
            file_count: number of files that were read.
            unit: what the files are.
            max_bad: value of --max-bad, which is exceeded.
        """
        super().__init__(
            "; ".join(map(str, errors[: self.MAX_NAMED]))
            + f" ({len(errors)} of {file_count} {unit}, expected at most {max_bad:g} of all, see "
            "--max-bad)"
        )
        self.errors, self.file_count, self.unit, self.max_bad = errors, file_count, unit, max_bad

    def relocated(self, relocate: Callable[[Location | None], Location]) -> DamagedFilesError:
        """Returns the error with the location of each file's error replaced."""
        errors = [error.relocated(relocate) for error in self.errors]
        return DamagedFilesError(errors, self.file_count, self.unit, self.max_bad)


class DeviceError(TrainerError):
    """A device is missing, cannot be opened, or has too little memory."""


class DivergedError(TrainerError):
    """The loss or the predictions became NaN or infinite."""


class StoppedError(TrainerError):
    """SIGTERM stopped the run; a checkpoint is saved."""

    exit_code = 143


class RunExistsError(TrainerError):
    """`--out` holds files or a run that this run would overwrite."""


class DamagedRunError(TrainerError):
    """Files of a finished run are missing, changed, or of another format version."""

    exit_code = 3


class UnreadableInputError(TrainerError):
    """Some input files could not be read and were reported; the others were processed."""

    exit_code = 3


class StorageError(TrainerError):
    """A path or bucket is missing, or may not be read or written."""


class ConflictError(StorageError):
    """Another process has changed a file or a run directory meanwhile."""


class TransientStorageError(StorageError):
    """Storage failed although the request was valid; a later attempt may succeed.

    The exit code is 1, not 2 as for user errors, so that a cloud service retries the job.
    """

    exit_code = 1


class WorkerLostError(TrainerError):
    """Another worker of the job is lost or never started; no worker can continue without it.

    The exit code is 1, not 2 as for user errors, so that a cloud service restarts all workers.
    """

    exit_code = 1


class ExportMismatchError(TrainerError):
    """The outputs of a converted model differ from those of the original model.

    The exit code is 1, not 2 as for user errors: the cause is in the converter, the runtime or
    this program.
    """

    exit_code = 1


class RemoteJobError(TrainerError):
    """A job on other machines failed; the exit code is that job's."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        """Creates the error; `exit_code` is 1 to 255."""
        super().__init__(message)
        self.exit_code = exit_code
