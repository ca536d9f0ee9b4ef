"""What every ANN index promises, `AnnIndex`: FAISS and the exact twin pass the same tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from indexes.ann import faiss_index
from indexes.ann.base import AnnIndex
from indexes.ann.building import build_ann, lists_for
from indexes.ann.faiss_index import FaissIndex
from indexes.ann.kinds import KINDS
from indexes.ann.source import Rows, Source
from indexes.errors import CrosslookError
from indexes.numbering import RowIds
from tests.indexes.ann.exact_index import ExactIndex
from tests.indexes.ann_collections import image_embeddings, text_embeddings
from tests.indexes.on_device.numpy_matrix import NumpyBackend

ROWS = 1_500
IDS = np.concatenate([np.arange(5, 505), np.arange(1_000, 3_000, 2)])  # with gaps
EMBEDDINGS = image_embeddings(ROWS)
QUERIES = text_embeddings(12, seed=3)


@pytest.fixture(scope="module", params=["by the processor", "by a device"])
def faiss_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], FaissIndex]:
    """Opens an index that scans all lists, so that it misses rows only by their codes."""
    path = tmp_path_factory.mktemp("contract") / "index.faiss"
    parts = [Rows(IDS[:700], EMBEDDINGS[:700]), Rows(IDS[700:], EMBEDDINGS[700:])]
    source = Source(parts, lambda ids: EMBEDDINGS[np.searchsorted(IDS, ids)], text_embeddings(20))
    entry = build_ann(source, 0.9, path, NumpyBackend() if request.param == "by a device" else None)

    def opened() -> FaissIndex:
        with path.open("rb") as file:
            return FaissIndex(file, replace(entry, nprobe=lists_for(ROWS)))

    return opened


@pytest.fixture(params=["faiss", "exact"])
def index(request: pytest.FixtureRequest, faiss_file: Callable[[], FaissIndex]) -> AnnIndex:
    return ExactIndex(IDS, EMBEDDINGS) if request.param == "exact" else faiss_file()


def exactly(count: int) -> RowIds:
    """By one matrix product."""
    return IDS[np.argsort(-(QUERIES @ EMBEDDINGS.astype(np.float32).T), axis=1, kind="stable")[:, :count]]


def test_a_kind_of_the_manifest_is_the_kind_of_its_index() -> None:
    assert {kind: opener.kind for kind, opener in KINDS.items()} == {"faiss": "faiss"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 10, 200, ROWS, ROWS + 30])
def test_a_shortlist_is_int64_without_repeats_and_padded_at_the_end(index: AnnIndex, count: int) -> None:
    ids = index.shortlist(QUERIES, count)
    assert ids.shape == (len(QUERIES), count) and ids.dtype == np.int64
    for row in ids:
        present = row[row >= 0]
        assert len(present) == min(count, ROWS) == len(set(present.tolist())) and (row[len(present) :] == -1).all()
        assert np.isin(present, IDS).all()


def test_it_covers_all_rows_up_to_its_last_id(index: AnnIndex) -> None:
    assert index.last_id == IDS[-1]
    ids = index.shortlist(QUERIES, ROWS + 1)
    assert (np.sort(ids[:, :-1], axis=1) == IDS).all() and (ids[:, -1] == -1).all()


def test_the_nearest_rows_are_in_a_longer_shortlist_and_mostly_in_its_beginning(index: AnnIndex) -> None:
    expected = exactly(10)
    ids = index.shortlist(QUERIES, 200)
    for row, right in zip(ids, expected, strict=True):
        assert np.isin(right, row).all()
        assert np.isin(right, row[:50]).mean() >= 0.8


def test_a_query_does_not_depend_on_the_others(index: AnnIndex) -> None:
    together = index.shortlist(QUERIES, 40)
    alone = np.concatenate([index.shortlist(query[None], 40) for query in QUERIES])
    np.testing.assert_array_equal(together, alone)
    assert index.shortlist(QUERIES[:0], 40).shape == (0, 40)


def test_many_threads_get_the_same_shortlists(index: AnnIndex) -> None:
    expected = index.shortlist(QUERIES[:4], 30)
    with ThreadPoolExecutor(4) as threads:
        for ids in threads.map(lambda _: index.shortlist(QUERIES[:4], 30), range(24)):
            np.testing.assert_array_equal(ids, expected)


def test_a_closed_index_says_so(index: AnnIndex) -> None:
    index.close()
    index.close()
    with pytest.raises(CrosslookError, match="closed"):
        index.shortlist(QUERIES, 3)


def test_a_query_takes_one_thread_and_gives_the_others_back(
    faiss_file: Callable[[], FaissIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    threads, real, index = [], faiss_index.search, faiss_file()

    def search(*arguments: Any) -> RowIds:
        threads.append(faiss.omp_get_max_threads())
        return real(*arguments)

    before = faiss.omp_get_max_threads()
    monkeypatch.setattr(faiss_index, "search", search)
    faiss.omp_set_num_threads(3)
    try:
        index.shortlist(QUERIES, 5)
        assert threads == [1] and faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
