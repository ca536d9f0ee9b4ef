"""The ranks of relevant items from embeddings, block by block, without the matrix of all similarities.

A floating-point sum depends on its order, and a matrix product orders its sums by the shape of its blocks. So the inner
product of the same two vectors may differ in the last bit from one block to the next, which breaks ties at random. Here
it cannot. Components are rounded to multiples of 2^-26, so their products are multiples of 2^-52. Vectors of unit norm
keep every partial sum below 2 (Cauchy-Schwarz), so float64, with 53 bits, holds it exactly. No sum is ever rounded,
whatever the order, the blocks and the library. Rounding moves a similarity by less than a float32 product would.
float16 components, which are multiples of 2^-24, are not moved at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.evaluation.metrics.ranks import RelevantRanks
from retrieval.evaluation.metrics.relevance import Relevance

GRID = 2.0**26
LONGEST = 1.25  # partial sums stay below 1.25 * 1.25 < 2; float16 makes unit vectors 1.0005 long at most


def similarities(queries: NDArray[Any], items: NDArray[Any]) -> NDArray[np.float64]:
    """The full matrix of inner products, float64 [queries, items], exact for embeddings rounded to the grid."""
    product: NDArray[np.float64] = _on_grid(queries) @ _on_grid(items).T
    return product / (GRID * GRID)


def streamed_ranks(
    queries: NDArray[Any],
    items: NDArray[Any],
    relevance: Relevance,
    *,
    query_block: int = 1024,
    item_block: int = 4096,
) -> RelevantRanks:
    """Equals `relevant_ranks(similarities(queries, items), relevance)` exactly, for blocks of any size.

    queries: float32 or float16 [queries, dim]; items: [items, dim], which may be memory-mapped. Rows have unit norm, or
    are zero. Memory beyond them depends on the blocks: 140 MB at 768 dimensions.

    Raises `ValueError` for rows longer than 1.25, and for another number of queries than `relevance` has."""
    if len(queries) != len(relevance):
        raise ValueError(f"{len(queries)} embeddings for {len(relevance)} queries")
    scores = _sorted_within_queries(_relevant_scores(queries, items, relevance, item_block), relevance)
    ahead = np.zeros(len(scores), dtype=np.int64)
    for query_rows in _blocks(len(queries), query_block):
        query_vectors = _on_grid(queries[query_rows])
        starts = relevance.starts[query_rows.start : query_rows.stop + 1]
        for item_rows in _blocks(len(items), item_block):
            block = query_vectors @ _on_grid(items[item_rows]).T
            _count_at_least(block, starts, scores, ahead)
    return RelevantRanks(relevance.starts, _ranks(ahead, scores, relevance))


def _relevant_scores(
    queries: NDArray[Any], items: NDArray[Any], relevance: Relevance, block: int
) -> NDArray[np.float64]:
    """float64 [total]: the similarity of every relevant item to its query, in units of the squared grid."""
    scores = np.empty(len(relevance.items))
    query_of_item = relevance.query_of_item()
    for pairs in _blocks(len(scores), block):
        left, right = _on_grid(queries[query_of_item[pairs]]), _on_grid(items[relevance.items[pairs]])
        scores[pairs] = np.einsum("ij,ij->i", left, right)
    return scores


def _sorted_within_queries(scores: NDArray[np.float64], relevance: Relevance) -> NDArray[np.float64]:
    """float64 [total]: the best score of a query first, so by ascending rank."""
    return scores[np.lexsort((-scores, relevance.query_of_item()))]


def _count_at_least(
    block: NDArray[np.float64], starts: NDArray[np.int64], scores: NDArray[np.float64], ahead: NDArray[np.int64]
) -> None:
    """Adds to `ahead`, for every relevant item of these queries, how many items of the block score as much or more."""
    counts = np.diff(starts)
    for position in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > position)
        slots = starts[rows] + position
        part = block if len(rows) == len(block) else block[rows]
        ahead[slots] += np.count_nonzero(part >= scores[slots, None], axis=1)


def _ranks(ahead: NDArray[np.int64], scores: NDArray[np.float64], relevance: Relevance) -> NDArray[np.float64]:
    """float64 [total]. If n items score as much as a relevant one or more, itself included, the last of the relevant
    items that tie has rank n, the one before it n - 1, and so on."""
    if not len(scores):
        return np.empty(0)
    queries = relevance.query_of_item()
    is_last = np.append((np.diff(scores) != 0) | (np.diff(queries) != 0), True)
    ends = np.flatnonzero(is_last)
    last_of_tie = ends[np.searchsorted(ends, np.arange(len(scores)))]
    return (ahead - (last_of_tie - np.arange(len(scores)))).astype(np.float64)


def _on_grid(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """float64 [n, dim]: the components in units of the grid, rounded to integers."""
    exact = np.rint(np.asarray(vectors, dtype=np.float64) * GRID)
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact)) / GRID
    if not np.all(lengths <= LONGEST):
        raise ValueError(f"row {int(np.argmin(lengths <= LONGEST))} of a block of embeddings is not of unit norm")
    return exact


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
