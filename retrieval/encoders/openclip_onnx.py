"""An open_clip model on ONNX Runtime, without torch: runs what `retrieval.encoders.openclip_export` writes."""

from __future__ import annotations

import hashlib
import html
import json
import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import ImageFeatures, QueryFeatures, TextQueries, unit_norm
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.runtime import once, open_session
from retrieval.images import Photo

VERSION = 3
IMAGE, TEXT, TOKENIZER, CONFIG = "image.onnx", "text.onnx", "tokenizer.json", "config.json"
CLEANINGS = ("whitespace", "lower", "canonicalize")
MODEL_FILES = (".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".model")
REFUSED = "refused"  # a file with the reason why a model cannot be exported
FILES = (IMAGE, TEXT, TOKENIZER)


class ExportedEncoder(TextQueries):
    """The open_clip model of the same name and fingerprint; embeddings differ by the rounding of int8 weights."""

    batch_size = 16
    takes_pixels = False
    folder: Path | None = None

    def __init__(self, name: str, folder: Path) -> None:
        """Raises `OSError`, `ValueError`, `KeyError` or `TypeError` if `folder` holds no export or a damaged one."""
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        check_files(folder, config.get("files", {}))
        self.name = name
        self._files = folder
        self.fingerprint: str = config["fingerprint"]
        self.dim: int = config["dim"]
        self.region_shape: tuple[int, int] = tuple(config["token_shape"])
        self.region_dtype: str = config["token_dtype"]
        self.max_tokens: int = config["max_words"]
        self.prepare_photo = Preprocessing(**config["preprocessing"])
        self.image_size = self.prepare_photo.side
        self._bos_eos: tuple[int, int] | None = config["marks"] and tuple(config["marks"])
        self._padding: int = config["padding"]
        self._cleaning: str = config["cleaning"]
        self._one_by_one: bool = config["one_by_one"]

    @once
    def _image(self) -> Any:
        return self._open(IMAGE)

    @once
    def _text(self) -> Any:
        return self._open(TEXT)

    @once
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
        embeddings, regions = self._run(self._image, ["embedding", "tokens"], "pixels", np.stack(prepared))
        return ImageFeatures(unit_norm(embeddings), regions.astype(self.region_dtype))

    def encode_texts(self, texts: Sequence[str]) -> QueryFeatures:
        ids, truncated = self.token_ids(texts)
        embeddings, vectors = self._run(self._text, ["embedding", "words"], "ids", ids)
        mask = self._token_mask(ids)
        longest = int(mask.sum(axis=1).max(initial=1))
        vectors, mask = vectors[:, :longest], mask[:, :longest]
        return QueryFeatures(unit_norm(embeddings), vectors * mask[:, :, None], mask, truncated)

    def token_spans(self, text: str) -> None:
        """None: preprocessing may crop the image."""

    def _run(self, session: Any, outputs: list[str], name: str, batch: NDArray[Any]) -> list[NDArray[np.float32]]:
        """A graph with int8 weights runs on one row at a time. It rounds activations to int8 too, and their last digits
        depend on the number of rows, so that a value between two steps could be rounded either way."""
        if not self._one_by_one or not len(batch):
            return list(session.run(outputs, {name: batch}))
        rows = [session.run(outputs, {name: batch[[row]]}) for row in range(len(batch))]
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    def token_ids(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids, int64 [n, max_tokens], with the special tokens and the padding that the model expects, and which texts
        have more tokens, bool [n]."""
        ids = np.full((len(texts), self.max_tokens), self._padding, np.int64)
        truncated = np.zeros(len(texts), np.bool_)
        for row, text in enumerate(texts):
            encoding = self._tokenizer.encode(cleaned(text, self._cleaning))
            tokens = encoding.ids
            truncated[row] = bool(encoding.overflowing)  # of a tokeniser that adds special tokens itself
            if self._bos_eos is not None:
                bos, eos = self._bos_eos
                truncated[row] = len(tokens) > self.max_tokens - 2
                tokens = [bos, *tokens[: self.max_tokens - 2], eos]
            ids[row, : len(tokens)] = tokens[: self.max_tokens]
        return ids, truncated

    def _token_mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [n, max_tokens]. The padding may be a token of the text as well, but EOS has the largest id."""
        if self._bos_eos is not None:
            return np.asarray(np.arange(ids.shape[1]) <= ids.argmax(axis=1)[:, None])
        return np.asarray(ids != self._padding)


def cleaned(text: str, how: str) -> str:
    """A text as open_clip cleans it. Mangled letters and HTML entities are restored; `lower` and `canonicalize` make
    letters small, and `canonicalize` removes punctuation."""
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
    """Where the export of a model is, or would be. Its name is a hash over the model's name and the sizes and times of
    change of its weights: of the model files of a directory, or of a file that is named as weights."""
    parts = [str(VERSION), name]
    folder = Path(name)
    files = sorted(folder.iterdir()) if folder.is_dir() else [Path(name.partition(":")[2])]
    for path in (path for path in files if path.suffix in MODEL_FILES or not folder.is_dir()):
        if path.is_file():
            status = os.stat(path)
            parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return exports() / hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def seal(path: Path) -> dict[str, Any]:
    """Size, time of change and checksum of a file, for `check_files`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def check_files(folder: Path, seals: dict[str, dict[str, Any]]) -> None:
    """Raises `OSError` when one of `FILES` is missing, `ValueError` when one has changed. Only sizes are compared where
    the time of change is the same, so that a query need not read all content; else checksums are.

    seals: by file name; exports by older versions have none."""
    for name in FILES:
        status = (folder / name).stat()
        written = seals.get(name)
        if written is None:
            continue
        if status.st_size != written["bytes"]:
            raise ValueError(f"{name} has {status.st_size} bytes, not {written['bytes']}")
        if status.st_mtime_ns != written["mtime_ns"] and seal(folder / name)["sha256"] != written["sha256"]:
            raise ValueError(f"{name} was changed")


def find_export(name: str) -> ExportedEncoder | None:
    """The export of an open_clip model; None if none exists, or it is damaged or cannot be read."""
    try:
        return ExportedEncoder(name, export_folder(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
