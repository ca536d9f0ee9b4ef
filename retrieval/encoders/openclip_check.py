"""Does an exported open_clip model give what torch gives?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.openclip import OpenClipEncoder
from retrieval.encoders.openclip_onnx import ExportedEncoder
from retrieval.encoders.refusal import NotExportable
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
TOLERANCE = 1e-3  # of |export - torch| / |torch|; regions are stored as float16


def check(encoder: OpenClipEncoder, export: ExportedEncoder, tolerance: float = TOLERANCE) -> None:
    """Raises `NotExportable` if the export does not give what torch gives. tolerance: of the outputs of the towers,
    as the norm of the error divided by the norm of torch's output."""
    texts = [*sample_texts(CHECKED_TEXTS), *ODD_TEXTS]
    pairs = zip(np.asarray(encoder.tokenizer(texts)), export.token_ids(texts)[0], strict=True)
    differing = [text for text, (expected, ids) in zip(texts, pairs, strict=True) if (expected != ids).any()]
    if differing:
        raise NotExportable(f"its tokens differ, of {differing[0]!r}")
    rng = np.random.default_rng(0)
    photos = [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None)
        for width, height in ((640, 480), (90, 333), (128, 128))
    ]
    prepared = [encoder.to_input(photo) for photo in photos]
    prepared_by_export = [export.prepare(photo) for photo in photos]
    _compare(np.stack(prepared_by_export), np.stack(prepared), "pictures")
    images, expected_images = export.encode_images(prepared), encoder.encode_images(prepared)
    _compare(images.embeddings, expected_images.embeddings, "embeddings of images", tolerance)
    _compare(images.regions, expected_images.regions, "regions", tolerance)
    captions = sample_texts(5)
    features, expected_features = export.encode_texts(captions), encoder.encode_texts(captions)
    _compare(features.embeddings, expected_features.embeddings, "embeddings of texts", tolerance)
    _compare(features.tokens, expected_features.tokens, "token vectors", tolerance)
    if (features.mask != expected_features.mask).any():
        raise NotExportable("the numbers of its tokens differ")


def _compare(values: NDArray[Any], expected: NDArray[Any], what: str, tolerance: float = TOLERANCE) -> None:
    values, expected = values.astype(np.float64), expected.astype(np.float64)
    if values.shape != expected.shape:
        raise NotExportable(f"the {what} are {values.shape}, not {expected.shape}")
    error = float(np.linalg.norm(values - expected) / np.linalg.norm(expected))
    if not error < tolerance:
        raise NotExportable(f"the {what} differ by {error:.4f}")
