"""When a collection's ANN index is made, extended, made anew, and dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cli.status import _search
from indexes.collection import Collection, ann_folder
from indexes.errors import CrosslookError
from indexes.writer import CollectionWriter
from retrieval import maintenance
from retrieval.encoders import load_encoder
from retrieval.indexing import ann_upkeep as approximation
from retrieval.indexing.ann_upkeep import describe, update_ann
from retrieval.indexing.pipeline import binding_of
from retrieval.sample_texts import sample_texts
from tests.indexes.test_ann import BINDING, batch, image_embeddings, text_embeddings


class Embedding:
    """Counts the texts that it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, collection, count):
        self.asked.append((collection.binding.model, count))
        return text_embeddings(count)


@pytest.fixture
def embedding(monkeypatch):
    monkeypatch.setattr(approximation, "FEWEST_ROWS", 1_000)
    monkeypatch.setattr(approximation, "embed_samples", found := Embedding())
    return found


@pytest.fixture
def path(tmp_path, embedding):
    add(tmp_path / "c", 1_500)
    return tmp_path / "c"


def add(path, count, seed=0):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(count, seed)))


def optimized(path, target=0.9):
    steps = []
    found = maintenance.optimize(path, target, steps.append)
    return found, [step.what for step in steps]


def test_a_large_collection_gets_one_and_keeps_it_while_nothing_changes(path, embedding):
    found, steps = optimized(path)
    assert found.new_ann and found.ann.rows == 1_500 and embedding.asked == [("fake", approximation.TEXTS)]
    assert list(dict.fromkeys(steps)) == [
        "learning lists and codes",
        "adding images",
        "searching exactly, to measure by",
        "tuning",
    ]
    again, steps = optimized(path)
    assert not again.new_ann and again.ann == found.ann and not steps


def test_optimizing_is_worth_it_while_many_rows_are_not_covered(path, monkeypatch):
    monkeypatch.setattr(maintenance, "FEWEST_ROWS", 1_000)
    assert maintenance.wants_optimizing(path)
    optimized(path)
    assert not maintenance.wants_optimizing(path)
    add(path, 900, seed=1)
    assert not maintenance.wants_optimizing(path) and Collection.open(path).uncovered == 900
    add(path, 100, seed=2)
    assert maintenance.wants_optimizing(path)


def test_a_few_new_images_are_added_to_it(path, embedding):
    before = optimized(path)[0].ann
    add(path, 100, seed=1)
    found, steps = optimized(path)
    assert found.ann.rows == found.ann.measured_rows == 1_600
    assert found.ann.probes == before.probes and "tuning" not in steps
    assert embedding.asked[-1] == ("fake", approximation.TEXTS_TO_MEASURE_BY)


def test_it_is_measured_again_when_a_twentieth_of_its_rows_is_new(path, embedding):
    before = optimized(path)[0].ann
    add(path, 70, seed=1)
    found, steps = optimized(path)
    assert set(steps) == {"adding images"} and embedding.asked == [("fake", approximation.TEXTS), ("fake", 0)]
    assert found.ann == replace(
        before, number=2, rows=1_570, last_id=1_570, bytes=found.ann.bytes, checksum=found.ann.checksum
    )
    assert "; measured when there were 1,500" in _search(maintenance.status(path))
    collection = Collection.open(path)
    queries = collection.embeddings(np.arange(1_500, 1_570)).astype(np.float32)
    assert collection.uncovered == 0
    np.testing.assert_array_equal(collection.nearest(queries, 1)[1][:, 0], np.arange(1_500, 1_570))
    add(path, 10, seed=2)
    found, steps = optimized(path)
    assert "searching exactly, to measure by" in steps and found.ann.measured_rows == found.ann.rows == 1_580
    assert "measured when" not in _search(maintenance.status(path))


def test_it_is_made_anew_where_it_has_outgrown_its_lists_or_more_is_asked_for(path):
    optimized(path)
    add(path, 600, seed=1)
    assert "tuning" in optimized(path)[1]
    assert "tuning" in optimized(path, target=0.95)[1]
    collection = Collection.open(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=collection.table(["id"])["id"].to_pylist()[:700])
    found, steps = optimized(path)
    assert "tuning" in steps and found.ann.rows == 1_400 and found.dropped == 700


def test_it_is_made_anew_where_it_does_not_find_enough_any_more(path, monkeypatch):
    optimized(path)
    add(path, 100, seed=1)
    real = approximation.extend_ann
    monkeypatch.setattr(approximation, "extend_ann", lambda *given: replace(real(*given), recall=0.5))
    found, steps = optimized(path)
    assert "tuning" in steps and found.ann.rows == 1_600 and found.ann.recall > 0.8


def test_it_is_dropped_with_most_of_the_images(path):
    optimized(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=Collection.open(path).table(["id"])["id"].to_pylist()[:700])
    found, _ = optimized(path)
    assert found.new_ann and found.ann is None and not list(ann_folder(path).iterdir())


def test_a_small_collection_has_none(tmp_path, embedding):
    add(tmp_path / "c", 900)
    found, _ = optimized(tmp_path / "c")
    assert not found.new_ann and found.ann is None and not embedding.asked


def test_a_damaged_one_is_told_of_and_made_anew(path):
    optimized(path)
    file = ann_folder(path) / Collection.open(path).manifest.ann.file_name
    file.write_bytes(b"")
    status = maintenance.status(path)
    assert "it has 0 bytes" in status.ann_fault and _search(status).startswith("exact, since")
    assert "search optimize" in _search(status)
    found, _ = optimized(path)
    assert found.new_ann and maintenance.status(path).ann_fault is None


def test_status_says_what_it_finds_and_how_fast(path):
    assert _search(maintenance.status(path)) == "exact"
    entry = optimized(path)[0].ann
    assert _search(maintenance.status(path)) == describe(entry)
    assert f"ANN over 1,500 images: recall@10 {entry.recall:.3f} for texts (asked for 0.9)" in describe(entry)


@pytest.mark.parametrize("target", [0.0, -1.0, 1.5])
def test_a_recall_that_is_no_share_is_refused(path, target):
    with pytest.raises(CrosslookError, match="recall is a share"):
        maintenance.optimize(path, target)


def test_an_interruption_leaves_what_was(path):
    before = optimized(path)[0].ann
    add(path, 600, seed=1)

    def interrupt(step):
        if step.what == "tuning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maintenance.optimize(path, 0.9, interrupt)
    collection = Collection.open(path)
    assert collection.manifest.ann == before and collection.ann is not None
    assert (collection.nearest(text_embeddings(5), 10)[1] >= 0).all()
    assert optimized(path)[0].ann.rows == 2_100


def test_the_embedded_model_embeds_the_sample_texts(tmp_path):
    encoder = load_encoder("lite")
    with CollectionWriter(tmp_path / "c", binding_of(encoder)) as writer:
        found = approximation.embed_samples(writer.collection, 150)
        assert approximation.embed_samples(writer.collection, 0).shape == (0, 388)
    assert found.shape == (150, 388) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_sample_texts_are_different_and_always_the_same():
    texts = sample_texts(2_000)
    assert len(set(texts)) == 2_000 and texts == sample_texts(2_000)
    assert len({len(text.split()) for text in texts[:200]}) > 2 and texts[:50] == sample_texts(500)[:50]


def test_the_writer_is_free_again_after_optimizing(path):
    optimized(path)
    with CollectionWriter(path, BINDING) as writer:
        assert not update_ann(writer, 0.9, lambda step: None)


def test_without_a_target_the_one_before_is_kept(path):
    before = optimized(path, target=0.8)[0].ann
    add(path, 100, seed=1)
    found, steps = optimized(path, target=None)
    assert "tuning" not in steps and (found.ann.recall_target, found.ann.probes) == (0.8, before.probes)


def test_an_index_that_found_too_little_is_not_made_anew_for_every_image(path, monkeypatch):
    optimized(path)
    with CollectionWriter(path, BINDING) as writer:
        entry = replace(writer.manifest.ann, recall=0.5)
        writer._put_in_force(writer.manifest.next(ann=entry))
    add(path, 100, seed=1)
    real = approximation.extend_ann
    monkeypatch.setattr(approximation, "extend_ann", lambda *given: replace(real(*given), recall=0.5))
    assert "tuning" not in optimized(path)[1]
