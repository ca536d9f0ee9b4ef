"""An open_clip model on ONNX Runtime, without torch, as `retrieval.encoders.exporting` wrote it into the cache."""

from __future__ import annotations

import hashlib
import html
import json
import os
import string
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, TextFeatures, unit_norm
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.runtime import open_session
from retrieval.images import Photo

VERSION = 3
IMAGE, TEXT, TOKENIZER, CONFIG = "image.onnx", "text.onnx", "tokenizer.json", "config.json"
CLEANINGS = ("whitespace", "lower", "canonicalize")
MODEL_FILES = (".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".model")
REFUSED = "refused"  # a file that says why a model is not exported


class ExportedEncoder:
    """The open_clip model of the same name and fingerprint; embeddings differ by the rounding of int8 weights."""

    batch_size = 16
    folder: Path | None = None

    def __init__(self, name: str, folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        self.name = name
        self._files = folder
        self.fingerprint: str = config["fingerprint"]
        self.dim: int = config["dim"]
        self.token_shape: tuple[int, int] = tuple(config["token_shape"])
        self.token_dtype: str = config["token_dtype"]
        self.max_words: int = config["max_words"]
        self.prepare_photo = Preprocessing(**config["preprocessing"])
        self.image_size = self.prepare_photo.side
        self._marks: tuple[int, int] | None = config["marks"] and tuple(config["marks"])
        self._padding: int = config["padding"]
        self._cleaning: str = config["cleaning"]
        self._one_by_one: bool = config["one_by_one"]
        for each in (IMAGE, TEXT, TOKENIZER):
            (folder / each).stat()

    @cached_property
    def _image(self) -> Any:
        return self._open(IMAGE)

    @cached_property
    def _text(self) -> Any:
        return self._open(TEXT)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self._files / TOKENIZER))
        except Exception as error:  # the library raises no other kind
            raise CrosslookError(f"cannot read {self._files / TOKENIZER}: {error} ({self._remedy})") from error

    def _open(self, graph: str) -> Any:
        return open_session(self._files / graph, remedy=self._remedy)

    @property
    def _remedy(self) -> str:
        return f"delete {self._files}, it will be made again"

    def prepare(self, photo: Photo) -> NDArray[np.float32]:
        """float32 [3, side, side]."""
        return self.prepare_photo(photo)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> ImageFeatures:
        embeddings, tokens = self._run(self._image, ["embedding", "tokens"], "pixels", np.stack(prepared))
        return ImageFeatures(unit_norm(embeddings), tokens.astype(self.token_dtype))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        ids = self.ids(texts)
        embeddings, words = self._run(self._text, ["embedding", "words"], "ids", ids)
        mask = self.word_mask(ids)
        longest = int(mask.sum(axis=1).max(initial=1))
        words, mask = words[:, :longest], mask[:, :longest]
        return TextFeatures(
            unit_norm(embeddings), words * mask[:, :, None], mask, truncated=mask.sum(axis=1) >= self.max_words
        )

    def _run(self, session: Any, outputs: list[str], name: str, given: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Rows of a graph with int8 weights come one by one: its inputs are rounded to int8 as well, and what differs
        in the last digit, as it does from one number of rows to another, would sometimes be rounded the other way."""
        if not self._one_by_one or not len(given):
            return list(session.run(outputs, {name: given}))
        rows = [session.run(outputs, {name: given[[row]]}) for row in range(len(given))]
        return [np.concatenate(each) for each in zip(*rows, strict=True)]

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Word pieces, int64 [n, max_words], with what the model wants around and after them."""
        found = np.full((len(texts), self.max_words), self._padding, np.int64)
        for row, text in enumerate(texts):
            pieces = self._tokenizer.encode(cleaned(text, self._cleaning)).ids
            if self._marks is not None:
                begin, end = self._marks
                pieces = [begin, *pieces[: self.max_words - 2], end]
            found[row, : len(pieces)] = pieces[: self.max_words]
        return found

    def word_mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [n, max_words]. Where marks surround a text, the last has the largest id; the padding may be a word."""
        if self._marks is not None:
            return np.asarray(np.arange(ids.shape[1]) <= ids.argmax(axis=1)[:, None])
        return np.asarray(ids != self._padding)


def cleaned(text: str, how: str) -> str:
    """As open_clip cleans texts: mangled letters and HTML entities restored, then by `whitespace`, `lower`, or
    `canonicalize`, without punctuation."""
    text = text.encode("utf-8", "replace").decode()
    if not text.isascii():
        from ftfy import fix_text

        text = fix_text(text)
    text = " ".join(html.unescape(html.unescape(text)).split())
    if how == "canonicalize":
        text = " ".join(text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).split())
    return text if how == "whitespace" else text.lower()


def exports() -> Path:
    from retrieval.location import cache_folder

    return cache_folder() / "exports"


def export_folder(name: str) -> Path:
    """Where the export of a model is, or would be. It belongs to the weights as they are: of a directory, or a file
    named as weights, their sizes and times of change; other files of a directory do not count."""
    parts = [str(VERSION), name]
    folder = Path(name)
    files = sorted(folder.iterdir()) if folder.is_dir() else [Path(name.partition(":")[2])]
    for path in (path for path in files if path.suffix in MODEL_FILES or not folder.is_dir()):
        if path.is_file():
            status = os.stat(path)
            parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return exports() / hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def find_export(name: str) -> ExportedEncoder | None:
    """The export of a model of open_clip, None where there is none yet, or it cannot be read."""
    folder = export_folder(name)
    try:
        return ExportedEncoder(name, folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
