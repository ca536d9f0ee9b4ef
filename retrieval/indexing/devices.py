"""Which file system lies at a folder, so that another one in its place is noticed."""

from __future__ import annotations

import os

BY_UUID = b"/dev/disk/by-uuid"


def identity(folder: bytes) -> str:
    """What tells the file system at a folder from others, and stays when it is mounted again or elsewhere; empty where
    nothing does.

    `f_fsid` of `statvfs` does for ext4, btrfs, ZFS and NTFS. FAT, exFAT and XFS, and all file systems of macOS, put the
    number of their device there, which the next card gets as well; the UUID of a block device stands in for it on
    Linux, and nothing elsewhere. Network file systems have neither, as a rule."""
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
