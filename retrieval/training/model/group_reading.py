"""The scorer's training losses: groups of images, whose texts the reader reads with every image of the group.

The texts of a group have different lengths. Cross-attention and logits of padding would be computed for nothing, so the
tokens of all texts of a group are packed into one sequence:

    texts of a group, padded        packed: [groups, n]         `text`, the text of each place
    a b c .                         a b c d e f g h i           0 0 0 1 1 2 2 2 2
    d e . .
    f g h i

Cross-attention treats tokens one by one, so packing changes nothing after self-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from retrieval.training.model.partition import log_partition

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.model.reader import Reader


def read_groups(reader: Reader, tokens: Tensor, vocabulary_ids: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Read every text of a group of images with every image of the group, and without an image.

    tokens: float [groups, images, texts, m, 768], the same number of texts for each image. vocabulary_ids: int64
    [groups, images, texts, m], the number of each token in the vocabulary or -1. regions: float [groups, images, 49,
    dim].

    Returns the language modelling loss (LM), a scalar: the cross-entropy of the tokens of the vocabulary, each given
    those before it and the text's image or, at a share of `image_dropout`, no image. And the fusion of every text with
    every image, as `Reader.forward` gives it, float [groups, images * texts, images]. The partition function is
    exact, whatever `Reader.exact` is."""
    groups, images, texts, _ = vocabulary_ids.shape
    packed = _pack(reader, tokens, vocabulary_ids)
    states = packed.states.unsqueeze(1).expand(-1, images, -1, -1)  # every token with every image of its group
    states = reader.attend_to_regions(states, regions)  # [groups, images, n, dim]
    blind = reader.attend_to_regions(packed.states, reader.no_regions(regions[0, 0, :1]))  # [groups, n, dim]
    # From here on one flat axis of (token, image) pairs, and one of tokens, both without the places of no token.
    group, image, place = packed.is_token.unsqueeze(1).expand(-1, images, -1).nonzero(as_tuple=True)
    states, blind = reader.final_norm(states[group, image, place]), reader.final_norm(blind[packed.is_token])
    vocabulary = reader.output_weights(reader.vocabulary)

    of_pairs = _log_likelihoods(reader, states, packed.targets[group, place], vocabulary)
    text = packed.text[group, place]
    is_own_image = image == text // texts
    image_loss = _cross_entropy(reader, of_pairs, is_own_image & (packed.vocabulary_ids[group, place] >= 0))
    pair = (group * images * texts + text) * images + image
    with_image = _sum_by(pair, of_pairs.targets, groups * images * texts * images)

    of_texts = _log_likelihoods(reader, blind, packed.targets[packed.is_token], vocabulary)
    text = (torch.arange(groups).unsqueeze(1) * images * texts + packed.text)[packed.is_token]
    without = _sum_by(text, of_texts.targets, groups * images * texts)

    share = reader.settings.image_dropout
    blind_loss = _cross_entropy(reader, of_texts, packed.vocabulary_ids[packed.is_token] >= 0)
    loss = (1 - share) * image_loss + share * blind_loss
    fusion = reader.fusion(with_image.unflatten(0, (-1, images)), without.unsqueeze(1))
    return loss, fusion.unflatten(0, (groups, -1))


@dataclass(frozen=True)
class _Packed:
    """states: float [groups, n, dim], after self-attention. targets: [groups, n, 384]. vocabulary_ids, text: int64
    [groups, n]; text counts within the group. is_token: bool [groups, n], False for EOS and for padding at the end of
    groups with fewer tokens."""

    states: Tensor
    targets: Tensor
    vocabulary_ids: Tensor
    text: Tensor
    is_token: Tensor


def _pack(reader: Reader, tokens: Tensor, vocabulary_ids: Tensor) -> _Packed:
    """Self-attention of each text, and then the tokens of each group as one sequence. Arguments: see `read_groups`."""
    previous, targets = reader.shifted(tokens)
    vocabulary_ids = vocabulary_ids[..., 1:][..., : reader.settings.max_tokens]
    groups, _, _, length = vocabulary_ids.shape
    if reader.training:
        kept = torch.rand(previous.shape[:-1]) > reader.settings.token_dropout
        previous = previous * kept.unsqueeze(-1)
    states = reader.read_text(previous)
    is_token = (targets != 0).any(-1).flatten(1)  # [groups, images * texts * length]
    longest = max(1, int(is_token.sum(1).max()))
    # A stable sort of False and True moves the tokens to the front, in their order.
    place = torch.sort(is_token.int(), dim=1, descending=True, stable=True)[1][:, :longest]
    group = torch.arange(groups).unsqueeze(1)
    states, targets, vocabulary_ids = (item.flatten(1, 3)[group, place] for item in (states, targets, vocabulary_ids))
    return _Packed(states, targets, vocabulary_ids, place // length, is_token.gather(1, place))


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
