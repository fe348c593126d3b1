"""Lines and rows of a stream come one by one, and a bad one is not the last."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from trainer.errors import DataError
from trainer.inference.predict.lines import Lines, Rows


def lines(content: bytes, max_bytes: int = 100) -> Lines:
    reader: io.BufferedReader = io.BufferedReader(io.BytesIO(content))
    return Lines(reader, max_bytes=max_bytes, live=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"\xef\xbb\xbfa\r\n\nb\x0cc", [b"a\r", b"", b"b\x0cc"]),
    ],
)
def test_only_line_feeds_part_lines(content: bytes, expected: list[bytes]) -> None:
    assert list(lines(content)) == expected


def test_a_line_that_is_too_long_is_not_kept_and_the_next_one_is_read() -> None:
    found = lines(b"a\n" + b"x" * 5_000_000 + b"\nb", max_bytes=10)
    assert next(found) == b"a"
    with pytest.raises(DataError, match="a line of more than 10 bytes"):
        next(found)
    assert (next(found), found.number) == (b"b", 3)
    with pytest.raises(StopIteration):
        next(found)


def test_pieces_of_any_size_make_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"one\n\ntwo three\nfour"
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr("trainer.inference.predict.lines._PIECE_BYTES", size)
        assert list(lines(content)) == content.split(b"\n")


def test_it_says_when_nobody_writes() -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as content, open(theirs, "wb", buffering=0) as other:
        found = Lines(content, max_bytes=100, live=True)
        other.write(b"a\nb\nc")
        assert not found.waits()
        assert (next(found), found.waits(), next(found)) == (b"a", False, b"b")
        assert found.waits()  # The third has no end yet.
        writer = threading.Thread(target=lambda: (time.sleep(0.02), other.write(b"d\n")))
        writer.start()
        assert next(found) == b"cd"
        writer.join()


def test_rows_may_hold_line_feeds_and_a_bad_one_is_not_the_last() -> None:
    rows = Rows(lines(b'a,"b\nc ""d"""\n\n\xff,1\nx,y'))
    assert (next(rows), rows.number) == (["a", 'b\nc "d"'], 1)
    with pytest.raises(DataError, match="not UTF-8: found byte 0xff"):
        next(rows)
    assert (next(rows), rows.number) == (["x", "y"], 5)
    rows.put_back(["x", "y"])
    assert list(rows) == [["x", "y"]]


def test_a_quote_without_end_does_not_fill_the_memory() -> None:
    content = b'a\n"b\n' + b"c" * 50 + b"\n" + b"d\n" * 600_000
    with pytest.raises(DataError, match="no CSV: field larger than field limit"):
        list(Rows(lines(content)))
