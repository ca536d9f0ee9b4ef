"""A model directory as torch modules: for computing on a GPU, and to check exported graphs against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from indexes.errors import CrosslookError
from retrieval.encoders.runtime import SHIPPED
from retrieval.encoders.torch_start import without_random_weights
from retrieval.training.data.cells import Cells
from retrieval.training.data.inputs import STATISTICS
from retrieval.training.fitting.embedder import Embedder
from retrieval.training.model.model import Model
from retrieval.training.stored_names import settings_of, stored_name

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def read_model(folder: Path) -> tuple[Model, Embedder | None]:
    """A model directory of this version as torch modules, in evaluation mode. The ONNX graphs beside it have the same
    weights: they refer to the same file.

    A scorer for another encoder has no embedder. Raises `CrosslookError` for files that are missing or damaged."""
    try:
        return modules_of(folder, json.loads((folder / CONFIG).read_text())["model"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        remedy = "reinstall crosslook" if SHIPPED in folder.parents else "train the model again"
        raise CrosslookError(f"cannot read {folder / WEIGHTS}: it is missing or damaged ({remedy})") from error


def modules_of(folder: Path, stored: dict[str, Any]) -> tuple[Model, Embedder | None]:
    """The modules whose weights a folder holds. stored: the section "model" of its configuration."""
    tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    settings = settings_of(stored)
    statistics = {name: tensors[f"model.inputs.{name}"] for name in STATISTICS}
    vocabulary = tensors["model.scorer.reader.vocabulary"]
    with without_random_weights():
        model = Model(tensors["model.heads.class_embeddings"], statistics, vocabulary, settings).eval()
    _load(model, "model", tensors)
    model.scorer.reader.exact = False
    if "embedder.image_bank" not in tensors:
        return model, None
    with without_random_weights():
        embedder = Embedder(settings.heads.ensemble + 1, len(tensors["embedder.image_bank"]))
    _load(embedder, "embedder", tensors)
    return model, embedder.eval()


def _load(module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    state = {name: tensors[f"{prefix}.{stored_name(name)}"] for name in module.state_dict()}
    module.load_state_dict(state, assign=True)


class StoredImageHead(nn.Module):
    """From the image tower's outputs to the stored embedding, float [n, dim], and the stored regions, int8
    [n, 49, region_dim]."""

    def __init__(self, model: Model, embedder: Embedder) -> None:
        super().__init__()
        self.cells = Cells()
        self.model = model
        self.embedder = embedder

    def forward(
        self, pixels: Tensor, logits: Tensor, stride8: Tensor, stride16: Tensor, stride32: Tensor
    ) -> tuple[Tensor, Tensor]:
        """pixels: uint8 or whole numbers, [n, 224, 224, 3]. logits: float [n, 1000]. Maps: see `Cells`."""
        cells, classes = self.model.inputs(self.cells(pixels, stride8, stride16, stride32), logits)
        parts = [*self.model.heads.images(cells, classes, logits), self.model.heads.conse(logits)]
        embedding = self.embedder.images(parts)
        regions = self.model.scorer.regions
        return embedding, regions.stored(regions(cells, classes))


class StoredTextHead(nn.Module):
    """From the text tower's outputs to the embedding, float [n, dim]."""

    def __init__(self, model: Model, embedder: Embedder) -> None:
        super().__init__()
        self.heads = model.heads
        self.embedder = embedder

    def forward(self, tower: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """tower: float [n, 384], unit norm. tokens, mask: see `TextHead.forward`."""
        return self.embedder.texts([*self.heads.texts(tower, tokens, mask), tower], self.heads.familiarity(tower))


class StoredAdapter(nn.Module):
    """From another encoder's regions and embeddings of images to the stored regions, int8 [n, regions, region_dim]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, cells: Tensor, global_features: Tensor) -> Tensor:
        regions = self.model.scorer.regions
        return regions.stored(regions(*self.model.inputs(cells, global_features)))
