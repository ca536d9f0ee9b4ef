"""Large collections without photographs: embeddings distributed like those of real photos, and regions."""

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
MOST_WITH_REGIONS = 200_000


def photo_embeddings(encoder: Encoder, folder: Path, most: int = 2000) -> NDArray[np.float32]:
    """Of the photos of a folder, float32 [n, dim]."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)[:most]
    embeddings = []
    for low in range(0, len(files), encoder.batch_size):
        photos = [decode(path.read_bytes(), encoder.image_size) for path in files[low : low + encoder.batch_size]]
        embeddings.append(encoder.encode_images([encoder.prepare(photo) for photo in photos]).embeddings)
    return np.concatenate(embeddings)


def spread(photos: NDArray[np.float32], count: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """`count` unit-norm embeddings, float32 [rows, dim], in blocks. Each one lies between two photos that are near each
    other, or a little beyond one of them, and is moved at random in the directions in which photos differ."""
    rng = np.random.default_rng(seed)
    mean = photos.mean(axis=0)
    _, sizes, directions = np.linalg.svd(photos - mean, full_matrices=False)
    sizes = sizes / np.sqrt(len(photos))
    near = np.argsort(-photos @ photos.T, axis=1)[:, 1:20]
    for low in range(0, count, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, count - low)
        first = rng.integers(len(photos), size=rows)
        second = near[first, rng.integers(near.shape[1], size=rows)]
        share = rng.uniform(-0.3, 0.7, size=(rows, 1)).astype(np.float32)
        moved = (0.6 * sizes * rng.normal(size=(rows, len(sizes)))).astype(np.float32) @ directions
        yield unit_norm((1 - share) * photos[first] + share * photos[second] + moved)


def make_collection(path: Path, encoder: Encoder, photos: NDArray[np.float32], rows: int) -> None:
    """Add `rows` made-up rows to a collection. Up to 200,000 rows have random regions; more rows have zeros, which are
    holes in the file and take no room on disk."""
    with CollectionWriter(path, binding_of(encoder)) as writer:
        for low in range(0, rows, ROWS_A_SEGMENT):
            count = min(ROWS_A_SEGMENT, rows - low)
            first = writer.manifest.next_id
            is_random = rows <= MOST_WITH_REGIONS
            regions = _random_regions(encoder, count, first) if is_random else _no_regions(encoder, count)
            rows_table = _rows(path, first, count)
            writer.commit(Batch(rows_table, FAILURE_SCHEMA.empty_table(), spread(photos, count, first), regions))
            if not is_random:
                _make_hole(
                    writer.collection.segments[-1].folder / "tokens.npy", count * int(np.prod(encoder.region_shape))
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


def _random_regions(encoder: Encoder, count: int, seed: int) -> Iterator[NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    for low in range(0, count, ROWS_AT_ONCE):
        yield rng.integers(-127, 128, size=(min(ROWS_AT_ONCE, count - low), *encoder.region_shape), dtype=np.int8)


def _no_regions(encoder: Encoder, count: int) -> Iterator[NDArray[np.int8]]:
    for low in range(0, count, ROWS_AT_ONCE):
        yield np.zeros((min(ROWS_AT_ONCE, count - low), *encoder.region_shape), np.int8)


def _make_hole(path: Path, size: int) -> None:
    """Free the disk space of the last `size` bytes of a file, which are zero."""
    length = path.stat().st_size
    os.truncate(path, length - size)
    os.truncate(path, length)
