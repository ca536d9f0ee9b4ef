"""webdataset shards are read in place: no member is extracted, and no link is followed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from indexes.errors import CrosslookError
from retrieval.captions import CaptionedImage, missing_images, read_captions, read_image_bytes

ONE_IMAGE = {"a.jpg": b"bytes of a", "a.txt": b"A dog.\n"}


def _tar(
    path: Path, members: dict[str, bytes], links: dict[str, str] | None = None, format: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return path


def _message(source: Path) -> str:
    with pytest.raises(CrosslookError) as raised:
        read_captions(source)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("a.txt", b"A dog.\n\nIt runs.\n", ("A dog.", "It runs.")),
        ("a.txt", "\ufeffEin Hund läuft.".encode(), ("Ein Hund läuft.",)),
        ("a.json", json.dumps({"caption": "A dog.", "width": 3}).encode(), ("A dog.",)),
        ("a.json", json.dumps({"captions": ["A dog.", "It runs."]}).encode(), ("A dog.", "It runs.")),
    ],
)
def test_captions_come_from_the_txt_or_json_beside_the_image(
    tmp_path: Path, name: str, content: bytes, captions: tuple[str, ...]
) -> None:
    caption_set = read_captions(_tar(tmp_path / "one.tar", {"a.jpg": b"", name: content}))
    assert caption_set.images == (CaptionedImage("a.jpg", captions, None),)


def test_a_txt_is_preferred_to_a_json(tmp_path: Path) -> None:
    caption_set = read_captions(_tar(tmp_path / "one.tar", {"a.json": b'{"caption": "json"}', **ONE_IMAGE}))
    assert caption_set.images[0].captions == ("A dog.",)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_bytes_of_an_image_come_from_inside_the_tar(tmp_path: Path, format: int) -> None:
    members = {f"{'long-' * 15}/{name}{number}": b"%d" % number for number in range(3) for name in ("é",)}
    files = {f"{name}.jpg": content for name, content in members.items()} | {f"{name}.txt": b"A" for name in members}
    caption_set = read_captions(_tar(tmp_path / "one.tar", files, format=format))
    assert [read_image_bytes(caption_set, image) for image in caption_set.images] == [b"0", b"1", b"2"]


def test_a_folder_of_shards_names_images_by_shard_and_member(tmp_path: Path) -> None:
    for number in range(2):
        _tar(tmp_path / f"{number}.tar", {"a.jpg": b"%d" % number, "a.txt": b"A"})
    caption_set = read_captions(tmp_path)
    assert {image.image: read_image_bytes(caption_set, image) for image in caption_set.images} == {
        "0.tar/a.jpg": b"0",
        "1.tar/a.jpg": b"1",
    }


def test_no_image_of_a_tar_is_missing(tmp_path: Path) -> None:
    assert missing_images(read_captions(_tar(tmp_path / "one.tar", ONE_IMAGE))) == ()


def test_what_has_no_partner_in_a_tar_is_skipped_by_name(tmp_path: Path) -> None:
    caption_set = read_captions(
        _tar(tmp_path / "one.tar", {**ONE_IMAGE, "b.jpg": b"", "c.txt": b"C", "d.jpg": b"", "d.txt": b"\n"})
    )
    assert set(caption_set.skipped) == {
        ("b.jpg", "image without captions"),
        ("c.txt", "captions of an image that is not there"),
        ("d.jpg", "image without captions"),
    }


def test_a_link_inside_a_tar_is_skipped_by_name_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    caption_set = read_captions(
        _tar(tmp_path / "one.tar", {**ONE_IMAGE, "b.jpg": b""}, {"b.txt": str(tmp_path / "secret.txt")})
    )
    assert ("b.txt", "link or special file inside a tar") in caption_set.skipped
    assert [image.image for image in caption_set.images] == ["a.jpg"]


def test_members_with_other_endings_and_hidden_ones_are_left_alone(tmp_path: Path) -> None:
    caption_set = read_captions(
        _tar(tmp_path / "one.tar", {**ONE_IMAGE, "a.npy": b"", "a.cls": b"3", "._a.jpg": b"junk"})
    )
    assert (len(caption_set.images), caption_set.skipped) == (1, ())


def test_reading_writes_nothing_to_disk(tmp_path: Path) -> None:
    caption_set = read_captions(_tar(tmp_path / "one.tar", ONE_IMAGE))
    read_image_bytes(caption_set, caption_set.images[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["one.tar"]


@pytest.mark.parametrize("folder", ["../", "/", "sub/../../"])
def test_a_member_whose_name_leads_out_of_the_tar_is_refused(tmp_path: Path, folder: str) -> None:
    source = _tar(tmp_path / "one.tar", {f"{folder}a.jpg": b"", f"{folder}a.txt": b"A"})
    assert _message(source).startswith(f"{source}, member '{folder}a.jpg': ")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.jpg": b"", "a.txt": b"\xe9"}, ", member 'a.txt', line 1: is not UTF-8"),
        ({"a.jpg": b"", "a.json": b'{"caption": "A'}, ", member 'a.json': the JSON is cut off"),
        ({"a.jpg": b"", "a.json": b'{"caption": 3}'}, ", member 'a.json': \"caption\" is a number"),
        ({"a.jpg": b"", "a.json": b'{"url": ""}'}, ", member 'a.json': has no \"caption\""),
        ({"a.jpg": b"", "a.json": b'{"captions": ["A", null]}'}, ", member 'a.json': captions[1] is null"),
        ({"a.jpg": b"", "a.txt": b"A" * (1 << 20) + b"A"}, ", member 'a.txt': is larger than 1 MiB"),
        ({"a.jpg": b"", "a.json": b" " * (1 << 20) + b"{}"}, ", member 'a.json': is larger than 1 MiB"),
        ({**ONE_IMAGE, "a.png": b""}, ": 'a.jpg' and 'a.png' share their captions"),
        (
            {**ONE_IMAGE, "./a.jpg": b"", "./a.txt": b"A"},
            ", member './a.jpg': the image './a.jpg' stands in member 'a.jpg'",
        ),
        ({"b.jpg": b""}, ": no image with a caption (1 x image without captions)"),
    ],
)
def test_a_malformed_member_is_named(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    source = _tar(tmp_path / "one.tar", members)
    assert _message(source).startswith(f"{source}{reason}")


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    source = _tar(tmp_path / "one.tar", ONE_IMAGE)
    with tarfile.open(source, "a") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert "holds 'a.jpg' twice" in _message(source)


@pytest.mark.parametrize("length", [512 + 100, 1024 + 5, 3 * 512 + 5])
def test_a_truncated_tar_is_named_as_damaged(tmp_path: Path, length: int) -> None:
    source = _tar(tmp_path / "one.tar", {**ONE_IMAGE, "b.jpg": b"b" * 2000, "b.txt": b"B"})
    source.write_bytes(source.read_bytes()[:length])
    assert "is a damaged tar" in _message(source)


def test_a_header_damaged_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    source = _tar(tmp_path / "one.tar", {**ONE_IMAGE, "b.jpg": b"b", "b.txt": b"B"})
    content = bytearray(source.read_bytes())
    content[4 * 512 : 4 * 512 + 10] = b"\xff" * 10
    source.write_bytes(content)
    assert "is a damaged tar" in _message(source)


def test_a_file_named_tar_that_is_none_is_refused_in_a_folder_of_shards(tmp_path: Path) -> None:
    _tar(tmp_path / "0.tar", ONE_IMAGE)
    (tmp_path / "1.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    assert _message(tmp_path).startswith(f"{tmp_path / '1.tar'}: is a damaged tar")


def test_an_images_folder_beside_a_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrosslookError, match="holds its own images: leave out the folder"):
        read_captions(_tar(tmp_path / "one.tar", ONE_IMAGE), images_dir=tmp_path)


def test_a_folder_with_shards_and_sidecars_is_refused(tmp_path: Path) -> None:
    _tar(tmp_path / "one.tar", ONE_IMAGE)
    for name, content in ONE_IMAGE.items():
        (tmp_path / name).write_bytes(content)
    assert "name a folder that holds one of the two" in _message(tmp_path)


def test_a_tar_that_has_changed_under_the_reader_is_named(tmp_path: Path) -> None:
    source = _tar(tmp_path / "one.tar", ONE_IMAGE)
    caption_set = read_captions(source)
    source.write_bytes(b"")
    with pytest.raises(CrosslookError, match="has become shorter"):
        read_image_bytes(caption_set, caption_set.images[0])
