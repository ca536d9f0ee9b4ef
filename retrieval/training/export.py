"""Write trained heads as a model directory that runs without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retrieval.encoders.build_lite import export, save, sha256, store_as_half
from retrieval.training.cells import Cells
from retrieval.training.heads import STATISTICS, Heads, HeadSettings

RUNNING = ("image_head.onnx", "text_head.onnx")
WEIGHTS = "model.safetensors"


class _ImageHead(nn.Module):
    """From the tower's outputs to the embedding."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.cells = Cells()
        self.head = heads.image

    def forward(self, pixels: Tensor, logits: Tensor, stride8: Tensor, stride16: Tensor, stride32: Tensor) -> Tensor:
        return self.head(self.cells(pixels, stride8, stride16, stride32), logits)


def write_model(heads: Heads, folder: Path, towers: str, card: str) -> None:
    """Write `config.json`, the heads as ONNX (weights as float16) and as safetensors (float16, to train on), and
    `README.md`. towers: fingerprint of the towers that the heads belong to. card: the model card's text."""
    folder.mkdir(parents=True, exist_ok=True)
    heads = heads.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    image_inputs = {
        "pixels": torch.zeros(2, 224, 224, 3, dtype=torch.uint8),
        "logits": torch.zeros(2, 1000),
        "stride8": torch.zeros(2, 40, 28, 28),
        "stride16": torch.zeros(2, 112, 14, 14),
        "stride32": torch.zeros(2, 320, 7, 7),
    }
    _export(_ImageHead(heads).eval(), image_inputs, {name: {0: "n"} for name in image_inputs}, folder / RUNNING[0])
    text_inputs = {
        "tower": torch.zeros(2, 384),
        "words": torch.zeros(2, 5, 384),
        "mask": torch.ones(2, 5, dtype=torch.bool),
    }
    axes = {"tower": {0: "n"}, "words": {0: "n", 1: "words"}, "mask": {0: "n", 1: "words"}}
    _export(heads.text, text_inputs, axes, folder / RUNNING[1])
    save_file({name: value.half().contiguous() for name, value in heads.state_dict().items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors keeps it to its writer
    config = {
        "kind": "heads of lite",
        "towers": towers,
        "heads": heads.config(),
        "sha256": {name: sha256(folder / name) for name in RUNNING},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(card)


def read_heads(folder: Path) -> Heads:
    """The heads of a model directory as torch modules, to train on or to check the exported ones against."""
    config = json.loads((folder / "config.json").read_text())
    state = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    heads = Heads(
        state["image.class_embeddings"],
        {name: state[f"image.{name}"] for name in STATISTICS},
        HeadSettings(**config["heads"]),
    )
    heads.load_state_dict(state)
    return heads.eval()


def _export(module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, str]], path: Path) -> None:
    names: list[str] = list(inputs)
    outputs: dict[str, Any] = {"embedding": {0: "n"}}
    model = export(module, tuple(inputs.values()), names, ["embedding"], axes | outputs)
    store_as_half(model)
    save(model, path)
