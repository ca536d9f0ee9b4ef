"""The same images and captions are read from every format."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval.captions import CaptionedImage, CaptionSet, missing_images, read_captions, read_image_bytes

TWO_IMAGES = {
    "a.jpg": ('A dog, "Rex", runs.', "Ein Hund läuft."),
    "b.jpg": ("Two cats | one mouse.", "猫が二匹。", "Cats\u2028sleep."),
}


def _jsonl(captions: dict[str, Any], split: str | None = None) -> str:
    extra = {} if split is None else {"split": split}
    return "".join(
        json.dumps({"image": name, "captions": list(texts), **extra}) + "\n" for name, texts in captions.items()
    )


def _karpathy(captions: dict[str, Any], split: str = "test", **fields: Any) -> str:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in texts], **fields}
        for name, texts in captions.items()
    ]
    return json.dumps({"images": images, "dataset": "flickr8k"})


def _coco(captions: dict[str, Any]) -> str:
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions)]
    annotations = [
        {"id": 1000 + number, "image_id": number, "caption": text}
        for number, texts in enumerate(captions.values())
        for text in texts
    ]
    return json.dumps({"info": {"year": 2017}, "images": images, "annotations": annotations[::-1]}, indent=1)


def _csv(captions: dict[str, Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("image", "caption"), *((name, text) for name in captions for text in captions[name])])
    return out.getvalue()


def _pipes(captions: dict[str, Any]) -> str:
    rows = [f"{name}| {number}| {text}" for name in captions for number, text in enumerate(captions[name])]
    return "\n".join(["image_name| comment_number| comment", *rows]) + "\n"


def _tokens(captions: dict[str, Any]) -> str:
    return "".join(f"{name}#{number}\t{text}\n" for name in captions for number, text in enumerate(captions[name]))


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "captions.jsonl": _jsonl,
    "Karpathy JSON": _karpathy,
    "COCO captions JSON": _coco,
    "CSV with the header image,caption": _csv,
    "Flickr30k results.csv": _pipes,
    "Flickr8k.token.txt": _tokens,
}


def _write_folder(folder: Path, captions: dict[str, Any]) -> Path:
    for name, texts in captions.items():
        image = folder / name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(f"bytes of {name}".encode())
        image.with_suffix(".txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return folder


def _read(tmp_path: Path, text: str, **options: Any) -> CaptionSet:
    source = tmp_path / "captions"
    source.write_bytes(text.encode())
    return read_captions(source, **options)


def _captions(caption_set: CaptionSet) -> dict[str, tuple[str, ...]]:
    return {image.image: image.captions for image in caption_set.images}


@pytest.mark.parametrize("format", WRITERS)
def test_a_file_is_recognised_by_its_content(tmp_path: Path, format: str) -> None:
    assert _read(tmp_path, WRITERS[format](TWO_IMAGES)).format == format


@pytest.mark.parametrize("format", sorted(set(WRITERS) - {"COCO captions JSON"}))
def test_captions_are_read_in_the_order_of_the_file(tmp_path: Path, format: str) -> None:
    caption_set = _read(tmp_path, WRITERS[format](TWO_IMAGES))
    assert _captions(caption_set) == TWO_IMAGES
    assert caption_set.skipped == ()


def test_coco_captions_are_joined_to_their_images_by_id(tmp_path: Path) -> None:
    caption_set = _read(tmp_path, _coco(TWO_IMAGES))  # the builder writes the annotations backwards
    assert _captions(caption_set) == {name: texts[::-1] for name, texts in TWO_IMAGES.items()}


@pytest.mark.parametrize("format", WRITERS)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, format: str) -> None:
    text = WRITERS[format](TWO_IMAGES)
    plain = _read(tmp_path, text)
    assert _read(tmp_path, "\ufeff" + text.replace("\r\n", "\n").replace("\n", "\r\n")) == plain


@pytest.mark.parametrize("write", [_csv, _pipes, _tokens])
def test_scattered_captions_of_an_image_are_grouped_where_it_was_first_seen(
    tmp_path: Path, write: Callable[[dict[str, Any]], str]
) -> None:
    lines = write({"a.jpg": ["A1", "A2"], "b.jpg": ["B1", "B2"]}).splitlines()
    header, (a1, a2, b1, b2) = lines[:-4], lines[-4:]
    caption_set = _read(tmp_path, "\n".join([*header, b1, a1, b2, a2]))
    assert list(_captions(caption_set).items()) == [("b.jpg", ("B1", "B2")), ("a.jpg", ("A1", "A2"))]


def test_a_csv_caption_may_hold_a_line_break(tmp_path: Path) -> None:
    assert _captions(_read(tmp_path, 'image,caption\na.jpg,"A dog\nruns"\n')) == {"a.jpg": ("A dog\nruns",)}


def test_the_line_of_flickr30k_that_lacks_a_bar_is_read(tmp_path: Path) -> None:
    caption_set = _read(
        tmp_path, "image_name| comment_number| comment\n2199200615.jpg| 4   A dog runs across the grass .\n"
    )
    assert _captions(caption_set) == {"2199200615.jpg": ("A dog runs across the grass .",)}


def test_white_space_around_a_caption_is_dropped(tmp_path: Path) -> None:
    assert _captions(_read(tmp_path, _jsonl({"a.jpg": ["  A dog. \n"]}))) == {"a.jpg": ("A dog.",)}


def test_karpathy_filepath_is_put_before_the_name(tmp_path: Path) -> None:
    assert list(_captions(_read(tmp_path, _karpathy(TWO_IMAGES, filepath="val2014")))) == [
        "val2014/a.jpg",
        "val2014/b.jpg",
    ]


def test_karpathy_restval_counts_as_train(tmp_path: Path) -> None:
    assert {image.split for image in _read(tmp_path, _karpathy(TWO_IMAGES, split="restval"), split="train").images} == {
        "train"
    }


def test_a_split_selects_its_images(tmp_path: Path) -> None:
    text = _jsonl({"a.jpg": ["A"]}, "train") + _jsonl({"b.jpg": ["B"]}, "dev")
    assert _read(tmp_path, text, split="dev").images == (CaptionedImage("b.jpg", ("B",), "dev"),)


def test_without_a_split_every_image_is_read(tmp_path: Path) -> None:
    text = _jsonl({"a.jpg": ["A"]}, "train") + _jsonl({"b.jpg": ["B"]}, "dev") + _jsonl({"c.jpg": ["C"]})
    assert [image.split for image in _read(tmp_path, text).images] == ["train", "dev", None]


def test_a_limit_takes_the_first_images_that_have_captions(tmp_path: Path) -> None:
    caption_set = _read(tmp_path, _jsonl({"a.jpg": [], "b.jpg": ["B"], "c.jpg": ["C"], "d.jpg": []}), limit=1)
    assert _captions(caption_set) == {"b.jpg": ("B",)}


def test_what_lies_beyond_the_limit_is_not_called_skipped(tmp_path: Path) -> None:
    caption_set = _read(tmp_path, _jsonl({"a.jpg": [], "b.jpg": ["B"], "c.jpg": ["C"], "d.jpg": []}), limit=1)
    assert caption_set.skipped == (("a.jpg", "image without captions"),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (_jsonl({"a.jpg": ["A", " "]}), "line 1, captions[1] (a.jpg)"),
        (_karpathy({"a.jpg": ["A", ""]}), "images[0].sentences[1] (a.jpg)"),
        (_coco({"a.jpg": ["", "A"]}), "annotations[1] (a.jpg)"),
        (_csv({"a.jpg": ["A", ""]}), "line 3 (a.jpg)"),
        (_pipes({"a.jpg": ["A", ""]}), "line 3 (a.jpg)"),
        (_tokens({"a.jpg": ["A", ""]}), "line 2 (a.jpg)"),
    ],
    ids=WRITERS,
)
def test_a_caption_without_text_is_skipped_by_name(tmp_path: Path, text: str, named: str) -> None:
    caption_set = _read(tmp_path, text)
    assert (_captions(caption_set), caption_set.skipped) == ({"a.jpg": ("A",)}, ((named, "caption without text"),))


def test_an_image_whose_captions_are_all_empty_is_skipped_with_them(tmp_path: Path) -> None:
    caption_set = _read(tmp_path, _csv({"a.jpg": [""], "b.jpg": ["B"]}))
    assert caption_set.skipped == (("line 2 (a.jpg)", "caption without text"), ("a.jpg", "image without captions"))


def test_coco_captions_of_an_unlisted_image_are_skipped_by_name(tmp_path: Path) -> None:
    document = json.loads(_coco({"a.jpg": ["A"]}))
    document["annotations"].append({"image_id": 7, "caption": "B"})
    caption_set = _read(tmp_path, json.dumps(document))
    assert caption_set.skipped == (("annotations[1] (image_id 7)", "captions of an image that is not there"),)


def test_an_image_without_a_split_is_skipped_by_name_when_one_is_asked_for(tmp_path: Path) -> None:
    caption_set = _read(tmp_path, _jsonl({"a.jpg": ["A"]}, "dev") + _jsonl({"b.jpg": ["B"]}), split="dev")
    assert caption_set.skipped == (("b.jpg", "image without a split"),)


def test_images_are_looked_for_beside_the_file_unless_told_otherwise(tmp_path: Path) -> None:
    assert _read(tmp_path, _jsonl(TWO_IMAGES)).images_dir == tmp_path


def test_missing_images_are_named_in_the_order_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"")
    caption_set = _read(tmp_path, _jsonl({name: ["A"] for name in ("d.jpg", "b.jpg", "c.jpg")}))
    assert missing_images(caption_set) == ("d.jpg", "c.jpg")


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    caption_set = read_captions(_write_folder(tmp_path, {"a.jpg": ["A1", "A2"], "sub/b.PNG": ["B"]}))
    assert _captions(caption_set) == {"a.jpg": ("A1", "A2"), "sub/b.PNG": ("B",)}


def test_captions_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    _write_folder(tmp_path / "both", {"a.jpg": ["A"]})
    (tmp_path / "texts").mkdir()
    (tmp_path / "both/a.txt").rename(tmp_path / "texts/a.txt")
    caption_set = read_captions(tmp_path / "texts", images_dir=tmp_path / "both")
    assert read_image_bytes(caption_set, caption_set.images[0]) == b"bytes of a.jpg"


def test_what_has_no_partner_in_a_folder_is_skipped_by_name(tmp_path: Path) -> None:
    _write_folder(tmp_path, {"a.jpg": ["A"], "b.jpg": []})
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "readme.txt").write_text("About")
    assert set(read_captions(tmp_path).skipped) == {
        ("b.jpg", "image without captions"),
        ("c.jpg", "image without captions"),
        ("readme.txt", "captions of an image that is not there"),
    }


def test_hidden_files_of_a_folder_are_left_alone(tmp_path: Path) -> None:
    _write_folder(tmp_path, {"a.jpg": ["A"], "._a.jpg": ["junk"], ".cache/b.jpg": ["B"]})
    assert _captions(read_captions(tmp_path)) == {"a.jpg": ("A",)}


def test_the_bytes_of_an_image_come_from_the_images_folder(tmp_path: Path) -> None:
    _write_folder(tmp_path / "photos", {"a.jpg": ["A"]})
    caption_set = _read(tmp_path, _jsonl({"a.jpg": ["A"]}), images_dir=tmp_path / "photos")
    assert read_image_bytes(caption_set, caption_set.images[0]) == b"bytes of a.jpg"


def test_a_tar_without_an_ending_is_recognised_by_its_content(tmp_path: Path) -> None:
    folder = _write_folder(tmp_path / "folder", {"a.jpg": ["A"]})
    with tarfile.open(tmp_path / "captions", "w") as tar:
        tar.add(folder / "a.jpg", "a.jpg")
        tar.add(folder / "a.txt", "a.txt")
    assert read_captions(tmp_path / "captions").format == "webdataset shards"
