"""Write an open_clip model for ONNX Runtime, check it against torch, and keep it in the cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from indexes.files import sync_folder
from retrieval.encoders.onnx_files import export, save
from retrieval.encoders.openclip import OpenClipEncoder, grid_of
from retrieval.encoders.openclip_onnx import (
    CONFIG,
    FILES,
    IMAGE,
    TEXT,
    TOKENIZER,
    ExportedEncoder,
    export_folder,
    find_export,
    seal,
)
from retrieval.encoders.preprocessing import FILTERS, Preprocessing
from retrieval.encoders.refusal import NotExportable, is_passing, is_refused, refuse
from retrieval.encoders.runtime import import_onnxruntime
from retrieval.encoders.tokenizer_file import write_tokenizer
from retrieval.images import Photo
from retrieval.sample_texts import sample_texts

CHECKED_TEXTS = 200
ODD_TEXTS = (
    "a dog’s “bone”, rock ’n’ roll",
    "salt &amp; pepper",
    "ﬁre ｆｕｌｌ",
    "",
    "A Café, №5!  isn't it?",
    "100% naïve",
    "one\ttwo\nthree",
    "日本の猫",
    "x" * 300,
    "a dog " * 60,
)
TOLERANCE = 1e-3  # how long the error may be, by the length of what is right; tokens are stored as float16
QUANTIZED_TOLERANCE = 3e-2
BLOCK = 128  # weights that have a scale of their own


def exported(encoder: OpenClipEncoder) -> ExportedEncoder | None:
    """A model on ONNX Runtime, None where it has to stay on torch. Either is remembered, but not a failure of the
    moment: a cache that cannot be written, a full disk, too little memory, a package that is missing. Of several
    processes that want the same model one exports it, and the others wait."""
    folder = export_folder(encoder.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            _drop_drafts(folder)
            return find_export(encoder.name) or _export_into(folder, encoder)
    except Exception as error:
        if is_passing(error):
            return None
        raise


def _drop_drafts(folder: Path) -> None:
    """Those that a kill left behind; under the lock nobody else writes one."""
    for draft in folder.parent.glob(f"{folder.name}.*/"):
        shutil.rmtree(draft, ignore_errors=True)


def _export_into(folder: Path, encoder: OpenClipEncoder) -> ExportedEncoder | None:
    if is_refused(folder):
        return None
    shutil.rmtree(folder, ignore_errors=True)  # what there is is damaged
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        try:
            _write(encoder, draft)
            _check(encoder, ExportedEncoder(encoder.name, draft), TOLERANCE)
            _quantize(encoder, draft)
            _seal(draft)
        except Exception as error:  # the exporter, the checker and the runtime raise what they like
            if is_passing(error):
                raise
            shutil.rmtree(draft)
            draft.mkdir()
            refuse(draft, error)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return find_export(encoder.name)


def _seal(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"files": {name: seal(folder / name) for name in FILES}}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _put_in_place(draft: Path, folder: Path) -> None:
    """Whole on disk before it has its name."""
    for path in draft.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(draft)
    os.replace(draft, folder)
    sync_folder(folder.parent)


class _Image(nn.Module):
    def __init__(self, encoder: OpenClipEncoder, pooling: Tensor) -> None:
        super().__init__()
        self.model = encoder.model
        self.normalized = encoder.normalized
        self.register_buffer("pooling", pooling)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.forward_intermediates(image=pixels, image_indices=1, normalize_intermediates=self.normalized)
        cells = found["image_intermediates"][-1].float().flatten(2).transpose(1, 2)
        return found["image_features"].float(), self.pooling @ cells


class _Text(nn.Module):
    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        self.normalized = encoder.normalized

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.forward_intermediates(text=ids, text_indices=1, normalize_intermediates=self.normalized)
        return found["text_features"].float(), found["text_intermediates"][-1].float()


def pooling_matrix(rows: int, columns: int, grid: tuple[int, int]) -> Tensor:
    """What `adaptive_avg_pool2d` does to a map of rows x columns cells, as a matrix, float [grid cells, cells]; the
    exporter knows it only where the grid divides the map."""
    each = torch.eye(rows * columns).reshape(rows * columns, rows, columns)
    return nn.functional.adaptive_avg_pool2d(each, grid).flatten(1).T.contiguous()


def _write(encoder: OpenClipEncoder, folder: Path) -> None:
    cleaning, marks, padding = write_tokenizer(encoder, folder / TOKENIZER)
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
        "token_shape": encoder.token_shape,
        "token_dtype": encoder.token_dtype,
        "max_words": encoder.max_words,
        "preprocessing": asdict(_preprocessing(encoder)),
        "cleaning": cleaning,
        "marks": marks,
        "padding": padding,
        "one_by_one": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _quantize(encoder: OpenClipEncoder, folder: Path) -> None:
    """Both graphs with the weights of matrix products as int8, and inputs rounded to it in blocks when they run: a
    third of the size, and half as fast again; see `ExportedEncoder._run`. Where the embeddings do not stay near,
    nothing is changed."""
    draft = folder / "int8"
    draft.mkdir()
    try:
        for name in (IMAGE, TEXT):
            _quantize_graph(folder / name, draft / name)
        shutil.copy(folder / TOKENIZER, draft)
        config = json.loads((folder / CONFIG).read_text()) | {"one_by_one": True}
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _check(encoder, ExportedEncoder(encoder.name, draft), QUANTIZED_TOLERANCE)
        for name in (IMAGE, TEXT, CONFIG):
            os.replace(draft / name, folder / name)
    except Exception as error:  # too far off, or more than the quantiser can do: what is there has been checked
        if is_passing(error):
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _quantize_graph(source: Path, target: Path) -> None:
    import onnx

    nbits = import_onnxruntime("quantization.matmul_nbits_quantizer")
    model = onnx.load(source)
    _split_gemm(model)
    settings = nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=8)
    logging.getLogger(nbits.__name__).setLevel(logging.WARNING)
    quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=settings)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)


def _split_gemm(model: Any) -> None:
    """Every x W^T + b as a product and a sum, which is what can be quantised."""
    from onnx import helper, numpy_helper

    weights = {each.name: each for each in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in weights or len(node.input) < 3:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(weights[node.input[1]])
        product, weight = f"{node.output[0]}_product", f"{node.output[0]}_weight"
        values = np.ascontiguousarray(values.T if settings.get("transB", 0) else values)
        model.graph.initializer.append(numpy_helper.from_array(values, weight))
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], f"{node.name}/MatMul"))
        nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}/Add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _export(module: nn.Module, given: Tensor, name: str, outputs: list[str], path: Path) -> None:
    axes = {each: {0: "n"} for each in (name, *outputs)}
    save(export(module.eval(), (given,), [name], outputs, axes), path)


def _preprocessing(encoder: OpenClipEncoder) -> Preprocessing:
    config = encoder.model.visual.preprocess_cfg
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1 or config["resize_mode"] == "longest" or config["interpolation"] not in FILTERS:
        raise NotExportable(f"its preprocessing, {config}, is known to torch only")
    mean, std = (tuple(float(each) for each in config[key]) for key in ("mean", "std"))
    return Preprocessing(int(sides.pop()), config["interpolation"], config["resize_mode"] == "squash", mean, std)


def _check(encoder: OpenClipEncoder, found: ExportedEncoder, tolerance: float) -> None:
    """Raises `NotExportable` where the export does not give what torch gives. tolerance: of what the towers give, see
    `TOLERANCE`."""
    texts = [*sample_texts(CHECKED_TEXTS), *ODD_TEXTS]
    expected = np.asarray(encoder.tokenizer(texts))
    differing = [text for text, own, ids in zip(texts, expected, found.ids(texts), strict=True) if (own != ids).any()]
    if differing:
        raise NotExportable(f"its word pieces differ, of {differing[0]!r}")
    rng = np.random.default_rng(0)
    photos = [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None)
        for width, height in ((640, 480), (90, 333), (128, 128))
    ]
    prepared, own_prepared = ([each.prepare(photo) for photo in photos] for each in (found, encoder))
    _near(np.stack(prepared), np.stack(own_prepared), "pictures")
    images, own_images = found.encode_images(own_prepared), encoder.encode_images(own_prepared)
    _near(images.embeddings, own_images.embeddings, "embeddings of images", tolerance)
    _near(images.tokens, own_images.tokens, "regions", tolerance)
    some = sample_texts(5)
    words, own_words = found.encode_texts(some), encoder.encode_texts(some)
    _near(words.embeddings, own_words.embeddings, "embeddings of texts", tolerance)
    _near(words.tokens, own_words.tokens, "words", tolerance)
    if (words.mask != own_words.mask).any():
        raise NotExportable("the numbers of its words differ")


def _near(found: NDArray[Any], expected: NDArray[Any], what: str, tolerance: float = TOLERANCE) -> None:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if found.shape != expected.shape:
        raise NotExportable(f"the {what} are {found.shape}, not {expected.shape}")
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error < tolerance:
        raise NotExportable(f"the {what} differ by {error:.4f}")
