"""The commands of `search`, and how a command line names one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import compare, demo, evaluate, explain, index, models, optimize, query, remove, status, train, verify
from cli.show.output import write_line
from indexes.errors import CrosslookError

DEFAULT = "query"


class QueryByDefault(TyperGroup):
    """Finds the command in the words of a command line.

    The first word that is neither an option nor an option's value decides. If it names a command, that command also
    gets the options before it. Otherwise all words are a query, as are all words after `--`."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        return super().parse_args(ctx, self.command_first(ctx, list(args)))

    def command_first(self, ctx: Any, args: list[str]) -> list[str]:
        """The words with the command's name moved, or added, to their beginning."""
        group_options = {name for option in self.get_params(ctx) for name in _names(option)}
        takes_value = self._options_with_value()
        at, leading = 0, []
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at] in group_options:
                return args if at == 0 else [args[at]]
            names = _named(args[at], takes_value)
            leading += names
            at += 2 if _wants_next(args[at], names, takes_value) else 1
        if at >= len(args) or args[at] not in self.commands:
            return [DEFAULT, *args] if args else args
        command = args[at]
        known = {name for option in _options(self.commands[command]) for name in _names(option)}
        for name in leading:
            if name not in known and not ctx.resilient_parsing:
                raise CrosslookError(
                    f"the command {command} has no option {name}; to search for the word: search query {command}"
                )
        return [command, *args[:at], *args[at + 1 :]]

    def _options_with_value(self) -> set[str]:
        """The names of all options that take a value. Where commands differ, as for --json, `query` decides."""
        takes_value: dict[str, bool] = {}
        for command in (self.commands[DEFAULT], *self.commands.values()):
            for option in _options(command):
                for name in _names(option):
                    takes_value.setdefault(name, not option.is_flag)
        return {name for name, takes in takes_value.items() if takes}


def _options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def _names(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _named(token: str, takes_value: set[str]) -> list[str]:
    """The options in one token: `--top=3`, `-k`, `-k3`, or several single letters, as in `-0k 3`."""
    if token.startswith("--"):
        return [token.partition("=")[0]]
    names = []
    for letter in token[1:]:
        names.append(f"-{letter}")
        if names[-1] in takes_value:
            break
    return names


def _wants_next(token: str, names: Sequence[str], takes_value: set[str]) -> bool:
    """Whether the value of the last option in a token is the next token."""
    is_bare = token == names[-1] if token.startswith("--") else len(token) == 1 + len(names)
    return is_bare and names[-1] in takes_value


app = typer.Typer(
    cls=QueryByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("query")(query.query)
app.command("index")(index.index)
app.command("status")(status.status)
app.command("remove")(remove.remove)
app.command("verify")(verify.verify)
app.command("optimize")(optimize.optimize)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("explain")(explain.explain)
app.command("train")(train.train)
app.command("models")(models.models)
app.command("demo")(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        write_line(f"crosslook {version('crosslook')}")
        raise typer.Exit


@app.callback()
def search(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search your photos by what is in them.

    search index ~/Photos, then search "a dog on a beach". The first word that is no option decides: a command's name is
    that command, which also gets the options before it (search -i COLLECTION status); anything else begins a query. To
    search for a command's name: search query status.

    Exit status: 0 something found, 1 nothing found, 2 an error, 70 an error of the program's own, 128 plus the signal's
    number if a signal ended it (Ctrl-C: 130)."""
