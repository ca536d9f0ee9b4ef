"""The tokeniser of an open_clip model as a file that `tokenizers` reads without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.encoders.openclip_onnx import CLEANINGS
from retrieval.encoders.refusal import NotExportable

if TYPE_CHECKING:
    from retrieval.encoders.openclip import OpenClipEncoder


def write_tokenizer(encoder: OpenClipEncoder, path: Path) -> tuple[str, tuple[int, int] | None, int]:
    """Returns how texts are cleaned before (see `cleaned`), the ids of BOS and EOS, or None if the tokeniser adds
    them itself, and the id of the padding. Raises `NotExportable` for other kinds of tokenisers."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, HFTokenizer | SimpleTokenizer):
        raise NotExportable(f"its tokeniser is a {type(tokenizer).__name__}")
    cleaning = getattr(tokenizer.clean_fn, "__name__", "").removeprefix("_clean_")
    if cleaning not in CLEANINGS:
        raise NotExportable("its function for cleaning texts needs open_clip")
    if isinstance(tokenizer, HFTokenizer):
        fast = tokenizer.tokenizer.backend_tokenizer
        fast.no_padding()
        fast.enable_truncation(encoder.max_tokens)
        fast.save(str(path))
        return cleaning, None, int(tokenizer.tokenizer.pad_token_id or 0)
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    fast = Tokenizer(models.BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix="</w>"))
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.save(str(path))
    return cleaning, (tokenizer.sot_token_id, tokenizer.eot_token_id), 0
