"""Several processes that train one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

GRADIENTS = """
import sys
from pathlib import Path
import torch
from retrieval.training.parallel import average_gradients, from_rank_0, processes, rank, world

with processes("cpu"):
    assert world() == 2
    layer = torch.nn.Linear(2, 1, bias=False)
    unused = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1)
    (layer(torch.full((1, 2), 1.0 + 2 * rank())) ** 1).sum().backward()
    average_gradients([*layer.parameters(), *unused.parameters()])
    values = [layer.weight.grad.tolist(), unused.weight.grad.tolist(), from_rank_0(rank())]
    Path(sys.argv[1], str(rank())).write_text(str(values))
assert world() == 1 and rank() == 0
"""


BUCKETS = """
import sys
from pathlib import Path
import torch
from torch import distributed
from retrieval.training import parallel

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.GELU(), torch.nn.Conv1d(9, 4, 1), torch.nn.Linear(1, 3))
model.append(torch.nn.Linear(3, 1))
model[2].to(torch.float32)
inputs = torch.randn(8, 6)

def gradients(rows):
    model.zero_grad()
    hidden = model[2](model[1](model[0](inputs[rows])).unsqueeze(-1))
    model[3](hidden).square().mean().backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]

one_process = gradients(slice(None))
with parallel.processes("cpu"):
    rank = parallel.rank()
    local = gradients(slice(4 * rank, 4 * rank + 4))
    slow = []  # one parameter after the other
    for gradient, parameter in zip(local, model.parameters()):
        mean = torch.zeros_like(parameter) if gradient is None else gradient.clone()
        distributed.all_reduce(mean)
        slow.append(mean / 2)
    for bucket in (1, 20, 60, 10**9):
        parallel.BUCKET = bucket
        gradients(slice(4 * rank, 4 * rank + 4))
        parallel.average_gradients(model.parameters())
        for parameter, mean, expected in zip(model.parameters(), slow, one_process):
            assert torch.equal(parameter.grad, mean), bucket
            torch.testing.assert_close(mean, torch.zeros_like(mean) if expected is None else expected)
    Path(sys.argv[1], f"done {rank}").touch()
"""


ROOT = Path(__file__).parents[3]


def torchrun(*words, **changes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the tree under test, and no installed one
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, **changes)


def test_gradients_are_the_mean_of_all_processes_and_the_first_is_heard(tmp_path):
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    run = torchrun(tmp_path / "gradients.py", tmp_path)
    assert run.returncode == 0, run.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["[[[2.0, 2.0]], [[0.0]], 0]"] * 2


def test_gradients_in_buckets_are_those_one_by_one_and_those_of_one_process(tmp_path):
    (tmp_path / "buckets.py").write_text(BUCKETS)
    run = torchrun(tmp_path / "buckets.py", tmp_path)
    assert run.returncode == 0, run.stderr
    assert all((tmp_path / f"done {rank}").exists() for rank in range(2))


def test_one_process_is_left_alone():
    import torch

    from retrieval.training.parallel import average_gradients, from_rank_0, processes, rank, world

    with processes("cpu"):
        weight = torch.nn.Parameter(torch.ones(1))
        average_gradients([weight])
        assert (weight.grad, from_rank_0("value"), rank(), world()) == (None, "value", 0, 1)


TRAIN = """
import json, sys
from pathlib import Path
from retrieval.training.parallel import processes, rank
from retrieval.training.learning.train import train
from retrieval.progress import Observer
from tests.retrieval.training.made_up import classes, made_up, settings

with processes("cpu"):
    out, end = Path(sys.argv[1]), int(sys.argv[3])
    kill = lambda epoch: epoch.number == end and sys.exit(1)
    chosen, observer = settings(epochs=int(sys.argv[2])), Observer(epoch=kill)
    model, history = train(made_up(200), made_up(40, seed=1), classes(), out, chosen, observer)
    total = sum(value.double().sum().item() for value in model.state_dict().values())
    (out / f"{rank()}.json").write_text(json.dumps([total, [epoch.dev for epoch in history]]))
"""


def test_processes_stay_alike_learn_and_go_on_after_a_kill(tmp_path):
    import json

    (tmp_path / "train.py").write_text(TRAIN)
    out = tmp_path / "out"

    def run(out, killed_after=-1):
        return torchrun(tmp_path / "train.py", out, 4, killed_after)

    def results(out):
        return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]

    uninterrupted, part = run(out), run(tmp_path / "part", killed_after=1)
    assert uninterrupted.returncode == 0 and part.returncode != 0, uninterrupted.stderr
    first, second = results(out)
    assert first == second
    of_heads = [figures["text -> image"] for figures in first[1] if "text -> image" in figures]
    assert max(of_heads) > max(0.5, 1.5 * of_heads[0])
    for again in (out, tmp_path / "part"):  # one that has nothing left to do, and one that has
        resumed = run(again)
        assert resumed.returncode == 0, resumed.stderr
        assert results(again) == [first, second]
