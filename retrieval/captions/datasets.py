"""The two JSON documents in which captioned images are published: Karpathy's splits and COCO's annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from retrieval.captions.caption_set import UNLISTED_IMAGE, Skipped
from retrieval.captions.entries import Caption, Entry
from retrieval.captions.errors import error_in
from retrieval.captions.json_values import caption_in, list_in, object_of, string_in

KARPATHY = "Karpathy JSON"
COCO = "COCO captions JSON"


def karpathy_entries(source: Path, document: dict[str, Any]) -> Iterator[Entry]:
    """dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json (Karpathy and Fei-Fei 2015, "Deep
    Visual-Semantic Alignments"). The split `restval`, a part of COCO's validation set to train on, becomes `train`."""
    for position, value in enumerate(list_in(document, "images", source, "")):
        where = f"images[{position}]"
        record = object_of(value, source, where)
        image = string_in(record, "filename", source, where)
        if record.get("filepath"):
            image = str(PurePosixPath(string_in(record, "filepath", source, where), image))
        captions = []
        for number, sentence in enumerate(list_in(record, "sentences", source, where)):
            location = f"{where}.sentences[{number}]"
            captions.append(caption_in(object_of(sentence, source, location), "raw", source, location))
        split = None if record.get("split") is None else string_in(record, "split", source, where)
        yield Entry(where, image, tuple(captions), "train" if split == "restval" else split)


def coco_entries(source: Path, document: dict[str, Any]) -> Iterator[Entry | Skipped]:
    """captions_train2017.json and similar files (Lin et al. 2014, "Microsoft COCO"): images and captions in two
    lists."""
    names: dict[int | str, tuple[str, str]] = {}
    for position, value in enumerate(list_in(document, "images", source, "")):
        where = f"images[{position}]"
        record = object_of(value, source, where)
        key = _id_in(record, "id", source, where)
        if key in names:
            reason = f"has the id {key!r} of {names[key][0]}: remove one of the two, or give it an id of its own"
            raise error_in(source, reason, where)
        names[key] = where, string_in(record, "file_name", source, where)

    captions: dict[int | str, list[Caption]] = {key: [] for key in names}
    for position, value in enumerate(list_in(document, "annotations", source, "")):
        where = f"annotations[{position}]"
        record = object_of(value, source, where)
        key = _id_in(record, "image_id", source, where)
        if "caption" not in record and "bbox" in record:
            raise error_in(source, "holds boxes, not captions: use COCO's captions_*.json", where)
        caption = caption_in(record, "caption", source, where)
        if key in captions:
            captions[key].append(caption)
        else:
            yield Skipped(f"{where} (image_id {key!r})", UNLISTED_IMAGE)

    for key, (where, name) in names.items():
        yield Entry(where, name, tuple(captions[key]))


def _id_in(record: dict[str, Any], key: str, source: Path, where: str) -> int | str:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise error_in(source, f'has no "{key}" that is a number or a string: write the file again', where)
    return value
