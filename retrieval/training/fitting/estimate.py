"""Fit the reader's estimate of what its probabilities are divided by, once all else has learnt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from retrieval.training.data.batches import as_float
from retrieval.training.data.views import WHOLE
from retrieval.training.learning.parallel import on_device

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.model.heads import Inputs
    from retrieval.training.model.model import Scorer
    from retrieval.training.model.reader import Reader

TEXTS = 8_000
TEXTS_AT_ONCE = 100
STEPS = 2000
SAMPLED = 20_000  # states, by which the leading words are chosen
BATCH = 1024
LEARNING_RATE = 4e-3
WARM_UP = 50  # steps


def fit_estimate(scorer: Scorer, inputs: Inputs, features: Features, seed: int) -> float:
    """Choose the leading words, those of most probability, and fit the rest of `Reader.estimate` to the sums over the
    vocabulary after the words of captions, read with their own image and with any, as queries meet images; from then on
    the reader uses it. Returns the root mean squared error on other captions, in nats a word."""
    rng = np.random.default_rng([seed, *b"estimate"])
    texts = rng.permutation(len(features.texts))[:TEXTS]
    held_out = len(texts) // 10
    states, sums = _states(scorer, inputs, features, texts[held_out:], rng)
    reader = scorer.reader
    with torch.no_grad():
        order = _mass(reader, states).argsort(descending=True)
        reader.leading.copy_(reader.vocabulary[order[: len(reader.leading)]])
    torch.manual_seed(int(rng.integers(2**62)))
    for layer in (reader.rest[0], reader.rest[2]):
        layer.reset_parameters()
    torch.nn.init.constant_(reader.rest[2].bias, float(sums.mean()))
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(reader.rest.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        )
        for _ in range(STEPS):
            rows = on_device(rng.integers(len(states), size=min(BATCH, len(states))))
            optimizer.zero_grad()
            (reader.estimate(states[rows]) - sums[rows]).square().mean().backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        states, sums = _states(scorer, inputs, features, texts[:held_out] if held_out else texts, rng)
        error = float((reader.estimate(states) - sums).square().mean().sqrt())
    reader.exact = False
    return error


def _mass(reader: Reader, states: Tensor) -> Tensor:
    """The probability of each word of the vocabulary, summed over some of the states, float [words]."""
    outputs, common = reader.weigh(reader.vocabulary)
    some = states[:: max(1, len(states) // SAMPLED)]
    return torch.stack([(part @ outputs.T + common).softmax(-1).sum(0) for part in some.split(BATCH)]).sum(0)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _states(
    scorer: Scorer, inputs: Inputs, features: Features, texts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The states after each word of some texts, read with the image of each and with another, float [n, dim], and the
    exact sums, float [n]."""
    reader = scorer.reader
    states, sums = [], []
    for low in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[low : low + TEXTS_AT_ONCE]
        words, _ = features.words_of(some)
        before, said = reader.before_and_said(words)
        read = reader.read(before)
        for images in (features.image_of_text[some], rng.integers(features.images, size=len(some))):
            cells, whole = (as_float(each[WHOLE, images]) for each in (features.cells, features.whole))
            regions = scorer.regions(*inputs(cells, whole))
            found = reader.leave(reader.look(read, regions))[(said != 0).any(-1)]
            states.append(found)
            sums.append(reader.sums(found))
    return torch.cat(states), torch.cat(sums)
