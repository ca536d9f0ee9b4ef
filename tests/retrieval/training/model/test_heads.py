"""What the heads read, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def heads():
    import torch

    from retrieval.training.model.heads import Heads, HeadSettings

    torch.manual_seed(0)
    classes = torch.nn.functional.normalize(torch.randn(1000, 384), dim=-1)
    return Heads(classes, HeadSettings(ensemble=2, hidden=32, region_dim=16, token_dim=16)).eval()


def test_cells_hold_what_lies_in_them():
    import torch

    from retrieval.training.data.cells import Cells
    from retrieval.training.data.sizes import CELLS, CHANNELS

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    shapes = ((2, 48, 28, 28), (2, 120, 14, 14), (2, 672, 7, 7))
    maps = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    cells = Cells()(torch.from_numpy(pixels), *map(torch.from_numpy, maps)).numpy()
    assert cells.shape == (2, CELLS, CHANNELS)
    stride8, stride16, stride32 = maps
    for row, column in ((0, 0), (2, 5), (6, 6)):
        cell = cells[1, 7 * row + column]
        np.testing.assert_array_equal(cell[:672], stride32[1, :, row, column])
        np.testing.assert_array_equal(
            cell[672:1152], stride16[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1)
        )
        fine = stride8[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(48, 2, 2, 2, 2).mean((2, 4))
        np.testing.assert_allclose(cell[1152:1344], fine.reshape(-1), atol=1e-6)
        colour = pixels[1, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32].reshape(-1, 3) / 127.5 - 1
        np.testing.assert_allclose(cell[1344:1347], colour.mean(0), atol=1e-5)
        np.testing.assert_allclose(cell[1347:1350], colour.std(0), atol=1e-5)


def test_embeddings_are_unit_norm_and_differ_within_the_ensemble(heads):
    import torch

    cells, logits = torch.randn(3, 49, 1350), torch.randn(3, 1000)
    first, second = heads.images(cells, logits, logits)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))
    assert (first - second).abs().max() > 0.01
    tokens, mask = torch.randn(3, 5, 768), torch.ones(3, 5, dtype=torch.bool)
    first, second = heads.texts(torch.randn(3, 384), tokens, mask)
    torch.testing.assert_close(second.norm(dim=1), torch.ones(3))
    assert (first - second).abs().max() > 0.01


def test_without_their_residuals_the_heads_give_what_the_towers_give(heads):
    import torch

    image, text = heads.image[0], heads.text[0]
    for layer in (
        image.pooled_perceptron[-1],
        image.pool_projection[-1],
        text.embedding_perceptron[-1],
        text.pool_projection[-1],
    ):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    logits = torch.randn(3, 1000)
    conse = torch.nn.functional.normalize(logits.softmax(-1) @ heads.class_embeddings, dim=-1)
    torch.testing.assert_close(heads.images(torch.randn(3, 49, 1350), torch.randn(3, 1000), logits)[0], conse)
    of_text = torch.nn.functional.normalize(torch.randn(2, 384), dim=-1)
    torch.testing.assert_close(
        heads.texts(of_text, torch.randn(2, 4, 768), torch.ones(2, 4, dtype=torch.bool))[0], of_text
    )


def test_padding_changes_nothing(heads):
    import torch

    text, tokens = torch.randn(1, 384), torch.randn(1, 4, 768)
    padded = torch.cat([tokens, torch.randn(1, 3, 768)], dim=1)
    mask = torch.arange(7)[None] < 4
    unpadded = heads.texts(text, tokens, mask[:, :4])
    for embedding, expected in zip(heads.texts(text, padded, mask), unpadded, strict=True):
        torch.testing.assert_close(embedding, expected)


def test_inputs_have_mean_zero_and_deviation_one():
    import torch

    from retrieval.training.data.inputs import Inputs, input_statistics

    cells, logits = 3 + 5 * torch.randn(50, 49, 1350), 2 * torch.randn(50, 1000) - 1
    cells, logits = Inputs(input_statistics(cells, logits))(cells, logits)
    for values in (cells.flatten(0, 1), logits):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(0), torch.ones(values.shape[1]), atol=2e-3, rtol=0)
