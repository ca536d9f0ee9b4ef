"""How much memory may this process use?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from retrieval.control_groups import GROUPS, MEMBERSHIP, group_folders

LIMITS = ("memory.max", "memory.limit_in_bytes")  # of both versions of control groups


def usable_memory(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes: the machine's memory, or less in a container that has a limit. None if the system does not tell.

    groups: where control groups are mounted. membership: the file that names those of this process."""
    sizes = list(_limits(groups, membership))
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(sizes, default=None)


def _limits(groups: Path, membership: Path) -> Iterator[int]:
    """Of this process's group and of every group around it that has one."""
    for folder in group_folders(groups, membership, "memory", ("memory",)):
        for name in LIMITS:
            with suppress(OSError, ValueError):  # no such file, or no limit: `max`
                limit = int((folder / name).read_text())
                if limit > 0:
                    yield limit
