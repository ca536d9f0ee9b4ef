"""Which control groups is this process in? They limit its cores and its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def group_folders(groups: Path, membership: Path, controller: str, v1_folders: Sequence[str]) -> Iterator[Path]:
    """The folders of this process's groups and of the groups around them. In a container, the paths may be those that
    the host sees, of which only the mounted top exists.

    groups: where control groups are mounted. membership: the file that names those of this process. controller: of the
    first version of control groups, and the folders where it is mounted."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, remainder = line.partition(":")
        controllers, _, path = remainder.partition(":")
        if number == "0" and not controllers:
            tops = [groups, groups / "unified"]
        elif controller in controllers.split(","):
            tops = [groups / name for name in v1_folders]
        else:
            continue
        group = Path(path.strip("/"))
        if ".." in group.parts:  # a group outside of the mounted ones cannot be read
            group = Path()
        yield from (top / around for top in tops for around in (group, *group.parents))
