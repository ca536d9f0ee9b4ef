"""`search compare A.json B.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import typed_path
from cli.show.output import write_line


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", parser=typed_path, help="What `search evaluate --json` wrote.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B.json", parser=typed_path, help="Another, of the same images and captions.")
    ],
) -> None:
    """Print the differences of the second evaluation from the first, paired by query, and which are beyond noise."""
    from cli.show.evaluation_text import TITLES
    from retrieval.evaluation.record import compare as run

    direction = ""
    for row in run(first, second):
        if row.direction != direction:
            direction = row.direction
            write_line(f"{TITLES[direction]:<14}  {'A':>7} {'B':>7}  B - A [95% interval]")
        scale = row.measure.scale
        value, low, high = (scale * number for number in row.difference)
        verdict = _verdict(row.difference.excludes_zero, value > 0, row.measure.higher_is_better)
        values = f"{scale * row.first:7.1f} {scale * row.second:7.1f}"
        write_line(f"  {row.measure.name:<12}  {values}  {value:+.1f} [{low:+.1f}, {high:+.1f}]  {verdict}")


def _verdict(beyond_noise: bool, grew: bool, higher_is_better: bool) -> str:
    if not beyond_noise:
        return "within noise"
    return "B is better" if grew == higher_is_better else "B is worse"
