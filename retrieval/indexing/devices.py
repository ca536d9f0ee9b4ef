"""Listing: the identity of the file system at a folder, so that another one in its place is noticed."""

from __future__ import annotations

import os

BY_UUID = b"/dev/disk/by-uuid"


def identity(folder: bytes) -> str:
    """An identity of the file system at a folder, which it keeps when it is mounted again or elsewhere; empty where
    there is none.

    For ext4, btrfs, ZFS and NTFS it is `f_fsid` of `statvfs`. FAT, exFAT and XFS, and all file systems of macOS, put
    their device number there, which the next card gets as well. On Linux, the UUID of the block device is taken for
    those, elsewhere nothing. Network file systems usually have neither."""
    try:
        device, fsid = os.stat(folder).st_dev, os.statvfs(folder).f_fsid
    except OSError:
        return ""
    if fsid in (0, device, _encoded(device)):
        return _uuid(device)
    return f"fsid {fsid:x}"


def _encoded(device: int) -> int:
    """A device number as Linux puts it into `f_fsid`."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def _uuid(device: int) -> str:
    try:
        with os.scandir(BY_UUID) as links:
            names = sorted(link.name for link in links if _is_device(link, device))
    except OSError:
        return ""
    return f"uuid {os.fsdecode(names[0])}" if names else ""


def _is_device(link: os.DirEntry[bytes], device: int) -> bool:
    try:
        return link.stat().st_rdev == device
    except OSError:
        return False
