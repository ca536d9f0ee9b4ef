"""What an ANN index of FAISS finds, and how it is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indexes.ann.building import build_ann, lists_for
from indexes.ann.faiss_index import FaissIndex
from indexes.ann.source import Rows, Source
from indexes.ann.tuning import recall
from indexes.collection import Collection
from indexes.errors import CrosslookError
from tests.indexes.ann_collections import DIM, TARGET, image_embeddings, source_of, text_embeddings, unit_norm


def test_codes_tell_apart_rows_that_lie_close_together(tmp_path):
    rng = np.random.default_rng(5)
    centres = unit_norm(np.random.default_rng(99).normal(size=(40, DIM)))
    which = rng.integers(40, size=6000)
    rows = unit_norm(centres[which] + 0.03 * rng.normal(size=(6000, DIM))).astype(np.float16)
    texts = unit_norm(centres[:30] + 0.1 * rng.normal(size=(30, DIM))).astype(np.float32)
    source = Source([Rows(np.arange(1, 6001), rows)], lambda ids: rows[ids - 1], texts)
    entry = build_ann(source, TARGET, tmp_path / "ann")
    with (tmp_path / "ann").open("rb") as file:
        ids = FaissIndex(file, replace(entry, nprobe=lists_for(6000))).shortlist(texts, 50)
    exact = np.argsort(-(texts @ rows.astype(np.float32).T), axis=1)[:, :10] + 1
    assert recall(ids, exact) > 0.9, "of 150 in a cluster; codes of whole rows find 0.55"


def test_an_index_that_cannot_be_written_is_one_line(ann_template, tmp_path):
    source = source_of(Collection.open(ann_template), text_embeddings(20))
    with pytest.raises(CrosslookError, match="cannot write .*is the disk full"):
        build_ann(source, TARGET, tmp_path / "no folder" / "x.faiss")


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 64), (1_000, 64), (100_000, 512), (1_000_000, 2048), (10_000_000, 8192)]
)
def test_there_are_about_twice_the_root_lists(rows, lists):
    assert lists_for(rows) == lists


def test_equal_settings_make_equal_indexes(ann_template, tmp_path):
    collection = Collection.open(ann_template)
    ids = []
    for name in ("a", "b"):
        entry = build_ann(source_of(collection, text_embeddings(50)), TARGET, tmp_path / name)
        entry = replace(entry, nprobe=4)
        with (tmp_path / name).open("rb") as file:
            ids.append(FaissIndex(file, entry).shortlist(text_embeddings(20, seed=5), 50))
    np.testing.assert_array_equal(ids[0], ids[1])


def test_recall_is_the_share_of_the_exact_ids():
    exact = np.array([[1, 2], [3, -1]])
    assert recall(np.array([[2, 9, 8], [3, -1, -1]]), exact) == pytest.approx(2 / 3)
    assert recall(np.array([[1, 2], [3, 4]]), exact) == 1
    assert recall(np.array([[-1], [-1]]), exact) == 0


def test_a_sample_of_a_source_is_spread_over_its_parts():
    embeddings = image_embeddings(100)
    parts = [Rows(np.arange(1, 31), embeddings[:30]), Rows(np.arange(31, 101), embeddings[30:])]
    source = Source(parts, lambda ids: embeddings[ids - 1], text_embeddings(1))
    sample = source.sample(50)
    assert sample.shape == (50, DIM) and sample.dtype == np.float32
    rows = (sample[:, None] == embeddings.astype(np.float32)).all(axis=2).argmax(axis=1)
    assert len(set(rows.tolist())) == 50 and 5 < (rows < 30).sum() < 25
    assert len(source.sample(1_000)) == 100
