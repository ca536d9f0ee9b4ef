"""The fusion scorer on a device of torch, here the processor, against the network and against the int8 graph."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion import BySimilarity, FusionScorer, load_scorer, own_scorer, score_many
from retrieval.fusion.candidates import CollectionCandidates
from retrieval.images import decode
from retrieval.samples import gather_samples
from tests.retrieval.made_up_scorers import MadeUpCandidates, encoded

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("error")]
TEXTS = [
    "a cat",
    "a cup of coffee on a wooden table",
    "a man in a black coat looks through a camera",
    "a dog",
    "an astronaut " * 30,
]
INT8_BOUND = 0.25  # of the difference between logits of the two forms


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lite", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, encoder):
    """Embeddings and regions of real photos."""
    paths = gather_samples(tmp_path_factory.mktemp("samples"))
    return encoder.encode_images([encoder.prepare(decode(path.read_bytes(), 224)) for path in paths])


@pytest.fixture(scope="module")
def queries(encoder):
    return [encoded(text, encoder) for text in TEXTS]


@pytest.fixture(scope="module")
def candidates(queries, photos):
    """All photos, for each query."""
    similarities = [photos.embeddings @ query.features.embeddings[0] for query in queries]
    return [MadeUpCandidates(values, photos.regions) for values in similarities]


def on_processor(**options):
    import torch

    from retrieval.fusion.scorer_torch import DeviceScorer

    return DeviceScorer(HEADS, torch.device("cpu"), **options)


@pytest.fixture(scope="module")
def scorer():
    return on_processor()


def test_fusion_is_that_of_the_network(scorer, queries, photos):
    import torch

    from retrieval.training.stored_model import read_model

    network = read_model(HEADS)[0].scorer
    regions = network.regions.restored(torch.from_numpy(photos.regions))
    for query in queries:
        with torch.no_grad():
            expected = network.reader(torch.from_numpy(query.features.tokens[0]), regions).numpy()
        np.testing.assert_allclose(scorer.fusion(query.features, photos.regions), expected, atol=1e-4)


def test_logits_are_those_of_the_int8_graph_but_for_its_rounding(scorer, queries, candidates):
    graph = FusionScorer(HEADS)
    for query, item, both in zip(queries, candidates, scorer.score_many(queries, candidates), strict=True):
        expected = graph.score_both_ways(query, item)
        for logits, of_graph in zip(both, expected, strict=True):
            np.testing.assert_allclose(logits, of_graph, atol=INT8_BOUND)
            ranked = of_graph[np.argsort(-logits)]
            assert (ranked[1:] - np.minimum.accumulate(ranked)[:-1] <= 2 * INT8_BOUND).all()
        assert expected.to_image.std() > 4 * INT8_BOUND, "the bound would show nothing"


def test_products_in_16_bits_are_near_enough(queries, photos):
    import torch

    from retrieval.fusion.pair_reader import PairReader
    from retrieval.training.stored_model import read_model

    network = read_model(HEADS)[0].scorer
    rows = torch.from_numpy(queries[1].features.tokens[:, :-1, 384:])
    count, length = len(photos.regions), rows.shape[1] - 1
    inputs = rows, torch.zeros(count, dtype=torch.long), torch.arange(count)
    fusion = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.float16):
            reader = PairReader(network, dtype)
            fusion[dtype] = reader(*inputs, reader.project(torch.from_numpy(photos.regions)), [(length, count)])
    assert fusion[torch.float16].dtype == torch.float32
    difference = (fusion[torch.float16] - fusion[torch.float32]).abs().max()
    assert 0 < difference < 0.02


@pytest.mark.parametrize("tokens_at_once", [1, 50, 100_000])
def test_pairs_get_together_what_their_query_gets_alone(queries, candidates, tokens_at_once):
    scorer = on_processor(tokens_at_once=tokens_at_once)
    lists = [*candidates[:3], MadeUpCandidates([], candidates[0].regions()[:0]), candidates[4]]
    together = scorer.score_many(queries, lists)
    for query, item, both in zip(queries, lists, together, strict=True):
        alone = scorer.score_both_ways(query, item)
        assert both.to_image.shape == both.to_text.shape == (len(item),)
        np.testing.assert_allclose(both.to_image, alone.to_image, atol=1e-3)
        np.testing.assert_allclose(both.to_text, alone.to_text, atol=1e-3)


def test_no_queries_have_no_logits(scorer):
    assert scorer.score_many([], []) == []


def test_a_text_without_words_is_ranked_by_similarity(scorer, encoder, candidates):
    query = encoded("\u200b", encoder)
    assert not scorer.fusion(query.features, candidates[0].regions()).any()
    logits = scorer.score_many([query, encoded("a cat", encoder)], candidates[:2])[0].to_image
    assert (np.argsort(logits) == np.argsort(candidates[0].similarities)).all()


class MadeUpCollection:
    """Regions of 40 images. reads: the positions of each reading."""

    starts = np.array([0, 40])
    binding = SimpleNamespace(region_shape=(49, 256), region_dtype="int8")

    def __init__(self) -> None:
        self.reads: list[list[int]] = []
        self.stored = np.random.default_rng(0).integers(-127, 128, (40, 49, 256)).astype(np.int8)

    def regions(self, positions):
        self.reads.append(sorted(positions))
        regions = self.stored[positions]
        regions.flags.writeable = False  # as those that are mapped from a file
        return regions


def of_collection(collection, positions):
    return CollectionCandidates(collection, np.array(positions), np.linspace(0, 1, len(positions), dtype=np.float32))


def test_regions_of_a_collection_are_read_once(queries):
    scorer, collection = on_processor(), MadeUpCollection()
    lists = [of_collection(collection, positions) for positions in ([3, 1, 2], [2, 3, 9])]
    first = scorer.score_many(queries[:2], lists)
    again = scorer.score_many(queries[:2], [of_collection(collection, [3, 1, 2]), of_collection(collection, [30, 9])])
    assert collection.reads == [[1, 2, 3, 9], [30]]
    np.testing.assert_array_equal(again[0].to_image, first[0].to_image)
    fresh = on_processor().score_many(
        queries[:2], [MadeUpCandidates(item.similarities, item.regions()) for item in lists]
    )
    for both, expected in zip(first, fresh, strict=True):
        np.testing.assert_allclose(both.to_image, expected.to_image, atol=1e-3)


def test_another_collection_has_its_own_regions(queries):
    scorer, first, second = on_processor(), MadeUpCollection(), MadeUpCollection()
    second.stored = -first.stored
    logits = [scorer.score(queries[0], of_collection(collection, [1, 2, 3])) for collection in (first, second, first)]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert np.abs(logits[0] - logits[1]).min() > 0.01


def test_regions_that_do_not_fit_the_device_are_read_again():
    import torch

    from retrieval.fusion.regions_on_device import RegionsOnDevice

    collection, image = MadeUpCollection(), 49 * 256
    regions = RegionsOnDevice(torch.device("cpu"), most_bytes=4 * image)
    for positions in ([1, 2, 3], [3, 4], [5, 6], [5], [7, 8, 9, 10, 11, 12]):
        parts = [rows.of(row_of).numpy() for rows, row_of in regions([of_collection(collection, positions)])]
        np.testing.assert_array_equal(np.concatenate(parts), collection.stored[positions])
    assert collection.reads == [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11, 12]]


def test_the_gpu_gets_many_pairs_and_the_processor_few(monkeypatch, encoder):
    import torch

    from retrieval.fusion.scorer_torch import DeviceScorer

    monkeypatch.setattr(
        "retrieval.fusion.by_name.gpu_of_torch", lambda device: None if device == "cpu" else torch.device("cpu")
    )
    assert type(own_scorer(encoder)) is type(load_scorer(encoder)) is FusionScorer
    assert isinstance(own_scorer(encoder, "auto"), DeviceScorer)
    assert own_scorer(encoder, "auto") is not own_scorer(encoder, "cuda"), "which must not give way to the processor"
    assert load_scorer(encoder, device="cuda") is own_scorer(encoder, "cuda")
    assert load_scorer(encoder, many_pairs=True) is own_scorer(encoder, "auto")
    assert type(load_scorer(encoder, device="cpu", many_pairs=True)) is FusionScorer


def test_scorers_without_batches_score_one_query_after_the_other(queries, candidates):
    for query, item, both in zip(queries, candidates, score_many(BySimilarity(), queries, candidates), strict=True):
        np.testing.assert_array_equal(both.to_image, BySimilarity().score(query, item))


def test_attention_on_a_gpu_is_not_planned_by_cudnn(monkeypatch):
    import torch

    from retrieval.fusion.scorer_torch import DeviceScorer

    switched: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", switched.append)
    on_processor()
    assert switched == []
    DeviceScorer(HEADS, torch.device("cuda"))
    assert switched == [False]
