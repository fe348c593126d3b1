"""Public data sets are read as they are distributed, or refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data import layouts
from tests.data.layouts import LAYOUTS, Layout


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_public_data_set_is_read_as_it_is_distributed(tmp_path: Path, layout: Layout) -> None:
    summary, _, classes, splits = layouts.outcome(layout, tmp_path)
    if layout.classes is None:
        assert classes is None, summary
        assert layout.refusal in summary
    else:
        assert (classes, splits) == (layout.classes, layout.splits), summary


def test_the_table_of_layouts_is_that_of_the_page() -> None:
    page = (ROOT / "docs/formats.md").read_text()
    assert list(layouts.rows()) == [line for line in page.splitlines() if line.startswith("|")]
