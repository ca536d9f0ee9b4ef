"""All modules that `search train` trains on frozen towers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from retrieval.training.data.inputs import Inputs
from retrieval.training.model.heads import Heads, HeadSettings
from retrieval.training.model.reader import Reader, ReaderSettings
from retrieval.training.model.regions import RegionEncoder, RegionSettings
from retrieval.training.model.rounding import PLACES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelSettings:
    heads: HeadSettings = field(default_factory=HeadSettings)
    regions: RegionSettings = field(default_factory=RegionSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)


class FusionNetwork(nn.Module):
    """What computes fusion, the scorer's part of the match logit (see `reader`).

    regions: computed when an image is indexed. reader: computed by a query. ranges: float [places, 2], the low and
    high end of every activation that a query rounds, see `place_of`."""

    def __init__(self, vocabulary: Tensor, settings: ModelSettings) -> None:
        super().__init__()
        self.regions = RegionEncoder(settings.regions)
        self.reader = Reader(settings.reader, settings.regions.dim, vocabulary)
        places = settings.reader.cross_attention_layers * len(PLACES) + 1
        self.register_buffer("ranges", torch.zeros(places, 2))


class Model(nn.Module):
    """The dual encoder's heads, and the scorer."""

    def __init__(
        self, class_embeddings: Tensor, statistics: dict[str, Tensor], vocabulary: Tensor, settings: ModelSettings
    ) -> None:
        """class_embeddings: float [1000, 384]. statistics: see `input_statistics`. vocabulary: float [vocabulary, 384],
        see `Reader`."""
        super().__init__()
        self.settings = settings
        self.inputs = Inputs(statistics)
        self.heads = Heads(class_embeddings, settings.heads)
        self.scorer = FusionNetwork(vocabulary, settings)
