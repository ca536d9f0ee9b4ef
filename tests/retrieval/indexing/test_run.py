"""One run over a plan: commits, stops, kills and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from indexes.collection import Collection
from indexes.writer import CollectionWriter
from retrieval.encoders.base import ImageFeatures
from retrieval.indexing import pipeline, run
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from retrieval.progress import Observer, Progress
from tests.retrieval.indexing.contents import counts
from tests.support import FakeEncoder, PixelEncoder, write_photos


def test_an_early_stop_keeps_what_is_encoded_and_the_next_run_goes_on(photos, path, encoder):
    seen: list[Progress] = []
    observer = Observer(progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].new >= 4)
    stopped = index_folders([photos], path, encoder, Settings(commit_rows=100), observer)
    assert stopped.interrupted and 0 < stopped.new < 10
    assert len(Collection.open(path)) == stopped.new
    again = FakeEncoder()
    index_folders([photos], path, again)
    assert again.encoded == 10 - stopped.new
    assert len(Collection.open(path)) == 10


def test_a_commit_is_made_when_the_time_has_come(photos, path, encoder):
    generations = []
    observer = Observer(
        progress=lambda progress: generations.append(
            Collection.open(path).manifest.generation if (path / "CURRENT").exists() else 0
        )
    )
    index_folders([photos], path, encoder, Settings(commit_seconds=0), observer)
    assert max(generations) >= 2


def test_progress_counts_up_to_the_total(photos, path, encoder):
    seen: list[Progress] = []
    index_folders([photos], path, encoder, observer=Observer(progress=seen.append))
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == seen[-1].total == 10


def test_an_encoder_that_fails_loses_nothing_that_was_committed(photos, path, encoder, monkeypatch):
    real = encoder.encode_images

    def fail_later(prepared: Any) -> ImageFeatures:
        if encoder.encoded >= 8:
            raise RuntimeError("out of memory")
        return real(prepared)

    monkeypatch.setattr(encoder, "encode_images", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        index_folders([photos], path, encoder, Settings(commit_rows=4))
    assert len(Collection.open(path)) >= 4
    assert counts(index_folders([photos], path, FakeEncoder()))["new"] <= 6


@pytest.mark.parametrize("scenario", ["nothing", "change", "optimize"])
def test_a_kill_at_any_moment_loses_nothing_committed_and_the_next_run_ends_as_if_uninterrupted(tmp_path, scenario):
    script = Path(__file__).with_name("kill_at_every_write.py")
    done = subprocess.run([sys.executable, script, tmp_path, scenario], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20, "moments at which the run was killed"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Twelve times the images, with 200 kB of regions per image: if they were kept, they would take 220 MB more."""

    def peak_megabytes(count):
        write_photos(tmp_path / f"{count}", count)
        script = """
import resource, sys
from pathlib import Path
import numpy as np
from retrieval.encoders.base import ImageFeatures
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.settings import Settings
from tests.support import FakeEncoder

narrow = FakeEncoder()

class Wide(FakeEncoder):
    def __init__(self):
        super().__init__()
        self.region_shape = (100, 1000)

    def encode_images(self, prepared):
        features = narrow.encode_images(prepared)
        return ImageFeatures(features.embeddings, np.ones((len(prepared), 100, 1000), np.float16))

index_folders([sys.argv[1]], Path(sys.argv[2]), Wide(), Settings(commit_rows=32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
        command = [sys.executable, "-c", script, tmp_path / f"{count}", tmp_path / f"c{count}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        return int(done.stdout)

    assert peak_megabytes(1200) - peak_megabytes(100) < 60


def test_small_commits_of_a_run_end_as_one_segment(photos, path, encoder):
    index_folders([photos], path, encoder, Settings(commit_rows=2))
    assert len(Collection.open(path).manifest.segments) == 1


def test_a_commit_is_made_whenever_enough_rows_are_ready(photos, path, encoder):
    sizes = []
    observer = Observer(
        progress=lambda now: sizes.append(len(Collection.open(path)) if (path / "CURRENT").exists() else 0)
    )
    write_photos(photos, 30)
    index_folders([photos], path, encoder, Settings(commit_rows=8), observer)
    assert any(0 < size < 30 for size in sizes)


def test_a_stop_while_files_are_compared_changes_nothing(photos, path, encoder):
    index_folders([photos], path, encoder)
    generation = Collection.open(path).manifest.generation
    for photo in photos.iterdir():
        os.utime(photo, ns=(1, 1))
    stopped = index_folders([photos], path, encoder, observer=Observer(should_stop=lambda: True))
    assert stopped.interrupted
    assert Collection.open(path).manifest.generation == generation


def test_what_another_run_adds_while_this_one_waits_is_not_taken_for_gone(photos, path, encoder, monkeypatch):
    index_folders([photos], path, encoder)

    def late(*arguments):
        monkeypatch.setattr(pipeline, "CollectionWriter", CollectionWriter)
        write_photos(photos / "sub", 3, first=100)
        index_folders([photos / "sub"], path, FakeEncoder())
        return CollectionWriter(*arguments)

    monkeypatch.setattr(pipeline, "CollectionWriter", late)
    assert counts(index_folders([photos], path, encoder)) == {"unchanged": 13}


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each commit."""
    sizes: list[int] = []
    real = CollectionWriter.commit

    def commit(writer: CollectionWriter, batch: Any = None, **options: Any) -> None:
        sizes.append(0 if batch is None else len(batch.rows))
        real(writer, batch, **options)

    monkeypatch.setattr(CollectionWriter, "commit", commit)
    return sizes


def test_an_encoder_on_a_gpu_makes_few_commits_which_need_no_merging(photos, path, commits):
    write_photos(photos, 200)
    index_folders([photos], path, PixelEncoder(), Settings(commit_rows=8))
    made = [size for size in commits if size]
    assert made[0] > 100 and sum(made) == 200
    assert all(size > sum(made[index + 1 :]) for index, size in enumerate(made))
    assert len(Collection.open(path).manifest.segments) == len(made) < 6


@pytest.mark.parametrize("limit", ["FAST_COMMIT_SECONDS", "FAST_COMMIT_BYTES"])
def test_what_an_encoder_on_a_gpu_commits_at_once_is_bounded(photos, path, commits, monkeypatch, limit):
    monkeypatch.setattr(run, limit, 0)
    write_photos(photos, 200)
    index_folders([photos], path, PixelEncoder(), Settings(commit_rows=8))
    assert max(commits) <= 8 + PixelEncoder.batch_size and sum(commits) == 200
