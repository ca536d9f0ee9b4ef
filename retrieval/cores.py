"""How many cores may this process use?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
V1_FOLDERS = ("cpu,cpuacct", "cpu")  # of the first version of control groups


def usable_cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """The number of cores, at least 1. It is smaller than the machine's under taskset, in a container's cpuset, and
    under a quota of CPU time, which is rounded up (`docker run --cpus 1.5` gives 2).

    groups: where control groups are mounted. membership: the file that names those of this process."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(groups, membership))]))


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """quota / period, in cores, for this process's group and every group around it that has a quota."""
    for folder in _group_folders(groups, membership):
        for read in (_v2_quota, _v1_quota):
            with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or one of another format
                quota = read(folder)
                if quota is not None and quota > 0:
                    yield quota


def _group_folders(groups: Path, membership: Path) -> Iterator[Path]:
    """The folders of this process's groups and of the groups around them. In a container, the paths may be those that
    the host sees, of which only the mounted top exists."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, remainder = line.partition(":")
        controllers, _, path = remainder.partition(":")
        if number == "0" and not controllers:
            tops = [groups, groups / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [groups / name for name in V1_FOLDERS]
        else:
            continue
        group = Path(path.strip("/"))
        if ".." in group.parts:  # a group outside of the mounted ones cannot be read
            group = Path()
        yield from (top / around for top in tops for around in (group, *group.parents))


def _v2_quota(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _v1_quota(folder: Path) -> float | None:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return None if quota < 0 else quota / period
