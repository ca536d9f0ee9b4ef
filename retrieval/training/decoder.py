"""The scorer's reader: how much likelier an image makes the words of a text, one after the other.

A language model of captions whose words attend first to the words before them and then to the image's regions (as in
Xu et al. 2015, "Show, Attend and Tell", with the blocks of Vaswani et al. 2017). What it says of a text and an image is
log p(text | image) - log p(text): their pointwise mutual information, so that texts of common words are not liked for
that (Lin et al. 2024, "Revisiting the Role of Language Priors in Vision-Language Models"). Every word of every caption
teaches it something, where a contrast learns from whole captions only; on few captions that is what counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from retrieval.fusion.attention import attention
from retrieval.training.heads import DIM

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DecoderSettings:
    """heads: of each attention. dropout: in every layer. word_dropout: of the words that are read. image_dropout: of
    whole images, without which it learns what texts say as such. smoothing: share of the target that all words of the
    vocabulary have in common. longest: words read of a text; of longer ones the rest is not."""

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

    def split(self, sequence: Tensor) -> Tensor:
        """[..., n, dim] -> [..., heads, n, dim / heads]."""
        return sequence.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to what came in."""

    def __init__(self, settings: DecoderSettings, dim: int) -> None:
        super().__init__()
        self.before_attention, self.before_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, settings.heads)
        self.feed = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """states: [..., n, dim]. context: [..., m, dim] to attend to, None for the states themselves."""
        ready = self.before_attention(states)
        states = states + self.dropout(self.attention(ready, ready if context is None else context, mask))
        return states + self.dropout(self.feed(self.before_feed(states)))


class Decoder(nn.Module):
    """Words are known by their rows of the word table, in and out, so that it can also read words that no training
    caption has; only the vocabulary against which each is weighed is that of the captions."""

    def __init__(self, settings: DecoderSettings, dim: int, vocabulary: Tensor) -> None:
        """dim: of the regions. vocabulary: float [words, 384], rows of the word table."""
        super().__init__()
        self.settings = settings
        self.register_buffer("vocabulary", vocabulary)
        self.region_norm = nn.LayerNorm(dim)
        self.no_image = nn.Parameter(0.02 * torch.randn(dim))
        self.enter = nn.Linear(DIM, dim)
        self.places = nn.Parameter(0.02 * torch.randn(settings.longest, dim))
        self.words = Block(settings, dim)
        self.looks = nn.ModuleList(Block(settings, dim) for _ in range(2))
        self.leave = nn.Sequential(nn.LayerNorm(dim), nn.Dropout(settings.dropout))
        self.outputs = nn.Linear(DIM, dim)
        self.common = nn.Linear(DIM, 1)

    def forward(self, words: Tensor, regions: Tensor) -> Tensor:
        """log p(text | image) - log p(text) of one text with each of several images, float [n].

        words: float [m, 768], marks of begin and end included, the second half of which is read. regions: float
        [n, 49, dim], unit norm."""
        before, said = self.before_and_said(words)
        of_images = torch.cat([self.region_norm(regions), self.without_image(regions[:1])])
        there = (said != 0).any(-1)
        found = (self.log_likelihoods(self.read(before), of_images, said) * there).sum(-1)
        return found[:-1] - found[-1:]

    def evidence(self, words: Tensor, regions: Tensor) -> Tensor:
        """How much each region of one image makes each word likelier: by how much log p of the word falls when nothing
        may look at the region. (Attention times its gradient, as in ALBEF, estimates this to first order.) The marks
        have none.

        words: float [m, 768]. regions: float [49, dim], unit norm. Returns float [m, 49]."""
        before, said = self.before_and_said(words)
        count = len(regions)
        states, image = self.read(before), self.region_norm(regions).unsqueeze(0)
        others = ~torch.eye(count, dtype=torch.bool)[:, None, None]
        without = self.log_likelihoods(states, image.expand(count, -1, -1), said, others)
        lost = (self.log_likelihoods(states, image, said) - without) * (said != 0).any(-1)
        unread = words[1:][self.settings.longest :, :count] * 0
        return torch.cat([words[:1, :count] * 0, lost.T, unread])

    def before_and_said(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """What is read before each word, and the words, both float [m - 1, 384], or as many as are read. words: float
        [m, 768]."""
        words = words[..., DIM:]
        return words[:-1][: self.settings.longest], words[1:][: self.settings.longest]

    def loss(self, words: Tensor, numbers: Tensor, regions: Tensor) -> Tensor:
        """Cross-entropy of the words of several texts of each image, each given those before it.

        words: float [images, texts, m, 768]. numbers: int64 [images, texts, m], each word's in the vocabulary, or -1.
        regions: float [images, 49, dim], unit norm."""
        longest = self.settings.longest
        before, wanted = words[:, :, :-1, DIM:][:, :, :longest], numbers[:, :, 1:][:, :, :longest]
        of_images = self.region_norm(regions)
        if self.training:
            before = before * (torch.rand(before.shape[:3]) > self.settings.word_dropout).unsqueeze(-1)
            unseen = torch.rand(len(regions), 1, 1) < self.settings.image_dropout
            of_images = torch.where(unseen, self.without_image(regions), of_images)
        states = self.read(before)
        states = states.flatten(1, 2)  # all texts of an image as one sequence: they attend to the same regions
        for block in self.looks:
            states = block(states, of_images)
        states = states.unflatten(1, before.shape[1:3])
        kept = wanted >= 0
        if not kept.any():
            return 0 * states.sum()
        return cross_entropy(self.among(states[kept]), wanted[kept], label_smoothing=self.settings.smoothing)

    def without_image(self, regions: Tensor) -> Tensor:
        """What is attended to in place of regions, of the same shape, when there is no image."""
        return self.no_image.expand_as(regions)

    def read(self, before: Tensor) -> Tensor:
        """The states after each word, which know those up to it; no image is needed. before: float [..., m, 384].
        Returns float [..., m, dim]."""
        states = self.enter(before) + self.places[: before.shape[-2]]
        return self.words(states, mask=torch.ones(before.shape[-2], before.shape[-2], dtype=torch.bool).tril())

    def log_likelihoods(self, states: Tensor, of_images: Tensor, said: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p of each word given those before it and each image, float [n, m].

        states: [m, dim] as `read` gives them. of_images: [n, 49, dim]. said: float [m, 384], the words. mask: bool,
        broadcast to [n, heads, m, 49], where each may look."""
        for block in self.looks:  # the first makes one of each state for every image
            states = block(states, of_images, mask)
        chosen = (self.leave(states) * self.outputs(said)).sum(-1) / self.enter.out_features**0.5
        return chosen + self.common(said).squeeze(-1) - self.among(states).logsumexp(-1)

    def among(self, states: Tensor) -> Tensor:
        """The logit of each word of the vocabulary to come next, float [..., words]. states: float [..., dim]."""
        logits = self.leave(states) @ self.outputs(self.vocabulary).T / self.enter.out_features**0.5
        return logits + self.common(self.vocabulary).squeeze(-1)
