"""Reads a set of captioned images: recognise the format, group by image, check, select."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.captions.caption_set import EMPTY_CAPTION, NO_CAPTIONS, NO_SPLIT, CaptionedImage, CaptionSet, Skipped
from retrieval.captions.entries import Caption, Recognised
from retrieval.captions.errors import error_in, quoted
from retrieval.captions.formats import recognise
from retrieval.captions.paths import Folder, image_key, outside


def read_captions(
    path: Path, *, images_dir: Path | None = None, split: str | None = None, limit: int | None = None
) -> CaptionSet:
    """The captioned images of a file, a tar or a folder, in its order.

    images_dir: folder of the images, by default that of the file. Whether they exist is not checked: see
    `missing_images`. split: only this one. limit: only the first images.

    The whole source is checked, whatever is selected. Raises `CrosslookError` for anything malformed in it; for two
    entries about one image, except in formats with one caption per line; for an image outside `images_dir`; and when no
    image with a caption is left."""
    if limit is not None and limit < 1:
        raise error_in(path, f"a limit of {limit} leaves no image: give 1 or more")
    if images_dir is not None and not images_dir.is_dir():
        raise error_in(images_dir, "no such folder: name the folder that holds the images")
    recognised = recognise(path, images_dir)
    groups, skipped = _group(path, recognised)
    if split is not None:
        groups, without = _select_split(path, groups, split)
        skipped += without
    images, left_out = _usable(groups, limit)
    skipped += left_out
    if not images:
        counts = ", ".join(f"{count} x {why}" for why, count in Counter(item.why for item in skipped).items())
        raise error_in(path, f"no image with a caption ({counts or 'no entries'}): name a source that has some")
    return CaptionSet(recognised.format, path, tuple(images), recognised.images_dir, tuple(skipped), recognised.members)


@dataclass
class _Group:
    """Everything in the source about one image."""

    where: str
    image: str
    split: str | None
    captions: list[Caption] = field(default_factory=list)


def _group(path: Path, recognised: Recognised) -> tuple[list[_Group], list[Skipped]]:
    groups: dict[str, _Group] = {}
    skipped: list[Skipped] = []
    folder = None if recognised.images_dir is None else Folder(recognised.images_dir)
    for entry in recognised.entries:
        if isinstance(entry, Skipped):
            skipped.append(entry)
            continue
        key = image_key(path, entry.image, entry.where)
        if folder is not None and not folder.holds(key):
            raise outside(path, entry.image, entry.where, str(recognised.images_dir))
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(entry.where, entry.image, entry.split)
        elif recognised.one_per_image:
            reason = f"the image {quoted(entry.image)} stands in {group.where} already: make them one entry"
            raise error_in(path, reason, entry.where)
        for caption in entry.captions:
            group.captions.append(_checked(path, entry.image, caption))
    return list(groups.values()), skipped


def _checked(path: Path, image: str, caption: Caption) -> Caption:
    try:
        caption.text.encode()
    except UnicodeEncodeError as error:
        half = repr(error.object[error.start])
        reason = f"a caption of {quoted(image)} holds half a character ({half}): correct it, or remove it"
        raise error_in(path, reason, caption.where) from error
    return caption


def _select_split(path: Path, groups: list[_Group], split: str) -> tuple[list[_Group], list[Skipped]]:
    counts = Counter(group.split for group in groups if group.split is not None)
    if not counts:
        raise error_in(path, f"has no splits, so no split {quoted(split)}: leave it out")
    if split not in counts:
        choices = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        raise error_in(path, f"no split {quoted(split)}: choose one of {choices}")
    without = [Skipped(group.image, NO_SPLIT) for group in groups if group.split is None]
    return [group for group in groups if group.split == split], without


def _usable(groups: list[_Group], limit: int | None) -> tuple[list[CaptionedImage], list[Skipped]]:
    """The first images with a caption that has text, up to the limit, and what was skipped before the last of them."""
    images: list[CaptionedImage] = []
    skipped: list[Skipped] = []
    for group in groups:
        if len(images) == limit:
            break
        captions = tuple(caption.text.strip() for caption in group.captions)
        for caption, text in zip(group.captions, captions, strict=True):
            if not text:
                skipped.append(Skipped(f"{caption.where} ({group.image})", EMPTY_CAPTION))
        if any(captions):
            images.append(CaptionedImage(group.image, tuple(text for text in captions if text), group.split))
        else:
            skipped.append(Skipped(group.image, NO_CAPTIONS))
    return images, skipped
