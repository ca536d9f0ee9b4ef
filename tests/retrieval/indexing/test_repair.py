"""A repair embeds again what was lost with damaged segments."""

from __future__ import annotations

import pytest

from indexes.errors import CrosslookError
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from tests.retrieval.indexing.contents import counts, stored
from tests.support import write_photos


def test_repair_embeds_the_images_of_a_damaged_segment_again(photos, path, encoder):
    index_folders([photos], path, encoder)
    before = stored(path)
    damaged = next((path / "segments").glob("*/embeddings.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(CrosslookError, match="--repair"):
        index_folders([photos], path, encoder)
    assert counts(index_folders([photos], path, encoder, Settings(repair=True))) == {"new": 10}
    assert {name: embedding for name, (_, embedding) in stored(path).items()} == {
        name: embedding for name, (_, embedding) in before.items()
    }


def test_repair_brings_back_the_images_of_all_folders(photos, path, encoder, tmp_path):
    write_photos(tmp_path / "more", 3, first=100)
    index_folders([photos], path, encoder)
    index_folders([tmp_path / "more"], path, encoder)
    before = {name: embedding for name, (_, embedding) in stored(path).items()}
    for damaged in (path / "segments").glob("*/embeddings.npy"):
        damaged.write_bytes(damaged.read_bytes()[:-5])
    progress = index_folders([photos], path, encoder, Settings(repair=True))
    assert progress.dropped == 13 and progress.new == 13
    assert {name: embedding for name, (_, embedding) in stored(path).items()} == before
