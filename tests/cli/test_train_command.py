"""`search train`, from captioned photos to results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.captions import CaptionSet, read_captions
from tests.guarding import run_commands

pytestmark = pytest.mark.torch


@pytest.fixture
def sample_set(samples: Path, tmp_path: Path) -> CaptionSet:
    """The sample photos with two captions each, four of them in the dev split."""
    lines = [
        {"image": path.name, "captions": [path.stem, f"a photo of {path.stem}"], "split": "dev" if row < 4 else "train"}
        for row, path in enumerate(sorted(samples.iterdir()))
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(tmp_path / "captions.jsonl", images_dir=samples)


@pytest.mark.parametrize("made_of", ["lite", "open_clip"])
def test_the_command_trains_indexes_and_searches(search, sample_set, tmp_path, made_of, request):
    """The training runs in another process, guarded."""
    out, photos = tmp_path / "model", sample_set.images_dir
    options = ["--images", photos, "--epochs", 1, "--scorer-epochs", 1, "--views", 1]
    options += ["--cache", tmp_path / "cache", "--out", out]
    if made_of == "open_clip":
        options += ["--model", request.getfixturevalue("tiny_clip")]
    written = [tmp_path / name for name in ("model", "cache")]
    run = run_commands([["train", sample_set.source, *options]], tmp_path / "guarded", written)
    assert run.is_clean, run
    assert ("heads, epoch 1: itc" in run.output) == (made_of == "lite")
    assert "scorer, epoch 1: lm" in run.output and f"--model {out}" in run.output
    assert all((out / name).read_text().startswith("<svg") for name in ("run.svg", "reliability.svg"))
    path = tmp_path / "c"
    assert search("index", photos, "--model", out, index=path).returncode == 0
    assert len(search("a cup of coffee", index=path).stdout.splitlines()) == 10
    assert json.loads(search("a cup of coffee", "--json", index=path).stdout.splitlines()[0])["match"] is not None
    again = search("train", sample_set.source, "--images", photos, "--model", out, "--out", tmp_path / "other")
    assert again.returncode == 2 and "name `lite`, or a model of open_clip" in again.stderr
    assert search("train", sample_set.source, "--images", photos, "--images", photos, "--out", out).returncode == 2
    for wrong in (("--itc", 0 if made_of == "lite" else -1), ("--lm", -1), ("--members", 0)):
        refused = search("train", sample_set.source, *options, *wrong)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr


def test_lite_has_no_towers_to_train(search, sample_set, tmp_path):
    run = search("train", sample_set.source, "--unfreeze", "--out", tmp_path)
    assert run.returncode == 2 and "the towers of lite cannot learn" in run.stderr
