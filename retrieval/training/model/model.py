"""Everything that is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from retrieval.training.model.heads import Heads, HeadSettings, Inputs
from retrieval.training.model.integer_reader import PLACES
from retrieval.training.model.reader import Reader, ReaderSettings
from retrieval.training.model.regions import Regions, RegionSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelSettings:
    heads: HeadSettings = field(default_factory=HeadSettings)
    regions: RegionSettings = field(default_factory=RegionSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)


class Scorer(nn.Module):
    """regions: the part that is computed when an image is indexed. reader: the part that a query computes. ranges:
    float [places, 2], of what a query rounds, see `IntegerReader`."""

    def __init__(self, vocabulary: Tensor, settings: ModelSettings) -> None:
        super().__init__()
        self.regions = Regions(settings.regions)
        self.reader = Reader(settings.reader, settings.regions.dim, vocabulary)
        self.register_buffer("ranges", torch.zeros(settings.reader.looks * len(PLACES) + 1, 2))


class Model(nn.Module):
    """The dual encoder's heads, and the scorer."""

    def __init__(
        self, class_embeddings: Tensor, statistics: dict[str, Tensor], vocabulary: Tensor, settings: ModelSettings
    ) -> None:
        """class_embeddings: float [1000, 384]. statistics: see `input_statistics`. vocabulary: float [words, 384], see
        `Reader`."""
        super().__init__()
        self.settings = settings
        self.inputs = Inputs(statistics)
        self.heads = Heads(class_embeddings, settings.heads)
        self.scorer = Scorer(vocabulary, settings)
