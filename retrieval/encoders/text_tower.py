"""The text tower of `lite`: all-MiniLM-L6-v2 on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexes.errors import CrosslookError
from retrieval.encoders.base import TextFeatures
from retrieval.encoders.runtime import once, open_session

BATCH = 32


class TextTower:
    """Tokeniser and tower, each loaded when first used."""

    def __init__(self, model: Path, tokenizer: Path, max_words: int) -> None:
        self._model = model
        self._tokenizer_file = tokenizer
        self._max_words = max_words

    @once
    def _session(self):  # type: ignore[no-untyped-def]
        return open_session(self._model)

    @once
    def _tokenizer(self):  # type: ignore[no-untyped-def]
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._tokenizer_file))
        except Exception as error:  # the library raises no other kind
            raise CrosslookError(f"cannot read {self._tokenizer_file}: {error} (reinstall crosslook)") from error
        tokenizer.enable_truncation(self._max_words)
        tokenizer.no_padding()
        return tokenizer

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Embeddings, and for every word piece, [CLS] and [SEP] included, a token of twice their length: the last
        hidden state, which tells of the whole text, and what the piece means by itself, which is zero for those two."""
        encoded = self._tokenizer.encode_batch([_as_unicode(text) for text in texts])
        lengths = np.array([len(text.ids) for text in encoded], dtype=np.int64)
        longest = int(lengths.max(initial=1))
        embeddings = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = np.zeros((len(texts), longest, 2 * self.dim), dtype=np.float32)
        by_length = np.argsort(lengths, kind="stable")
        for start in range(0, len(texts), BATCH):
            batch = by_length[start : start + BATCH]
            width = int(lengths[batch].max())
            ids = np.zeros((len(batch), width), dtype=np.int64)
            for row, index in enumerate(batch):
                ids[row, : lengths[index]] = encoded[index].ids
            mask = np.arange(width) < lengths[batch, None]
            found = self._session.run(["embedding", "words"], {"ids": ids, "mask": mask.astype(np.int64)})
            embeddings[batch] = found[0]
            tokens[batch, :width] = found[1] * mask[:, :, None]
        return TextFeatures(
            embeddings=embeddings,
            tokens=tokens,
            mask=np.arange(longest) < lengths[:, None],
            truncated=np.array([bool(text.overflowing) for text in encoded], dtype=np.bool_),
        )

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each of the word pieces that `encode` gives begins and ends in the text; [CLS] and [SEP] are empty."""
        return list(self._tokenizer.encode(_as_unicode(text)).offsets)

    def pieces(self, text: str) -> list[int]:
        """The ids of the word pieces that `encode` reads."""
        return list(self._tokenizer.encode(_as_unicode(text)).ids)

    @property
    def markers(self) -> list[int]:
        """The ids that are no words."""
        return [self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]")]

    @property
    def dim(self) -> int:
        return int(self._session.get_outputs()[0].shape[1])


def _as_unicode(text: str) -> str:
    """A lone surrogate (a byte of the command line that is not UTF-8) is no text: it becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
