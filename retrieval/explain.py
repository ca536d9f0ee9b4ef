"""Which word of a text looked where in an image, by the scorer that ranks it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval import images
from retrieval.calibration import matches
from retrieval.encoders.base import Encoder
from retrieval.encoders.lite import LiteEncoder
from retrieval.fusion import own_scorer
from retrieval.images import Photo, UnreadableImage


@dataclass(frozen=True)
class Explanation:
    """Where the words of a text look in one image.

    words: as they stand in the text; the pieces of a word are summed. heat: float32 [words, rows, columns], 0 and up,
    over a grid on the upright image: how much speaks for a match, in units of the scorer's logit (see
    `Evidence.heat`), so that maps of several words can be compared. match: calibrated probability, in float32, so that
    a search's may differ a little. similarity: of the embeddings. photo: the image."""

    words: tuple[str, ...]
    heat: NDArray[np.float32]
    match: float
    similarity: float
    photo: Photo


def explain(encoder: Encoder, text: str, path: Path) -> Explanation:
    """By the scorer that was trained with the encoder.

    Raises `CrosslookError` for a model without one, a text without words, and a file that cannot be read."""
    scorer = own_scorer(encoder)
    if scorer is None:
        raise CrosslookError(f"{encoder.name} has no scorer whose attention could be shown")
    if not isinstance(encoder, LiteEncoder):  # others may see a part of the image only
        raise CrosslookError(f"{encoder.name} is not made of lite, whose attention alone can be shown")
    words, pieces = words_of(text, encoder.text_tower.spans(text))
    if not words:
        raise CrosslookError("the text has no words: say what to look for in the image")
    try:
        photo = images.decode(path.read_bytes(), encoder.image_size)  # as indexing does
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    except UnreadableImage as error:
        raise CrosslookError(f"{path} {error}") from error
    image = encoder.encode_images([encoder.prepare(photo)])
    features = encoder.encode_texts([text])
    similarity = image.embeddings[0] @ features.embeddings[0]
    evidence = scorer.evidence(features, image.tokens[0])
    logit = scorer.to_image.logits(similarity, evidence.fusion)
    heat = np.stack([evidence.heat[rows].sum(axis=0) for rows in pieces])
    side = math.isqrt(heat.shape[1])
    return Explanation(words, heat.reshape(len(words), side, side), float(matches(logit)), float(similarity), photo)


def words_of(text: str, spans: list[tuple[int, int]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """The words of a text and the rows of their pieces. spans: where each piece begins and ends in the text; pieces
    that follow one another without a gap are one word, empty ones (the markers of begin and end) are none, and
    punctuation stands with the word before it."""
    found: list[tuple[int, int]] = []
    pieces: list[list[int]] = []
    for row, (start, end) in enumerate(spans):
        if start == end:
            continue
        if found and start == found[-1][1]:
            found[-1] = (found[-1][0], end)
            pieces[-1].append(row)
        else:
            found.append((start, end))
            pieces.append([row])
    return tuple(text[start:end] for start, end in found), pieces
