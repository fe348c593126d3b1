"""One module per data format, and the registry that names them.

To add a format, write a module in this package and add its name to `FORMATS`, and to the choices
of `--data-format` in `trainer.config`. The module defines:

    NAME: str
        What the format reads, in words, for messages.

    propose(listing: Listing, request: ReadRequest) -> Candidate | None
        How the format would read the files, and with what evidence; None if it cannot. For files
        that show by themselves what they are, `recognises` is enough in its place.

    recognises(files: Sequence[Path]) -> bool
        Whether the files of one folder are of this format. Looks at names and first bytes only,
        and never raises for damaged content.

    ONE_FILE: bool
        Optional, beside `recognises`: whether each file is a data set of its own.

    read(candidate: Candidate, request: ReadRequest) -> RawSplits
        Reads all examples and labels. Raises DataError with the Location of what is damaged.

    stream(candidate: Candidate, request: ReadRequest) -> Stream | None
        Optional. Returns the data set as a stream, so that it need not fit into memory; None if
        these files can only be read as a whole.

A module imports what only it needs inside its functions if the import is slow, so that data of
other formats does not pay for it.
"""

FORMATS = (
    "idx", "npz", "sparse", "pickle", "vertex_jsonl", "table", "class_folders", "text"
)  # fmt: skip
