"""The reader in integers of 8 bits, as queries run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu, softplus

from retrieval.training.inference import regions_of
from retrieval.training.model.rounding import LARGEST, OUTSIDE, integer_product, rounded

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.model.heads import Inputs
    from retrieval.training.model.model import Scorer
    from retrieval.training.model.reader import Block

PLACES = ("state", "query", "asked", "mixed", "found", "fed", "between")  # of a look, where something is rounded
WEIGHT_STEPS = 255  # of weights of attention
TEXTS = 500
SAMPLED = 500  # values of each place and text


def place_of(look: int, place: str) -> int:
    """Row of the ranges. After the last look comes another `state`."""
    return len(PLACES) * look + PLACES.index(place)


class IntegerReader(nn.Module):
    """What `Reader.forward` says of one text and several images whose regions are int8, as they are stored."""

    def __init__(self, scorer: Scorer) -> None:
        """scorer: after `fit_estimate` and `fit_ranges`, in its evaluating state."""
        super().__init__()
        self.reader = scorer.reader
        self.regions = scorer.regions
        self.ranges: list[list[float]] = scorer.ranges.tolist()

    def forward(self, words: Tensor, regions: Tensor) -> Tensor:
        """Logits, float [n]. words: float [m, 768], between marks. regions: int8 [n, 49, dim]."""
        reader = self.reader
        before, said = reader.before_and_said(words[:-1])  # nothing is to be said after the mark of the end
        there = (said != 0).any(-1)
        seen = unseen = reader.read(before)
        for number, block in enumerate(reader.looks):
            seen = self.feed(number, block, seen + self.attend(number, block, seen, regions))
            unseen = self.feed(number, block, unseen + block.attention.of_one(reader.no_image))
        likely, typical = self.likelihoods(seen, said), self.likelihoods(unseen, said)
        return reader.logits((likely * there).sum(-1), (typical * there).sum(-1))

    def attend(self, look: int, block: Block, states: Tensor, regions: Tensor) -> Tensor:
        """As `Attention.few`, of int8 regions [n, 49, dim]. states: [m, dim] or [n, m, dim]. Returns [n, m, dim]."""
        attention = block.attention
        of_keys, of_values = (
            layer.weight.unflatten(0, (attention.heads, -1)) for layer in (attention.keys, attention.values)
        )
        queries = attention.split(self.linear(look, "state", block.before_attention(states), attention.queries))
        asked = self.product(look, "query", queries, *rounded(of_keys)).flatten(-3, -2)
        of_logits = self.regions.scale / of_keys.shape[1] ** 0.5
        weights = self.product(look, "asked", asked, regions.transpose(-1, -2), of_logits).softmax(-1)
        mixed = self.mix(weights, regions).unflatten(-2, (attention.heads, -1))
        found = self.product(look, "mixed", mixed, *rounded(of_values.transpose(-1, -2)))
        found = found.transpose(-2, -3).flatten(-2)
        bias = attention.out(attention.values.bias)
        return self.product(look, "found", found, *rounded(attention.out.weight.T), bias)

    def feed(self, look: int, block: Block, states: Tensor) -> Tensor:
        """The states after the feed-forward layer, of the same shape."""
        between = gelu(self.linear(look, "fed", block.before_feed(states), block.feed[0]))
        return states + self.linear(look, "between", between, block.feed[3])

    def likelihoods(self, states: Tensor, said: Tensor) -> Tensor:
        """As `Reader.likelihoods` with its estimate, of states before `leave`."""
        reader, last = self.reader, len(self.reader.looks)
        states = reader.leave(states)
        outputs, common = reader.weigh(reader.leading)
        logits = self.product(last, "state", states, *rounded(outputs.T), common)
        largest = logits.amax(-1, keepdim=True)  # which the runtime does faster than its logsumexp
        leading = (logits - largest).exp().sum(-1).log() + largest[..., 0]
        rest = reader.rest[2](gelu(self.linear(last, "state", states, reader.rest[0])))[..., 0]
        return reader.held_against(states, said) - leading - softplus(rest - leading)

    def linear(self, look: int, place: str, x: Tensor, layer: nn.Linear) -> Tensor:
        """As the layer, of [..., in]."""
        return self.product(look, place, x, *rounded(layer.weight.T), layer.bias)

    def product(
        self, look: int, place: str, x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """See `integer_product`; x is rounded as the place's range wants."""
        low, high = self.ranges[place_of(look, place)]
        scale = (high - low) / LARGEST
        return integer_product(x, integers, scales, bias, scale, round(-low / scale))

    def mix(self, weights: Tensor, regions: Tensor) -> Tensor:
        """weights, [n, m, 49], of int8 regions [n, 49, dim]; float [n, m, dim]."""
        return integer_product(weights, regions, self.regions.scale, None, 1 / WEIGHT_STEPS, 0)


class _Observer(IntegerReader):
    """Keeps what would be rounded, and rounds only weights and regions."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer)
        self.samples: list[list[Tensor]] = [[] for _ in self.ranges]

    def product(
        self, look: int, place: str, x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        values = x.flatten()
        self.samples[place_of(look, place)].append(values[:: max(1, len(values) // SAMPLED) | 1])
        found = x @ (integers * scales)
        return found if bias is None else found + bias

    def mix(self, weights: Tensor, regions: Tensor) -> Tensor:
        return weights @ self.regions.restored(regions)


@torch.no_grad()  # type: ignore[untyped-decorator]
def fit_ranges(scorer: Scorer, inputs: Inputs, features: Features, seed: int) -> None:
    """Fit the scale of stored regions, and the ranges of all that is rounded, to captions with their own image and with
    another. scorer: in its evaluating state, after `fit_estimate`."""
    rng = np.random.default_rng([seed, *b"ranges"])
    texts = rng.permutation(len(features.texts))[:TEXTS]
    pairs = np.stack([features.image_of_text[texts], rng.integers(features.images, size=len(texts))], axis=1)
    images, place = np.unique(pairs, return_inverse=True)
    regions = regions_of(inputs, scorer, features, images)
    scorer.regions.fit_scale(regions)
    stored, observer = scorer.regions.stored(regions), _Observer(scorer)
    for text, both in zip(texts, place.reshape(pairs.shape), strict=True):
        observer(features.words_of(text[None])[0][0], stored[both])
    scorer.ranges.copy_(torch.stack([_range(torch.cat(each)) for each in observer.samples]))


def _range(values: Tensor) -> Tensor:
    """The ends of a range, float [2], on either side of zero."""
    low, high = np.quantile(values.numpy(), [OUTSIDE, 1 - OUTSIDE])
    return torch.tensor([min(low, -1e-3), max(high, 1e-3)])
