"""Evaluation against plain loops."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexes.ann.building import build_ann
from indexes.ann.source import Rows, Source
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.writer import CollectionWriter
from retrieval.captions import read_captions
from retrieval.evaluation import reranking
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.metrics import caption_relevance, relevant_ranks, similarities
from retrieval.fusion import Candidates, EncodedQuery
from retrieval.indexing.pipeline import binding_of, index_folders
from tests.retrieval.made_up_scorers import Brightest, ManyPairs, TwoWayScorer
from tests.support import FakeEncoder, write_photo, write_photos


def embedded(captions, encoder):
    """Embeddings of images, rounded to float16 as they are stored, their regions, and the features of the texts."""
    from retrieval.images import decode

    prepared = [encoder.prepare(decode((captions.images_dir / image.image).read_bytes())) for image in captions.images]
    features = encoder.encode_images(prepared)
    texts = encoder.encode_texts([text for image in captions.images for text in image.captions])
    return features.embeddings.astype(np.float16).astype(np.float32), features.regions, texts


def image_of_caption(captions):
    return np.repeat(np.arange(len(captions.images)), [len(image.captions) for image in captions.images])


def same(ranks, expected):
    np.testing.assert_array_equal(ranks.starts, expected.starts)
    np.testing.assert_array_equal(ranks.ranks, expected.ranks)


def test_the_first_stage_ranks_as_the_full_matrix_does(captions, encoder, tmp_path):
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    images, _, texts = embedded(captions, FakeEncoder())
    to_image, to_text = caption_relevance(image_of_caption(captions))
    same(evaluation.text_to_image.base, relevant_ranks(similarities(texts.embeddings, images), to_image))
    same(evaluation.image_to_text.base, relevant_ranks(similarities(images, texts.embeddings), to_text))
    assert evaluation.text_to_image.reranked is None and evaluation.candidates is None


def test_what_came_first_is_the_most_similar(captions, encoder, tmp_path):
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    images, _, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    np.testing.assert_array_equal(evaluation.text_to_image.first, matrix.argmax(axis=1))
    np.testing.assert_array_equal(evaluation.image_to_text.first, matrix.T.argmax(axis=1))


@pytest.mark.parametrize("candidates", [1, 4, 100])
def test_reranking_is_what_scoring_each_list_by_itself_gives(captions, encoder, tmp_path, candidates):
    scorer = TwoWayScorer()
    evaluation = evaluate(captions, encoder, tmp_path / "w", scorer=scorer, candidates=candidates)
    images, regions, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    fusion = np.stack([TwoWayScorer().fusion(texts.of(row), regions) for row in range(len(matrix))])

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
    same(evaluation.text_to_image.reranked, reranked(matrix, matrix + fusion, to_image))
    same(evaluation.image_to_text.reranked, reranked(matrix.T, (matrix + 3 * fusion + lengths).T, to_text))
    if candidates == 100:
        assert scorer.pairs - timed_queries(evaluation) * len(images) == matrix.size, "no pair is scored twice"


def test_a_scorer_of_many_pairs_ranks_alike(captions, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(reranking, "TEXTS_SCORED_AT_ONCE", 5)
    many = ManyPairs()
    expected, evaluation = (
        evaluate(captions, encoder, tmp_path / type(scorer).__name__, scorer=scorer, candidates=4)
        for scorer in (TwoWayScorer(), many)
    )
    texts = len(evaluation.texts)
    assert many.batches == [5] * (texts // 5) + [texts % 5] * (texts % 5 > 0)
    for direction in ("text_to_image", "image_to_text"):
        same(getattr(evaluation, direction).reranked, getattr(expected, direction).reranked)
        np.testing.assert_array_equal(getattr(evaluation, direction).first, getattr(expected, direction).first)


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
    evaluation = evaluate(captions, FakeEncoder(), tmp_path / "w", index=tmp_path / "index")
    collection, queries = Collection.open(tmp_path / "index"), embedded(captions, FakeEncoder())[2].embeddings
    exact = np.argsort(-queries @ collection.embeddings(range(100)).astype(np.float32).T, axis=1)[:, :10]
    expected = [
        len(set(a) & set(b)) / 10
        for a, b in zip(collection.nearest(queries, 10)[1].tolist(), exact.tolist(), strict=True)
    ]
    assert evaluation.ann_recall == pytest.approx(np.mean(expected)) and np.mean(expected) > 0.3


def timed_queries(evaluation):
    """How many queries were timed, with one before them to warm up."""
    return len(evaluation.milliseconds["score"]) + 1


def test_the_first_after_reranking_is_the_best_scored_candidate(captions, encoder, tmp_path):
    evaluation = evaluate(captions, encoder, tmp_path / "w", scorer=TwoWayScorer(), candidates=100)
    images, regions, texts = embedded(captions, FakeEncoder())
    matrix = texts.embeddings @ images.T
    fusion = np.stack([TwoWayScorer().fusion(texts.of(row), regions) for row in range(len(matrix))])
    np.testing.assert_array_equal(evaluation.text_to_image.first, (matrix + fusion).argmax(axis=1))
    lengths = 9 * np.log(texts.mask.sum(axis=1))[:, None]
    np.testing.assert_array_equal(evaluation.image_to_text.first, (matrix + 3 * fusion + lengths).argmax(axis=0))


def in_a_shard(captions, photos, path):
    """The same images and captions in a tar shard."""
    with tarfile.open(path, "w") as tar:
        for image in captions.images:
            tar.add(photos / image.image, image.image)
            text = path.with_suffix(".txt")
            text.write_text("\n".join(image.captions))
            tar.add(text, image.image.replace(".png", ".txt"))
    return read_captions(path)


@pytest.mark.parametrize("source", ["files", "a shard", "a collection"])
def test_a_scorer_that_sees_the_images_again_is_evaluated_in_both_directions(
    captions, photos, encoder, tmp_path, source
):
    index = None
    if source == "a collection":
        index = tmp_path / "index"
        index_folders([photos], index, encoder)
    evaluated = in_a_shard(captions, photos, tmp_path / "shard.tar") if source == "a shard" else captions
    evaluation = evaluate(evaluated, FakeEncoder(), tmp_path / "w", index=index, scorer=Brightest())
    brightness = [np.asarray(Image.open(photos / image.image)).mean() for image in evaluation.images]
    assert evaluation.from_index == (source == "a collection") and evaluation.candidates == 100
    assert (evaluation.text_to_image.first == np.argmax(brightness)).all()
    order = np.argsort(np.argsort(-np.array(brightness))) + 1
    assert evaluation.text_to_image.reranked is not None
    np.testing.assert_array_equal(evaluation.text_to_image.reranked.ranks, order[image_of_caption(evaluation)])


def test_an_image_that_the_scorer_cannot_see_again_is_named(captions, photos, encoder, tmp_path):
    class Vanishing(Brightest):
        def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
            (photos / "003.png").unlink(missing_ok=True)
            return super().score(query, candidates)

    with pytest.raises(CrosslookError, match=r"^the scorer cannot read 003\.png again[^\n]*$"):
        evaluate(captions, encoder, tmp_path / "w", scorer=Vanishing())


def test_embeddings_are_taken_from_a_collection_that_holds_the_images(captions, photos, encoder, tmp_path):
    write_photos(photos, 5, first=50)  # the collection may hold more
    index_folders([photos], tmp_path / "index", encoder)
    again = FakeEncoder()
    evaluation = evaluate(captions, again, tmp_path / "w", index=tmp_path / "index")
    assert evaluation.from_index and again.encoded == 0
    computed = evaluate(captions, again, tmp_path / "w")
    same(evaluation.text_to_image.base, computed.text_to_image.base)
    same(evaluation.image_to_text.base, computed.image_to_text.base)


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
    evaluation = evaluate(captions, again, tmp_path / "w", index=tmp_path / "index")
    assert not evaluation.from_index and again.encoded == 12


def test_images_missing_or_unreadable_are_left_out_and_named(captions, photos, encoder, tmp_path):
    (photos / "003.png").unlink()
    (photos / "005.png").write_bytes(b"no")
    evaluation = evaluate(captions, encoder, tmp_path / "w")
    assert [item.what for item in evaluation.left_out] == ["003.png", "005.png"]
    assert len(evaluation.images) == 10
    assert len(evaluation.text_to_image.base) == sum(len(image.captions) for image in evaluation.images)
    with pytest.raises(CrosslookError, match=r"2 left out|1 left out"):
        evaluate(captions, encoder, tmp_path / "w2", strict=True)


def test_no_image_at_all_asks_for_the_folder(captions, photos, encoder, tmp_path):
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(CrosslookError, match="--images"):
        evaluate(captions, encoder, tmp_path / "w")


def test_shards_give_the_same_figures_as_files(captions, photos, encoder, tmp_path):
    shards = in_a_shard(captions, photos, tmp_path / "shard.tar")
    evaluation = evaluate(shards, encoder, tmp_path / "w")
    same(evaluation.text_to_image.base, evaluate(captions, encoder, tmp_path / "w2").text_to_image.base)


def test_the_temporary_collection_stays_in_the_workspace(captions, encoder, tmp_path):
    evaluate(captions, encoder, tmp_path / "w")
    assert len(Collection.open(tmp_path / "w" / "collection")) == 12
