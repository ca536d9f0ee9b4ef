"""Do the heads keep what the towers know by name? `python benchmarks/concepts.py FOLDER...` (extra `build`).

Each of the 1,000 ImageNet class names is a query, "a NAME", over the photos of the folders and the sample photos of
`search demo`. Right for a class are the photos that the tower's own classifier puts into it with a probability of at
least SURE; classes without any are left out. That favours the towers alone, whose embedding is nothing but the
classifier's opinion, so that heads that lose nothing by this measure have lost nothing. Prints R@1 and R@10 (a right
photo among the first k) of both, and their paired difference with its 95% interval, bootstrapped over classes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from retrieval.encoders.lite import HEADS, LiteEncoder
from retrieval.evaluation.metrics import bootstrap_difference
from retrieval.images import ENDINGS, decode
from retrieval.samples import gather_samples

SURE = 0.7
AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--model", type=Path, default=HEADS)
    options = parser.parse_args()
    trained, untrained = LiteEncoder(heads=options.model, device="cpu"), LiteEncoder(device="cpu")
    with tempfile.TemporaryDirectory() as samples:
        paths = [*gather_samples(Path(samples))]
        paths += [path for folder in options.folders for path in sorted(folder.iterdir()) if path.suffix in ENDINGS]
        prepared = [untrained.prepare(decode(path.read_bytes(), untrained.image_size)) for path in paths]
    logits = np.concatenate([untrained.maps(part, ["logits"])[0] for part in parts(prepared)])
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    right = (shares >= SURE).T  # [classes, photos]
    classes = np.flatnonzero(right.any(axis=1))
    names = [f"a {IMAGENET_CLASSNAMES[index]}" for index in classes]
    print(
        f"{len(paths):,} photos, {right.any(axis=0).sum()} of which the classifier is sure of, "
        f"in {len(classes)} classes"
    )
    ranks = {}
    for name, encoder in (("lite-untrained", untrained), (str(options.model.name), trained)):
        images = np.concatenate([encoder.encode_images(part).embeddings for part in parts(prepared)])
        ranks[name] = first_ranks(encoder.encode_texts(names).embeddings @ images.T, right[classes])
    (before, of_before), (after, of_after) = ranks.items()
    for k in (1, 10):
        successes = [(first <= k).astype(float) for first in (of_before, of_after)]
        gain = bootstrap_difference(*successes, np.arange(len(classes)))
        value, low, high = (f"{100 * number:+.1f}" for number in (gain.value, gain.low, gain.high))
        shares = zip((before, after), successes, strict=True)
        shown = ", ".join(f"{name} {100 * success.mean():.1f}" for name, success in shares)
        print(f"R@{k}: {shown}; difference {value} [{low}, {high}]")


def parts(images: list[NDArray[np.uint8]]) -> list[list[NDArray[np.uint8]]]:
    return [images[low : low + AT_ONCE] for low in range(0, len(images), AT_ONCE)]


def first_ranks(similarities: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rank of the first right photo of each query. Both [queries, photos]."""
    best = np.where(right, similarities, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((similarities >= best) & ~right).sum(axis=1)


if __name__ == "__main__":
    main()
