"""The line about what an indexing run did."""

from __future__ import annotations

import pytest

from cli.show.indexing_text import run_summary
from retrieval.progress import Progress


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({}, "nothing to do in 2.0 s"),
        ({"copied": 1}, "1 copy not embedded again in 2.0 s"),
        (
            {"new": 10, "touched": 2, "copied": 1300, "postponed": 2, "kept": 33},
            "10 new, 2 touched, 1,300 copies not embedded again, 2 could not be read now, tried again at the next "
            "run, 33 kept though not there in 2.0 s (5 images/s)",
        ),
    ],
)
def test_the_summary_counts_what_happened(counts, line):
    assert run_summary(Progress(**counts, seconds=2.0)) == line
