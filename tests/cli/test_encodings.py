"""Names and texts on streams of any encoding."""

from __future__ import annotations

import json
import os

import pytest

from cli.show.output import encoded
from tests.cli.running import FAKE_MODEL
from tests.support import write_photo


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("plain", b"plain"),
        ("日本", "日本".encode()),
        ("\udcff.jpg", b"\xff.jpg"),
        ("\ud800 日 \udcff", b"\\ud800 \xe6\x97\xa5 \xff"),
    ],
)
def test_any_text_can_be_printed(text, content):
    assert encoded(text) == content


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "ascii"}], ids=["no locale", "ascii streams"])
def test_no_command_stumbles_over_the_terminals_encoding(search_after, tmp_path, environment):
    """All commands in one process, over names that the encoding does not have."""
    folder = os.fsencode(tmp_path) + "/日本".encode()
    os.mkdir(folder)
    for index, name in enumerate(("häuschen 🏠.png".encode(), b"\xff.png")):
        write_photo(os.path.join(folder, name), seed=index)
    with open(os.path.join(folder, "schlecht ü.jpg".encode()), "wb") as file:
        file.write(b"no")
    queries = os.path.join(folder, "fragen ü".encode())
    with open(queries, "wb") as file:
        file.write("ein süßer hund\n日本\n".encode())
    script = ascii(f"""{FAKE_MODEL}
from cli.commands import app
folder, queries = os.fsdecode({folder!r}), os.fsdecode({queries!r})
for words in (
    ["index", "--dry-run", folder],
    ["index", folder],
    ["süß"],
    ["süß", "--json"],
    ["süß", "--paths"],
    ["--batch", queries],
    ["status"],
    ["status", "--json"],
    ["status", "--failures"],
    ["models"],
    ["optimize"],
    ["remove", folder],
):
    sys.argv[1:] = words
    assert app(standalone_mode=False) in (None, 0), words
sys.argv[1:] = ["--version"]
""")
    run = search_after(f"exec({script})", env=environment | {"CROSSLOOK_INDEX": str(tmp_path / "c")})
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(".png") == 12
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"query"')]
    assert [answer["query"] for answer in answers] == ["ein süßer hund", "日本"]
