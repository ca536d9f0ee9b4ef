"""`search train`, from captioned photos to results."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from indexes.errors import CrosslookError
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
    if made_of == "open_clip":  # the checksum of its weights is remembered
        written.append(tmp_path / "guarded" / "surroundings" / "XDG_CACHE_HOME" / "crosslook")
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


def test_an_unknown_device_is_refused(search, sample_set, tmp_path):
    for more in ([], ["--unfreeze", "--model", "ViT-B-32:openai"]):
        run = search("train", sample_set.source, *more, "--device", "tpu", "--out", tmp_path / "out")
        assert run.returncode == 2 and "tpu is not auto, cpu or cuda" in run.stderr
        assert len(run.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_each_process_takes_another_gpu_before_a_model_is_loaded(monkeypatch, tmp_path):
    import torch

    from cli.commands import app
    from retrieval.encoders import openclip_loading
    from retrieval.training.parallel import take_gpu

    calls: list[object] = []

    def load(name: str, device: str) -> None:
        calls.append(("load", name, device))
        raise KeyboardInterrupt

    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(openclip_loading, "load_openclip", load)
    (tmp_path / "captions.jsonl").touch()
    arguments = [
        "train",
        str(tmp_path / "captions.jsonl"),
        "--model",
        "ViT-B-32:openai",
        "--out",
        str(tmp_path / "out"),
    ]
    with suppress(KeyboardInterrupt, SystemExit):
        app(arguments, standalone_mode=False)
    assert calls == [2, ("load", "ViT-B-32:openai", "cuda")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(CrosslookError, match="more processes than GPUs: --nproc-per-node 2"):
        take_gpu()
