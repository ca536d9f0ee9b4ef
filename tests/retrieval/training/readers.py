"""A small reader with random weights, and its forward pass one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.model.reader import Reader

VOCABULARY = 12


def small_reader() -> Reader:
    """Of states of 16 components, which reads 9 tokens, in evaluation mode."""
    import torch

    from retrieval.training.model.reader import Reader, ReaderSettings

    torch.manual_seed(0)
    settings = ReaderSettings(heads=4, max_tokens=9, label_smoothing=0.0, image_dropout=0.25)
    reader = Reader(settings, 16, torch.randn(VOCABULARY, 384))
    with torch.no_grad():
        reader.log_scale.zero_()
    return reader.eval()


def text(reader: Reader, ids: Sequence[int]) -> Tensor:
    """Tokens [m + 2, 768] with BOS and EOS. The first half, which is not read, holds anything."""
    import torch

    tokens = torch.full((len(ids) + 2, 768), 7.0)
    tokens[:, 384:] = 0
    for place, token in enumerate(ids):
        tokens[place + 1, 384:] = reader.vocabulary[token]
    return tokens


def random_regions(count: int, seed: int = 1) -> Tensor:
    import torch

    return torch.randn(count, 49, 16, generator=torch.Generator().manual_seed(seed))


def log_likelihood(reader: Reader, ids: Sequence[int], regions: Tensor) -> float:
    """log p of a text, each token from a fresh reading of those before it. regions: [49, 16], of one image."""
    total = 0.0
    for place, token in enumerate(ids):
        previous = text(reader, ids[:place])[: place + 1, 384:]
        states = reader.attend_to_regions(reader.read_text(previous), regions)
        weights, bias = reader.output_projection(reader.vocabulary) / 4, reader.token_bias(reader.vocabulary)[:, 0]
        logits = reader.final_norm(states[-1]) @ weights.T + bias
        total += float(logits.log_softmax(-1)[token])
    return total
