"""The pages are right: links lead somewhere, and named files and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from cli.commands import app

ROOT = Path(__file__).parents[1]
PAGES = [path for path in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md") if (ROOT / path).exists()]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PAGES += [
    "benchmarks/RESULTS.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "retrieval/weights").glob("*/*.md")),
]
FOLDERS = ("cli", "retrieval", "indexes", "tests", "benchmarks", "docs")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    paths = re.findall(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\w/?", text_of(page))
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_page_is_linked_from_the_readme():
    links = re.findall(r"\]\(([^)#:]+)\)", text_of("README.md"))
    assert set(PAGES) - {"README.md"} <= {str(Path(link)) for link in links} | {"retrieval/weights/lite/README.md"}


def test_every_option_in_a_table_of_commands_exists():
    commands = get_command(app).commands  # type: ignore[attr-defined]
    rows = re.findall(r"^\| `search ([^`]+)` \| (.+) \|$", text_of("README.md"), re.M)
    assert len(rows) > 10
    for words, description in rows:
        name = words.split()[0]
        command = commands[{"--batch": "query"}.get(name, name if name in commands else "query")]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        named = set(re.findall(r"`(--?[\w-]+)", description)) | ({"--batch"} if name == "--batch" else set())
        assert named <= known, f"search {name}: {named - known}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_of_a_block_is_understood(page):
    """Options exist, and so do commands; nothing is run."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for block in re.findall(r"```sh\n(.*?)```", text_of(page), re.S):
        for line in block.splitlines():
            if not line.startswith("search "):
                continue
            words = line.partition("  #")[0].split()[1:]
            name = next((word for word in words if word in commands), "query")
            known = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in words if re.match(r"--?[a-z]", word)} <= known | {"--batch"}, line


@pytest.mark.parametrize("page", PAGES)
def test_a_name_that_stands_before_its_file_is_in_that_file(page):
    """As in "`load_scorer` in `retrieval/fusion/by_name.py`", and "`indexes/filters.py` (`Filter`)"."""
    text = " ".join(text_of(page).split())
    pairs = [(file, name) for name, file in re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)]
    pairs += re.findall(r"`([\w/]+\.py)` \(`(\w+)", text)
    assert not [(file, name) for file, name in pairs if not re.search(rf"\b{name}\b", (ROOT / file).read_text())]
    assert pairs or page != "ARCHITECTURE.md"


def test_the_test_that_contributing_runs_is_there():
    (file, words), *_ = re.findall(r"pytest (tests/\S+\.py) -k (\w+)", text_of("CONTRIBUTING.md"))
    assert re.search(rf"def test_\w*{words}", (ROOT / file).read_text())
