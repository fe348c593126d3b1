"""Decides what a folder or a file holds: which format reads it, and what that leaves out."""

from __future__ import annotations

import collections
import importlib

from trainer.data.dataset import ReadRequest
from trainer.data.formats import FORMATS, images
from trainer.data.listing import Candidate, Listing
from trainer.errors import DataError, Location

_FORMATS_PACKAGE = "trainer.data.formats"
_MAX_NAMED = 5
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz")
_SPREADSHEETS = (".xls", ".xlsx", ".ods")


def decide(listing: Listing, request: ReadRequest) -> Candidate:
    """Returns how a data set is read.

    Each format says how it would read the files. The one with the best evidence does; of two with
    the same evidence, the user must choose.

    Raises:
        DataError: no format can read the files, or several can.
    """
    candidates = [
        candidate for name in FORMATS if (candidate := _propose(name, listing, request)) is not None
    ]
    chosen = request.options.data_format
    if chosen is not None:
        candidates = [candidate for candidate in candidates if candidate.name == chosen]
        if not candidates:
            raise DataError(f"--data-format {chosen}: found {_found(listing)}")
    options = request.options
    names_columns = options.label_column or options.text_column or options.image_column
    if names_columns and any(candidate.name == "table" for candidate in candidates):
        candidates = [candidate for candidate in candidates if candidate.name == "table"]
    if not candidates:
        raise DataError(f"no known format, found {_found(listing)}. {_expected(listing)}")
    candidates.sort(key=lambda candidate: -candidate.evidence)
    best, others = candidates[0], candidates[1:]
    if best.error is not None:
        raise best.error.at(Location(listing.root))
    rivals = [other for other in others if other.evidence == best.evidence]
    if rivals:
        best = _prefer(best, rivals)
    return best


def left_out(candidate: Candidate, listing: Listing) -> str:
    """Returns the files that are not read, by reason, for the user; "" if all are read."""
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for file, reason in (listing.left_out | candidate.left_out).items():
        reasons[reason].append(file.relative_to(listing.top).as_posix())
    return "; ".join(
        f"{', '.join(sorted(names)[:_MAX_NAMED])}"
        + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
        + f" ({reason})"
        for reason, names in sorted(reasons.items())
    )


def _propose(name: str, listing: Listing, request: ReadRequest) -> Candidate | None:
    module = importlib.import_module(f"{_FORMATS_PACKAGE}.{name}")
    if hasattr(module, "propose"):
        candidate: Candidate | None = module.propose(listing, request)
        return candidate
    # Formats of arrays are recognised by the content of single files.
    files = [
        file for file in listing.files
        if (file.parent == listing.root or not listing.is_folder)
        and not images.is_image_name(file.name)
        and module.recognises([file])
    ]  # fmt: skip
    if not files:
        return None
    error = None
    if len(files) > 1 and getattr(module, "ONE_FILE", False):
        names = ", ".join(file.name for file in files[:_MAX_NAMED])
        error = DataError(f"found {names}, expected one such file; give one of them to --data")
    selected = set(files)
    others = {file: f"not {name}" for file in listing.files if file not in selected}
    return Candidate(
        format=module,
        files=tuple(files),
        evidence=0 if error else 3,
        summary=module.NAME.partition(" (")[0],
        left_out=others,
        error=error,
    )


def _prefer(best: Candidate, rivals: list[Candidate]) -> Candidate:
    """Returns the candidate that reads the files that the others read, too.

    Raises:
        DataError: each reads files that the other one leaves out.
    """
    names = {candidate.name: candidate for candidate in (best, *rivals)}
    table, folders = names.get("table"), names.get("class_folders")
    if table is not None and folders is not None and table.plan.paths is not None:
        return table  # It names the images in the folders.
    choices = "; ".join(
        f"--data-format {candidate.name} reads {candidate.summary} ({len(candidate.files)} files)"
        for candidate in names.values()
    )
    raise DataError(f"found two kinds of data, and only you know which is meant: {choices}")


def _found(listing: Listing) -> str:
    names = ["/".join(listing.relative(file)) for file in listing.files[:_MAX_NAMED]]
    if not names and listing.left_out:
        left_out = sorted(file.name for file in listing.left_out)[:_MAX_NAMED]
        return f"only {', '.join(left_out)}"
    return ", ".join(names) or "no files"


def _expected(listing: Listing) -> str:
    archives = [file.name for file in listing.files if file.suffix.lower() in _ARCHIVES]
    if archives:
        return f"Unpack {archives[0]} first"
    sheets = [file.name for file in listing.files if file.suffix.lower() in _SPREADSHEETS]
    if sheets:
        return f"Save {sheets[0]} as CSV first"
    return (
        "Expected one folder per class, a table (CSV, JSON lines, Parquet, TFRecord), or arrays "
        "(NumPy, IDX, SciPy, pickle); docs/data.md describes each"
    )
