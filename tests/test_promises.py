"""Every promise on the page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = {"I/": "tests/retrieval/indexing/", "P/": "tests/retrieval/images/"}


def test_every_promise_names_tests_that_exist():
    rows = [line for line in (ROOT / "docs" / "promises.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.startswith("| promise")]
    assert len(rows) > 30
    for row in rows:
        references = re.findall(r"`(\S+)::(\w+)`", row)
        assert references, row
        for file, name in references:
            for short, path in SHORT.items():
                file = re.sub(f"^{short}", path, file)
            assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file}::{name}"
