"""Compares re-ranking that needs no training with the trained scorer.

`python benchmarks/rerank_without_training.py CAPTIONS --images DIR`

The baseline is in the manner of MTFN (Wang et al. 2019, "Matching Images and Text with Multi-modal Tensor Fusion and
Re-ranking"): a candidate rises when the query is among the texts that the image itself would retrieve (k-reciprocal
neighbours), and when those texts are like the query (text-text similarity). Those texts are the other captions of the
set, without those of the right image and of the candidate. This holds for every candidate: otherwise only the right
image would not compete with its own captions. The two weights are the best of a grid on the evaluated set, which
flatters the baseline; the scorer's were fitted on the set that its model card names.

Prints R@1/5/10 text -> image in percent, and paired gains over similarity with 95% intervals, bootstrapped over
images."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.collection import Collection
from indexes.exact import nearest
from retrieval.captions import read_captions
from retrieval.encoders import load_encoder
from retrieval.engine import CANDIDATES
from retrieval.evaluation.evaluate import evaluate
from retrieval.evaluation.metrics import bootstrap_difference
from retrieval.evaluation.record import record
from retrieval.fusion import own_scorer

NEIGHBOURS = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("captions", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default="lite")
    options = parser.parse_args()
    captions = read_captions(options.captions, images_dir=options.images, split=options.split)
    encoder = load_encoder(options.model, "cpu")
    with tempfile.TemporaryDirectory() as workspace:
        evaluation = evaluate(captions, encoder, Path(workspace), scorer=own_scorer(encoder))
        figures = record(evaluation)["text_to_image"]
        collection = Collection.open(Path(workspace) / "collection")
        table = collection.table(["path"])
        places = dict(zip(table["path"].to_pylist(), table["position"].to_pylist(), strict=True))
        positions = [places[os.fsencode(image.image)] for image in evaluation.images]
        images = collection.embeddings(positions).astype(np.float32)
    texts = np.concatenate([encoder.encode_texts([text]).embeddings for text in evaluation.texts])
    owner = evaluation.text_to_image.image_of_query
    similarities, candidates = nearest(texts, [images], [None], CANDIDATES)
    reciprocal, text_similarity = neighbours(texts, images, owner, candidates)
    ranks = {"similarity": right_ranks(similarities, candidates, owner)}
    grid = [(a, b) for a in (0, 0.05, 0.1, 0.2, 0.4) for b in (0, 0.01, 0.02, 0.05)]
    tried = {
        (a, b): right_ranks(similarities + a * text_similarity + b * reciprocal, candidates, owner) for a, b in grid
    }
    best = max(tried, key=lambda weights: float((tried[weights] == 1).mean()))
    ranks[f"k-reciprocal and text-text, weights {best}"] = tried[best]
    for name, of_query in ranks.items():
        gain = bootstrap_difference((ranks["similarity"] == 1) * 1.0, (of_query == 1) * 1.0, owner)
        show(name, [float((of_query <= k).mean()) for k in (1, 5, 10)], (gain.value, gain.low, gain.high))
    if figures["gain"]:
        gained = figures["gain"]["R@1"]
        after = [figures["reranked"][f"R@{k}"]["value"] for k in (1, 5, 10)]
        show("scorer", after, (gained["value"], gained["low"], gained["high"]))


def show(name: str, shares: list[float], gain: tuple[float, float, float]) -> None:
    value, low, high = (f"{100 * number:+.2f}" for number in gain)
    print(f"{name:<56} {'/'.join(f'{100 * share:.1f}' for share in shares)}  R@1 gain {value} [{low}, {high}]")


def neighbours(
    texts: NDArray[np.float32], images: NDArray[np.float32], owner: NDArray[np.int64], candidates: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each query and candidate: minus the logarithm of the query's rank among the texts by that image, and the mean
    similarity of the query to that image's nearest texts; both float32 [queries, candidates]."""
    by_image = images @ texts.T
    reciprocal = np.empty(candidates.shape, np.float32)
    text_similarity = np.empty(candidates.shape, np.float32)
    order = np.argsort(-by_image, axis=1)
    most = int(np.bincount(owner).max())
    for query, row in enumerate(candidates):
        for slot, image in enumerate(row):
            others = (owner != owner[query]) & (owner != image)
            better = (by_image[image] > by_image[image, query]) & others
            reciprocal[query, slot] = -np.log1p(better.sum())
            near = order[image][: NEIGHBOURS + 2 * most]
            near = near[others[near]][:NEIGHBOURS]
            text_similarity[query, slot] = (texts[near] @ texts[query]).mean()
    return reciprocal, text_similarity


def right_ranks(
    scores: NDArray[np.float32], candidates: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The rank of the right image, infinite where it is no candidate; of equal scores, wrong ones come first."""
    right = candidates == owner[:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1.0 + ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), ranks, np.inf)


if __name__ == "__main__":
    main()
