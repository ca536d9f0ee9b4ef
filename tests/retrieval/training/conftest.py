"""Fixtures for tests of training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from retrieval.captions import CaptionSet, read_captions
from retrieval.samples import gather_samples
from tests.retrieval.training.scorers import rounded_scorer, trained_scorer

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.data.features import Features
    from retrieval.training.model.model import Model


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory: pytest.TempPathFactory) -> CaptionSet:
    """The sample photos with two captions each, four of them in the dev split. Do not change the files."""
    folder = tmp_path_factory.mktemp("samples")
    paths = gather_samples(folder / "photos")
    lines = [
        {"image": path.name, "captions": [path.stem, f"a photo of {path.stem}"], "split": "dev" if row < 4 else "train"}
        for row, path in enumerate(sorted(paths))
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_captions(folder / "captions.jsonl", images_dir=folder / "photos")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers are small here, and threads that wait for one another take longer, on a busy machine many times."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def without_gradients() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Features, Model]:
    """See `trained_scorer`. Do not change the model."""
    return trained_scorer(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def rounded(trained: tuple[Features, Model]) -> tuple[Features, Model, Tensor]:
    """See `rounded_scorer`. Do not change the model."""
    return rounded_scorer(*trained)
