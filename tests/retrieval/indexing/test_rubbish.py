"""Thumbnails, trash and caches of other programs are left out of a listing."""

from __future__ import annotations

import pytest

from tests.retrieval.indexing.listings import names, touch

RUBBISH = [
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "2019/@eaDir/a.jpg",
    "#recycle/a.jpg",
    "#snapshot/GMT-01/a.jpg",
    "$RECYCLE.BIN/S-1-5/a.jpg",
    "$Recycle.Bin/a.jpg",
    "System Volume Information/a.jpg",
    "lost+found/a.jpg",
    "code/node_modules/x/a.png",
    "__MACOSX/a.jpg",
    "files_trashbin/files/a.jpg",
    "Mine.photoslibrary/resources/derivatives/0/a.jpeg",
    "Mine.photoslibrary/scopes/syndication/resources/derivatives/a.jpeg",
    "Old.PhotosLibrary/Thumbnails/2012/a.jpg",
    "iPhoto Library.photolibrary/Previews/a.jpg",
    "Lightroom Catalog Previews.lrdata/0/a.jpg",
    "immich/thumbs/u/a.webp",
    "immich/encoded-video/u/a.jpg",
    "nextcloud/appdata_oc1x/preview/0/a.jpg",
    "photoprism/cache/thumbnails/a.jpg",
    ".dtrash/files/a.jpg",
    ".Trash-1000/files/a.jpg",
]
PHOTOS = [
    "Mine.photoslibrary/originals/0/a.heic",
    "Mine.photoslibrary/scopes/syndication/originals/0/a.jpg",
    "Old.PhotosLibrary/Masters/2012/resources/a.jpg",
    "immich/library/admin/a.jpg",
    "immich/profile/a.jpg",
    "immich/upload/u/a.jpg",
    "photoprism/sidecar/a.jpg",
    "nextcloud/user/files/preview/a.jpg",
    "trip/thumbs/a.jpg",
    "trip/encoded-video/a.jpg",
    "trip/cache/a.jpg",
    "trip/resources/derivatives/a.jpg",
    "Lost+Found/a.jpg",
    "trash/a.jpg",
    "lost+found.jpg",
    "node_modules.d/a.jpg",
]


def make_libraries(folder):
    touch(folder, *RUBBISH, *PHOTOS, "photoprism/config/x", "immich/backups/x")


def test_thumbnails_trash_and_caches_are_left_out(tmp_path):
    make_libraries(tmp_path)
    assert names(tmp_path) == sorted(PHOTOS)


def test_all_is_included_when_that_is_asked_for_but_what_is_hidden(tmp_path):
    make_libraries(tmp_path)
    visible = [name for name in RUBBISH if not name.startswith(".")]
    assert names(tmp_path, include_all=True) == sorted([*PHOTOS, *visible])


@pytest.mark.parametrize("root", ["@eaDir", "#recycle/.", "Mine.photoslibrary/resources/derivatives", "immich/thumbs"])
def test_a_folder_that_is_asked_for_is_listed_whatever_its_name(tmp_path, root):
    make_libraries(tmp_path)
    assert len(names(tmp_path / root)) == 1


def test_a_library_that_is_asked_for_gives_its_originals(tmp_path):
    make_libraries(tmp_path)
    assert names(tmp_path / "Mine.photoslibrary") == ["originals/0/a.heic", "scopes/syndication/originals/0/a.jpg"]
