"""A run that an older version began goes on: names in a checkpoint and its key stay, whatever the code calls them.

`checkpoints.json` was written by the first version that has checkpoints of this format: by stage the run's key, and the
names and shapes of the module's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.retrieval.training.made_up import classes, made_up, settings

pytestmark = pytest.mark.torch

BY_STAGE = json.loads((Path(__file__).parent / "checkpoints.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the checkpoints of a run of one epoch."""
    from retrieval.training.learning.train import train

    out = tmp_path_factory.mktemp("run")
    train(made_up(40), made_up(20, seed=1), classes(), out, settings(epochs=1))
    return out


@pytest.mark.parametrize("stage", BY_STAGE)
def test_the_key_of_a_run_is_that_of_an_older_version(run, stage):
    from retrieval.training.data.tensors import load_tensors

    _, metadata = load_tensors(run / f"{stage}.safetensors")
    written = BY_STAGE[stage]
    assert metadata["key"] == f"{json.dumps(written['key'], sort_keys=True)}, {written['processes']}"


@pytest.mark.parametrize("stage", BY_STAGE)
@pytest.mark.parametrize("part", ["model", "average", "best"])
def test_the_tensors_of_a_checkpoint_have_the_names_of_an_older_version(run, stage, part):
    from retrieval.training.data.tensors import load_tensors

    tensors, _ = load_tensors(run / f"{stage}.safetensors")
    prefix = f"{part}."
    shapes = {name.removeprefix(prefix): [*value.shape] for name, value in tensors.items() if name.startswith(prefix)}
    assert shapes == BY_STAGE[stage]["tensors"]


def test_the_checkpoint_of_a_tower_has_the_names_of_open_clip():
    from retrieval.training.learning.towers_stage import TowersStage

    name = "visual.transformer.resblocks.0.attn.out_proj.weight"  # a part that has another name in `stored_names`
    assert TowersStage.stored_name(name) == name
