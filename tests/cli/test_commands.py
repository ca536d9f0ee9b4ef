"""Which command a command line names."""

from __future__ import annotations

import json
import shlex
from typing import cast

import pytest
import typer

from cli.commands import QueryByDefault, app
from indexes.errors import CrosslookError

GROUP = cast("QueryByDefault", typer.main.get_command(app))


def first(words: str) -> str:
    """The words with the command's name at their beginning."""
    context = GROUP.make_context("search", ["query"], resilient_parsing=True)
    context.resilient_parsing = False
    return shlex.join(GROUP.command_first(context, shlex.split(words)))


@pytest.mark.parametrize(
    ("words", "command"),
    [
        # The first word decides.
        ("status", "status"),
        ("a cat", "query a cat"),
        ("a status", "query a status"),
        ("'status of things'", "query 'status of things'"),
        ("query status", "query status"),
        ("status -i C", "status -i C"),
        # Options may come before it, and belong to it.
        ("-i C status", "status -i C"),
        ("-i C index DIR", "index -i C DIR"),
        ("--json status", "status --json"),
        ("--json -i C status --failures", "status --json -i C --failures"),
        ("--index=C optimize", "optimize --index=C"),
        ("-iC remove DIR", "remove -iC DIR"),
        ("--dry-run index DIR", "index --dry-run DIR"),
        ("--exclude '*.png' index DIR", "index --exclude '*.png' DIR"),
        ("--no-rerank evaluate C", "evaluate --no-rerank C"),
        ("-k 3 demo", "demo -k 3"),
        ("-i C query index", "query -i C index"),
        ("-i C 'a cat'", "query -i C 'a cat'"),
        ("-k 5 -i C a cat", "query -k 5 -i C a cat"),
        ("-0k 5 a cat", "query -0k 5 a cat"),
        # An option's value is no word, whatever it looks like.
        ("-i status status", "status -i status"),
        ("-i query a cat", "query -i query a cat"),
        ("--in index a cat", "query --in index a cat"),
        ("--batch status", "query --batch status"),
        ("-k -3 a cat", "query -k -3 a cat"),
        ("--batch -", "query --batch -"),
        # After -- all is words.
        ("-- status", "query -- status"),
        ("-i C -- status", "query -i C -- status"),
        ("-k 3 -- -5 degrees", "query -k 3 -- -5 degrees"),
        # Options of the program itself.
        ("-h", "-h"),
        ("--version", "--version"),
        ("-i C --help status", "--help"),
        ("", ""),
        ("-i C", "query -i C"),
    ],
)
def test_the_first_word_that_is_no_option_decides(words, command):
    assert first(words) == command


@pytest.mark.parametrize(
    ("words", "command", "option"),
    [
        ("-k 5 status", "status", "-k"),
        ("--min-match 0.5 models", "models", "--min-match"),
        ("-0i C status", "status", "-0"),
        ("-0k5 optimize", "optimize", "-0"),
        ("--top=3 index", "index", "--top"),
        ("-i models models", "models", "-i"),
        ("-5 status", "status", "-5"),
    ],
)
def test_an_option_that_the_command_does_not_have_is_told_with_how_to_search_for_the_word(words, command, option):
    with pytest.raises(CrosslookError, match=f"{command} has no option {option};.*search query {command}"):
        first(words)


def test_every_command_may_have_its_options_before_its_name():
    for name, command in GROUP.commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--json" not in parameter.opts:
                value = "" if getattr(parameter, "is_flag", False) else " x"
                assert first(f"{parameter.opts[0]}{value} {name}") == f"{name} {parameter.opts[0]}{value}"


def test_a_command_finds_its_collection_whichever_side_the_option_is_on(search, collection):
    for words in (("-i", collection, "status", "--json"), ("--json", "status", f"--index={collection}")):
        assert json.loads(search(*words).stdout)["images"] == 30


def test_help_tells_the_rule(search):
    text = " ".join(search("--help").stdout.split())
    assert "The first word that is no option decides" in text and "search query status" in text
