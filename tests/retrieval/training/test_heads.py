"""What the heads read, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def heads():
    import torch

    from retrieval.training.cells import CELLS, CHANNELS
    from retrieval.training.heads import Heads, HeadSettings, input_statistics

    torch.manual_seed(0)
    classes = torch.nn.functional.normalize(torch.randn(1000, 384), dim=-1)
    statistics = input_statistics(torch.randn(8, CELLS, CHANNELS), torch.randn(8, 1000))
    return Heads(classes, statistics, HeadSettings(hidden=32, regions=16, words=16)).eval()


def test_cells_hold_what_lies_in_them():
    import torch

    from retrieval.training.cells import CELLS, CHANNELS, Cells

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    shapes = ((2, 40, 28, 28), (2, 112, 14, 14), (2, 320, 7, 7))
    maps = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    found = Cells()(torch.from_numpy(pixels), *map(torch.from_numpy, maps)).numpy()
    assert found.shape == (2, CELLS, CHANNELS)
    stride8, stride16, stride32 = maps
    for row, column in ((0, 0), (2, 5), (6, 6)):
        cell = found[1, 7 * row + column]
        np.testing.assert_array_equal(cell[:320], stride32[1, :, row, column])
        np.testing.assert_array_equal(
            cell[320:768], stride16[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1)
        )
        fine = stride8[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(40, 2, 2, 2, 2).mean((2, 4))
        np.testing.assert_allclose(cell[768:928], fine.reshape(-1), atol=1e-6)
        colour = pixels[1, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32].reshape(-1, 3) / 127.5 - 1
        np.testing.assert_allclose(cell[928:931], colour.mean(0), atol=1e-5)
        np.testing.assert_allclose(cell[931:934], colour.std(0), atol=1e-5)


def test_embeddings_are_unit_norm(heads):
    import torch

    found = heads.image(torch.randn(3, 49, 934), torch.randn(3, 1000))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    words, mask = torch.randn(3, 5, 384), torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(heads.text(torch.randn(3, 384), words, mask).norm(dim=1), torch.ones(3))


def test_without_their_residuals_the_heads_give_what_the_towers_give(heads):
    import torch

    for layer in (heads.image.pooled[-1], heads.image.attended[-1], heads.text.whole[-1], heads.text.attended[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    logits = torch.randn(3, 1000)
    conse = torch.nn.functional.normalize(logits.softmax(-1) @ heads.image.class_embeddings, dim=-1)
    torch.testing.assert_close(heads.image(torch.randn(3, 49, 934), logits), conse)
    text = torch.nn.functional.normalize(torch.randn(2, 384), dim=-1)
    torch.testing.assert_close(heads.text(text, torch.randn(2, 4, 384), torch.ones(2, 4, dtype=torch.bool)), text)


def test_padding_changes_nothing(heads):
    import torch

    text, words = torch.randn(1, 384), torch.randn(1, 4, 384)
    padded = torch.cat([words, torch.randn(1, 3, 384)], dim=1)
    mask = torch.arange(7)[None] < 4
    torch.testing.assert_close(heads.text(text, padded, mask), heads.text(text, words, mask[:, :4]))
