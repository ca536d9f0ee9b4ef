"""captions.jsonl: an object such as `{"image": "a.jpg", "captions": ["A dog."], "split": "train"}` on every line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retrieval.captions.entries import Entry
from retrieval.captions.json_values import captions_in, object_of, parse_json, string_in
from retrieval.captions.text import numbered_lines

FORMAT = "captions.jsonl"


def jsonl_entries(source: Path, text: str) -> Iterator[Entry]:
    """`split` may be absent or null."""
    for number, line in numbered_lines(text):
        where = f"line {number}"
        record = object_of(parse_json(source, line, number), source, where)
        image = string_in(record, "image", source, where)
        captions = captions_in(record, "captions", source, where)
        split = None if record.get("split") is None else string_in(record, "split", source, where)
        yield Entry(where, image, captions, split)
