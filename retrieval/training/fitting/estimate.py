"""Fit the reader's estimate of the log partition function, once all else has learnt.

The exact one, log Z = log sum over v of exp z_v, costs a query 2,254 dot products a token (`lite`'s vocabulary). The
estimate sums the 512 leading tokens L and lets a perceptron r of the state h stand for the rest:

    log Z ~ log(sum over v in L of exp z_v  +  exp r(h))

L is the set of tokens with the largest total probability over the training captions; r minimises the squared error of
log Z by AdamW. That error is what a token's log likelihood is off by, in nats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from retrieval.training.data.views import ORIGINAL
from retrieval.training.parallel import on_device

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.data.inputs import Inputs
    from retrieval.training.model.model import FusionNetwork
    from retrieval.training.model.reader import Reader

TEXTS = 8_000
TEXTS_AT_ONCE = 100
STEPS = 2000
SAMPLED = 20_000  # states by which the leading tokens are chosen
BATCH = 1024
LEARNING_RATE = 4e-3
WARM_UP = 50  # steps


def fit_estimate(scorer: FusionNetwork, inputs: Inputs, features: Features, seed: int) -> float:
    """Choose the leading tokens, fit the estimate of the rest in place, and let the reader use it from now on.

    It is fitted to captions read with their image and with another, as queries meet images. Returns the root mean
    squared error of log Z on captions held out, in nats a token."""
    rng = np.random.default_rng([seed, *b"estimate"])
    texts = rng.permutation(features.text_count)[:TEXTS]
    held_out = len(texts) // 10
    states, log_z = _states(scorer, inputs, features, texts[held_out:], rng)
    reader = scorer.reader
    _choose_leading_tokens(reader, states)
    _fit_rest(reader, states, log_z, rng)
    with torch.no_grad():
        states, log_z = _states(scorer, inputs, features, texts[:held_out] if held_out else texts, rng)
        error = float((reader.estimated_log_partition(states) - log_z).square().mean().sqrt())
    reader.exact = False
    return error


@torch.no_grad()  # type: ignore[untyped-decorator]
def _choose_leading_tokens(reader: Reader, states: Tensor) -> None:
    """The tokens with the largest sum of probabilities over a sample of the states."""
    weights, bias = reader.output_weights(reader.vocabulary)
    sample = states[:: max(1, len(states) // SAMPLED)]
    mass = torch.stack([(part @ weights.T + bias).softmax(-1).sum(0) for part in sample.split(BATCH)]).sum(0)
    order = mass.argsort(descending=True)
    reader.leading_tokens.copy_(reader.vocabulary[order[: len(reader.leading_tokens)]])


def _fit_rest(reader: Reader, states: Tensor, log_z: Tensor, rng: np.random.Generator) -> None:
    """Train `rest_estimator` from new weights. states: float [n, dim]. log_z: float [n], exact."""
    torch.manual_seed(int(rng.integers(2**62)))
    for layer in (reader.rest_estimator[0], reader.rest_estimator[2]):
        layer.reset_parameters()
    torch.nn.init.constant_(reader.rest_estimator[2].bias, float(log_z.mean()))
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(reader.rest_estimator.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        )
        for _ in range(STEPS):
            rows = on_device(rng.integers(len(states), size=min(BATCH, len(states))))
            optimizer.zero_grad()
            (reader.estimated_log_partition(states[rows]) - log_z[rows]).square().mean().backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()  # type: ignore[untyped-decorator]
def _states(
    scorer: FusionNetwork, inputs: Inputs, features: Features, texts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The normed states of all tokens of some texts, each read with its image and with a random one: float [n, dim];
    and their exact log Z: float [n]."""
    reader = scorer.reader
    states, log_z = [], []
    for low in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[low : low + TEXTS_AT_ONCE]
        tokens, _ = features.tokens_of(part)
        previous, targets = reader.shifted(tokens)
        text_states = reader.read_text(previous)
        for images in (features.image_of_text[part], rng.integers(features.image_count, size=len(part))):
            cells, global_features = (features.rows_of(name, ORIGINAL, images) for name in ("cells", "global_features"))
            regions = scorer.regions(*inputs(cells, global_features))
            normed = reader.final_norm(reader.attend_to_regions(text_states, regions))[(targets != 0).any(-1)]
            states.append(normed)
            log_z.append(reader.exact_log_partition(normed))
    return torch.cat(states), torch.cat(log_z)
