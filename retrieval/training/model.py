"""Everything that is trained together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from retrieval.training.decoder import Decoder, DecoderSettings
from retrieval.training.heads import Heads, HeadSettings, Inputs
from retrieval.training.scorer import ReadOut, Regions, ScorerSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelSettings:
    heads: HeadSettings = field(default_factory=HeadSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)


class Model(nn.Module):
    """The dual encoder's heads and the scorer, which has two parts: one compares words with the regions that they look
    at, the other reads the text with the image before it. Both see the same regions."""

    def __init__(
        self, class_embeddings: Tensor, statistics: dict[str, Tensor], vocabulary: Tensor, settings: ModelSettings
    ) -> None:
        """class_embeddings: float [1000, 384]. statistics: see `input_statistics`. vocabulary: float [words, 384], see
        `Decoder`."""
        super().__init__()
        self.settings = settings
        self.inputs = Inputs(statistics)
        self.heads = Heads(class_embeddings, settings.heads)
        self.regions = Regions(settings.scorer)
        self.read_out = ReadOut(settings.scorer)
        self.decoder = Decoder(settings.decoder, settings.scorer.dim, vocabulary)
        # Of the comparison and of the reading, fitted at the end; a part that is not trained has none.
        self.register_buffer("weights", torch.ones(2))

    def fusion(self, words: Tensor, regions: Tensor) -> Tensor:
        """The scorer's logit of one text with each of several images, float [n].

        words: float [m, 768]. regions: float [n, regions, dim], unit norm."""
        return self.parts(words, regions) @ self.weights

    def parts(self, words: Tensor, regions: Tensor) -> Tensor:
        """What that is made of, float [n, 2]: what comparison and reading give, zero from one without weight."""
        found = [torch.zeros_like(regions[:, 0, 0])] * 2
        if self.weights[0]:
            mask = torch.ones_like(words[None, :, 0], dtype=torch.bool)
            found[0] = self.read_out(words.unsqueeze(0), mask, regions)[0]
        if self.weights[1]:
            found[1] = self.decoder(words, regions)
        return torch.stack(found, dim=-1)
