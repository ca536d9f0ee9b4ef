"""A campaign of faults against the real command. Counts what must not happen.

    python benchmarks/campaign.py [--files 1000] [--kills 40] [--seconds 60] [--seed 0] [STAGE ...]

files    damaged files of all formats in one folder: the run succeeds, every file is indexed or named, and stderr holds
         only lines of the command
hostile  huge pictures of all formats: the peak memory of the index run
flips    every 7th byte of every file of a collection is flipped: `verify` finds it, and no command ends in a traceback
kills    an index run is killed at random moments, again and again: the result is that of one uninterrupted run
threads  one engine and eight threads, while freed memory is overwritten

Run it in the tests' environment, from a checkout. Needs Linux."""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decoding_memory import pictures
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.verification import verify
from tests.indexes.contents import contents
from tests.mutations import mutations
from tests.retrieval.images.test_mutations import all_files
from tests.support import write_photos

ROOT = Path(__file__).parents[1]
OURS = re.compile(r"skipped /|[\d,]+ of [\d,]+ images, |passed over: |[\d,]+ (new|failed|changed)|nothing to do|$")


def search(*words: object) -> list[str]:
    return [sys.executable, "-c", "from cli.main import main; main()", *map(str, words)]


def run(command: Sequence[object], **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process, and its peak memory in MiB."""
    peak = 0
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        while process.poll() is None:
            with suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
            time.sleep(0.05)
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    return subprocess.CompletedProcess(command, process.returncode, *texts), peak / 1024


def damaged_files(folder: Path, options: argparse.Namespace) -> str:
    photos = folder / "photos"
    photos.mkdir()
    for number, (name, content) in enumerate(mutations(all_files(), options.files, options.seed)):
        ending = name.split()[1].split("-")[0].lower()
        (photos / f"{number:05d}.{ending if f'.{ending}' in known_endings() else 'jpg'}").write_bytes(content)
    return counted(photos, folder / "c")


def hostile(folder: Path, options: argparse.Namespace) -> str:
    """Pictures of all formats at the limit and beyond it, three copies of each, so that all threads have some."""
    photos = folder / "photos"
    photos.mkdir()
    for megapixels in (48, 100, 400):
        side = int((megapixels * 1e6) ** 0.5) // 500 * 500
        for name, make in pictures(side).items():
            if megapixels > 100 and name not in ("GIF", "JPEG", "PNG RGB"):
                continue  # others take minutes to write, or cannot be written
            content = make()
            for copy in range(3):
                (photos / f"{megapixels} {name.replace('/', ' ')} {copy}.jpg").write_bytes(content + bytes([copy]))
    return counted(photos, folder / "c")


def counted(photos: Path, path: Path) -> str:
    """Indexes the photos, and reports what became of them."""
    started = time.monotonic()
    finished, peak = run(search("index", photos, "-i", path))
    seconds = time.monotonic() - started
    strange = [line for line in finished.stderr.splitlines() if not OURS.match(line)]
    collection = Collection.open(path)
    files = sum(1 for file in photos.iterdir())
    kept, failed = len(collection), len(collection.failures())
    fine = finished.returncode == 0 and kept + failed == files and not strange and not verify(path).faults
    return (
        f"{'ok' if fine else 'FAULT'}: {files:,} files, {kept:,} indexed, {failed:,} named, "
        f"status {finished.returncode}, {len(strange)} strange lines {strange[:3]}, "
        f"peak {peak:,.0f} MiB, {seconds:.0f} s"
    )


def known_endings() -> frozenset[str]:
    from retrieval.images import ENDINGS

    return ENDINGS


def flips(folder: Path, options: argparse.Namespace) -> str:
    photos, path = folder / "photos", folder / "c"
    write_photos(photos, 12)
    (photos / "bad.jpg").write_bytes(b"bad")
    run(search("index", photos, "-i", path))
    next(photos.iterdir()).unlink()
    run(search("index", photos, "-i", path))
    before, tried, detections, unseen = contents(path), 0, 0, []
    for file in sorted(item for item in path.rglob("*") if item.is_file() and item.name != "writer.lock"):
        content = file.read_bytes()
        for place in range(options.seed % 7, len(content), 7):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
            tried += 1
            try:
                detected = bool(verify(path).faults)
            except CrosslookError:
                detected = True
            detections += detected
            try:
                same = contents(path) == before
            except CrosslookError:
                same = False
            if not detected and not same:
                unseen.append(f"{file.name}:{place}")
        file.write_bytes(content)
    verdict = "FAULT" if unseen else "ok"
    return f"{verdict}: {tried:,} flips, {detections:,} found by verify, {len(unseen)} unseen {unseen[:3]}"


def kills(folder: Path, options: argparse.Namespace) -> str:
    """Runs are killed after a random time; an uninterrupted run then ends their work."""
    rng, photos, path = random.Random(options.seed), folder / "photos", folder / "c"
    write_photos(photos, 300)
    script = (
        "import sys; from pathlib import Path; from retrieval.indexing import run; run.MANY_SEGMENTS = 3; "
        "from retrieval.indexing.settings import Settings; "
        "from retrieval.indexing.pipeline import index_folders; from tests.support import FakeEncoder; "
        "index_folders([sys.argv[1]], Path(sys.argv[2]), FakeEncoder(), Settings(commit_rows=16))"
    )
    command = [sys.executable, "-c", script, str(photos), str(path)]
    lost, committed = 0, 0
    for number in range(options.kills_decoder):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            now = len(Collection.open(path))
        except CrosslookError as error:
            now = 0 if "no collection" in str(error) else -1
        lost += now < committed
        committed = now
        if number % 4 == 3:  # new photos between two runs
            write_photos(photos, 40, first=1000 + 40 * number)
    subprocess.run(command, cwd=ROOT, check=True)
    twin = folder / "twin"
    subprocess.run([*command[:-1], str(twin)], cwd=ROOT, check=True)

    def by_path(collection: Path) -> list[object]:
        return sorted((row[1], row[4], row[-2]) for row in contents(collection))

    same = by_path(path) == by_path(twin)
    fine = same and not lost and not verify(path).faults
    return f"{'ok' if fine else 'FAULT'}: {options.kills_decoder} kills, {lost} commits lost, same as one run: {same}"


def threads(folder: Path, options: argparse.Namespace) -> str:
    script = ROOT / "tests" / "retrieval" / "engine_from_many_threads.py"
    command = [sys.executable, script, folder / "c", options.seconds]
    finished, peak = run(command, MALLOC_PERTURB_="165", MALLOC_CHECK_="3")
    verdict = "ok" if finished.returncode == 0 else "FAULT"
    answers = f"{finished.stdout.strip()} compared in {options.seconds:g} s"
    return f"{verdict}: {answers}, peak {peak:,.0f} MiB {finished.stderr[-200:]}"


STAGES: dict[str, Callable[[Path, argparse.Namespace], str]] = {
    "files": damaged_files,
    "hostile": hostile,
    "flips": flips,
    "kills": kills,
    "threads": threads,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", default=list(STAGES))
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in options.stages:
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            print(f"{name:<8} {STAGES[name](Path(folder), options)}", flush=True)


if __name__ == "__main__":
    main()
