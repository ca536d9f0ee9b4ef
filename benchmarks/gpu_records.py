"""What a benchmark of a GPU measures: figures, their targets and limits, and the machine that gave them."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """One figure. value: the median of `runs`, in `unit`. target: what it must be, at least or at most. limit: the
    best that this machine can do, measured in the same run, in the same unit; limit_name: what that is. least_ratio:
    what `ratio` must be. note: what is special about this run."""

    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = True
    limit: float | None = None
    limit_name: str = ""
    least_ratio: float | None = None
    runs: Sequence[float] = ()
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The share of the limit that is reached, at most 1 but for noise."""
        if not self.limit or not self.value:
            return None
        return self.value / self.limit if self.at_least else self.limit / self.value

    @property
    def is_met(self) -> bool | None:
        """None if there is no target."""
        conditions = []
        if self.target is not None:
            conditions.append(self.value >= self.target if self.at_least else self.value <= self.target)
        if self.least_ratio is not None and self.ratio is not None:
            conditions.append(self.ratio >= self.least_ratio)
        return all(conditions) if conditions else None


@dataclass(frozen=True)
class Outcome:
    """What became of a part. status: done, failed or left out; reason: why it was not done."""

    part: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    records: Sequence[Record] = ()


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number, the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def machine(device: str, cores: int, folder: Path) -> dict[str, str]:
    """The card, its driver, torch, the processor, and where the files lie, in words."""
    import torch

    lines = {
        "processor": f"{_processor()}, {cores} cores usable",
        "memory": f"{_memory():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "files in": f"{folder}, {_file_system(folder)}",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        lines["card"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        lines["driver"] = f"{_driver()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return lines


def as_markdown(outcomes: Sequence[Outcome], lines: dict[str, str]) -> str:
    """The table of `benchmarks/RESULTS.md`, below the machine."""
    rows = [f"- {name}: {value}" for name, value in lines.items()]
    rows += [
        "",
        "| what | target | measured | limit of this machine | share of it | met |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        if outcome.status != "done":
            rows.append(f"| {outcome.part} | | {outcome.status}: {outcome.reason} | | | |")
        rows += [_row(record) for record in outcome.records]
    notes = [f"- {record.what}: {record.note}" for outcome in outcomes for record in outcome.records if record.note]
    return "\n".join([*rows, "", *notes]) + "\n"


def as_json(outcomes: Sequence[Outcome], lines: dict[str, str]) -> str:
    """All that was measured, the single runs and the details included."""
    parts = [
        {
            "part": outcome.part,
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 2),
            "records": [vars(record) | {"ratio": record.ratio, "met": record.is_met} for record in outcome.records],
        }
        for outcome in outcomes
    ]
    return json.dumps({"machine": lines, "parts": parts}, indent=2, default=str) + "\n"


def _row(record: Record) -> str:
    runs = {0: "", 1: " (one run)"}.get(len(record.runs))
    if runs is None:
        runs = f" (median of {', '.join(_number(run) for run in record.runs)})"
    limit = "" if record.limit is None else f"{_number(record.limit)} {record.unit}, {record.limit_name}"
    ratio = "" if record.ratio is None else f"{record.ratio:.2f}"
    met = {True: "yes", False: "**no**", None: ""}[record.is_met]
    measured = f"**{_number(record.value)}** {record.unit}{runs}"
    return f"| {record.what} | {_target(record)} | {measured} | {limit} | {ratio} | {met} |"


def _target(record: Record) -> str:
    words = []
    if record.target is not None:
        words.append(f"at {'least' if record.at_least else 'most'} {_number(record.target)}")
    if record.least_ratio is not None:
        words.append(f"at least {record.least_ratio:g} of the limit")
    return ", ".join(words)


def _number(value: float) -> str:
    """Four significant digits; thousands with commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.5f}".rstrip("0").rstrip(".") if 0.99 < abs(value) < 1 else f"{value:.4g}"


def _file_system(folder: Path) -> str:
    """What a folder is on, in words: commits to memory wait for no disk."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "on a file system that is not known"
    holding = [(len(Path(at).parts), kind) for at, kind in mounts if folder.resolve().is_relative_to(at)]
    kind = max(holding, default=(0, "not known"))[1]
    return "in memory, commits included" if kind in ("tmpfs", "ramfs") else f"on a disk ({kind})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float:
    """GiB of the machine."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0


def _driver() -> str:
    import subprocess

    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "driver not known"
