"""An open_clip model's tokeniser as a file that `tokenizers` reads, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.encoders.openclip_onnx import CLEANINGS
from retrieval.encoders.refusal import NotExportable

if TYPE_CHECKING:
    from retrieval.encoders.openclip import OpenClipEncoder


def write_tokenizer(encoder: OpenClipEncoder, path: Path) -> tuple[str, tuple[int, int] | None, int]:
    """Returns how texts are cleaned before, see `cleaned`; the marks of begin and end that go around word pieces, None
    where the tokeniser adds its own; and what comes after the end."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    own = encoder.tokenizer
    if not isinstance(own, HFTokenizer | SimpleTokenizer):
        raise NotExportable(f"its tokeniser is a {type(own).__name__}")
    cleaning = getattr(own.clean_fn, "__name__", "").removeprefix("_clean_")
    if cleaning not in CLEANINGS:
        raise NotExportable("how it cleans texts is known to open_clip only")
    if isinstance(own, HFTokenizer):
        fast = own.tokenizer.backend_tokenizer
        fast.no_padding()
        fast.enable_truncation(encoder.max_words)
        fast.save(str(path))
        return cleaning, None, int(own.tokenizer.pad_token_id or 0)
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    fast = Tokenizer(models.BPE(vocab=own.encoder, merges=merges, end_of_word_suffix="</w>"))
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.save(str(path))
    return cleaning, (own.sot_token_id, own.eot_token_id), 0
