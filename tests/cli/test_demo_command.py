"""`search demo`."""

from __future__ import annotations


def test_the_demo_finds_the_cat_and_the_coffee(search, tmp_path):
    run = search("demo", "--out", tmp_path / "demo")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[lines.index("a cat") + 1].endswith("chelsea.png")
    assert lines[lines.index("a cup of coffee") + 1].endswith("coffee.png")
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 27 and "http" not in page
