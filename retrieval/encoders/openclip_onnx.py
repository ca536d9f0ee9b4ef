"""An open_clip model on ONNX Runtime, without torch: runs what `retrieval.encoders.openclip_export` wrote."""

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
from retrieval.encoders.base import ImageFeatures, TextFeatures, unit_norm
from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.runtime import once, open_session
from retrieval.images import Photo

VERSION = 3
IMAGE, TEXT, TOKENIZER, CONFIG = "image.onnx", "text.onnx", "tokenizer.json", "config.json"
CLEANINGS = ("whitespace", "lower", "canonicalize")
MODEL_FILES = (".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".model")
REFUSED = "refused"  # a file that says why a model is not exported
FILES = (IMAGE, TEXT, TOKENIZER)


class ExportedEncoder:
    """The open_clip model of the same name and fingerprint; embeddings differ by the rounding of int8 weights. Safe to
    use from several threads."""

    batch_size = 16
    folder: Path | None = None

    def __init__(self, name: str, folder: Path) -> None:
        """Raises `OSError`, `ValueError`, `KeyError` or `TypeError` for what is no export, or a damaged one."""
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        check_files(folder, config.get("files", {}))
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
        embeddings, tokens = self._run(self._image, ["embedding", "tokens"], "pixels", np.stack(prepared))
        return ImageFeatures(unit_norm(embeddings), tokens.astype(self.token_dtype))

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        ids, truncated = self._pieces(texts)
        embeddings, words = self._run(self._text, ["embedding", "words"], "ids", ids)
        mask = self.word_mask(ids)
        longest = int(mask.sum(axis=1).max(initial=1))
        words, mask = words[:, :longest], mask[:, :longest]
        return TextFeatures(unit_norm(embeddings), words * mask[:, :, None], mask, truncated)

    def _run(self, session: Any, outputs: list[str], name: str, given: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Rows of a graph with int8 weights come one by one: its inputs are rounded to int8 as well, and what differs
        in the last digit, as it does from one number of rows to another, would sometimes be rounded the other way."""
        if not self._one_by_one or not len(given):
            return list(session.run(outputs, {name: given}))
        rows = [session.run(outputs, {name: given[[row]]}) for row in range(len(given))]
        return [np.concatenate(each) for each in zip(*rows, strict=True)]

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Word pieces, int64 [n, max_words], with what the model wants around and after them."""
        return self._pieces(texts)[0]

    def _pieces(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The same, and which texts have more of them, bool [n]."""
        found = np.full((len(texts), self.max_words), self._padding, np.int64)
        truncated = np.zeros(len(texts), np.bool_)
        for row, text in enumerate(texts):
            encoded = self._tokenizer.encode(cleaned(text, self._cleaning))
            pieces = encoded.ids
            truncated[row] = bool(encoded.overflowing)  # by a tokeniser that adds its own marks
            if self._marks is not None:
                begin, end = self._marks
                truncated[row] = len(pieces) > self.max_words - 2
                pieces = [begin, *pieces[: self.max_words - 2], end]
            found[row, : len(pieces)] = pieces[: self.max_words]
        return found, truncated

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


def seal(path: Path) -> dict[str, Any]:
    """What is to be remembered of a file, by which `check_files` knows it again."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def check_files(folder: Path, seals: dict[str, dict[str, Any]]) -> None:
    """Raises `OSError` when one of `FILES` is missing, and `ValueError` when one is not what was written. Content is
    compared where the time of change is another; else the size has to do, so that a query need not read everything.
    seals: by name; of exports by older versions there are none."""
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
    """The export of a model of open_clip, None where there is none yet, or it cannot be read or is damaged."""
    try:
        return ExportedEncoder(name, export_folder(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
