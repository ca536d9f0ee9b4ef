"""How many files may be open."""

from __future__ import annotations

import subprocess
import sys

import pytest

from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.guarding import ROOT

SCRIPT = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
others = [open("/dev/null") for _ in range(200)]
from indexes.collection import Collection
opened = [Collection.open(Path(sys.argv[1])) for _ in range(4)]
for collection in opened:
    assert len(collection.embeddings(range(len(collection)))) == 30
    assert sum(len(segment.embeddings.mapped) for segment in collection.segments) == 30
print("ok")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_collections_are_opened_whatever_else_the_process_has_open(tmp_path):
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        for _ in range(30):
            writer.commit(make_batch(writer.manifest.next_id, 1))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "c")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert run.stdout == "ok\n", run.stderr
