"""How fast does indexing go on, once it is going? Two runs over different numbers of photos tell."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_bench import Bench
from gpu_records import median

from retrieval.indexing.pipeline import index_folders

SHARE = 4  # the shorter run is over a quarter of the photos, and over a batch at least


@dataclass
class Rates:
    """Images a second. steady: of the photos that a longer run has more than a shorter one; by pairs of runs. entire:
    of the longer runs by themselves, from listing to the commit. fewer: photos of the shorter runs."""

    fewer: int
    steady: list[float] = field(default_factory=list)
    entire: list[float] = field(default_factory=list)

    @property
    def reported(self) -> list[float]:
        """`steady`, or `entire` where there is none."""
        return self.steady or self.entire

    @property
    def note(self) -> str:
        """What the rates are, and that of entire runs."""
        entire = f"entire runs, the start and the first batch included: {median(self.entire):,.0f} images/s"
        if not self.steady:
            return f"{entire}; shorter runs were not shorter by more than noise, or there is but one batch"
        return f"of the photos beyond the first {self.fewer:,}, by the time that a run over all takes longer; {entire}"


def indexing(bench: Bench, folder: Path, encoder: Any) -> Rates:
    """The rates of indexing a folder into new collections.

    A long run and a shorter one begin and end alike: they start the same workers, fill the same queues and commit. What
    the long run takes longer is therefore the time of the photos that it has more, whatever is read ahead and whenever
    results are handed out. A first run, which is not counted, leaves the device and the encoder warm."""
    files = sorted(folder.iterdir())
    count = len(files)
    fewer = min(max(count // SHARE, encoder.batch_size), count)
    part = bench.folder / "part"
    part.mkdir()
    for file in files[:fewer]:
        os.link(file, part / file.name)
    rates = Rates(fewer)

    def pair() -> float:
        long = _seconds(bench, folder, encoder, count)
        rates.entire.append(count / long)
        short = _seconds(bench, part, encoder, fewer) if fewer < count else long
        if short < long:
            rates.steady.append((count - fewer) / (long - short))
        return rates.entire[-1]

    try:
        _seconds(bench, part, encoder, fewer)
        bench.repeated(pair)
    finally:
        shutil.rmtree(part)
    if len(rates.steady) < len(rates.entire):  # a run that took no longer tells that the others are noise, too
        rates.steady.clear()
    return rates


def _seconds(bench: Bench, folder: Path, encoder: Any, count: int) -> float:
    """Of indexing a folder of so many photos into a new collection."""
    collection = bench.folder / "collection"
    shutil.rmtree(collection, ignore_errors=True)
    begun = time.perf_counter()
    progress = index_folders([folder], collection, encoder)
    seconds = time.perf_counter() - begun
    shutil.rmtree(collection)
    if progress.new != count:
        raise RuntimeError(f"{progress.new} of {count} photos were indexed, {progress.failed} failed")
    return seconds
