"""Large collections without photographs: embeddings spread as those of real photos are, and tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.rows import FAILURE_SCHEMA, ROW_SCHEMA
from indexes.segment_files import Batch
from indexes.writer import CollectionWriter
from retrieval.encoders.base import Encoder, unit_norm
from retrieval.images import ENDINGS, decode
from retrieval.indexing.pipeline import binding_of

ROWS_A_SEGMENT = 65_536
ROWS_AT_ONCE = 4096
MOST_WITH_TOKENS = 200_000


def photo_embeddings(encoder: Encoder, folder: Path, most: int = 2000) -> NDArray[np.float32]:
    """Of the photos of a folder, float32 [n, dim]."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)[:most]
    found = []
    for low in range(0, len(files), encoder.batch_size):
        photos = [decode(path.read_bytes(), encoder.image_size) for path in files[low : low + encoder.batch_size]]
        found.append(encoder.encode_images([encoder.prepare(photo) for photo in photos]).embeddings)
    return np.concatenate(found)


def spread(photos: NDArray[np.float32], count: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """As many unit-norm embeddings, in blocks: each between two photos that lie near each other, or a little beyond one
    of them, and moved at random within the directions in which photos differ."""
    rng = np.random.default_rng(seed)
    mean = photos.mean(axis=0)
    _, sizes, directions = np.linalg.svd(photos - mean, full_matrices=False)
    sizes = sizes / np.sqrt(len(photos))
    near = np.argsort(-photos @ photos.T, axis=1)[:, 1:20]
    for low in range(0, count, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, count - low)
        one = rng.integers(len(photos), size=rows)
        other = near[one, rng.integers(near.shape[1], size=rows)]
        share = rng.uniform(-0.3, 0.7, size=(rows, 1)).astype(np.float32)
        moved = (0.6 * sizes * rng.normal(size=(rows, len(sizes)))).astype(np.float32) @ directions
        yield unit_norm((1 - share) * photos[one] + share * photos[other] + moved)


def make_collection(path: Path, encoder: Encoder, photos: NDArray[np.float32], rows: int) -> None:
    """Add so many made-up rows to a collection. Up to 200,000 have random tokens; of more, tokens are holes in a file,
    zeros that take no room on disk."""
    with CollectionWriter(path, binding_of(encoder)) as writer:
        for low in range(0, rows, ROWS_A_SEGMENT):
            count = min(ROWS_A_SEGMENT, rows - low)
            first = writer.manifest.next_id
            tokens = _random_tokens(encoder, count, first) if rows <= MOST_WITH_TOKENS else _no_tokens(encoder, count)
            rows_table = _rows(path, first, count)
            writer.commit(Batch(rows_table, FAILURE_SCHEMA.empty_table(), spread(photos, count, first), tokens))
            if rows > MOST_WITH_TOKENS:
                _make_hole(
                    writer.collection.segments[-1].folder / "tokens.npy", count * int(np.prod(encoder.token_shape))
                )


def _rows(path: Path, first: int, count: int) -> pa.Table:
    ids = np.arange(first, first + count)
    names = [f"{path}/photos/{index // 1000:05d}/IMG_{index:08d}.jpg".encode() for index in ids]
    columns = {
        "id": ids,
        "path": names,
        "size": np.full(count, 3_000_000),
        "mtime_ns": ids * 1_000_000_000,
        "content_hash": [int(index).to_bytes(16, "big") for index in ids],
        "width": np.full(count, 4000, np.int32),
        "height": np.full(count, 3000, np.int32),
        "taken_at": pa.nulls(count, pa.timestamp("ms")),
        "ctime_ns": ids * 1_000_000_000,
        "note": [""] * count,
        "checksum": np.zeros(count, np.int64),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in ROW_SCHEMA], ROW_SCHEMA)


def _random_tokens(encoder: Encoder, count: int, seed: int) -> Iterator[NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    for low in range(0, count, ROWS_AT_ONCE):
        yield rng.integers(-127, 128, size=(min(ROWS_AT_ONCE, count - low), *encoder.token_shape), dtype=np.int8)


def _no_tokens(encoder: Encoder, count: int) -> Iterator[NDArray[np.int8]]:
    for low in range(0, count, ROWS_AT_ONCE):
        yield np.zeros((min(ROWS_AT_ONCE, count - low), *encoder.token_shape), np.int8)


def _make_hole(path: Path, size: int) -> None:
    """Give back the room of the last bytes of a file, which are zero."""
    whole = path.stat().st_size
    os.truncate(path, whole - size)
    os.truncate(path, whole)
