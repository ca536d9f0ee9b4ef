"""Resizing by matrices against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from retrieval.encoders.resampling import columns_first, columns_used, resampling_matrix


def resized(pixels, width, height, interpolation):
    """uint8 [height, width, 3], in float64: the definition."""
    across = resampling_matrix(pixels.shape[1], width, interpolation).astype(np.float64)
    down = resampling_matrix(pixels.shape[0], height, interpolation).astype(np.float64)
    passes = [("ow,hwc->hoc", across), ("oh,hwc->owc", down)]
    if columns_first(pixels.shape[1], pixels.shape[0], width, height):
        passes.reverse()
    for indices, weights in passes:
        pixels = np.clip(np.floor(np.einsum(indices, weights, pixels) + 0.5), 0, 255)
    return pixels


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("width", "height", "new_width", "new_height"),
    [
        (640, 480, 298, 224),
        (480, 640, 224, 298),
        (37, 1000, 224, 224),
        (3, 2, 224, 224),
        (100, 300, 224, 224),
        (300, 600, 299, 100),
        (600, 300, 500, 100),
        (224, 224, 224, 224),
        (999, 501, 447, 224),
    ],
)
def test_it_is_pillows_resizing(width, height, new_width, new_height, interpolation):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling[interpolation.upper()])
    difference = np.abs(resized(pixels, new_width, new_height, interpolation) - np.asarray(expected, dtype=np.float64))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-5


def test_weights_sum_to_one():
    assert np.allclose(resampling_matrix(500, 224, "bicubic").sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("length", "resized"), [(500, 224), (3, 3000), (1, 50), (50, 1), (4000, 37)])
def test_a_part_is_that_of_all_weights(length, resized, interpolation):
    matrix = resampling_matrix(length, resized, interpolation)
    rows = range(resized // 3, resized // 3 + max(1, resized // 5))
    columns = columns_used(length, resized, interpolation, rows)
    part = resampling_matrix(length, resized, interpolation, rows, columns)
    np.testing.assert_array_equal(part, matrix[rows.start : rows.stop, columns.start : columns.stop])
    assert np.count_nonzero(part) == np.count_nonzero(matrix[rows.start : rows.stop])


def test_weights_of_a_long_row_take_little_memory():
    """All weights of this pass would take 15 GB."""
    rows = range(186_554, 186_778)
    columns = columns_used(5000, 373_333, "bicubic", rows)
    assert resampling_matrix(5000, 373_333, "bicubic", rows, columns).shape == (224, len(columns)) and len(columns) < 10
