"""Write a trained model as a directory that runs without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.encoders.adapted import ADAPTER
from retrieval.encoders.lite import HEADS_OF_LITE
from retrieval.encoders.onnx_files import export, save, sha256, store_as_half
from retrieval.fusion.scorer import EXPLAINER, SCORER
from retrieval.training.data.sizes import CELLS, DIM, MAP_SHAPES
from retrieval.training.data.tensors import save_tensors
from retrieval.training.fitting.calibrate import Fitted
from retrieval.training.fitting.embedder import Embedder
from retrieval.training.model.integer_reader import IntegerReader
from retrieval.training.model.model import FusionNetwork, Model
from retrieval.training.shared_weights import share_weights
from retrieval.training.stored_model import (
    CONFIG,
    WEIGHTS,
    StoredAdapter,
    StoredImageHead,
    StoredTextHead,
    modules_of,
)
from retrieval.training.stored_names import stored_name, stored_settings

IMAGE_HEAD, TEXT_HEAD = "image_head.onnx", "text_head.onnx"


class Explainer(nn.Module):
    """The fusion of one text with one image, a scalar, and how much of it each token would lose without each
    region, float [m, 49]. tokens: float [m, 768]. regions: int8 [49, dim]."""

    def __init__(self, scorer: FusionNetwork) -> None:
        super().__init__()
        self.reader = scorer.reader
        self.regions = scorer.regions

    def forward(self, tokens: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        regions = self.regions.restored(regions)
        return self.reader(tokens, regions.unsqueeze(0))[0], self.reader.evidence(tokens, regions)


def write_model(model: Model, embedder: Embedder, fitted: Fitted, folder: Path, towers: str) -> None:
    """Write heads and scorer of `lite` as a model directory: `config.json`, the weights (float16 safetensors), and the
    ONNX graphs that share them. towers: fingerprint of the towers that the heads belong to."""
    model, embedder = model.eval(), embedder.eval()
    _save_weights({"model": model, "embedder": embedder}, folder)
    stored, stored_embedder = modules_of(folder, stored_settings(model.settings))
    assert stored_embedder is not None
    images = {
        "pixels": torch.zeros(2, 224, 224, 3, dtype=torch.uint8),
        "logits": torch.zeros(2, 1000),
        **{name: torch.zeros(2, *shape) for name, shape in MAP_SHAPES.items()},
    }
    by_image: dict[str, dict[int, str]] = {name: {0: "n"} for name in (*images, "embedding", "tokens")}
    _export(StoredImageHead(stored, stored_embedder), images, ["embedding", "tokens"], by_image, folder / IMAGE_HEAD)
    texts = {
        "tower": torch.zeros(2, DIM),
        "words": torch.zeros(2, 5, 2 * DIM),
        "mask": torch.ones(2, 5, dtype=torch.bool),
    }
    by_text = {"tower": {0: "n"}, "words": {0: "n", 1: "words"}, "mask": {0: "n", 1: "words"}, "embedding": {0: "n"}}
    _export(StoredTextHead(stored, stored_embedder), texts, ["embedding"], by_text, folder / TEXT_HEAD)
    _export_scorer(stored, folder)
    regions = torch.ones(CELLS, model.settings.regions.dim, dtype=torch.int8)
    pair = {"words": torch.randn(5, 2 * DIM), "regions": regions}
    by_token: dict[str, dict[int, str]] = {"words": {0: "words"}, "evidence": {0: "words"}}
    _export(Explainer(stored.scorer), pair, ["fusion", "evidence"], by_token, folder / EXPLAINER)
    kind = {"kind": HEADS_OF_LITE, "towers": towers, "dim": embedder.dim}
    _write_config(model, fitted, folder, kind, (IMAGE_HEAD, TEXT_HEAD, SCORER, EXPLAINER))


def write_scorer(model: Model, fitted: Fitted, folder: Path, encoder: str, towers: str) -> None:
    """Write a scorer for another encoder, and the adapter that makes its regions, as a model directory.

    encoder: the encoder's name, which the directory refers to. towers: its fingerprint."""
    model = model.eval()
    _save_weights({"model": model}, folder)
    stored, _ = modules_of(folder, stored_settings(model.settings))
    settings = model.settings.regions
    inputs = {
        "cells": torch.zeros(2, settings.cells, settings.channels),
        "whole": torch.zeros(2, settings.global_dim),
    }
    axes: dict[str, dict[int, str]] = {name: {0: "n"} for name in (*inputs, "tokens")}
    _export(StoredAdapter(stored), inputs, ["tokens"], axes, folder / ADAPTER)
    _export_scorer(stored, folder)
    _write_config(model, fitted, folder, {"kind": "scorer", "encoder": encoder, "towers": towers}, (ADAPTER, SCORER))


def _save_weights(modules: dict[str, nn.Module], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"{prefix}.{stored_name(name)}": value.half().contiguous()
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    save_tensors(state, folder / WEIGHTS)


def _export_scorer(model: Model, folder: Path) -> None:
    settings = model.settings.regions
    regions = torch.ones(2, settings.cells, settings.dim, dtype=torch.int8)
    pairs = {"words": torch.randn(5, 2 * DIM), "regions": regions}
    axes: dict[str, dict[int, str]] = {"words": {0: "words"}, "regions": {0: "n"}, "fusion": {0: "n"}}
    # Without constant folding, which would store the int8 weights beside the float16 ones.
    _export(IntegerReader(model.scorer), pairs, ["fusion"], axes, folder / SCORER, fold=False)


def _write_config(model: Model, fitted: Fitted, folder: Path, kind: dict[str, Any], graphs: tuple[str, ...]) -> None:
    settings = model.settings.regions
    config = kind | {
        "regions": {"count": settings.cells, "dim": settings.dim, "dtype": "int8"},
        "model": stored_settings(model.settings),
        "calibration": {"to_image": asdict(fitted.to_image), "to_text": asdict(fitted.to_text)},
        "sha256": {name: sha256(folder / name) for name in (*graphs, WEIGHTS)},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    path: Path,
    fold: bool = True,
) -> None:
    """axes: the dynamic axes of inputs and outputs by name. fold: whether to fold constants."""
    model = export(module.eval(), tuple(inputs.values()), list(inputs), outputs, axes, fold)
    store_as_half(model)
    _shorten_names(model)
    share_weights(model, path.parent / WEIGHTS)
    save(model, path)


def _shorten_names(model: Any) -> None:
    """Rename nodes and intermediate values, whose names take more room than the graph itself."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"_{len(short)}")

    for node in graph.node:
        node.name = ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    graph.ClearField("value_info")
