"""The part of benchmarks/gpu.py about the time until the first batch: in new processes, step by step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from gpu_bench import FULL, RUNS, Bench
from gpu_records import Record, median

STEPS = ("interpreter", "torch", "project", "model", "first batch")
SETTLING = 3.5  # seconds after which the files of a model count as settled
ROOT = Path(__file__).parents[1]
REST = "from the command to the first batch, without torch's import"

# What `search index` does, by a process that tells when each step was done. Processes that it starts import it.
SCRIPT = """
import json, os, sys, time

def main(folder, model, device, collection):
    done = {"begun": float(os.environ["BEGUN"]), "interpreter": time.time()}
    import torch
    done["torch"] = time.time()
    import cli.commands, cli.index
    from pathlib import Path
    from retrieval.encoders.openclip_loading import load_openclip
    from retrieval.indexing.pipeline import index_folders
    from retrieval.progress import Observer
    done["project"] = time.time()
    encoder = load_openclip(model, device)
    done["model"] = time.time()

    def first(progress):
        if progress.done:
            done.setdefault("first batch", time.time())

    observer = Observer(progress=first, should_stop=lambda: "first batch" in done)
    index_folders([folder], Path(collection), encoder, observer=observer)
    done["end"] = time.time()
    print("\\n" + json.dumps(done))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""

# The same, one after the other instead of side by side: what the step `model` consists of.
PARTS_OF_MODEL = """
import json, sys, time
import torch
model, device = sys.argv[1:]
seconds, at = {}, time.time()

def lap(name):
    global at
    seconds[name], at = time.time() - at, time.time()

torch.zeros(1, device=device)
lap("the device's context")
from retrieval.encoders.torch_start import start_device
start_device(device)
lap("its libraries")
import open_clip
lap("importing open_clip")
from retrieval.encoders.openclip_loading import load_openclip
load_openclip(model, device)
lap("loading the model")
print("\\n" + json.dumps(seconds))
"""


def start(bench: Bench) -> list[Record]:
    """Seconds by step, of a first process, which hashes the weights, and of later ones."""
    arguments = [str(path) for path in (bench.photos, bench.vit, bench.device, bench.folder / "started")]
    time.sleep(max(0.0, SETTLING - (time.time() - (bench.vit / "open_clip_model.safetensors").stat().st_ctime)))
    first = _steps(bench, arguments)
    later: list[dict[str, float]] = []

    def run() -> float:
        later.append(_steps(bench, arguments))
        return _rest(later[-1])

    runs = bench.repeated(run, RUNS if bench.sizes is FULL else 1)
    parts = _output(bench, PARTS_OF_MODEL, arguments[1:3])
    middle = {step: median([seconds[step] for seconds in later]) for step in STEPS}
    note = f"{_listed(middle)}; a first process, which hashes the weights: {_rest(first):.2f} s; "
    note += f"what `model` consists of, one after the other: {_listed(parts)}"
    details = {"later": later, "first": first, "parts of model": parts}
    what = f"{REST}, {bench.sizes.vit}"
    return [Record(what, median(runs), "s", 6.0, False, runs=runs, note=note, details=details)]


def _rest(seconds: dict[str, float]) -> float:
    return sum(seconds[step] for step in STEPS if step != "torch")


def _listed(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())


def _steps(bench: Bench, arguments: list[str]) -> dict[str, float]:
    """Seconds of each step, of a new collection."""
    shutil.rmtree(arguments[-1], ignore_errors=True)
    times = _output(bench, SCRIPT, arguments).values()
    return {step: after - before for step, (before, after) in zip((*STEPS, "end"), pairwise(times), strict=True)}


def _output(bench: Bench, text: str, arguments: list[str]) -> dict[str, float]:
    """The JSON in the last line that a script prints, run by a new process."""
    script = bench.folder / "start.py"
    script.write_text(text)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "BEGUN": repr(time.time())}
    command, left = [sys.executable, str(script), *arguments], max(bench.left, 1)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=left, check=False)
    if run.returncode != 0:
        raise RuntimeError((run.stderr.strip().splitlines() or ["no message"])[-1])
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result
