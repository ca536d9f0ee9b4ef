"""Where each word of a text looks in an image, by the scorer that ranks it."""

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
from retrieval.fusion import EncodedQuery, Scorer
from retrieval.images import Photo, UnreadableImage
from retrieval.query import Query


@dataclass(frozen=True)
class Explanation:
    """Where the words of a text look in one image.

    words: as they stand in the text; the heat of a word is the sum over its tokens. heat: float32
    [words, rows, columns], 0 and up, over a grid on the upright image: how much speaks for a match, in units of
    fusion (see `Evidence.heat`), so that the maps of several words can be compared. match: calibrated
    probability, computed in float32; that of a search, in int8, may differ a little. similarity: of the embeddings.
    photo: the image."""

    words: tuple[str, ...]
    heat: NDArray[np.float32]
    match: float
    similarity: float
    photo: Photo


def explain(encoder: Encoder, scorer: Scorer, query: str | Query, path: Path) -> Explanation:
    """By a scorer that can tell, as that of `lite` can.

    Raises `CrosslookError` for another scorer or encoder, a query that is not one text with words, and a file that
    cannot be read."""
    query = Query.of(query)
    text = query.only_text("an explanation")
    if not scorer.reranks:
        raise _no_explanation(f"{encoder.name} has no scorer whose attention could be shown")
    spans = encoder.token_spans(text)
    if spans is None:
        raise _no_explanation(f"{encoder.name} is not made of lite, whose attention alone can be shown")
    words, tokens_of_words = words_of(text, spans)
    if not words:
        raise CrosslookError("the text has no words: say what to look for in the image")
    try:
        photo = images.decode(path.read_bytes(), encoder.image_size)  # as indexing does
    except OSError as error:
        raise CrosslookError(f"cannot read {path}: {error.strerror}") from error
    except UnreadableImage as error:
        raise CrosslookError(f"{path} {error}") from error
    image = encoder.encode_images([encoder.prepare(photo)])
    encoded = EncodedQuery(query, encoder.encode_queries([query]).of(0))
    similarity = image.embeddings[0] @ encoded.features.embeddings[0]
    evidence = scorer.explain(encoded, similarity, image.regions[0])
    if evidence is None:
        raise _no_explanation(
            f"the scorer that ranks for {encoder.name} cannot tell where words look, or lacks its explainer.onnx"
        )
    heat = np.stack([evidence.heat[tokens].sum(axis=0) for tokens in tokens_of_words])
    side = math.isqrt(heat.shape[1])
    grid = heat.reshape(len(words), side, side)
    return Explanation(words, grid, float(matches(evidence.logit)), float(similarity), photo)


def _no_explanation(reason: str) -> CrosslookError:
    return CrosslookError(f"{reason}: use the model lite, or one that `search train` made of it, with its own scorer")


def words_of(text: str, spans: list[tuple[int, int]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """The words of a text, and the indices of each word's tokens.

    spans: start and end of each token in the text. Tokens that touch belong to one word, so that punctuation belongs to
    the word before it. Tokens of no length, such as [CLS] and [SEP], belong to none."""
    word_spans: list[tuple[int, int]] = []
    tokens_of_words: list[list[int]] = []
    for token, (start, end) in enumerate(spans):
        if start == end:
            continue
        if word_spans and start == word_spans[-1][1]:
            word_spans[-1] = (word_spans[-1][0], end)
            tokens_of_words[-1].append(token)
        else:
            word_spans.append((start, end))
            tokens_of_words.append([token])
    return tuple(text[start:end] for start, end in word_spans), tokens_of_words
