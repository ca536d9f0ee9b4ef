"""The state of a run on disk: torn, it is computed again; on a full disk, the one before stays."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.progress import Observer

pytestmark = pytest.mark.torch


def stage(key="settings and data", epochs=3):
    """Learns to give one, from noise."""
    import torch

    from retrieval.training.learning.schedule import Schedule

    torch.manual_seed(0)

    class Stage:
        name = "tiny"
        module = torch.nn.Linear(3, 1)
        schedule = Schedule(epochs=epochs, batch=2, captions=1)
        steps = 2
        patient_from = 0

        def __init__(self):
            self.weights = {"error": 1.0}
            self.key = key

        def begin(self, number, rng):
            pass

        def draw(self, rng):
            return rng.normal(size=(4, 3)).astype(np.float32)

        def load(self, drawn):
            return {"inputs": torch.from_numpy(drawn)}

        def losses(self, batch):
            return {"error": (self.module(batch["inputs"]) - 1).square().mean()}

        def spare_memory(self):
            return False

        def stored_name(self, name):
            return name

        def clamp(self):
            pass

        def judge(self, module):
            return {"quality": float(module.bias)}

    return Stage()


def learnt(out, *, key="settings and data", observer=None, epochs=3):
    """The weights that a run ends in, its history and its notes."""
    from retrieval.training.learning.loop import learn

    notes: list[str] = []
    learner = stage(key, epochs)
    history = learn(learner, out, 0, observer or Observer(note=notes.append))
    weights = {name: value.clone() for name, value in learner.module.state_dict().items()}
    return weights, history, notes


def same(weights, expected):
    return all((weights[name] == value).all() for name, value in expected.items())


def resaved(path, **metadata):
    """Replace a file's metadata; None removes an entry."""
    from retrieval.training.data.tensors import load_tensors, save_tensors

    tensors, before = load_tensors(path)
    after = {name: value for name, value in (before | metadata).items() if value is not None}
    save_tensors(tensors, path, after)


DAMAGES = {
    "empty": lambda path: os.truncate(path, 0),
    "a torn header": lambda path: os.truncate(path, 20),
    "torn in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "without its last byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "something else": lambda path: path.write_bytes(b"no weights, but a text of some length"),
    "no history": lambda path: resaved(path, history=None),
    "a history that is none": lambda path: resaved(path, history="3"),
    "a history of other things": lambda path: resaved(path, history=json.dumps([{"colour": "red"}])),
    "no key": lambda path: resaved(path, key=None),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_begins_the_stage_anew_and_says_so(tmp_path, damage):
    expected, history, _ = learnt(tmp_path)
    damage(tmp_path / "tiny.safetensors")
    weights, again, notes = learnt(tmp_path)
    assert same(weights, expected) and again == history
    assert len(notes) == 1 and "tiny.safetensors is damaged" in notes[0]


def test_a_whole_checkpoint_is_gone_on_from_in_silence(tmp_path):
    expected, history, _ = learnt(tmp_path)
    events: list[object] = []
    weights, again, _ = learnt(tmp_path, observer=Observer(note=events.append, epoch=events.append))
    assert same(weights, expected) and again == history and events == []


def test_a_checkpoint_of_other_pictures_is_refused_and_stays(tmp_path):
    learnt(tmp_path)
    before = (tmp_path / "tiny.safetensors").read_bytes()
    with pytest.raises(CrosslookError, match="other settings or data: choose another --out"):
        learnt(tmp_path, key="other data")
    assert (tmp_path / "tiny.safetensors").read_bytes() == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_now_is_not_begun_anew(tmp_path, monkeypatch, code):
    import pathlib

    learnt(tmp_path)
    before, real = (tmp_path / "tiny.safetensors").read_bytes(), pathlib.Path.open

    def fail(path, mode="r", **options):
        if path.suffix == ".safetensors" and mode == "rb":
            raise OSError(code, os.strerror(code), str(path))
        return real(path, mode, **options)

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(pathlib.Path, "open", fail)
        learnt(tmp_path)
    assert (tmp_path / "tiny.safetensors").read_bytes() == before


@pytest.mark.parametrize("spares", [True, False])
def test_where_memory_is_short_a_stage_spares_it_or_ends_in_one_line(tmp_path, spares):
    import torch

    from retrieval.training.learning.loop import learn

    expected, history, _ = learnt(tmp_path / "enough")
    learner, calls = stage(), []
    losses = learner.losses

    def short_of_memory(batch):
        calls.append("losses")
        if calls == ["losses"] * 3 or (not spares and len(calls) > 3):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return losses(batch)

    def spare_memory():
        calls.append("spare")
        return spares

    learner.losses, learner.spare_memory = short_of_memory, spare_memory
    if spares:
        assert learn(learner, tmp_path / "run", 0) == history and same(learner.module.state_dict(), expected)
        assert calls.count("spare") == 1 and calls.count("losses") == 7
    else:
        with pytest.raises(CrosslookError, match="^tiny: the GPU has too little free memory"):
            learn(learner, tmp_path / "run", 0)


def test_a_gpu_too_small_for_a_batch_ends_in_one_line(tmp_path):
    import torch

    from retrieval.training.learning.loop import learn

    def load(drawn):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    learner = stage()
    learner.load = load
    with pytest.raises(CrosslookError, match="^tiny: the GPU has too little free memory: use --device cpu$"):
        learn(learner, tmp_path, 0)


def full(*arguments, **options):
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_by_number(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("part", "fail"), [("save_file", full), ("save_file", full_by_number), ("put_durably", full_by_number)]
)
def test_on_a_full_disk_the_checkpoint_before_stays(tmp_path, monkeypatch, part, fail):
    from retrieval.training.data import tensors

    out = tmp_path / "run"

    class Killed(Exception):
        pass

    def kill(epoch):
        raise Killed

    with pytest.raises(Killed):
        learnt(out, observer=Observer(epoch=kill))
    before = (out / "tiny.safetensors").read_bytes()
    with monkeypatch.context() as patched, pytest.raises(CrosslookError) as raised:
        patched.setattr(tensors, part, fail)
        learnt(out)
    assert str(raised.value).startswith(f"cannot write to {out}: the disk is full; ")
    assert [path.name for path in out.iterdir()] == ["tiny.safetensors"]
    assert (out / "tiny.safetensors").read_bytes() == before
    assert same(learnt(out)[0], learnt(tmp_path / "uninterrupted")[0])


def test_weights_are_readable_to_all_and_round_trip(tmp_path):
    import torch

    from retrieval.training.data.tensors import load_tensors, save_tensors

    save_tensors({"weights": torch.arange(3.0)}, tmp_path / "weights", {"made": "here"})
    tensors, metadata = load_tensors(tmp_path / "weights")
    assert tensors["weights"].tolist() == [0, 1, 2] and metadata == {"made": "here"}
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o644
