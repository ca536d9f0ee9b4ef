"""The text tower of `lite`: all-MiniLM-L6-v2 on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders.base import QueryFeatures
from retrieval.encoders.runtime import once, open_session

BATCH = 32


class TokenEncoder(Protocol):
    """Computes what a text tower does, on another device. dim: length of its embeddings, which may be those of a head.
    at_once: texts of a batch."""

    dim: int
    at_once: int

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Embeddings, float32 [n, dim], and token vectors, float32 [n, m, 768], of ids [n, m], where `mask` is False
        for padding."""
        ...


class TextTower:
    """Tokeniser and tower. Each is loaded when it is first used."""

    def __init__(self, model: Path, tokenizer: Path, max_tokens: int) -> None:
        self._model = model
        self._tokenizer_file = tokenizer
        self._max_tokens = max_tokens

    @once
    def _session(self) -> Any:
        return open_session(self._model)

    @once
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._tokenizer_file))
        except Exception as error:  # the library raises no other kind
            raise CrosslookError(f"cannot read {self._tokenizer_file}: {error} (reinstall crosslook)") from error
        tokenizer.enable_truncation(self._max_tokens)
        tokenizer.no_padding()
        return tokenizer

    def encode(self, texts: Sequence[str], network: TokenEncoder | None = None) -> QueryFeatures:
        """Embeddings, and a vector of length 2 dim for each token, [CLS] and [SEP] included. Its first half is the last
        hidden state, which depends on the entire text; its second half is the token's row of the embedding table,
        centred, which is zero for [CLS] and [SEP].

        network: computes the vectors in the place of this tower's ONNX file."""
        dim, at_once = (self.dim, BATCH) if network is None else (network.dim, network.at_once)
        compute = self._compute if network is None else network.encode
        encodings = self._tokenizer.encode_batch([_as_unicode(text) for text in texts])
        lengths = np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)
        longest = int(lengths.max(initial=1))
        embeddings = np.zeros((len(texts), dim), dtype=np.float32)
        tokens = np.zeros((len(texts), longest, 2 * self.dim), dtype=np.float32)
        by_length = np.argsort(lengths, kind="stable")
        for start in range(0, len(texts), at_once):
            batch = by_length[start : start + at_once]
            width = int(lengths[batch].max())
            ids = np.zeros((len(batch), width), dtype=np.int64)
            for row, index in enumerate(batch):
                ids[row, : lengths[index]] = encodings[index].ids
            mask = np.arange(width) < lengths[batch, None]
            embeddings[batch], vectors = compute(ids, mask)
            tokens[batch, :width] = vectors * mask[:, :, None]
        return QueryFeatures(
            embeddings=embeddings,
            tokens=tokens,
            mask=np.arange(longest) < lengths[:, None],
            truncated=np.array([bool(encoding.overflowing) for encoding in encodings], dtype=np.bool_),
        )

    def _compute(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        embeddings, vectors = self._session.run(["embedding", "words"], {"ids": ids, "mask": mask.astype(np.int64)})
        return embeddings, vectors

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end in the text of each token that `encode` gives a vector; (0, 0) for [CLS] and [SEP]."""
        return list(self._tokenizer.encode(_as_unicode(text)).offsets)

    def token_ids(self, text: str) -> list[int]:
        """The ids of the tokens that `encode` reads."""
        return list(self._tokenizer.encode(_as_unicode(text)).ids)

    @property
    def special_ids(self) -> list[int]:
        """The ids of tokens that stand for no part of a text."""
        return [self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]")]

    @property
    def dim(self) -> int:
        return int(self._session.get_outputs()[0].shape[1])


def _as_unicode(text: str) -> str:
    """Replaces lone surrogates, which stand for bytes of the command line that are not UTF-8, by question marks."""
    return text.encode("utf-8", "replace").decode()
