"""A page of results: one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import printable

if TYPE_CHECKING:
    from retrieval.engine import Hit, Results

SIDE = 240
STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222;
       background: #fff }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
ol { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; margin: 0; padding: 0 }
img { height: 160px; border-radius: 4px; display: block; object-fit: contain; background: #f3f3f3 }
small { color: #555 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } small { color: #aaa }
       img { background: #222 } }
"""


def write_page(path: Path, answers: Sequence[tuple[str, Results]]) -> None:
    """Write the results of some queries, with thumbnails."""
    sections = "\n".join(_section(query, results) for query, results in answers)
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>crosslook</title>\n'
        f"<style>{STYLE}</style>\n<h1>crosslook</h1>\n{sections}\n</html>\n",
        encoding="utf-8",
    )


def _section(query: str, results: Results) -> str:
    items = (f"<li>{_thumbnail(hit)}<small>{hit.rank}. {hit.score:.3f} {_name(hit)}</small></li>" for hit in results)
    figures = "\n".join(items)
    return f"<h2>{escape(query)}</h2>\n<ol>\n{figures}\n</ol>"


def _name(hit: Hit) -> str:
    return escape(printable(Path(hit.path).name))


def _thumbnail(hit: Hit) -> str:
    from PIL import Image

    from retrieval.images import UnreadableImage, decode

    try:
        photo = decode(Path(hit.path).read_bytes(), SIDE)
    except (OSError, UnreadableImage):
        return f'<img alt="{_name(hit)}, which is gone">'
    image = Image.fromarray(photo.pixels)
    image.thumbnail((2 * SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{content}" alt="{_name(hit)}">'
