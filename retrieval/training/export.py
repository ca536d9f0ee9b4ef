"""Write a trained model as a directory that runs without torch, and read it again to check."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retrieval.encoders.adapted import ADAPTER
from retrieval.encoders.lite import HEADS_OF_LITE
from retrieval.encoders.onnx_files import export, save, sha256, store_as_half
from retrieval.fusion.scorer import EXPLAINER, SCORER
from retrieval.training.data.tensors import save_tensors
from retrieval.training.external import share_weights
from retrieval.training.fitting.calibrate import Fitted
from retrieval.training.fitting.embedder import Embedder
from retrieval.training.model.cells import CELLS, MAP_SHAPES, Cells
from retrieval.training.model.heads import STATISTICS, HeadSettings
from retrieval.training.model.integer_reader import IntegerReader
from retrieval.training.model.model import Model, ModelSettings, Scorer
from retrieval.training.model.reader import ReaderSettings
from retrieval.training.model.regions import RegionSettings

IMAGE_HEAD, TEXT_HEAD = "image_head.onnx", "text_head.onnx"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class _ImageHead(nn.Module):
    """From the tower's outputs to embedding and tokens."""

    def __init__(self, model: Model, embedder: Embedder) -> None:
        super().__init__()
        self.cells = Cells()
        self.model = model
        self.embedder = embedder

    def forward(
        self, pixels: Tensor, logits: Tensor, stride8: Tensor, stride16: Tensor, stride32: Tensor
    ) -> tuple[Tensor, Tensor]:
        cells, classes = self.model.inputs(self.cells(pixels, stride8, stride16, stride32), logits)
        parts = [*self.model.heads.images(cells, classes, logits), self.model.heads.conse(logits)]
        embedding = self.embedder.images(parts)
        regions = self.model.scorer.regions
        return embedding, regions.stored(regions(cells, classes))


class _Adapter(nn.Module):
    """From another encoder's tokens and embedding of an image to its regions."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, cells: Tensor, whole: Tensor) -> Tensor:
        regions = self.model.scorer.regions
        return regions.stored(regions(*self.model.inputs(cells, whole)))


class _TextHead(nn.Module):
    def __init__(self, model: Model, embedder: Embedder) -> None:
        super().__init__()
        self.heads = model.heads
        self.embedder = embedder

    def forward(self, tower: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return self.embedder.texts([*self.heads.texts(tower, words, mask), tower], self.heads.known(tower))


class Explainer(nn.Module):
    """One text with one image, regions int8 [49, dim]: the logit, and how much of it each word would lose without each
    region [m, 49]."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.reader = scorer.reader
        self.regions = scorer.regions

    def forward(self, words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        regions = self.regions.restored(regions)
        return self.reader(words, regions.unsqueeze(0))[0], self.reader.evidence(words, regions)


def write_model(model: Model, embedder: Embedder, fitted: Fitted, folder: Path, towers: str) -> None:
    """Heads and scorer of `lite` as a model directory: `config.json`, the weights (float16 safetensors), and the ONNX
    graphs that share them. towers: fingerprint of the towers that the heads belong to."""
    model, embedder = model.eval(), embedder.eval()
    _save_weights({"model": model, "embedder": embedder}, folder)
    stored, stored_embedder = _modules(folder, asdict(model.settings))
    assert stored_embedder is not None
    images = {
        "pixels": torch.zeros(2, 224, 224, 3, dtype=torch.uint8),
        "logits": torch.zeros(2, 1000),
        **{name: torch.zeros(2, *shape) for name, shape in MAP_SHAPES.items()},
    }
    by_image: dict[str, dict[int, str]] = {name: {0: "n"} for name in (*images, "embedding", "tokens")}
    _export(_ImageHead(stored, stored_embedder), images, ["embedding", "tokens"], by_image, folder / IMAGE_HEAD)
    texts = {
        "tower": torch.zeros(2, 384),
        "words": torch.zeros(2, 5, 768),
        "mask": torch.ones(2, 5, dtype=torch.bool),
    }
    by_text = {"tower": {0: "n"}, "words": {0: "n", 1: "words"}, "mask": {0: "n", 1: "words"}, "embedding": {0: "n"}}
    _export(_TextHead(stored, stored_embedder), texts, ["embedding"], by_text, folder / TEXT_HEAD)
    _export_scorer(stored, folder)
    regions = torch.ones(CELLS, model.settings.regions.dim, dtype=torch.int8)
    pair = {"words": torch.randn(5, 768), "regions": regions}
    by_word: dict[str, dict[int, str]] = {"words": {0: "words"}, "evidence": {0: "words"}}
    _export(Explainer(stored.scorer), pair, ["fusion", "evidence"], by_word, folder / EXPLAINER)
    about = {"kind": HEADS_OF_LITE, "towers": towers, "dim": embedder.dim}
    _write_about(model, fitted, folder, about, (IMAGE_HEAD, TEXT_HEAD, SCORER, EXPLAINER))


def write_scorer(model: Model, fitted: Fitted, folder: Path, encoder: str, towers: str) -> None:
    """A scorer for another encoder, and the adapter that makes its regions, as a model directory, which names the
    encoder. encoder: its name. towers: its fingerprint."""
    model = model.eval()
    _save_weights({"model": model}, folder)
    stored, _ = _modules(folder, asdict(model.settings))
    of_regions = model.settings.regions
    inputs = {
        "cells": torch.zeros(2, of_regions.cells, of_regions.channels),
        "whole": torch.zeros(2, of_regions.whole),
    }
    axes: dict[str, dict[int, str]] = {name: {0: "n"} for name in (*inputs, "tokens")}
    _export(_Adapter(stored), inputs, ["tokens"], axes, folder / ADAPTER)
    _export_scorer(stored, folder)
    about = {"kind": "scorer", "encoder": encoder, "towers": towers}
    _write_about(model, fitted, folder, about, (ADAPTER, SCORER))


def _save_weights(modules: dict[str, nn.Module], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"{of}.{name}": value for of, module in modules.items() for name, value in module.state_dict().items()}
    save_tensors({name: value.half().contiguous() for name, value in state.items()}, folder / WEIGHTS)


def _export_scorer(model: Model, folder: Path) -> None:
    of_regions = model.settings.regions
    regions = torch.ones(2, of_regions.cells, of_regions.dim, dtype=torch.int8)
    pairs = {"words": torch.randn(5, 768), "regions": regions}
    by_pair: dict[str, dict[int, str]] = {"words": {0: "words"}, "regions": {0: "n"}, "fusion": {0: "n"}}
    # Not folded, since the weights in integers would then be kept beside those in float16.
    _export(IntegerReader(model.scorer), pairs, ["fusion"], by_pair, folder / SCORER, fold=False)


def _write_about(model: Model, fitted: Fitted, folder: Path, about: dict[str, Any], graphs: tuple[str, ...]) -> None:
    of_regions = model.settings.regions
    config = about | {
        "regions": {"count": of_regions.cells, "dim": of_regions.dim, "dtype": "int8"},
        "model": asdict(model.settings),
        "calibration": {"to_image": asdict(fitted.to_image), "to_text": asdict(fitted.to_text)},
        "sha256": {name: sha256(folder / name) for name in (*graphs, WEIGHTS)},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_model(folder: Path) -> tuple[Model, Embedder | None]:
    """A model directory of this version as torch modules, to check the exported graphs against. A scorer for another
    encoder has no embedder."""
    return _modules(folder, json.loads((folder / CONFIG).read_text())["model"])


def _modules(folder: Path, settings: dict[str, Any]) -> tuple[Model, Embedder | None]:
    state = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    of_model, of_embedder = under("model."), under("embedder.")
    of_reader = ReaderSettings(**settings["reader"])
    chosen = ModelSettings(HeadSettings(**settings["heads"]), RegionSettings(**settings["regions"]), of_reader)
    statistics = {name: of_model[f"inputs.{name}"] for name in STATISTICS}
    model = Model(of_model["heads.class_embeddings"], statistics, of_model["scorer.reader.vocabulary"], chosen).eval()
    model.load_state_dict(of_model)
    model.scorer.reader.exact = False
    if not of_embedder:
        return model, None
    embedder = Embedder(chosen.heads.members + 1, len(of_embedder["image_bank"]))
    embedder.load_state_dict(of_embedder)
    return model, embedder.eval()


def _export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    path: Path,
    fold: bool = True,
) -> None:
    model = export(module.eval(), tuple(inputs.values()), list(inputs), outputs, axes, fold)
    store_as_half(model)
    _shorten_names(model)
    share_weights(model, path.parent / WEIGHTS)
    save(model, path)


def _shorten_names(model: Any) -> None:
    """The exporter's names of nodes and of what lies between them take more room than the graph itself."""
    graph = model.graph
    kept = {each.name for each in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def name(of: str) -> str:
        return of if of in kept else short.setdefault(of, f"_{len(short)}")

    for node in graph.node:
        node.name = ""
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
    for tensor in graph.initializer:
        tensor.name = name(tensor.name)
    graph.ClearField("value_info")
