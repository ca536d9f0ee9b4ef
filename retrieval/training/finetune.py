"""Fine-tuning of an open_clip model: both towers learn, and the result is an open_clip model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from open_clip.tokenizer import HFTokenizer

from indexes.errors import CrosslookError
from indexes.files import replace_durably
from retrieval.captions import CaptionSet, left_out_lines, stamp
from retrieval.progress import SILENT, Epoch, Observer
from retrieval.training import accelerator
from retrieval.training.data.contents import begun_with
from retrieval.training.data.photos import Captioned, present
from retrieval.training.data.tensors import save_tensors
from retrieval.training.learning.loop import LOG, learn, log_of, only_stages
from retrieval.training.learning.settings import TrainSettings
from retrieval.training.learning.towers_stage import TowersStage
from retrieval.training.parallel import from_rank_0, processes, rank
from retrieval.training.run import RUN, default_cache, enough, split_sets, steps_of
from retrieval.training.stored_names import stored_settings

if TYPE_CHECKING:
    from retrieval.encoders.openclip import OpenClipEncoder

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
PICTURES = "pictures.json"  # beside the checkpoints: the contents of the pictures that the run began with


def unfreeze(
    sets: Sequence[CaptionSet],
    encoder: OpenClipEncoder,
    out: Path,
    settings: TrainSettings,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    observer: Observer = SILENT,
) -> list[Epoch]:
    """Train both towers of a model, keep what is best on dev, and write it to `out` in open_clip's layout. Returns the
    history.

    cache: the folder on whose disk a GPU's run keeps decoded photos while it goes on, None for the user's cache.

    A run that is started again after a kill resumes from its last epoch. Unreadable images are left out and reported.
    Raises `CrosslookError` if there is too little to train on, or `out` holds a model or another run."""
    _keep_a_finished_model(out)
    (training, absent), (dev, absent_dev) = (present(part) for part in split_sets(sets))
    for line in left_out_lines([*absent, *absent_dev]):
        observer.note(line)
    enough(len(training), len(dev))
    only_stages(out / RUN, [TowersStage.name])
    with processes(device), torch.device(device):
        checksum = _checksum(training, dev, out / RUN, observer)
        key = [stored_settings(settings.towers), settings.itc, settings.seed, encoder.fingerprint, checksum]
        photos = cache if cache is not None else default_cache()
        kept_in = photos if accelerator.acceleration().keeps_photos else None
        stage = TowersStage(encoder, training, dev, settings, json.dumps(key, sort_keys=True), observer.note, kept_in)
        history = learn(stage, out / RUN, settings.seed, observer)
        is_first = rank() == 0
    if is_first:
        _write(encoder, stage, history, out)
        observer.note(f"use it with --model {out}; train a scorer for it with `search train --model {out}`")
    return history


def _checksum(training: Sequence[Captioned], dev: Sequence[Captioned], run: Path, observer: Observer) -> str:
    """Of the files, contents and captions that are trained on, and of those that are chosen by. run: the folder of the
    checkpoints."""
    contents: list[str] = []
    if rank() == 0:
        progress = steps_of("images compared with those seen before", observer)
        contents = begun_with(run / PICTURES, [*training, *dev], any(run.glob("*.safetensors")), progress)
    files = [
        [(stamp(captions, image), image.image, image.captions) for captions, image in part] for part in (training, dev)
    ]
    return hashlib.sha256(json.dumps([files, from_rank_0(contents)]).encode()).hexdigest()


def _keep_a_finished_model(out: Path) -> None:
    """Raises `CrosslookError` if `out` holds a model, unless it is of this very run, killed before it was done."""
    has_model = (out / CONFIG).exists() or (out / "config.json").exists()
    if has_model and not (out / RUN / f"{TowersStage.name}.safetensors").exists():
        raise CrosslookError(f"{out} holds a model, which would be lost: choose another --out")


def _write(encoder: OpenClipEncoder, stage: TowersStage, history: Sequence[Epoch], out: Path) -> None:
    """Write the model in open_clip's layout, its configuration last, and remove the checkpoints."""
    weights = {name: value.cpu().contiguous() for name, value in stage.module.state_dict().items()}
    save_tensors(weights, out / WEIGHTS)
    if isinstance(encoder.tokenizer, HFTokenizer):  # open_clip looks for the tokenizer beside the weights
        encoder.tokenizer.tokenizer.save_pretrained(out)
    config = {"model_cfg": encoder.config.get("model_cfg", encoder.config)}
    config["preprocess_cfg"] = encoder.model.visual.preprocess_cfg
    (out / LOG).write_text(log_of(history), encoding="utf-8")
    replace_durably(out / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    shutil.rmtree(out / RUN)
