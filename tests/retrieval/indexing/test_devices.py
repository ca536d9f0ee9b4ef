"""The identity of a file system. The system's answers are made up."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from retrieval.indexing import devices


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Sets the device number and `f_fsid` of all folders, and the UUIDs of block devices by number."""

    def set_(device, fsid, uuids=None):
        monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=device))
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_fsid=fsid))
        monkeypatch.setattr(os, "scandir", lambda path: Links(uuids))

    return set_


class Links:
    def __init__(self, uuids):
        if uuids is None:
            raise FileNotFoundError
        self._uuids = uuids

    def __enter__(self):
        return (
            SimpleNamespace(name=name.encode(), stat=lambda device=device: self._stat(device))
            for name, device in self._uuids.items()
        )

    def __exit__(self, *error):
        pass

    @staticmethod
    def _stat(device):
        if device is None:
            raise FileNotFoundError
        return SimpleNamespace(st_rdev=device)


STICK, OTHER = os.makedev(8, 17), os.makedev(259, 300)


@pytest.mark.parametrize("fsid", [7, 2**64 - 1])
def test_an_identity_of_the_file_system_is_taken(system, fsid):
    system(STICK, fsid, {"1234-ABCD": STICK})
    assert devices.identity(b"/x") == f"fsid {fsid:x}"


@pytest.mark.parametrize("device", [STICK, OTHER])
@pytest.mark.parametrize("fsid", ["none", "device", "encoded"])
def test_the_number_of_a_device_is_no_identity_and_its_uuid_is_one(system, device, fsid):
    """FAT, exFAT and XFS put it into `f_fsid`."""
    major, minor = os.major(device), os.minor(device)
    number = {"none": 0, "device": device, "encoded": (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)}[fsid]
    system(device, number, {"gone": None, "1234-ABCD": device, "5678-EF01": 99})
    assert devices.identity(b"/x") == "uuid 1234-ABCD"


@pytest.mark.parametrize("uuids", [None, {}, {"5678-EF01": 99}, {"gone": None}])
def test_what_nothing_tells_of_has_no_identity(system, uuids):
    system(STICK, 0, uuids)
    assert devices.identity(b"/x") == ""


def test_a_folder_out_of_reach_has_no_identity(tmp_path):
    assert devices.identity(os.fsencode(tmp_path / "missing")) == ""


def test_the_identity_of_a_real_folder_stays_and_is_that_of_the_folders_in_it(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    assert len({devices.identity(os.fsencode(tmp_path / name)) for name in ("", "sub", "link")}) == 1
