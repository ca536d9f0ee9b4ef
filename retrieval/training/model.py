"""Everything that is trained together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from retrieval.training.heads import Heads, HeadSettings, Inputs
from retrieval.training.scorer import ReadOut, Regions, ScorerSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelSettings:
    heads: HeadSettings = field(default_factory=HeadSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)


class Model(nn.Module):
    """The dual encoder's heads, the scorer, and the guesser of hidden words, which helps the scorer learn."""

    def __init__(
        self, class_embeddings: Tensor, statistics: dict[str, Tensor], vocabulary: int, settings: ModelSettings
    ) -> None:
        """class_embeddings: float [1000, 384]. statistics: see `input_statistics`. vocabulary: how many words may be
        hidden."""
        super().__init__()
        self.settings = settings
        self.inputs = Inputs(statistics)
        self.heads = Heads(class_embeddings, settings.heads)
        self.regions = Regions(settings.scorer)
        self.read_out = ReadOut(settings.scorer)
        self.guess = HiddenWords(settings.scorer.dim, vocabulary)


class HiddenWords(nn.Module):
    """Masked language modelling (MLM) through the cross-attention: a hidden word is guessed from what the other words
    of the text ask for, and what they found in the image."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.words = nn.Linear(dim, max(vocabulary, 1))

    def loss(self, asked: Tensor, attended: Tensor, words: Tensor) -> Tensor:
        """Cross-entropy of the hidden words. asked, attended: float [n, dim], means over each text's other words.
        words: int64 [n], -1 where there is none."""
        if not bool((words >= 0).any()):
            return torch.zeros(())
        found = self.words(self.mix(asked.shape[-1] ** 0.5 * torch.cat([asked, attended], dim=-1)))
        return cross_entropy(found, words, ignore_index=-1)
