"""The graphs, tokeniser and configuration of an open_clip model, written for ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from retrieval.encoders.onnx_files import export, save
from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.encoders.openclip_images import grid_of
from retrieval.encoders.openclip_onnx import CONFIG, IMAGE, TEXT, TOKENIZER
from retrieval.encoders.openclip_tokenizer import write_tokenizer
from retrieval.encoders.preprocessing import Preprocessing, preprocessing_of
from retrieval.encoders.refusal import NotExportable


def write_graphs(encoder: OpenClipEncoder, folder: Path) -> None:
    """Write what `ExportedEncoder` reads. Raises `NotExportable` for a model that needs torch, and anything that the
    exporter raises."""
    cleaning, bos_eos, padding = write_tokenizer(encoder, folder / TOKENIZER)
    side = encoder.image_size
    had_fastpath = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            pixels = torch.zeros(2, 3, side, side)
            shape = encoder.model.forward_intermediates(
                image=pixels, image_indices=1, normalize_intermediates=encoder.normalized
            )["image_intermediates"][-1].shape
            pooling = pooling_matrix(shape[2], shape[3], grid_of(shape[2], shape[3]))
            _export(_Image(encoder, pooling), pixels, "pixels", ["embedding", "tokens"], folder / IMAGE)
            ids = torch.as_tensor(encoder.tokenizer(["a dog", "a cat on a beach"]))
            _export(_Text(encoder), ids, "ids", ["embedding", "words"], folder / TEXT)
        finally:
            torch.backends.mha.set_fastpath_enabled(had_fastpath)
    config = {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "token_shape": encoder.region_shape,
        "token_dtype": encoder.region_dtype,
        "max_words": encoder.max_tokens,
        "preprocessing": asdict(_preprocessing(encoder)),
        "cleaning": cleaning,
        "marks": bos_eos,
        "padding": padding,
        "one_by_one": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class _Image(nn.Module):
    def __init__(self, encoder: OpenClipEncoder, pooling: Tensor) -> None:
        super().__init__()
        self.model = encoder.model
        self.normalized = encoder.normalized
        self.register_buffer("pooling", pooling)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.forward_intermediates(
            image=pixels, image_indices=1, normalize_intermediates=self.normalized
        )
        cells = outputs["image_intermediates"][-1].float().flatten(2).transpose(1, 2)
        return outputs["image_features"].float(), self.pooling @ cells


class _Text(nn.Module):
    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        self.normalized = encoder.normalized

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.forward_intermediates(text=ids, text_indices=1, normalize_intermediates=self.normalized)
        return outputs["text_features"].float(), outputs["text_intermediates"][-1].float()


def pooling_matrix(rows: int, columns: int, grid: tuple[int, int]) -> Tensor:
    """`adaptive_avg_pool2d` of a map of rows x columns cells as a matrix, float [grid cells, cells]. The exporter
    supports the operator only where the grid divides the map."""
    unit_maps = torch.eye(rows * columns).reshape(rows * columns, rows, columns)
    return nn.functional.adaptive_avg_pool2d(unit_maps, grid).flatten(1).T.contiguous()


def _export(module: nn.Module, example: Tensor, name: str, outputs: list[str], path: Path) -> None:
    axes = {tensor: {0: "n"} for tensor in (name, *outputs)}
    save(export(module.eval(), (example,), [name], outputs, axes), path)


def _preprocessing(encoder: OpenClipEncoder) -> Preprocessing:
    config = encoder.model.visual.preprocess_cfg
    preprocessing = preprocessing_of(config)
    if preprocessing is None:
        raise NotExportable(f"its preprocessing, {config}, needs torch")
    return preprocessing
