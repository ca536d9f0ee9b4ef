"""The command `search`: which command the words name, and how errors end."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import compare, demo, evaluate, explain, index, models, optimize, query, remove, status, train
from cli.output import note
from indexes.errors import CrosslookError

ERROR = 2
INTERRUPTED = 130
# Typer carries its own copy of click since 0.27, and names only some of its exceptions.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class QueryByDefault(TyperGroup):
    """Words that are not a command's name are a query: `search "a dog"` is `search query "a dog"`."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        own = {"-h", "--help", "--version", "--install-completion", "--show-completion"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["query", *args]
        return super().parse_args(ctx, args)


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

        print(f"crosslook {version('crosslook')}")
        raise typer.Exit


@app.callback()
def search(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search your photos by what is in them.

    search index ~/Photos, then search "a dog on a beach". Words that are not a command's name are a query.

    Exit status: 0 something found, 1 nothing found, 2 an error."""


def main() -> None:
    """Run the command line; errors that a user can mend are one line on stderr."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except CrosslookError as error:
        _fail(str(error))
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(ERROR)
        _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> None:
    note(f"search: {message}")
    sys.exit(ERROR)
