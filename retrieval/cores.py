"""How many cores may this process use?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from retrieval.control_groups import GROUPS, MEMBERSHIP, group_folders

V1_FOLDERS = ("cpu,cpuacct", "cpu")


def usable_cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """The number of cores, at least 1. It is smaller than the machine's under taskset, in a container's cpuset, and
    under a quota of CPU time, which is rounded up (`docker run --cpus 1.5` gives 2).

    groups: where control groups are mounted. membership: the file that names those of this process."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(groups, membership))]))


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """quota / period, in cores, for this process's group and every group around it that has a quota."""
    for folder in group_folders(groups, membership, "cpu", V1_FOLDERS):
        for read in (_v2_quota, _v1_quota):
            with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or one of another format
                quota = read(folder)
                if quota is not None and quota > 0:
                    yield quota


def _v2_quota(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _v1_quota(folder: Path) -> float | None:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return None if quota < 0 else quota / period
