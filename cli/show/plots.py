"""Plots as SVG, for pages that load nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 180, 16, 40
COLOURS = ("#2a6fb0", "#d1782b", "#3a9a5b", "#a04aa0")


def line_plot(xs: Sequence[float], curves: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> str:
    """Curves over a logarithmic x, y from 0 to 1. A curve with fewer values than xs ends early."""
    low, high = math.log(xs[0]), math.log(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - y) * (HEIGHT - TOP - BOTTOM)

    marks = [_y_mark(place(xs[0], share)[1], f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    marks += [
        _text(place(x, 0)[0], HEIGHT - BOTTOM + 16, f"{x:g}", "middle") for x in xs if x in (1, 2, 5, 10, 20, 50, 100)
    ]
    for index, (name, values) in enumerate(curves.items()):
        points = [place(x, y) for x, y in zip(xs, values, strict=False)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = COLOURS[index % len(COLOURS)]
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        marks += _legend(index, name)
    marks.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    return _svg(marks, f"{y_label} against {x_label}")


def bar_plot(groups: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> str:
    """A bar for each name in each group, from 0."""
    top = max((value for values in groups.values() for value in values), default=0) or 1
    step = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    bar = 0.8 * step / len(names)
    marks = [_y_mark(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), f"{share * top:.3g}") for share in (0, 0.5, 1)]
    for column, (group, values) in enumerate(groups.items()):
        for index, value in enumerate(values):
            height = value / top * (HEIGHT - TOP - BOTTOM)
            x, y = LEFT + column * step + 0.1 * step + index * bar, HEIGHT - BOTTOM - height
            colour = COLOURS[index % len(COLOURS)]
            marks.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{height:.1f}" fill="{colour}"/>')
        marks.append(_text(LEFT + (column + 0.5) * step, HEIGHT - BOTTOM + 16, group, "middle"))
    for index, name in enumerate(names):
        marks += _legend(index, name)
    return _svg(marks, title)


def _y_mark(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".2"/>'
    return line + _text(LEFT - 6, y + 4, label, "end")


def _legend(index: int, name: str) -> list[str]:
    x, y = WIDTH - RIGHT + 16, TOP + 20 * index
    colour = COLOURS[index % len(COLOURS)]
    return [f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>', _text(x + 18, y + 11, name, "start")]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(marks: Sequence[str], title: str) -> str:
    body = "\n".join(marks)
    head = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{body}\n</svg>'
