"""Files of control groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def groups(folder: Path, membership: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Where control groups with these files, by path, are mounted, and the file that names those of this process."""
    for name, content in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(content)
    (folder / "membership").write_text(membership)
    return folder / "cgroup", folder / "membership"
