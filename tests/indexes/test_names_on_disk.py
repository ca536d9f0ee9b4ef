"""Names in the code may change. The names on disk may not: every collection has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from indexes.manifest import AnnEntry, Manifest, PartEntry, SegmentEntry
from indexes.manifest_file import to_bytes
from indexes.numbering import SegmentNumber
from indexes.paths import segment_folder
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch


def test_a_manifest_of_format_2_is_these_bytes() -> None:
    manifest = Manifest(
        BINDING,
        generation=7,
        committed=1.5,
        segments=(SegmentEntry(SegmentNumber(1), 2, 0, 1, 1, {"tokens": PartEntry("tokens.npy")}),),
        ann=AnnEntry(1, nprobe=4),
    )
    assert to_bytes(manifest) == (
        b'{"checksum": "crc32:73828de4", "format": 2, "binding": {"model": "fake", '
        b'"fingerprint": "ffffffffffffffff", "dim": 8, "token_shape": [2, 3], "token_dtype": "float16"}, '
        b'"generation": 7, "committed": 1.5, "next_segment": 1, "next_id": 1, "folders": [], "excludes": [], '
        b'"mounts": [], "devices": {}, "passed_over": {}, "segments": [{"number": 1, "rows": 2, "failures": 0, '
        b'"dead": 1, "removed": 1, "parts": {"tokens": {"file": "tokens.npy", "format": 1, "bytes": null, '
        b'"checksum": null}}}], "ann": {"number": 1, "bytes": 0, "last_id": 0, "rows": 0, "probes": 4, '
        b'"shortlist": 100, "recall_target": 0.0, "recall": 0.0, "milliseconds": 0.0, "measured_rows": 0, '
        b'"kind": "faiss", "format": 1, "checksum": null}, "next_ann": 1, "features": {"required": [], '
        b'"required_to_write": [], "optional": []}}'
    )


def test_a_segment_names_its_parts_columns_and_binding_as_format_2_does(tmp_path: Path) -> None:
    with CollectionWriter(tmp_path, BINDING) as writer:
        batch = make_batch(writer.manifest.next_id, 3, failures=1)
        writer.commit(batch)
    segment = segment_folder(tmp_path, SegmentNumber(1))
    [regions] = batch.regions
    np.testing.assert_array_equal(np.load(segment / "tokens.npy"), regions.astype(np.float16))
    schema = pq.read_schema(segment / "rows.parquet")
    footer = json.loads(schema.metadata[b"crosslook"])
    assert footer["binding"] == {
        "model": "fake",
        "fingerprint": "f" * 16,
        "dim": 8,
        "token_shape": [2, 3],
        "token_dtype": "float16",
    }
    assert {"format", "generation", "next_id", "folders", "excludes", "number", "rows", "failures"} < set(footer)
    assert sorted(footer["parts"]) == ["embeddings", "failures", "tokens"]
    columns = {"id", "path", "size", "mtime_ns", "ctime_ns", "content_hash", "width", "height", "taken_at"}
    assert set(schema.names) == columns | {"note", "checksum"}
