"""Lines and CSV rows of a stream are read one by one; reading continues after a bad one."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from trainer.errors import DataError
from trainer.inference.predict.lines import Lines, Rows


def make_lines(content: bytes, max_bytes: int = 100) -> Lines:
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
def test_only_line_feeds_end_lines(content: bytes, expected: list[bytes]) -> None:
    assert list(make_lines(content)) == expected


def test_a_line_that_is_too_long_is_dropped_and_the_next_one_is_read() -> None:
    lines = make_lines(b"a\n" + b"x" * 5_000_000 + b"\nb", max_bytes=10)
    assert next(lines) == b"a"
    with pytest.raises(DataError, match="a line of more than 10 bytes"):
        next(lines)
    assert (next(lines), lines.number) == (b"b", 3)
    with pytest.raises(StopIteration):
        next(lines)


def test_the_chunk_size_does_not_change_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"one\n\ntwo three\nfour"
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr("trainer.inference.predict.lines._CHUNK_BYTES", size)
        assert list(make_lines(content)) == content.split(b"\n")


def test_a_live_stream_is_idle_until_a_line_is_complete() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as content, open(write_end, "wb", buffering=0) as other:
        lines = Lines(content, max_bytes=100, live=True)
        other.write(b"a\nb\nc")
        assert not lines.is_idle()
        assert (next(lines), lines.is_idle(), next(lines)) == (b"a", False, b"b")
        assert lines.is_idle()  # The third line has no line feed yet.
        writer = threading.Thread(target=lambda: (time.sleep(0.02), other.write(b"d\n")))
        writer.start()
        assert next(lines) == b"cd"
        writer.join()


def test_rows_may_contain_line_feeds_and_reading_continues_after_a_bad_one() -> None:
    rows = Rows(make_lines(b'a,"b\nc ""d"""\n\n\xff,1\nx,y'))
    assert (next(rows), rows.number) == (["a", 'b\nc "d"'], 1)
    with pytest.raises(DataError, match="not UTF-8: found byte 0xff"):
        next(rows)
    assert (next(rows), rows.number) == (["x", "y"], 5)
    rows.push_back(["x", "y"])
    assert list(rows) == [["x", "y"]]


def test_an_unclosed_quote_does_not_fill_the_memory() -> None:
    content = b'a\n"b\n' + b"c" * 50 + b"\n" + b"d\n" * 600_000
    with pytest.raises(DataError, match="not CSV: field larger than field limit"):
        list(Rows(make_lines(content)))
