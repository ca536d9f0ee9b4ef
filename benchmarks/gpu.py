"""What does a GPU do? `python benchmarks/gpu.py [--device cpu] [--small] [--only PART...] [--seconds N] [--json FILE]`

Extra `torch` or `gpu`. Makes its photos and random weights, and needs nothing from the network. Measures the figures of
a GPU and, beside them, the limits of the machine: decoding alone with all cores, the tower alone, the bandwidth of the
memory. Prints them as a table for RESULTS.md, each figure with the runs that it is the median of. Each part has a share
of the time, repeats its runs less often where that is short, and is left out and named where it does not fit. Takes
less than eight minutes with 16 cores; a slower machine needs more `--seconds`; `--device cpu --small` takes about one
with two cores."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import gpu_images
import gpu_learning
import gpu_start
import gpu_vectors
from gpu_bench import FULL, SMALL, Bench
from gpu_records import Outcome, Record, as_json, as_markdown, machine
from gpu_time import NoTime

from indexes.on_device.gpus import cuda_device

SECONDS = 470.0  # of all parts together; their shares are less, since a part may take longer than its own

PARTS: dict[str, Callable[[Bench], list[Record]]] = {
    "index": gpu_images.index,
    "large": gpu_images.index_large,
    "encode": gpu_images.encode,
    "exact": gpu_vectors.exact,
    "ann": gpu_vectors.ann,
    "lite": gpu_images.index_lite,
    "mixed": gpu_images.index_mixed,
    "scorer": gpu_learning.scorer,
    "unfreeze": gpu_learning.unfreeze,
    "siglip": gpu_images.index_siglip,
    "agreement": gpu_images.agreement,
    "start": gpu_start.start,
}
SHARES = {  # seconds of SECONDS; what a part makes for later ones included
    "index": 92.0,
    "large": 47.0,
    "encode": 10.0,
    "exact": 30.0,
    "ann": 70.0,
    "lite": 36.0,
    "mixed": 15.0,
    "scorer": 21.0,
    "unfreeze": 35.0,
    "siglip": 34.0,
    "agreement": 25.0,
    "start": 30.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a part failed, 2 without the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--small", action="store_true", help="Small sizes, and small models.")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="For all parts together.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write all that was measured.")
    parser.add_argument(
        "--folder", type=Path, help="For photos and collections, some 20 GB [default: /dev/shm, in memory, or /tmp]."
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and cuda_device() is None:
        _report("torch finds no CUDA device: use --device cpu --small")
        return 2
    sizes = SMALL if options.small else FULL
    with Bench(options.device, sizes, options.seconds, options.folder) as bench:
        lines = machine(bench.device, bench.cores, bench.folder)
        outcomes = []
        for part in options.only or PARTS:
            outcomes.append(_measured(part, bench, options.seconds / SECONDS))
            bench.release()
            if options.json is not None:  # now, so that nothing is lost if this process ends
                options.json.write_text(as_json(outcomes, lines))
    print(as_markdown(outcomes, lines))
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _measured(part: str, bench: Bench, scale: float) -> Outcome:
    """scale: of the shares of time."""
    started = time.monotonic()
    try:
        with bench.part_of(SHARES.get(part, SECONDS) * scale if bench.sizes is FULL else max(bench.left, 0)):
            outcome = Outcome(part, "done", records=PARTS[part](bench))
    except NoTime as error:
        outcome = Outcome(part, "left out", str(error))
    except Exception as error:  # the other parts go on
        reason = (str(error).splitlines() or [""])[0]
        outcome = Outcome(part, "failed", f"{type(error).__name__}: {reason}")
    if bench.device == "cpu" or bench.sizes is SMALL:  # the targets are those of a GPU at work
        records = [replace(record, target=None, least_ratio=None) for record in outcome.records]
        outcome = replace(outcome, records=records)
    seconds = time.monotonic() - started
    words = "; ".join(f"{record.what}: {record.value:.5g} {record.unit}" for record in outcome.records)
    _report(f"{part}: {outcome.status} in {seconds:.1f} s. {words or outcome.reason}")
    return replace(outcome, seconds=seconds)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
