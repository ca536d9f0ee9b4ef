"""The fusion scorer on a device whose memory is bounded, or too small."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS
from retrieval.fusion import FusionScorer
from retrieval.fusion.base import fault_of
from retrieval.fusion.candidates import CollectionCandidates
from tests.retrieval.made_up_scorers import MadeUpCandidates, encoded

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("error")]
IMAGE = 49 * 256  # bytes of its regions


class MadeUpCollection:
    """Regions of 40 images. reads: how many were read at once."""

    starts = np.array([0, 40])
    binding = SimpleNamespace(region_shape=(49, 256), region_dtype="int8")

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.stored = np.random.default_rng(0).integers(-127, 128, (40, 49, 256)).astype(np.int8)

    def regions(self, positions):
        self.reads.append(len(positions))
        return self.stored[positions]


def of_collection(collection, positions):
    similarities = np.linspace(0, 1, len(positions), dtype=np.float32)
    return CollectionCandidates(collection, np.array(positions, np.int64), similarities)


@pytest.fixture(scope="module")
def queries():
    encoder = load_encoder("lite", "cpu")
    return [encoded(text, encoder) for text in ("a cat", "a cup of coffee on a wooden table", "a dog", "a black coat")]


LISTS: tuple[list[int], ...] = ([3, 1, 2, 17], list(range(40)), [], [5])


def on_processor(**options):
    import torch

    from retrieval.fusion.scorer_torch import DeviceScorer

    return DeviceScorer(HEADS, torch.device("cpu"), **options)


def short_of_memory(monkeypatch, most_pairs):
    """Lets the network fail for more pairs than `most_pairs`. Returns a list of the pairs of each call."""
    import torch

    from retrieval.fusion.pair_reader import PairReader

    real, calls = PairReader.forward, []

    def forward(self, rows, texts, *rest):
        calls.append(len(texts))
        if len(texts) > most_pairs:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 588.00 MiB.")
        return real(self, rows, texts, *rest)

    monkeypatch.setattr(PairReader, "forward", forward)
    return calls


def same(logits, expected, atol=1e-3):
    for both, other in zip(logits, expected, strict=True):
        np.testing.assert_allclose(both.to_image, other.to_image, atol=atol)
        np.testing.assert_allclose(both.to_text, other.to_text, atol=atol)


def test_regions_lie_in_blocks_that_never_move():
    import torch

    from retrieval.fusion.regions_on_device import RegionsOnDevice

    collection = MadeUpCollection()
    regions = RegionsOnDevice(torch.device("cpu"), block_bytes=3 * IMAGE)
    blocks: tuple[torch.Tensor, ...] = ()
    for positions in ([1], [4, 2, 1, 7, 9, 4, 30, 12], [31, 1], list(range(40))):
        ((rows, row_of),) = regions([of_collection(collection, positions)])
        np.testing.assert_array_equal(rows.of(row_of).numpy(), collection.stored[positions])
        assert all(one is other for one, other in zip(blocks, rows.blocks, strict=False))
        blocks = rows.blocks
    assert [len(block) for block in blocks] == [3] * 13 + [1], "no more than the collection has"


@pytest.mark.parametrize("kind", ["of a collection", "in memory"])
def test_candidates_beyond_the_bound_are_scored_in_parts(queries, kind):
    collection = MadeUpCollection()
    lists = [of_collection(collection, positions) for positions in LISTS]
    if kind == "in memory":
        lists = [MadeUpCandidates(item.similarities, collection.stored[item.positions]) for item in lists]
    expected = on_processor().score_many(queries, lists)
    collection.reads.clear()
    same(on_processor(region_bytes=5 * IMAGE + 1).score_many(queries, lists), expected)
    if kind == "of a collection":
        assert max(collection.reads) == 5 and len(collection.reads) > 5


def test_regions_for_which_memory_is_short_are_taken_in_smaller_parts(monkeypatch):
    import torch

    from retrieval.fusion.regions_on_device import RegionsOnDevice

    collection, real = MadeUpCollection(), torch.empty

    def empty(size, **options):
        if size[0] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 588.00 MiB.")
        return real(size, **options)

    monkeypatch.setattr(torch, "empty", empty)
    regions = RegionsOnDevice(torch.device("cpu"), most_bytes=40 * IMAGE)
    positions = np.random.default_rng(0).permutation(40).tolist()
    parts = [rows.of(row_of).numpy() for rows, row_of in regions([of_collection(collection, positions)])]
    np.testing.assert_array_equal(np.concatenate(parts), collection.stored[positions])
    assert [len(part) for part in parts] == [5] * 8


def test_fewer_pairs_are_scored_together_where_memory_is_short(queries, monkeypatch):
    collection = MadeUpCollection()
    lists = [of_collection(collection, positions) for positions in LISTS]
    expected = on_processor().score_many(queries, lists)
    calls, scorer = short_of_memory(monkeypatch, 4), on_processor()
    same(scorer.score_many(queries, lists), expected)
    assert calls[0] == 45 and min(calls) <= 4
    calls.clear()
    same(scorer.score_many(queries, lists), expected)
    assert max(calls) <= 4 and fault_of(scorer) is None, "it is not tried again"


def test_the_processor_goes_on_where_not_even_one_pair_fits(queries, monkeypatch):
    collection = MadeUpCollection()
    lists = [of_collection(collection, positions) for positions in LISTS]
    expected = [FusionScorer(HEADS).score_both_ways(*pair) for pair in zip(queries, lists, strict=True)]
    calls, scorer = short_of_memory(monkeypatch, 0), on_processor(processor_may=True)
    same(scorer.score_many(queries, lists), expected, atol=0)
    assert fault_of(scorer) == "the GPU has too little free memory to score a pair"
    calls.clear()
    same(scorer.score_many(queries, lists), expected, atol=0)
    features, regions = queries[0].features, collection.stored
    np.testing.assert_array_equal(
        scorer.fusion(features, regions), FusionScorer(HEADS).fusion(features, regions), strict=True
    )
    assert calls == []


def test_a_gpu_that_was_asked_for_and_is_too_small_is_one_line(queries, monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(CrosslookError, match="^the GPU has too little free memory to score a pair: use --device cpu$"):
        on_processor().score(queries[0], of_collection(MadeUpCollection(), [1, 2]))


def test_other_errors_of_the_device_stay_what_they_are(queries, monkeypatch):
    from retrieval.fusion.pair_reader import PairReader

    def forward(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(PairReader, "forward", forward)
    with pytest.raises(RuntimeError, match="illegal"):
        on_processor(processor_may=True).score(queries[0], of_collection(MadeUpCollection(), [1, 2]))


@pytest.mark.parametrize("processor_may", [False, True])
def test_a_scorer_whose_weights_do_not_fit_leaves_it_to_the_processor_or_is_one_line(monkeypatch, processor_may):
    import torch

    from retrieval.fusion import scorer_torch

    class Lacking:
        def __init__(self, *arguments):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 588.00 MiB.")

    monkeypatch.setattr(scorer_torch, "PairReader", Lacking)
    scorer = on_processor(processor_may=processor_may)
    if not processor_may:
        with pytest.raises(
            CrosslookError, match="^the GPU has too little free memory to score a pair: use --device cpu$"
        ):
            scorer.load()
        return
    scorer.load()
    assert scorer.device == "cpu" and fault_of(scorer) == "the GPU has too little free memory to score a pair"
