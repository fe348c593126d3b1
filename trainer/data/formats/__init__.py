"""One module per data format, and the registry that names them.

To add a format, write a module in this package and add its name to `FORMATS`, or to
`NESTED_FORMATS` if its files lie in subfolders. The module defines:

    NAME: str
        What the format reads, in words. It is listed in the error for unknown data.

    recognises(files: Sequence[Path]) -> bool
        Whether the files are of this format. Looks at names and first bytes only, never raises for
        damaged content. `files` are sorted and not hidden; with a nested format they include those
        in all subfolders.

    read(files: Sequence[Path], request: ReadRequest) -> RawSplits
        Reads all examples and labels. Raises DataError with the Location of what is damaged.

    stream(files: Sequence[Path], request: ReadRequest) -> Stream | None
        Optional. Returns the data set as a stream, so that it need not fit into memory; None if
        these files can only be read as a whole.

A module imports what only it needs inside its functions if the import is slow, so that data of
other formats does not pay for it.
"""

# In the order in which they are tried: the first format that recognises the files reads them.
FORMATS = ("idx", "npz", "sparse", "text", "pickle", "table", "vertex_jsonl")

# Tried after FORMATS, on the files of the folder and all its subfolders.
NESTED_FORMATS = ("class_folders",)
