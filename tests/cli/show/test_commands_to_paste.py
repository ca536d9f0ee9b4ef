"""Commands in messages of a run, printed, and read by a shell when they are pasted."""

from __future__ import annotations

import subprocess

import pytest

from cli.show.output import printable
from retrieval.indexing.messages import quoted, removal, unmatched_line

NAMES = [
    b"/photos",
    b"/my photos/it's",
    "/фото/日本".encode(),
    b"/d\n\xff",
    b"/\xff41",
    b"/tab\tand'quote\\and\x7f",
    b"/back\\slash",
    b"/back\\'both",
    b"/$HOME/`x`/$(y)\n",
    "/right to left \u202e and \u00a0".encode(),
    b"/\x01" + "é".encode() + b"\xe9",
    b"/$'\\x41'",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_names_the_file_when_it_is_pasted(name):
    line = printable(f"{removal(name)} takes them out")
    command = line.partition("`search remove ")[2].removesuffix("` takes them out")
    assert "\n" not in command and all(character.isprintable() for character in command)
    run = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True, check=True)
    assert run.stdout == name


def test_names_that_can_be_printed_are_quoted_only_where_that_is_needed():
    assert [quoted(name) for name in NAMES[:2]] == ["/photos", """'/my photos/it'"'"'s'"""]


def test_a_pattern_that_cannot_be_printed_is_quoted_as_well():
    assert "--exclude $'a\\x0ab' matched" in unmatched_line("a\nb", is_remembered=False)
    assert "`--no-exclude $'\\\\#x'`" in unmatched_line("\\#x", is_remembered=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("$'a\nb'", "$'a\\nb'"), ("a\\b $'x\\\\y' c\\d", "a\\\\b $'x\\\\y' c\\\\d"), ("$'open\\", "$'open\\\\")],
)
def test_only_what_is_quoted_whole_and_safe_is_printed_as_it_is(text, shown):
    assert printable(text) == shown
