"""The scorer's reader: how much likelier an image makes the words of a text, one after the other.

A language model of captions whose words attend first to the words before them and then to the image's regions (as in
Xu et al. 2015, "Show, Attend and Tell", with the blocks of Vaswani et al. 2017). What it says of a text and an image is
log p(text | image) - log p(text): their pointwise mutual information, so that texts of common words are not liked for
that (Lin et al. 2024, "Revisiting the Role of Language Priors in Vision-Language Models"). Every word of every caption
teaches it something, where a contrast learns from whole captions only; on few captions that is what counts. At the end
it also learns by matching, so that what it says tells images, and captions, from one another.

What probabilities are divided by, a sum over the vocabulary, would cost a query most. When all else has learnt, it is
summed over the words that are likeliest on the whole, and two layers learn to tell the rest from the state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import softplus

from retrieval.fusion.attention import attention
from retrieval.training.model.dropout import SharedDropout
from retrieval.training.model.heads import DIM
from retrieval.training.model.partition import log_partition

if TYPE_CHECKING:
    from torch import Tensor


LEADING = 512  # words of the vocabulary over which queries sum


@dataclass(frozen=True)
class ReaderSettings:
    """looks: how often the words attend to the regions. heads: of each attention. dropout: in every layer.
    word_dropout: of the words that are read. image_dropout: share of the loss that is of reading without an image, from
    which it learns what texts say as such. smoothing: share of the target that all words of the vocabulary have in
    common. longest: words read of a text; of longer ones the rest is not."""

    looks: int = 2
    heads: int = 8
    dropout: float = 0.2
    word_dropout: float = 0.1
    image_dropout: float = 0.1
    smoothing: float = 0.1
    longest: int = 48


class Attention(nn.Module):
    """Several heads, each of which attends in a part of the dimensions of its own."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, sequence: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """sequence: [..., n, dim] attends to context: [..., m, dim]. mask: bool [n, m], see `attention`."""
        parts = self.split(self.queries(sequence)), self.split(self.keys(context)), self.split(self.values(context))
        found, _ = attention(*parts, mask)
        return self.out(found.transpose(-2, -3).flatten(-2))

    def few(self, sequence: Tensor, context: Tensor) -> Tensor:
        """The same where the sequence is short and the context long, or of many images: what the keys are projected by
        is folded into the queries, and values are projected once they are mixed, so that the context is read as it is.
        (The bias of the keys adds the same to all logits of a query, which softmax does not see.)

        sequence: [..., n, dim]. context: [..., m, dim]."""
        of_keys, of_values = (each.weight.unflatten(0, (self.heads, -1)) for each in (self.keys, self.values))
        queries = self.split(self.queries(sequence))
        asked = queries @ of_keys * (context.shape[-1] / queries.shape[-1]) ** 0.5  # `attention` divides by its root
        mixed, _ = attention(asked.flatten(-3, -2), context, context)
        found = mixed.unflatten(-2, (self.heads, -1)) @ of_values.transpose(-1, -2)
        return self.out(found.transpose(-2, -3).flatten(-2) + self.values.bias)

    def of_one(self, context: Tensor) -> Tensor:
        """What any sequence finds in a context of one, float [dim]. context: [dim]."""
        found: Tensor = self.out(self.values(context))
        return found

    def split(self, sequence: Tensor) -> Tensor:
        """[..., n, dim] -> [..., heads, n, dim / heads]."""
        return sequence.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to what came in."""

    def __init__(self, settings: ReaderSettings, dim: int) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, settings.heads)
        self.feed = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), SharedDropout(settings.dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = SharedDropout(settings.dropout)

    def forward(self, states: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """states: [..., n, dim]. context: [..., m, dim] to attend to, None for the states themselves."""
        ready = self.before_attention(states)
        if context is None or mask is not None or torch.is_grad_enabled():
            found = self.attention(ready, ready if context is None else context, mask)
        else:
            found = self.attention.few(ready, context)
        states = states + self.dropout(found)
        return states + self.dropout(self.feed(self.before_feed(states)))


class Reader(nn.Module):
    """Words are known by their rows of the word table, in and out, so that it can also read words that no training
    caption has; only the vocabulary against which each is weighed is that of the captions."""

    def __init__(self, settings: ReaderSettings, dim: int, vocabulary: Tensor) -> None:
        """dim: of the regions. vocabulary: float [words, 384], rows of the word table."""
        super().__init__()
        self.settings = settings
        self.register_buffer("vocabulary", vocabulary)
        self.no_image = nn.Parameter(0.02 * torch.randn(dim))
        self.enter = nn.Linear(DIM, dim)
        self.places = nn.Parameter(0.02 * torch.randn(settings.longest, dim))
        self.words = Block(settings, dim)
        self.looks = nn.ModuleList(Block(settings, dim) for _ in range(settings.looks))
        self.leave = nn.LayerNorm(dim)
        self.register_buffer("leading", torch.zeros(min(LEADING, max(1, len(vocabulary) // 2)), DIM))
        self.rest = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1))
        self.exact = True  # until `fit_estimate`
        self.outputs = nn.Linear(DIM, dim)
        self.common = nn.Linear(DIM, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(0.3)))
        self.prior = nn.Parameter(torch.tensor(1.0))

    def forward(self, words: Tensor, regions: Tensor) -> Tensor:
        """The logit of one text with each of several images, float [n], see `logits`.

        words: float [m, 768], marks of begin and end included, the second half of which is read. regions: float
        [n, 49, dim], see `Regions`."""
        before, said = self.before_and_said(words)
        there, states = (said != 0).any(-1), self.read(before)
        likely = self.read_image(states, regions, said)
        typical = self.read_image(states, self.without_image(regions[:1, :1]), said)
        return self.logits((likely * there).sum(-1), (typical * there).sum(-1))

    def of_pairs(self, words: Tensor, text: Tensor, regions: Tensor) -> Tensor:
        """The logits of pairs of a text and an image, float [n], as `forward` gives them of one text.

        words: float [t, m, 768], zeros after the end of each. text: int64 [n], which of them a pair has. regions: float
        [n, 49, dim], of the image that it has."""
        before, said = self.before_and_said(words)
        there, states = (said != 0).any(-1), self.read(before)
        likely = self.read_image(states[text], regions, said[text])
        typical = self.read_image(states, self.without_image(regions[:1, :1]), said)
        return self.logits((likely * there[text]).sum(-1), (typical * there).sum(-1)[text])

    def logits(self, with_image: Tensor, without: Tensor) -> Tensor:
        """scale * (log p(text | image) - prior * log p(text)), both numbers learnt by matching; prior begins as 1."""
        return self.log_scale.exp() * (with_image - self.prior * without)

    def evidence(self, words: Tensor, regions: Tensor) -> Tensor:
        """How much each region of one image makes each word likelier: by how much log p of the word falls when nothing
        may look at the region. (Attention times its gradient, as in ALBEF, estimates this to first order.) The marks
        have none.

        words: float [m, 768]. regions: float [49, dim], see `Regions`. Returns float [m, 49]."""
        before, said = self.before_and_said(words)
        count = len(regions)
        states, image = self.read(before), regions.unsqueeze(0)
        others = ~torch.eye(count, dtype=torch.bool)[:, None, None]
        without = self.read_image(states, image.expand(count, -1, -1), said, others)
        lost = self.log_scale.exp() * (self.read_image(states, image, said) - without) * (said != 0).any(-1)
        unread = words[1:][self.settings.longest :, :count] * 0
        return torch.cat([words[:1, :count] * 0, lost.T, unread])

    def before_and_said(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """What is read before each word, and the words, both float [..., m - 1, 384], or as many as are read. words:
        float [..., m, 768]."""
        words, longest = words[..., DIM:], self.settings.longest
        return words[..., :-1, :][..., :longest, :], words[..., 1:, :][..., :longest, :]

    def read_groups(self, words: Tensor, numbers: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Every text of a group of images read with every image of the group, and without any.

        words: float [groups, images, texts, m, 768], so many texts of each image. numbers: int64 [groups, images,
        texts, m], each word's in the vocabulary, or -1. regions: float [groups, images, 49, dim], see `Regions`.

        Returns the cross-entropy of the words, each given those before it and its own image or, at a share of
        `image_dropout`, none; and the logit of every text with every image, as `forward` gives it, float [groups, texts
        of the group, images]. All exact, whatever `exact` says."""
        before, said = self.before_and_said(words)
        numbers = numbers[..., 1:][..., : self.settings.longest]
        groups, images, texts, length = numbers.shape
        if self.training:
            before = before * (torch.rand(before.shape[:-1]) > self.settings.word_dropout).unsqueeze(-1)
        states = self.read(before)
        # All words of a group as one sequence, without the gaps between its texts.
        there = (said != 0).any(-1).flatten(1)
        count = max(1, int(there.sum(1).max()))
        place = torch.sort(there.int(), dim=1, descending=True, stable=True)[1][:, :count]
        group = torch.arange(groups).unsqueeze(1)
        states, said, numbers = (each.flatten(1, 3)[group, place] for each in (states, said, numbers))
        there, text = there.gather(1, place), place // length
        seen, unseen = states.unsqueeze(1).expand(-1, images, -1, -1), states
        seen, unseen = self.look(seen, regions), self.look(unseen, self.without_image(regions[0, 0, :1]))
        group, image, place = there.unsqueeze(1).expand(-1, images, -1).nonzero(as_tuple=True)
        seen, unseen = self.leave(seen[group, image, place]), self.leave(unseen[there])
        vocabulary = self.weigh(self.vocabulary)
        likely, typical = self._likelihoods_and_means(seen, said[group, place], *vocabulary)
        pair = (group * images * texts + text[group, place]) * images + image
        with_image = torch.zeros(groups * images * texts * images).index_add(0, pair, likely)
        is_own = (image == text[group, place] // texts) & (numbers[group, place] >= 0)
        own = self._surprise(likely, typical, is_own)
        likely, typical = self._likelihoods_and_means(unseen, said[there], *vocabulary)
        of_text = (torch.arange(groups).unsqueeze(1) * images * texts + text)[there]
        without = torch.zeros(groups * images * texts).index_add(0, of_text, likely)
        share = self.settings.image_dropout
        loss = (1 - share) * own + share * self._surprise(likely, typical, numbers[there] >= 0)
        logits = self.logits(with_image.unflatten(0, (-1, images)), without.unsqueeze(1))
        return loss, logits.unflatten(0, (groups, -1))

    def _likelihoods_and_means(
        self, states: Tensor, said: Tensor, outputs: Tensor, common: Tensor
    ) -> tuple[Tensor, Tensor]:
        """log p of each word, and its mean over all words of the vocabulary, as `weigh` gives it; exact, [words]."""
        sums = log_partition(states, outputs, common)
        return self.held_against(states, said) - sums, states @ outputs.mean(0) + common.mean() - sums

    def _surprise(self, likely: Tensor, typical: Tensor, counted: Tensor) -> Tensor:
        """The mean cross-entropy of the counted words, smoothed. All [words]: log p of each, its mean over the
        vocabulary, and which count."""
        smoothing = self.settings.smoothing
        of_words = -(1 - smoothing) * likely - smoothing * typical
        return (of_words * counted).sum() / counted.sum().clamp(min=1)

    def without_image(self, regions: Tensor) -> Tensor:
        """What is attended to in place of regions, of the same shape, when there is no image."""
        return self.no_image.expand_as(regions)

    def read(self, before: Tensor) -> Tensor:
        """The states after each word, which know those up to it; no image is needed. before: float [..., m, 384].
        Returns float [..., m, dim]."""
        states = self.enter(before) + self.places[: before.shape[-2]]
        return self.words(states, mask=torch.ones(before.shape[-2], before.shape[-2], dtype=torch.bool).tril())

    def look(self, states: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The states after attending to regions, float [n, m, dim]; the first look makes of each state one for every
        image. states: [m, dim] or [n, m, dim]. context: [n, 49, dim]. mask: as in `attention`."""
        for block in self.looks:
            states = block(states, context, mask)
        return states

    def read_image(self, states: Tensor, of_images: Tensor, said: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p of each word given those before it and each image, float [n, m].

        states: [m, dim] as `read` gives them, or [n, m, dim]. of_images: [n, 49, dim]. said: float [m, 384], the words,
        or [n, m, 384]. mask: bool, broadcast to [n, heads, m, 49], where each may look."""
        return self.likelihoods(self.leave(self.look(states, of_images, mask)), said)

    def likelihoods(self, states: Tensor, said: Tensor) -> Tensor:
        """log p of each word, float [..., m]. states: float [..., m, dim], after `leave`. said: float [..., m, 384]."""
        return self.held_against(states, said) - (self.sums(states) if self.exact else self.estimate(states))

    def sums(self, states: Tensor) -> Tensor:
        """The logarithm of what the probabilities of all words are divided by, float [...], exactly. states: float
        [..., dim], after `leave`."""
        return log_partition(states, *self.weigh(self.vocabulary))

    def estimate(self, states: Tensor) -> Tensor:
        """The same, of which only the leading words are summed, and the rest is estimated."""
        outputs, common = self.weigh(self.leading)
        leading = (states @ outputs.T + common).logsumexp(-1)
        return leading + softplus(self.rest(states).squeeze(-1) - leading)

    def held_against(self, states: Tensor, words: Tensor) -> Tensor:
        """log p of each word but for what all are divided by, float [..., m]. As `likelihoods`."""
        outputs, common = self.weigh(words)
        return (states * outputs).sum(-1) + common

    def weigh(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Words as states are held against them, float [..., dim], and how common each is, [...]. words: float
        [..., 384]."""
        return self.outputs(words) / self.enter.out_features**0.5, self.common(words).squeeze(-1)
