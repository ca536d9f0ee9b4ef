"""The towers' outputs for a set of captioned images, computed once and memory-mapped.

Frozen towers make training feasible on two cores. Every image is encoded in several views, so that the heads do not
overfit to single pictures."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.captions import CaptionSet, Skipped, stamp
from retrieval.training.data.cache import Entry, RowsWriter, load_entry, make_entry, make_room, put_metadata
from retrieval.training.data.contents import (
    Contents,
    contents_of,
    ignored,
    key_of_contents,
    same_contents,
    with_later_stamps,
)
from retrieval.training.data.photos import Captioned, UnusablePhoto, photo_of, present
from retrieval.training.data.sizes import DIM
from retrieval.training.data.towers import Towers
from retrieval.training.data.views_ahead import views_in_groups
from retrieval.training.parallel import as_float, on_device

VERSION = 6
# Names of the cached files, and of the fields of `Features` that they fill.
IMAGE_FILES = {"cells": "cells", "whole": "global_features"}
TEXT_FILES = {"texts": "text_embeddings", "words": "tokens", "starts": "starts", "numbers": "vocabulary_ids"}
FEWEST_TEXTS = 8
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 512


@dataclass(frozen=True)
class Features:
    """What the towers say of all images and captions of some sets.

    cells: float16 [views, images, cells, channels], and global_features: float16 [views, images, global_dim], see
    `Towers`. text_embeddings: float16 [captions, text_dim]. tokens: float16 [all tokens, 768], the last states of the
    text tower beside the rows of its word table; those of caption i are at starts[i]:starts[i + 1]. image_of_text:
    int64 [captions], ascending. vocabulary_ids: int64 [all tokens], each token's number in the vocabulary of the set
    from 0, or -1 for a rare token, and for the begin (BOS) and end (EOS) of a text.

    key: identifies files, captions, views and towers. contents: identifies what was in the files, and how many captions
    belong to each. left_out: images of the sets that cannot be read, and why."""

    cells: NDArray[np.float16]
    global_features: NDArray[np.float16]
    text_embeddings: NDArray[np.float16]
    tokens: NDArray[np.float16]
    starts: NDArray[np.int64]
    image_of_text: NDArray[np.int64]
    vocabulary_ids: NDArray[np.int64]
    key: str = ""
    contents: str = ""
    left_out: tuple[Skipped, ...] = ()
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def vocabulary(self) -> torch.Tensor:
        """The word table's row of each token of the vocabulary, float32 [vocabulary, 384]."""
        ids, first_places = np.unique(self.vocabulary_ids, return_index=True)
        rows = self.tokens[first_places[ids >= 0], DIM:]
        return on_device(np.asarray(rows, dtype=np.float32))

    @property
    def image_count(self) -> int:
        return int(self.cells.shape[1])

    @property
    def text_count(self) -> int:
        return len(self.text_embeddings)

    def rows_of(self, name: str, *index: Any) -> torch.Tensor:
        """A part of the array `name`, float32 on the device of the training. index: numbers, slices, int64 arrays."""
        if name not in self.kept:
            return as_float(getattr(self, name)[index])
        return self.kept[name][tuple(on_device(i) if isinstance(i, np.ndarray) else i for i in index)].float()

    def tokens_of(self, texts: Sequence[int] | NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of some captions, float32 [n, longest, 768] padded with zeros, and a bool mask [n, longest]."""
        lengths = self.starts[np.asarray(texts) + 1] - self.starts[np.asarray(texts)]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        if "tokens" in self.kept:
            places = np.where(mask, self.starts[np.asarray(texts)][:, None] + np.arange(mask.shape[1]), 0)
            is_token = on_device(mask)
            return self.rows_of("tokens", places).masked_fill(~is_token.unsqueeze(-1), 0), is_token
        padded = np.zeros((*mask.shape, self.tokens.shape[1]), np.float32)
        for row, text in enumerate(texts):
            padded[row, : lengths[row]] = self.tokens[self.starts[text] : self.starts[text + 1]]
        return on_device(padded), on_device(mask)

    def scored_of(self, texts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the tokens that `tokens_of` gives have a row in the word table, bool [n, longest]: those that are
        neither BOS, EOS nor padding."""
        lengths = self.starts[np.asarray(texts) + 1] - self.starts[np.asarray(texts)]
        padded = np.zeros((len(lengths), int(lengths.max())), np.bool_)
        for row, text in enumerate(texts):
            padded[row, : lengths[row]] = (self.tokens[self.starts[text] : self.starts[text + 1], DIM:] != 0).any(1)
        return padded

    def vocabulary_ids_of(self, texts: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """The vocabulary ids of the tokens that `tokens_of` gives, int64 [n, longest]; -1 also after a text's end."""
        rows = [self.vocabulary_ids[self.starts[text] : self.starts[text + 1]] for text in texts]
        padded = np.full((len(rows), max(map(len, rows))), -1, np.int64)
        for row, ids in enumerate(rows):
            padded[row, : len(ids)] = ids
        return on_device(padded)


def cached_features(
    sets: Sequence[CaptionSet],
    towers: Towers,
    cache: Path,
    views: int,
    progress: Callable[[int, int], None] = ignored,
    *,
    reading: Callable[[int, int], None] = ignored,
    again: bool = True,
) -> Features:
    """The features of the sets' images and captions: from the folder `cache`, or computed and put there.

    Entries are keyed by file stamps, so that changed files, or files of the same names elsewhere, are other images. An
    entry of files that were replaced by others of the same stamps is computed again.

    views: how many views of each image, see `view`; they are the same in every run. progress: receives the number of
    views or captions done, and of all. reading: the same of images that are read to see whether they are the same.
    again: whether to recompute an entry that lacks an image which can be read now; a run that is resumed needs the very
    features that it began with.

    Unreadable images are left out with their captions. Raises `CrosslookError` if no image is left, and if the cache
    cannot be read or written."""
    images, absent = present(sets)
    key = _key([str(views), towers.fingerprint, *(stamp(*image) for image in images)])
    entry = load_entry(cache, key, [*IMAGE_FILES])
    contents = contents_of(images, None if entry is None else entry.metadata, reading)
    if entry is not None and not same_contents(entry.metadata.get("contents"), contents.digests):
        entry = None
    if entry is not None:
        put_metadata(entry, with_later_stamps(entry.metadata, contents))
    if entry is None or (again and _readable_again(entry, images, towers)):
        make_entry(cache, key, lambda folder: _compute_images(images, contents, towers, folder, views, progress))
        entry = _made(load_entry(cache, key, [*IMAGE_FILES]))
    unreadable = {int(index): reason for index, reason, _ in entry.metadata["left_out"]}
    kept = [image for index, (_, image) in enumerate(images) if index not in unreadable]
    left_out = (*absent, *(Skipped(images[index][1].image, reason) for index, reason in unreadable.items()))
    if not kept:
        first = f": {left_out[0].what} ({left_out[0].why})" if left_out else ""
        raise CrosslookError(f"none of the {len(left_out)} images to train on or choose by can be read{first}")
    texts = [caption for image in kept for caption in image.captions]
    text_key = _key([towers.fingerprint, *texts])
    if (text_entry := load_entry(cache, text_key, [*TEXT_FILES])) is None:
        make_entry(cache, text_key, lambda folder: _compute_texts(texts, towers, folder, progress))
        text_entry = _made(load_entry(cache, text_key, [*TEXT_FILES]))
    arrays: dict[str, Any] = {IMAGE_FILES[name]: np.moveaxis(array, 0, 1) for name, array in entry.arrays.items()}
    arrays |= {TEXT_FILES[name]: array for name, array in text_entry.arrays.items()}
    return Features(
        **arrays,
        image_of_text=np.repeat(np.arange(len(kept)), [len(image.captions) for image in kept]),
        key=f"{key}-{text_key}",
        contents=key_of_contents(entry.metadata["contents"], [len(image.captions) for image in kept]),
        left_out=left_out,
    )


def trim_cache(cache: Path, features: Sequence[Features]) -> int:
    """Evict old entries from the cache, but none of `features`. Returns the size of the cache in bytes."""
    return make_room(cache, [key for item in features for key in item.key.split("-")])


def _made(entry: Entry | None) -> Entry:
    if entry is None:
        raise CrosslookError("features were damaged as soon as they were computed: check the disk of the cache")
    return entry


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:16]


def _readable_again(entry: Entry, images: Sequence[Captioned], towers: Towers) -> bool:
    """Whether an image that the file system failed to give when the entry was made can be read now."""
    for index, _, passes in entry.metadata["left_out"]:
        if passes:
            try:
                photo_of(*images[int(index)], towers.image_size)
            except UnusablePhoto:
                continue
            return True
    return False


def _compute_images(
    images: Sequence[Captioned],
    contents: Contents,
    towers: Towers,
    folder: Path,
    views: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write [images, views, ...] files. Returns the images left out (index, reason, whether the reason may pass), and
    the contents of all."""
    left_out: list[tuple[int, str, bool]] = []
    with (
        RowsWriter(folder / "cells.npy", (views, *towers.cell_shape)) as cells,
        RowsWriter(folder / "whole.npy", (views, towers.global_dim)) as global_features,
    ):
        at_once = max(1, towers.views_at_once // views)
        for group in views_in_groups(images, towers, views, at_once):
            left_out += [(row, item.reason, item.passes) for row, item in group if isinstance(item, UnusablePhoto)]
            prepared = [part for _, item in group if not isinstance(item, UnusablePhoto) for part in item]
            size = max(IMAGES_AT_ONCE, towers.views_at_once)
            parts = [towers.encode_images(prepared[low : low + size]) for low in range(0, len(prepared), size)]
            for file, arrays in zip((cells, global_features), zip(*parts, strict=True), strict=False):
                rows = np.concatenate(arrays)
                file.append(rows.reshape(-1, views, *rows.shape[1:]))
            progress((group[-1][0] + 1) * views, views * len(images))
            del group, prepared  # before there are those of the next group
    return {"left_out": left_out, **contents.stored}


def _compute_texts(
    texts: Sequence[str], towers: Towers, folder: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    token_ids = [towers.token_tower.token_ids(text) for text in texts]
    with (
        RowsWriter(folder / "texts.npy", (towers.text_dim,)) as embeddings,
        RowsWriter(folder / "words.npy", (2 * towers.token_tower.dim,)) as tokens,
    ):
        for low in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[low : low + TEXTS_AT_ONCE]
            embedded, features = towers.encode_texts(part)
            embeddings.append(embedded)
            tokens.append(features.tokens[features.mask])
            progress(low + len(part), len(texts))
    with RowsWriter(folder / "starts.npy", (), "<i8") as starts:
        starts.append(np.cumsum([0, *(len(ids) for ids in token_ids)]))
    with RowsWriter(folder / "numbers.npy", (), "<i8") as vocabulary_ids:
        vocabulary_ids.append(number_tokens(token_ids, towers.token_tower.special_ids))
    return {}


def number_tokens(token_ids: Sequence[Sequence[int]], special: Sequence[int]) -> NDArray[np.int64]:
    """Number the tokens of all texts within the vocabulary: the tokens that at least FEWEST_TEXTS texts contain.

    token_ids: the tokenizer's ids of each text. special: ids of BOS and EOS. Returns int64 [all tokens], -1 for tokens
    outside of the vocabulary."""
    count = Counter(token for text in token_ids for token in set(text) if token not in special)
    known = sorted(token for token, texts in count.items() if texts >= FEWEST_TEXTS)
    number = {token: index for index, token in enumerate(known)}
    return np.array([number.get(token, -1) for text in token_ids for token in text], dtype=np.int64)
