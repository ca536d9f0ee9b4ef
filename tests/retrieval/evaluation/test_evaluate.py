"""Evaluation against loops that anyone can follow."""

from __future__ import annotations

import json
import shutil
import tarfile

import numpy as np
import pytest

from indexes.ann import Rows, Source, build_ann
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.writer import CollectionWriter
from retrieval.calibration import Calibration
from retrieval.captions import read_captions
from retrieval.evaluation import record as figures
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.metrics import caption_relevance, relevant_ranks, similarities
from retrieval.indexing.pipeline import binding_of, index_folders
from tests.support import FakeEncoder, write_photo, write_photos

WORDS = ["red", "green", "blue", "dog", "cat", "beach", "child", "house", "tree", "boat"]


class FakeScorer:
    """Of no sense, but each text and image have their own score: a fixed function of both."""

    calibrated = False
    to_image = Calibration(1, 1, 0)
    to_text = Calibration(1, 3, -1, 9)

    def __init__(self):
        self.pairs = 0

    def load(self):
        pass

    def fusion(self, text, tokens):
        self.pairs += len(tokens)
        assert text.tokens.shape[0] == len(text.embeddings) == 1 and text.mask.all()
        return np.sin(100 * text.embeddings[0, 0] + 50 * tokens[:, 0, 0].astype(np.float32))


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def captions(photos):
    """Twelve images with one to three captions each."""
    rng = np.random.default_rng(0)
    lines = [
        {
            "image": path.name,
            "captions": [" ".join(rng.choice(WORDS, 2 + index % 5)) + f" {path.stem}" for _ in range(1 + index % 3)],
            "split": "dev",
        }
        for index, path in enumerate(sorted(photos.iterdir()))
    ]
    file = photos.parent / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(file, images_dir=photos)


def embedded(captions, encoder):
    """Images (as stored, in float16) and texts."""
    from retrieval.images import decode

    prepared = [encoder.prepare(decode((captions.images_dir / each.image).read_bytes())) for each in captions.images]
    features = encoder.encode_images(prepared)
    texts = encoder.encode_texts([text for each in captions.images for text in each.captions])
    return features.embeddings.astype(np.float16).astype(np.float32), features.tokens, texts


def image_of_caption(captions):
    return np.repeat(np.arange(len(captions.images)), [len(each.captions) for each in captions.images])


def same(found, expected):
    np.testing.assert_array_equal(found.starts, expected.starts)
    np.testing.assert_array_equal(found.ranks, expected.ranks)


def test_the_first_stage_ranks_as_the_full_matrix_does(captions, encoder, tmp_path):
    found = evaluate(captions, encoder, tmp_path / "w")
    images, _, texts = embedded(captions, FakeEncoder())
    to_image, to_text = caption_relevance(image_of_caption(captions))
    same(found.text_to_image.base, relevant_ranks(similarities(texts.embeddings, images), to_image))
    same(found.image_to_text.base, relevant_ranks(similarities(images, texts.embeddings), to_text))
    assert found.text_to_image.reranked is None and found.candidates is None


def test_what_came_first_is_the_most_similar(captions, encoder, tmp_path):
    found = evaluate(captions, encoder, tmp_path / "w")
    images, _, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    np.testing.assert_array_equal(found.text_to_image.first, matrix.argmax(axis=1))
    np.testing.assert_array_equal(found.image_to_text.first, matrix.T.argmax(axis=1))


@pytest.mark.parametrize("candidates", [1, 4, 100])
def test_reranking_is_what_scoring_each_list_by_itself_gives(captions, encoder, tmp_path, candidates):
    scorer = FakeScorer()
    found = evaluate(captions, encoder, tmp_path / "w", scorer=scorer, candidates=candidates)
    images, tokens, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    fusion = np.stack([FakeScorer().fusion(texts.of(row), tokens) for row in range(len(matrix))])

    lengths = 9 * np.log(texts.mask.sum(axis=1))[:, None]

    def reranked(similar, scores, relevance):
        """Candidates by their scores, then all others by similarity."""
        places = np.full(similar.shape, -np.inf)
        for query, row in enumerate(similar):
            order = np.argsort(-row, kind="stable")
            chosen, others = order[:candidates], order[candidates:]
            chosen = chosen[np.argsort(-scores[query, chosen], kind="stable")]
            places[query, [*chosen, *others]] = -np.arange(len(row))
        return relevant_ranks(places, relevance)

    to_image, to_text = caption_relevance(image_of_caption(captions))
    same(found.text_to_image.reranked, reranked(matrix, matrix + fusion, to_image))
    same(found.image_to_text.reranked, reranked(matrix.T, (matrix + 3 * fusion + lengths).T, to_text))
    if candidates == 100:
        assert scorer.pairs - found_by_timing(found) * len(images) == matrix.size, "no pair is scored twice"


def test_what_the_ann_index_finds_is_measured_with_the_captions(captions, photos, encoder, tmp_path):
    write_photos(photos, 88, first=50)
    index_folders([photos], tmp_path / "index", encoder)
    rng = np.random.default_rng(0)
    with CollectionWriter(tmp_path / "index", binding_of(encoder)) as writer:
        collection = writer.collection
        parts = [Rows(segment.ids, segment.embeddings.mapped) for segment in collection.segments]
        texts = rng.normal(size=(20, encoder.dim)).astype(np.float32)
        source = Source(parts, lambda ids: collection.embeddings(collection.positions(ids)), texts)
        writer.put_ann(lambda path: build_ann(source, 0.5, path))
    found = evaluate(captions, FakeEncoder(), tmp_path / "w", index=tmp_path / "index")
    collection, queries = Collection.open(tmp_path / "index"), embedded(captions, FakeEncoder())[2].embeddings
    exact = np.argsort(-queries @ collection.embeddings(range(100)).astype(np.float32).T, axis=1)[:, :10]
    expected = [
        len(set(a) & set(b)) / 10
        for a, b in zip(collection.nearest(queries, 10)[1].tolist(), exact.tolist(), strict=True)
    ]
    assert found.ann_recall == pytest.approx(np.mean(expected)) and found.ann_recall > 0.3


def found_by_timing(found):
    """Queries that were timed, one of them first to warm up."""
    return len(found.milliseconds["score"]) + 1


def test_the_first_after_reranking_is_the_best_scored_candidate(captions, encoder, tmp_path):
    found = evaluate(captions, encoder, tmp_path / "w", scorer=FakeScorer(), candidates=100)
    images, tokens, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    fusion = np.stack([FakeScorer().fusion(texts.of(row), tokens) for row in range(len(matrix))])
    np.testing.assert_array_equal(found.text_to_image.first, (matrix + fusion).argmax(axis=1))
    lengths = 9 * np.log(texts.mask.sum(axis=1))[:, None]
    np.testing.assert_array_equal(found.image_to_text.first, (matrix + 3 * fusion + lengths).argmax(axis=0))


def test_embeddings_are_taken_from_a_collection_that_holds_the_images(captions, photos, encoder, tmp_path):
    write_photos(photos, 5, first=50)  # the collection may hold more
    index_folders([photos], tmp_path / "index", encoder)
    again = FakeEncoder()
    found = evaluate(captions, again, tmp_path / "w", index=tmp_path / "index")
    assert found.from_index and again.encoded == 0
    computed = evaluate(captions, again, tmp_path / "w")
    same(found.text_to_image.base, computed.text_to_image.base)
    same(found.image_to_text.base, computed.image_to_text.base)


@pytest.mark.parametrize("why", ["other-model", "changed", "missing", "none"])
def test_embeddings_are_computed_where_the_collection_does_not_fit(captions, photos, encoder, tmp_path, why):
    if why != "none":
        made_with = FakeEncoder(fingerprint="0" * 16) if why == "other-model" else encoder
        index_folders([photos], tmp_path / "index", made_with)
    if why == "changed":
        write_photo(photos / "003.png", seed=99)
    if why == "missing":
        shutil.copy(photos / "003.png", photos.parent / "away.png")
        (photos / "003.png").unlink()
        index_folders([photos], tmp_path / "index", encoder)
        shutil.copy(photos.parent / "away.png", photos / "003.png")
    again = FakeEncoder()
    found = evaluate(captions, again, tmp_path / "w", index=tmp_path / "index")
    assert not found.from_index and again.encoded == 12


def test_images_missing_or_unreadable_are_left_out_and_named(captions, photos, encoder, tmp_path):
    (photos / "003.png").unlink()
    (photos / "005.png").write_bytes(b"no")
    found = evaluate(captions, encoder, tmp_path / "w")
    assert [item.what for item in found.left_out] == ["003.png", "005.png"]
    assert len(found.images) == 10
    assert len(found.text_to_image.base) == sum(len(image.captions) for image in found.images)
    with pytest.raises(CrosslookError, match=r"2 left out|1 left out"):
        evaluate(captions, encoder, tmp_path / "w2", strict=True)


def test_no_image_at_all_asks_for_the_folder(captions, photos, encoder, tmp_path):
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(CrosslookError, match="--images"):
        evaluate(captions, encoder, tmp_path / "w")


def test_shards_give_the_same_figures_as_files(captions, photos, encoder, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for image in captions.images:
            tar.add(photos / image.image, image.image)
            text = tmp_path / "caption.txt"
            text.write_text("\n".join(image.captions))
            tar.add(text, image.image.replace(".png", ".txt"))
    shards = read_captions(tmp_path / "shard.tar")
    found = evaluate(shards, encoder, tmp_path / "w")
    same(found.text_to_image.base, evaluate(captions, encoder, tmp_path / "w2").text_to_image.base)


def test_the_temporary_collection_stays_in_the_workspace(captions, encoder, tmp_path):
    evaluate(captions, encoder, tmp_path / "w")
    assert len(Collection.open(tmp_path / "w" / "collection")) == 12


# Records.


def test_the_record_has_the_documented_form(captions, encoder, tmp_path):
    found = figures.record(evaluate(captions, encoder, tmp_path / "w", scorer=FakeScorer(), candidates=4))
    assert set(found) >= {
        "text_to_image", "image_to_text", "latency_ms", "ann_recall", "images", "captions", "fingerprint"
    }  # fmt: skip
    assert set(found["text_to_image"]) == {"base", "reranked", "gain", "ceiling"}
    assert set(found["text_to_image"]["base"]["R@1"]) == {"value", "low", "high"}
    assert 0 <= found["text_to_image"]["base"]["R@10"]["low"] <= found["text_to_image"]["base"]["R@10"]["high"] <= 1
    assert set(found["latency_ms"]) == {"encode", "search", "fetch", "score", "rows", "total"}
    assert set(found["latency_ms"]["total"]) == {"p50", "p95", "p99"}
    assert (found["images"], found["captions"], found["ann_recall"]) == (12, 24, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_absent_parts_are_null(captions, encoder, tmp_path):
    found = figures.record(evaluate(captions, encoder, tmp_path / "w"))
    assert found["text_to_image"]["reranked"] is None and found["text_to_image"]["gain"] is None


def test_recall_stands_beside_success_where_items_have_several_right_answers(captions, encoder, tmp_path):
    found = figures.record(evaluate(captions, encoder, tmp_path / "w"), ks=(1, 3))
    assert [name for name in found["text_to_image"]["base"] if "@" in name] == ["R@1", "R@3", "nDCG@10"]
    assert [name for name in found["image_to_text"]["base"] if "@" in name] == [
        *("R@1", "R@3", "recall@1", "recall@3", "nDCG@10")
    ]


def test_figures_are_means_over_queries(captions, encoder, tmp_path):
    evaluation = evaluate(captions, encoder, tmp_path / "w", scorer=FakeScorer(), candidates=4)
    found = figures.record(evaluation)["text_to_image"]
    ranks = evaluation.text_to_image.base.ranks
    after = evaluation.text_to_image.reranked.ranks
    assert found["base"]["R@5"]["value"] == pytest.approx(np.mean(ranks <= 5))
    assert found["base"]["MRR"]["value"] == pytest.approx(np.mean(1 / ranks))
    assert found["base"]["median rank"]["value"] == np.median(ranks)
    assert found["reranked"]["mean rank"]["value"] == pytest.approx(after.mean())
    assert found["gain"]["R@5"]["value"] == pytest.approx(np.mean(after <= 5) - np.mean(ranks <= 5))
    assert found["ceiling"]["value"] == pytest.approx(np.mean(ranks <= 4))


# Comparing.


@pytest.fixture
def record_file(captions, encoder, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(figures.record(evaluate(captions, encoder, tmp_path / "w"))))
    return path


def test_a_record_does_not_differ_from_itself(record_file):
    for row in figures.compare(record_file, record_file):
        assert row.first == row.second and tuple(row.difference) == (0, 0, 0)
        assert not row.difference.excludes_zero


def test_a_better_system_is_told_from_noise(record_file, tmp_path):
    record = json.loads(record_file.read_text())
    record["queries"]["text_to_image"]["reranked"] = [[1] for _ in record["queries"]["text_to_image"]["base"]]
    (tmp_path / "b.json").write_text(json.dumps(record))
    rows = {(row.direction, row.measure.name): row for row in figures.compare(record_file, tmp_path / "b.json")}
    assert rows["text_to_image", "R@1"].second == 1
    assert rows["text_to_image", "R@1"].difference.excludes_zero
    assert rows["text_to_image", "mean rank"].difference.high < 0
    assert not rows["image_to_text", "R@1"].difference.excludes_zero


def test_records_of_different_sets_are_not_compared(record_file, tmp_path):
    other = json.loads(record_file.read_text()) | {"set": "another"}
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(CrosslookError, match="different images or captions"):
        figures.compare(record_file, tmp_path / "b.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"queries": {"text_to_image": 1}}'])
def test_a_file_that_is_no_record_is_one_line(record_file, tmp_path, content):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(CrosslookError, match=r"^[^\n]*search evaluate --json[^\n]*$"):
        figures.compare(record_file, tmp_path / "b.json")
