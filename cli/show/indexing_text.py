"""The plan and the outcome of an indexing run as lines of text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.show.output import printable

if TYPE_CHECKING:
    from retrieval.indexing.plan import Plan
    from retrieval.progress import Progress


def plan_lines(plan: Plan) -> Iterator[str]:
    """A line for every file that the run would add, encode again, move, touch or remove, and every folder whose images
    it would keep though they are gone: the action and the path, tab-separated."""
    for encoding in plan.add:
        yield f"add\t{_name(encoding.file.path)}"
    for encoding in plan.reencode:
        yield f"change\t{_name(encoding.file.path)}"
    for rename in plan.rename:
        yield f"move\t{_name(rename.old)}\t{_name(rename.file.path)}"
    for rename in plan.touch:
        yield f"touch\t{_name(rename.file.path)}"
    for gone in plan.remove:
        yield f"remove\t{_name(gone.path)}"
    for kept in plan.kept_in:
        yield f"keep\t{_name(kept.folder)}"


def plan_summary(plan: Plan) -> str:
    """How many files a run would add, encode again, and so on."""
    return (
        f"{len(plan.add):,} to add, {len(plan.reencode):,} to encode again, {len(plan.rename):,} to move, "
        f"{len(plan.touch):,} touched, {len(plan.remove):,} to remove, {plan.kept:,} kept, "
        f"{plan.unchanged:,} unchanged, {plan.still_failing:,} known to fail"
    )


def run_summary(progress: Progress) -> str:
    """What a run did, and how long it took."""
    counts = {
        "dropped as damaged": progress.dropped,
        f"new{f' ({progress.incomplete:,} incomplete)' if progress.incomplete else ''}": progress.new,
        "changed": progress.changed,
        "moved": progress.moved,
        "touched": progress.touched,
        "removed": progress.removed,
        "unchanged": progress.unchanged,
        "failed": progress.failed + progress.still_failing,
    }
    parts = [f"{count:,} {name}" for name, count in counts.items() if count]
    if progress.copied:
        parts.append(f"{progress.copied:,} {'copy' if progress.copied == 1 else 'copies'} not embedded again")
    if progress.postponed:
        parts.append(f"{progress.postponed:,} could not be read now, tried again at the next run")
    if progress.kept:
        parts.append(f"{progress.kept:,} kept though not there")
    rate = f" ({progress.encoded / progress.seconds:.0f} images/s)" if progress.encoded and progress.seconds else ""
    return f"{', '.join(parts) or 'nothing to do'} in {progress.seconds:.1f} s{rate}"


def _name(path: bytes) -> str:
    return printable(os.fsdecode(path))
