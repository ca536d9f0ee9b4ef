"""The scorer's training losses: groups of images, whose texts the reader reads with every image of the group.

The texts of a group have different lengths. Cross-attention and logits of padding would be computed for nothing, so the
tokens of all texts of a group are packed into one sequence:

    texts of a group, padded        packed: [groups, n]         `text`, the text of each place
    a b c .                         a b c d e f g h i           0 0 0 1 1 2 2 2 2
    d e . .
    f g h i

Cross-attention treats tokens one by one, so packing changes nothing after self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from retrieval.training import accelerator
from retrieval.training.model.partition import log_partition

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.model.reader import Reader


@dataclass(frozen=True)
class Packing:
    """Where the tokens of all texts of a group are.

    place: int64 [groups, n], the padded place of each place in the packed sequence; groups with fewer tokens end with
    places of no token. pairs: int64 [3, p], group, image and packed place of every pair of a token and an image of its
    group. tokens: int64 [2, t], group and packed place of every token."""

    place: Tensor
    pairs: Tensor
    tokens: Tensor


def packing_of(is_token: Tensor) -> Packing:
    """is_token: bool [groups, images, texts, length], False for EOS and padding. A GPU that computes this is waited
    for, since the sizes of the results are counted."""
    images = is_token.shape[1]
    flat = is_token.flatten(1)
    longest = max(1, int(flat.sum(1).max()))
    # A stable sort of False and True moves the tokens to the front, in their order.
    place = torch.sort(flat.int(), dim=1, descending=True, stable=True)[1][:, :longest]
    packed = flat.gather(1, place)
    pairs = packed.unsqueeze(1).expand(-1, images, -1).nonzero().T
    return Packing(place, pairs, packed.nonzero().T)


def read_groups(
    reader: Reader, tokens: Tensor, vocabulary_ids: Tensor, regions: Tensor, packing: Packing | None = None
) -> tuple[Tensor, Tensor]:
    """Read every text of a group of images with every image of the group, and without an image.

    tokens: float [groups, images, texts, m, 768], the same number of texts for each image. vocabulary_ids: int64
    [groups, images, texts, m], the number of each token in the vocabulary or -1. regions: float [groups, images, 49,
    dim]. packing: of the tokens read, if it is known already.

    Returns the language modelling loss (LM), a scalar: the cross-entropy of the tokens of the vocabulary, each given
    those before it and the text's image or, at a share of `image_dropout`, no image. And the fusion of every text with
    every image, as `Reader.forward` gives it, float [groups, images * texts, images]. The partition function is
    exact, whatever `Reader.exact` is."""
    images = vocabulary_ids.shape[1]
    packed = _pack(reader, tokens, vocabulary_ids, packing)
    states = packed.states.unsqueeze(1).expand(-1, images, -1, -1)  # every token with every image of its group
    states = reader.attend_to_regions(states, regions)  # [groups, images, n, dim]
    blind = reader.attend_to_regions(packed.states, reader.no_regions(regions[0, 0, :1]))  # [groups, n, dim]
    # From here on one flat axis of (token, image) pairs, and one of tokens, both without the places of no token.
    states, blind = states[tuple(packed.pairs)], blind[tuple(packed.tokens)]
    with accelerator.full_precision():  # differences of log likelihoods need more digits than bfloat16 has
        return _losses(reader, packed, regions.shape[:2], states.float(), blind.float())


def _losses(
    reader: Reader, packed: _Packed, shape: Sequence[int], states: Tensor, blind: Tensor
) -> tuple[Tensor, Tensor]:
    """What `read_groups` returns. shape: groups and images. states: float [p, dim], of all pairs. blind: float
    [t, dim], of all tokens, without an image."""
    (groups, images), texts, (group, image, place) = shape, packed.texts, packed.pairs
    tokens = tuple(packed.tokens)
    states, blind = reader.final_norm(states), reader.final_norm(blind)
    vocabulary = reader.output_weights(reader.vocabulary)

    of_pairs = _log_likelihoods(reader, states, packed.targets[group, place], vocabulary)
    text = packed.text[group, place]
    is_own_image = image == text // texts
    image_loss = _cross_entropy(reader, of_pairs, is_own_image & (packed.vocabulary_ids[group, place] >= 0))
    pair = (group * images * texts + text) * images + image
    with_image = _sum_by(pair, of_pairs.targets, groups * images * texts * images)

    of_texts = _log_likelihoods(reader, blind, packed.targets[tokens], vocabulary)
    text = (torch.arange(groups).unsqueeze(1) * images * texts + packed.text)[tokens]
    without = _sum_by(text, of_texts.targets, groups * images * texts)

    share = reader.settings.image_dropout
    blind_loss = _cross_entropy(reader, of_texts, packed.vocabulary_ids[tokens] >= 0)
    loss = (1 - share) * image_loss + share * blind_loss
    fusion = reader.fusion(with_image.unflatten(0, (-1, images)), without.unsqueeze(1))
    return loss, fusion.unflatten(0, (groups, -1))


@dataclass(frozen=True)
class _Packed:
    """states: float [groups, n, dim], after self-attention. targets: [groups, n, 384]. vocabulary_ids, text: int64
    [groups, n]; text counts within the group. pairs, tokens: see `Packing`. texts: of each image."""

    states: Tensor
    targets: Tensor
    vocabulary_ids: Tensor
    text: Tensor
    pairs: Tensor
    tokens: Tensor
    texts: int


def _pack(reader: Reader, tokens: Tensor, vocabulary_ids: Tensor, packing: Packing | None) -> _Packed:
    """Self-attention of each text, and then the tokens of each group as one sequence. Arguments: see `read_groups`."""
    previous, targets = reader.shifted(tokens)
    vocabulary_ids = vocabulary_ids[..., 1:][..., : reader.settings.max_tokens]
    groups, _, texts, length = vocabulary_ids.shape
    if reader.training:
        kept = torch.rand(previous.shape[:-1]) > reader.settings.token_dropout
        previous = previous * kept.unsqueeze(-1)
    states = reader.read_text(previous)
    if packing is None:
        packing = packing_of((targets != 0).any(-1))
    place = packing.place
    group = torch.arange(groups).unsqueeze(1)
    states, targets, vocabulary_ids = (item.flatten(1, 3)[group, place] for item in (states, targets, vocabulary_ids))
    return _Packed(states, targets, vocabulary_ids, place // length, packing.pairs, packing.tokens, texts)


@dataclass(frozen=True)
class _LogLikelihoods:
    """targets: float [n], log p of each target token. mean: [n], the mean of log p over the vocabulary."""

    targets: Tensor
    mean: Tensor


def _log_likelihoods(
    reader: Reader, states: Tensor, targets: Tensor, vocabulary: tuple[Tensor, Tensor]
) -> _LogLikelihoods:
    """Exact. states: float [n, dim], normed. targets: [n, 384]. vocabulary: see `Reader.output_weights`."""
    weights, bias = vocabulary
    log_z = log_partition(states, weights, bias)
    return _LogLikelihoods(
        reader.target_logits(states, targets) - log_z, states @ weights.mean(0) + bias.mean() - log_z
    )


def _cross_entropy(reader: Reader, of: _LogLikelihoods, counted: Tensor) -> Tensor:
    """The mean cross-entropy over the counted tokens, with label smoothing: (1 - a) -log p(target) + a mean(-log p).

    counted: bool [n]."""
    smoothing = reader.settings.label_smoothing
    losses = -(1 - smoothing) * of.targets - smoothing * of.mean
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def _sum_by(index: Tensor, values: Tensor, count: int) -> Tensor:
    """The sum of the values of each index, float [count]. index: int64 [n]. values: [n]."""
    return torch.zeros(count).index_add(0, index, values)
