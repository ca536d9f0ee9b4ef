"""Compare this checkout with another one: cold and warm queries, indexing, memory.

    git worktree add /tmp/other COMMIT
    python benchmarks/versions.py /tmp/other PHOTOS [--images 400] [--rows 200000] [--runs 15]

Each checkout makes its own collections. Runs alternate. Prints the medians of both, and the median and the quartiles of
the ratios of paired runs. Needs Linux."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDEX = "from cli.main import main; main()"
MAKE = """
import sys; from pathlib import Path
sys.path.insert(0, "benchmarks")
from benchmarks.made_up import make_collection, photo_embeddings
from retrieval.encoders import load_encoder
encoder = load_encoder(device="cpu")
make_collection(Path(sys.argv[2]), encoder, photo_embeddings(encoder, Path(sys.argv[1]), 300), int(sys.argv[3]))
"""
WARM = """
import sys, time
from retrieval import Engine
engine = Engine.open(sys.argv[1])
texts = ["a dog on a beach", "two children play football", "a red car", "a man on a bicycle"]
for text in texts: engine.search(text)
taken = []
for number in range(60):
    started = time.perf_counter(); engine.search(texts[number % 4]); taken.append(time.perf_counter() - started)
peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
print(sorted(taken)[30], peak / 1024)
"""
COMMIT = """
import sys, time; from pathlib import Path
from indexes.collection import Collection; from indexes.writer import CollectionWriter
path = Path(sys.argv[1])
started = time.perf_counter()
with CollectionWriter(path, Collection.open(path).binding) as writer:
    opened = time.perf_counter()
    writer.commit(dead=[int(sys.argv[2])])
print(time.perf_counter() - opened, time.perf_counter() - started)
"""


class Checkout:
    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.small, self.large = folder / "small", folder / "large"

    def run(self, script: str, *words: object) -> tuple[float, list[float]]:
        """The seconds of a process, and the numbers that it prints."""
        command = [sys.executable, "-c", script, *map(str, words)]
        started = time.perf_counter()
        finished = subprocess.run(
            command, cwd=self.root, env=os.environ | {"PYTHONPATH": str(self.root)}, capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        if finished.returncode:
            sys.exit(finished.stderr)
        last = finished.stdout.split("\n")[-2].split() if script in (WARM, COMMIT) else []
        return seconds, [float(word) for word in last]


def compare(name: str, unit: str, checkouts: Sequence[Checkout], runs: int, act: Callable[[Checkout], float]) -> None:
    """Print both medians and the ratio of this checkout's time to the other's."""
    for checkout in checkouts:
        act(checkout)  # warms the system's cache
    pairs = [tuple(act(checkout) for checkout in checkouts) for _ in range(runs)]
    ratios = sorted(this / other for this, other in pairs)
    this, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    middle = statistics.median(ratios)
    print(f"{name:<34} {this:9.3f} {other:9.3f} {unit:<4} ratio {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="versions-") as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        for path in sorted(options.photos.iterdir())[: options.images]:
            shutil.copy(path, photos)
        both = [Checkout(ROOT, folder / "this"), Checkout(options.other.resolve(), folder / "other")]
        for checkout in both:
            checkout.small.parent.mkdir()

        def index(checkout: Checkout) -> float:
            shutil.rmtree(checkout.small, ignore_errors=True)
            return checkout.run(INDEX, "index", photos, "-i", checkout.small)[0]

        def again(checkout: Checkout) -> float:
            return checkout.run(INDEX, "index", photos, "-i", checkout.small)[0]

        print(f"{'':<34} {'this':>9} {'other':>9}")
        compare(f"index {options.images} photos", "s", both, max(3, options.runs // 3), index)
        compare("index again, nothing to do", "s", both, options.runs, again)
        compare("cold query, small", "s", both, options.runs, lambda c: c.run(INDEX, "a dog", "-i", c.small)[0])
        for checkout in both:
            checkout.run(MAKE, photos, checkout.large, options.rows)
        compare(
            f"cold query, {options.rows:,}", "s", both, options.runs, lambda c: c.run(INDEX, "a dog", "-i", c.large)[0]
        )
        compare("warm query", "ms", both, options.runs, lambda c: 1000 * c.run(WARM, c.large)[1][0])
        compare("memory of warm queries", "MiB", both, 3, lambda c: c.run(WARM, c.large)[1][1])
        dead = iter(range(1, options.rows, 97))
        compare(
            "a commit with one dead row", "s", both, options.runs, lambda c: c.run(COMMIT, c.large, next(dead))[1][0]
        )


if __name__ == "__main__":
    main()
