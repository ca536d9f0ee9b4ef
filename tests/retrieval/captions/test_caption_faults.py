"""A malformed source is an error of one line: the file, the place in it, the reason and the remedy."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import CrosslookError
from retrieval.captions import missing_images, read_captions, read_image_bytes

GOOD = '{"image": "a.jpg", "captions": ["A"], "split": "dev"}\n'
PIPES = "image_name| comment_number| comment\n"


def _message(source: Path, content: str | bytes | None = None, **options: Any) -> str:
    if content is not None:
        source.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    with pytest.raises(CrosslookError) as raised:
        read_captions(source, **options)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("content", "place", "reason", "remedy"),
    [
        (GOOD + '{"image": "b.jpg", "captions": ["B', ", line 2: ", "cut off", "write the file again"),
        (GOOD + '{"image": "b.jpg" "captions": []}', ", line 2: ", "is not JSON", "correct it"),
        (GOOD + '["b.jpg", "B"]', ", line 2: ", "is a list, not an object", "write it as {...}"),
        (GOOD + '{"image": "b.jpg", "caption": "B"}', ", line 2: ", "no \"captions\" (it has 'image', 'cap", "rename"),
        (GOOD + '{"image": "b.jpg", "captions": "B"}', ", line 2: ", '"captions" is a string', "write it as [...]"),
        (GOOD + '{"image": "b.jpg", "captions": ["B", 7]}', ", line 2: ", "captions[1] is a number", "double quotes"),
        (GOOD + '{"image": null, "captions": ["B"]}', ", line 2: ", '"image" is null', "double quotes"),
        (GOOD + '{"image": "b.jpg", "captions": [], "split": 1}', ", line 2: ", '"split" is a number', "double quotes"),
        (GOOD + '{"image": "b.jpg", "captions": ["\\ud83d"]}', ", line 2, captions[0]: ", "half a char", "correct it"),
        (GOOD + '{"image": "b.jpg", "captions": [' + "[" * 10**5, ", line 2: ", "is not JSON", "write the file again"),
        (GOOD + GOOD, ", line 2: ", "'a.jpg' stands in line 1 already", "make them one entry"),
        (GOOD + GOOD.replace("a.jpg", "./a.jpg"), ", line 2: ", "stands in line 1 already", "make them one entry"),
        ('{\n"images": [\n{"filename": "a.jpg", "sent', ", line 3: ", "cut off", "download"),
        ('{"images": [{"filename": "a.jpg"', ", line 1: ", "cut off", "download"),
        ('{"images": []}\n{"images": []}', ", line 2: ", "is not JSON", "correct it"),
        ('{"images": {}}', ": ", '"images" is an object', "write it as [...]"),
        ('{"images": [{"file": "a.jpg"}]}', ", images[0]: ", 'has no "filename"', "rename"),
        (
            '{"images": [{"filename": "a", "sentences": [{"raw": 1}]}]}',
            ", images[0].sentences[0]: ",
            "number",
            "quotes",
        ),
        ('{"images": [{"filename": "a", "sentences": [null]}]}', ", images[0].sentences[0]: ", "is null", "{...}"),
        ('{"images": [{"id": 1}], "annotations": []}', ", images[0]: ", 'has no "file_name"', "add it"),
        ('{"images": [{"file_name": "a"}], "annotations": []}', ", images[0]: ", 'has no "id"', "write the file again"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            ", images[1]: ",
            "has the id 1 of images[0]",
            "remove one",
        ),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}', ", annotations[0]: ", "boxes", "captions_*"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": []}]}', ", annotations[0]: ", "a list", "quotes"),
        ("image,text\na.jpg,A\n", ", line 1: ", "wrong columns", "make the header image,caption"),
        ("caption,image\nA,a.jpg\n", ", line 1: ", "wrong columns", "make the header image,caption"),
        ("\n\nimage;caption\n", ", line 3: ", "wrong columns", "make the header image,caption"),
        (
            'image,caption\na.jpg,"A\nB"\nb.jpg,A,B\n',
            ", line 4: ",
            "wrong columns: 3 where image,caption has 2",
            "double quotes",
        ),
        ('image,caption\na.jpg,A\nb.jpg,"B\nc.jpg,C\n', ", line 3: ", "cannot be read as CSV", "close it"),
        (PIPES + "a.jpg| one| A\n", ", line 2: ", "wrong columns", "the second a number"),
        (PIPES + "a.jpg\n", ", line 2: ", "wrong columns", "the second a number"),
        ("a.jpg#0\tA\nb.jpg A\n", ", line 2: ", "wrong columns", "name.jpg#0, a tab"),
        ("a.jpg#0 A\n", ", line 1: ", "wrong columns", "name.jpg#0, a tab"),
        (GOOD.encode() + b'{"image": "\xe9.jpg", "captions": []}', ", line 2: ", "is not UTF-8", "save it as UTF-8"),
        (GOOD.encode("utf-16"), ": ", "is UTF-16", "save it as UTF-8"),
        ("", ": ", "is empty", "write it again"),
        (" \n", ": ", "is empty", "write it again"),
        (b"\x1f\x8b\x08" + bytes(40), ": ", "is compressed (gzip)", "decompress it first"),
        (b"\xff\xd8\xff\xe0" + bytes(40), ": ", "unknown format", "write it as one of captions.jsonl"),
        ("A dog runs.\n", ": ", "unknown format", "write it as one of captions.jsonl"),
        ('{"photos": []}', ": ", "unknown format", "write it as one of captions.jsonl"),
        ('{"images": []}', ": ", "no image with a caption (no entries)", "name a source"),
        ("image,caption\na.jpg,\n", ": ", "(1 x caption without text, 1 x image without captions)", "name a source"),
    ],
)
def test_a_malformed_file_is_named_with_place_reason_and_remedy(
    tmp_path: Path, content: str | bytes, place: str, reason: str, remedy: str
) -> None:
    message = _message(tmp_path / "captions", content)
    assert message.startswith(f"{tmp_path / 'captions'}{place}")
    assert reason in message
    assert remedy in message


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../a.jpg", "lies outside"),
        ("sub/../../a.jpg", "lies outside"),
        ("..\\a.jpg", "lies outside"),
        ("/etc/passwd", "is an absolute path"),
        ("\\\\server\\a.jpg", "is an absolute path"),
        ("C:\\a.jpg", "is an absolute path"),
        ("", "the name of the image is empty"),
        ("a\0.jpg", "cannot be the name of a file"),
        ("\ud83d.jpg", "cannot be the name of a file"),
    ],
)
def test_a_path_that_is_none_inside_the_images_folder_is_refused(tmp_path: Path, image: str, reason: str) -> None:
    message = _message(tmp_path / "captions", GOOD + json.dumps({"image": image, "captions": ["B"]}))
    assert message.startswith(f"{tmp_path / 'captions'}, line 2: ")
    assert reason in message


@pytest.mark.parametrize("link", ["a.jpg", "sub"])
def test_an_image_that_a_link_puts_outside_its_folder_is_refused(tmp_path: Path, link: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.jpg").write_bytes(b"")
    (tmp_path / "photos" / link).symlink_to(tmp_path / "outside" / ("a.jpg" if link == "a.jpg" else ""))
    image = "a.jpg" if link == "a.jpg" else "sub/a.jpg"
    content = json.dumps({"image": image, "captions": ["A"]})
    assert "lies outside" in _message(tmp_path / "captions", content, images_dir=tmp_path / "photos")


def test_a_link_within_the_images_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"")
    (tmp_path / "a.jpg").symlink_to("real.jpg")
    (tmp_path / "captions").write_text(GOOD)
    assert missing_images(read_captions(tmp_path / "captions")) == ()


def test_the_images_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "photos").symlink_to("real")
    (tmp_path / "captions").write_text(GOOD)
    assert len(read_captions(tmp_path / "captions", images_dir=tmp_path / "photos").images) == 1


def test_a_name_with_a_line_break_does_not_break_the_message(tmp_path: Path) -> None:
    assert r"'a\n\u2028b'" in _message(
        tmp_path / "captions", 2 * (json.dumps({"image": "a\n\u2028b", "captions": ["A"]}) + "\n")
    )


def test_an_unknown_split_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    content = GOOD + GOOD.replace("a.jpg", "b.jpg") + GOOD.replace("a.jpg", "c.jpg").replace("dev", "train")
    message = _message(tmp_path / "captions", content, split="val")
    assert "no split 'val': choose one of dev (2), train (1)" in message


def test_a_split_of_a_format_without_splits_is_refused(tmp_path: Path) -> None:
    assert "has no splits" in _message(tmp_path / "captions", "image,caption\na.jpg,A\n", split="dev")


def test_a_malformed_line_outside_the_selection_is_still_an_error(tmp_path: Path) -> None:
    assert ", line 2: " in _message(tmp_path / "captions", GOOD + "{", limit=1)


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    assert "give 1 or more" in _message(tmp_path / "captions", GOOD, limit=0)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such file")


def test_an_images_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    message = _message(tmp_path / "captions", GOOD, images_dir=tmp_path / "none")
    assert message.startswith(f"{tmp_path / 'none'}: no such folder")


def test_a_folder_without_captions_is_answered_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "captions.txt").write_text("image,caption\na.jpg,A\n")
    assert "name the captions file itself" in _message(tmp_path)


def test_two_images_with_one_txt_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.txt"):
        (tmp_path / name).write_text("A")
    assert "stands beside 'a.jpg' and 'a.png'" in _message(tmp_path)


def test_a_txt_too_large_for_one_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"A" * ((1 << 20) + 1))
    assert _message(tmp_path).startswith(f"{tmp_path / 'a.txt'}: is larger than 1 MiB")


def test_a_txt_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"A\nB\xe9\n")
    assert _message(tmp_path).startswith(f"{tmp_path / 'a.txt'}, line 2: is not UTF-8")


def test_reading_an_image_that_is_missing_names_it(tmp_path: Path) -> None:
    (tmp_path / "captions").write_text(GOOD)
    caption_set = read_captions(tmp_path / "captions")
    with pytest.raises(CrosslookError, match=r"a\.jpg: cannot be read"):
        read_image_bytes(caption_set, caption_set.images[0])


def _tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in {"a.jpg": b"bytes", "a.json": b'{"caption": "A"}', "b.jpg": b"", "b.txt": b"B"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()[: 10 * 512]


WELL_FORMED = [
    (GOOD + GOOD.replace("a.jpg", "b.jpg")).encode(),
    b'{"images": [{"filename": "a.jpg", "split": "dev", "sentences": [{"raw": "A"}]}]}',
    b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "A"}]}',
    b'image,caption\na.jpg,"A, B"\nb.jpg,B\n',
    f"{PIPES}a.jpg| 0| A\n".encode(),
    b"a.jpg#0\tA\nb.jpg#0\tB\n",
    _tar_bytes(),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WELL_FORMED), st.data())
def test_damage_of_any_kind_is_one_line_or_harmless(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 20, len(content))) | st.just(len(content)))
    damaged = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "captions")
        source.write_bytes(damaged)
        try:
            caption_set = read_captions(source)
        except CrosslookError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert all(image.captions for image in caption_set.images)
