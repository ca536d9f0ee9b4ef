"""Encoding: files that were read become the content of a segment, rows with embeddings and regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.checksums import row_checksums
from indexes.rows import Failure, Row, failures_table, rows_table
from indexes.segment_files import Batch
from retrieval.encoders.base import Encoder, ImageFeatures
from retrieval.images import MAX_PIXELS
from retrieval.indexing.files import File
from retrieval.indexing.photo_batches import photo_batches
from retrieval.indexing.plan import Encoding
from retrieval.indexing.read_ahead import batch_size_of, read_batches
from retrieval.indexing.reading import ImageReader, Reading, failure_of, reader_of_files


@dataclass(frozen=True)
class EncodeSettings:
    """max_pixels: of one image to decode. threads: files that are decoded at once while the encoder works; with 0 they
    are decoded in the calling thread, one after the other."""

    max_pixels: int = MAX_PIXELS
    threads: int = 0


DEFAULT_ENCODE_SETTINGS = EncodeSettings()


@dataclass(frozen=True)
class EncodedFiles:
    """The result of encoding files.

    - rows: of the n images. They have no id and no checksum yet (both are 0).
    - embeddings: float16 [n, dim], of unit norm. regions: [n, regions, region_dim] in the encoder's `region_dtype`.
      Both are in the order of the rows.
    - failures: the files that cannot be decoded, without an id yet.
    - postponed: (path, reason) of the files that could not be read now. They belong into no segment: try them again."""

    rows: tuple[Row, ...]
    embeddings: NDArray[np.float16]
    regions: NDArray[Any]
    failures: tuple[Failure, ...] = ()
    postponed: tuple[tuple[bytes, str], ...] = ()

    def batch(self, first_id: int) -> Batch:
        """The argument of `indexes.segment_files.write_segment`, see `batch_of`."""
        return batch_of([self], first_id)


def encode_files(
    files: Sequence[File], encoder: Encoder, settings: EncodeSettings = DEFAULT_ENCODE_SETTINGS
) -> EncodedFiles:
    """Reads, decodes and encodes some files, so that any process can make a whole segment:
    `encode_files(files, encoder).batch(first_id)`.

    Rows and failures are in the order of `files`. Content that several files have is encoded once per file. The result
    depends on the files, the encoder and `max_pixels`, neither on `threads` nor on earlier calls. All of it is held in
    memory, so give as many files as one segment is to have.

    Raises what the encoder raises. An unreadable file raises nothing: see `EncodedFiles`."""
    read = ImageReader(encoder, settings.max_pixels, reader_of_files(settings.max_pixels))
    reading = photo_batches if encoder.takes_pixels else read_batches
    results = []
    for batch in reading([Encoding(file) for file in files], read, batch_size_of(encoder), settings.threads):
        results.append(encode_readings(batch.readings, encoder)[1])
        batch.release()
    return joined(results, encoder)


def encode_readings(readings: Sequence[Reading], encoder: Encoder) -> tuple[list[Reading], EncodedFiles]:
    """Encodes the images that were read, in one call of the encoder, and gathers the failures and the postponed files.
    A reading with the `position` of a known row is neither: it is only passed on.

    Returns the readings as well. There, an image is a failure if its embedding has a component that is not finite, as
    when 16 bits overflow in the model. It is postponed if there is no memory to encode it even alone."""
    results = list(readings)
    rows: list[Row] = []
    embeddings, regions = _no_vectors(encoder)
    features = _features(results, encoder)
    decoded = [index for index, reading in enumerate(results) if reading.prepared is not None]
    if features is not None:
        is_finite = np.asarray(np.isfinite(features.embeddings).all(axis=1))
        for index in np.array(decoded)[~is_finite].tolist():
            failure = failure_of(results[index].encoding.file, "gives the model numbers that are too large for it")
            results[index] = Reading(results[index].encoding, failure=failure)
        rows = [item.row for item in results if item.row is not None and item.prepared is not None]
        finite = slice(None) if is_finite.all() else is_finite  # a slice copies nothing
        embeddings = np.asarray(features.embeddings[finite], np.float16)
        regions = np.asarray(features.regions[finite], encoder.region_dtype)
    failures = tuple(item.failure for item in results if item.failure is not None)
    postponed = tuple((item.encoding.file.path, item.postponed) for item in results if item.postponed is not None)
    return results, EncodedFiles(tuple(rows), embeddings, regions, failures, postponed)


def _features(readings: list[Reading], encoder: Encoder) -> ImageFeatures | None:
    """Of the decoded readings; None if there are none. Those that lack memory are postponed in `readings`."""
    decoded = [index for index, reading in enumerate(readings) if reading.prepared is not None]
    if not decoded:
        return None
    try:
        return encoder.encode_images([item.prepared for item in readings if item.prepared is not None])
    except MemoryError:
        parts = [_features_of_one(readings, index, encoder) for index in decoded]
    features = [part for part in parts if part is not None]
    if not features:
        return None
    return ImageFeatures(
        np.concatenate([part.embeddings for part in features]), np.concatenate([part.regions for part in features])
    )


def _features_of_one(readings: list[Reading], index: int, encoder: Encoder) -> ImageFeatures | None:
    prepared = readings[index].prepared
    assert prepared is not None
    try:
        return encoder.encode_images([prepared])
    except MemoryError:
        readings[index] = Reading(readings[index].encoding, postponed="needs more memory to encode than is free now")
        return None


def joined(blocks: Sequence[EncodedFiles], encoder: Encoder) -> EncodedFiles:
    """Several results as one, in their order; an empty result if there are none."""
    embeddings, regions = _no_vectors(encoder)
    if blocks:
        embeddings = np.concatenate([block.embeddings for block in blocks])
        regions = np.concatenate([block.regions for block in blocks])
    return EncodedFiles(
        tuple(row for block in blocks for row in block.rows),
        embeddings,
        regions,
        tuple(failure for block in blocks for failure in block.failures),
        tuple(item for block in blocks for item in block.postponed),
    )


def _no_vectors(encoder: Encoder) -> tuple[NDArray[np.float16], NDArray[Any]]:
    return np.empty((0, encoder.dim), np.float16), np.empty((0, *encoder.region_shape), encoder.region_dtype)


def batch_of(blocks: Sequence[EncodedFiles], first_id: int) -> Batch:
    """A segment's content. The rows of all blocks get the ids from `first_id` on, and the failures the ids after them;
    rows get the checksums of what is stored of them."""
    checksums = [number for block in blocks for number in row_checksums(block.embeddings, block.regions)]
    rows = [row for block in blocks for row in block.rows]
    rows = [
        replace(row, id=first_id + index, checksum=checksum)
        for index, (row, checksum) in enumerate(zip(rows, checksums, strict=True))
    ]
    failures = [failure for block in blocks for failure in block.failures]
    failures = [replace(failure, id=first_id + len(rows) + index) for index, failure in enumerate(failures)]
    embeddings, regions = [block.embeddings for block in blocks], [block.regions for block in blocks]
    return Batch(rows_table(rows), failures_table(failures), embeddings, regions)
