"""Pages: self-contained HTML, with pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from cli.show.output import printable, worth, write_file

if TYPE_CHECKING:
    from retrieval.query import Hit, Results

HEIGHT = 160
STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222;
       background: #fff }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; font-weight: normal; margin: 1.5rem 0 .5rem }
ol { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; margin: 0; padding: 0 }
img { height: 160px; border-radius: 4px; display: block; object-fit: contain; background: #f3f3f3 }
small { color: #555 }
table { border-collapse: collapse }
th, td { text-align: left; padding: .15rem 1rem .15rem 0; font-variant-numeric: tabular-nums }
svg { max-width: 40rem; font-size: 12px; fill: currentColor }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } small { color: #aaa }
       img { background: #222 } }
"""


def write_results_page(path: Path, answers: Sequence[tuple[str, Results]]) -> None:
    """Write the results of queries, with thumbnails."""
    page = document("crosslook", "\n".join(_answer(*answer) for answer in answers))
    write_file(path, page)


def document(title: str, body: str) -> str:
    """A complete page around a body."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def thumbnail(content: bytes | None, name: str) -> str:
    """A small `img` of an image file's bytes; only its name if it has none or they cannot be decoded."""
    from PIL import Image

    from retrieval.images import UnreadableImage, decode

    try:
        if content is None:
            raise UnreadableImage("is gone")
        image = Image.fromarray(decode(content, HEIGHT).pixels)
    except UnreadableImage as error:
        return f'<img alt="{escape(name)} {escape(str(error))}">'
    image.thumbnail((4 * HEIGHT, HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(name)}">'


def _answer(query: str, results: Results) -> str:
    items = "\n".join(_item(hit) for hit in results)
    return f"<h2>{escape(query)}</h2>\n<ol>\n{items}\n</ol>"


def _item(hit: Hit) -> str:
    path = Path(hit.path)
    name = printable(path.name)
    content = path.read_bytes() if path.is_file() else None
    return f"<li>{thumbnail(content, name)}<small>{hit.rank}. {worth(hit.score, hit.match)} {escape(name)}</small></li>"
