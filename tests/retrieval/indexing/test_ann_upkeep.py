"""When a collection's ANN index is made, extended, made anew, and dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indexes.ann import building
from indexes.collection import Collection
from indexes.commits import put_in_force
from indexes.errors import CrosslookError
from indexes.on_device import choosing
from indexes.paths import ann_folder
from indexes.writer import CollectionWriter
from retrieval import maintenance
from retrieval.encoders import load_encoder
from retrieval.indexing import ann_device, ann_upkeep
from retrieval.indexing.ann_upkeep import describe, search_line, update_ann
from retrieval.indexing.pipeline import binding_of
from retrieval.progress import Step
from retrieval.sample_texts import sample_texts
from tests.indexes.ann_collections import BINDING, batch, image_embeddings, text_embeddings
from tests.indexes.contents import ann_entry, manifest_of
from tests.indexes.on_device.numpy_matrix import NumpyBackend


class Embedding:
    """Counts the texts that it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, collection, count):
        self.asked.append((collection.binding.model, count))
        return text_embeddings(count)


@pytest.fixture
def embedding(monkeypatch):
    monkeypatch.setattr(ann_upkeep, "FEWEST_ROWS", 1_000)
    monkeypatch.setattr(ann_upkeep, "embed_samples", embedding := Embedding())
    return embedding


@pytest.fixture
def path(tmp_path, embedding):
    add(tmp_path / "c", 1_500)
    return tmp_path / "c"


def add(path, count, seed=0):
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(batch(writer.manifest.next_id, image_embeddings(count, seed)))


def optimized(path, target=0.9):
    """What `optimize` did, and the names of its steps."""
    steps: list[Step] = []
    outcome = maintenance.optimize(path, target, steps.append)
    return outcome, [step.what for step in steps]


def search_of(path):
    """How `search status` says that the collection is searched."""
    status = maintenance.status(path)
    return search_line(status.ann, status.ann_fault)


def test_a_large_collection_gets_one_and_keeps_it_while_nothing_changes(path, embedding):
    outcome, steps = optimized(path)
    assert outcome.new_ann and outcome.ann.rows == 1_500 and embedding.asked == [("fake", ann_upkeep.TEXTS)]
    assert list(dict.fromkeys(steps)) == [
        "learning lists and codes",
        "adding images",
        "searching exactly, to measure by",
        "tuning",
    ]
    again, steps = optimized(path)
    assert not again.new_ann and again.ann == outcome.ann and not steps


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
    outcome, steps = optimized(path)
    assert outcome.ann.rows == outcome.ann.measured_rows == 1_600
    assert outcome.ann.nprobe == before.nprobe and "tuning" not in steps
    assert embedding.asked[-1] == ("fake", ann_upkeep.TEXTS_TO_MEASURE_BY)


def test_it_is_measured_again_when_a_twentieth_of_its_rows_is_new(path, embedding):
    before = optimized(path)[0].ann
    add(path, 70, seed=1)
    outcome, steps = optimized(path)
    assert set(steps) == {"adding images"} and embedding.asked == [("fake", ann_upkeep.TEXTS), ("fake", 0)]
    assert outcome.ann == replace(
        before, number=2, rows=1_570, last_id=1_570, bytes=outcome.ann.bytes, checksum=outcome.ann.checksum
    )
    assert "; measured when there were 1,500" in search_of(path)
    collection = Collection.open(path)
    queries = collection.embeddings(np.arange(1_500, 1_570)).astype(np.float32)
    assert collection.uncovered == 0
    np.testing.assert_array_equal(collection.nearest(queries, 1)[1][:, 0], np.arange(1_500, 1_570))
    add(path, 10, seed=2)
    outcome, steps = optimized(path)
    assert "searching exactly, to measure by" in steps and outcome.ann.measured_rows == outcome.ann.rows == 1_580
    assert "measured when" not in search_of(path)


def test_it_is_made_anew_where_it_has_outgrown_its_lists_or_more_is_asked_for(path):
    optimized(path)
    add(path, 600, seed=1)
    assert "tuning" in optimized(path)[1]
    assert "tuning" in optimized(path, target=0.95)[1]
    collection = Collection.open(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=collection.table(["id"])["id"].to_pylist()[:700])
    outcome, steps = optimized(path)
    assert "tuning" in steps and outcome.ann.rows == 1_400 and outcome.dropped == 700


def test_it_is_made_anew_where_it_does_not_find_enough_any_more(path, monkeypatch):
    optimized(path)
    add(path, 100, seed=1)
    real = building.extend_ann
    monkeypatch.setattr(ann_upkeep, "extend_ann", lambda *arguments: replace(real(*arguments), recall=0.5))
    outcome, steps = optimized(path)
    assert "tuning" in steps and outcome.ann.rows == 1_600 and outcome.ann.recall > 0.8


def test_it_is_dropped_with_most_of_the_images(path):
    optimized(path)
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=Collection.open(path).table(["id"])["id"].to_pylist()[:700])
    outcome, _ = optimized(path)
    assert outcome.new_ann and outcome.ann is None and not list(ann_folder(path).iterdir())


def test_a_small_collection_has_none(tmp_path, embedding):
    add(tmp_path / "c", 900)
    outcome, _ = optimized(tmp_path / "c")
    assert not outcome.new_ann and outcome.ann is None and not embedding.asked


def test_a_damaged_one_is_told_of_and_made_anew(path):
    optimized(path)
    file = ann_folder(path) / ann_entry(path).file_name
    file.write_bytes(b"")
    status = maintenance.status(path)
    assert status.ann_fault is not None and "it has 0 bytes" in status.ann_fault
    assert search_line(status.ann, status.ann_fault).startswith("exact, since")
    assert "search optimize" in search_line(status.ann, status.ann_fault)
    outcome, _ = optimized(path)
    assert outcome.new_ann and maintenance.status(path).ann_fault is None


@pytest.mark.parametrize(
    ("changes", "name"), [({"kind": "milvus"}, "of kind 'milvus'"), ({"format": 2}, "in format 2")]
)
def test_one_of_a_later_version_is_replaced_with_a_note(path, changes, name):
    optimized(path)
    put_in_force(path, manifest_of(path).next(ann=replace(ann_entry(path), **changes)))
    notes: list[str] = []
    outcome = maintenance.optimize(path, note=notes.append)
    assert notes == [f"the ANN index is {name}, which this version cannot read: it is made anew"]
    entry = ann_entry(path)
    assert outcome.new_ann and (entry.kind, entry.format, entry.recall_target) == ("faiss", 1, 0.9)
    assert Collection.open(path).ann is not None
    maintenance.optimize(path, note=notes.append)
    assert len(notes) == 1


def test_one_of_a_later_version_is_dropped_with_a_note(path):
    optimized(path)
    put_in_force(path, manifest_of(path).next(ann=replace(ann_entry(path), kind="milvus")))
    with CollectionWriter(path, BINDING) as writer:
        writer.commit(dead=range(1, 1_000))
    notes: list[str] = []
    outcome = maintenance.optimize(path, note=notes.append)
    assert outcome.new_ann and outcome.ann is None
    assert notes == [
        "the ANN index is of kind 'milvus', which this version cannot read: it is dropped, since exact search is as "
        "fast here"
    ]


def test_status_says_what_it_finds_and_how_fast(path):
    assert search_of(path) == "exact"
    entry = optimized(path)[0].ann
    assert search_of(path) == describe(entry)
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
        embeddings = ann_upkeep.embed_samples(writer.collection, 150)
        assert ann_upkeep.embed_samples(writer.collection, 0).shape == (0, 388)
    assert embeddings.shape == (150, 388) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


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
    outcome, steps = optimized(path, target=None)
    assert "tuning" not in steps and (outcome.ann.recall_target, outcome.ann.nprobe) == (0.8, before.nprobe)


def test_an_index_that_found_too_little_is_not_made_anew_for_every_image(path, monkeypatch):
    optimized(path)
    put_in_force(path, manifest_of(path).next(ann=replace(ann_entry(path), recall=0.5)))
    add(path, 100, seed=1)
    real = building.extend_ann
    monkeypatch.setattr(ann_upkeep, "extend_ann", lambda *arguments: replace(real(*arguments), recall=0.5))
    assert "tuning" not in optimized(path)[1]


def test_a_device_makes_and_measures_it(path, monkeypatch):
    backend = NumpyBackend()
    monkeypatch.setattr(ann_device, "find_backend", lambda device: {"cuda": backend, "cpu": None}[device])
    monkeypatch.setattr(choosing, "find_backend", lambda device: backend)
    outcome = maintenance.optimize(path, 0.9, device="cuda")
    assert outcome.new_ann and ann_entry(path).recall > 0.85 and 1_500 in backend.made
    backend.made.clear()
    add(path, 100, seed=3)
    maintenance.optimize(path, device="cuda")
    assert ann_entry(path).rows == 1_600 and 1_600 in backend.made


def test_a_small_collection_takes_no_gpu_by_itself(path, monkeypatch):
    monkeypatch.setattr(ann_device, "find_backend", lambda device: {"cpu": None}[device])
    assert maintenance.optimize(path, 0.9, device="auto").new_ann


def test_a_device_that_fails_leaves_it_to_the_processor(path, monkeypatch):
    backend = NumpyBackend(most=100)
    notes: list[str] = []
    for module in (ann_device, choosing):
        monkeypatch.setattr(module, "find_backend", lambda device: backend)
    monkeypatch.setattr(ann_device, "check", lambda backend: None)
    outcome = maintenance.optimize(path, 0.9, note=notes.append, device="cuda")
    assert outcome.new_ann and ann_entry(path).rows == 1_500
    assert notes == ["the processor makes the ANN index, since the GPU cannot: 1500 rows do not fit"]


def test_another_device_is_refused_before_anything_is_written(path):
    with pytest.raises(CrosslookError, match="tpu is not auto, cpu or cuda"):
        maintenance.optimize(path, device="tpu")
    assert Collection.open(path).manifest.generation == 1
