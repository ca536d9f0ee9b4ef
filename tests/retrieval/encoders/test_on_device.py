"""Preprocessing by torch against Pillow's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.encoders.preprocessing import Preprocessing
from retrieval.encoders.resampling import resampling_matrix
from retrieval.images import Photo

pytestmark = pytest.mark.torch
SIZES = [(640, 480), (480, 640), (224, 224), (30, 20), (300, 100), (100, 300), (1000, 37)]
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_it_is_what_pillow_makes_but_for_ties(squash, interpolation):
    import torch

    from retrieval.encoders.on_device import DevicePreprocessing

    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in [*SIZES, *SIZES[:3]]]
    preprocessing = Preprocessing(224, interpolation, squash, MEAN, STD)
    expected = np.stack([preprocessing(Photo(pixels, pixels.shape[1], pixels.shape[0], None)) for pixels in photos])
    inputs = DevicePreprocessing(preprocessing, torch.device("cpu"))(photos).numpy()
    levels = np.abs(inputs - expected) * np.array(STD)[:, None, None] * 255
    assert levels.max() < 1.01 and (levels > 0.5).mean() < (1e-3 if interpolation == "bicubic" else 3e-3)


EXTREME = [(1, 50), (50, 1), (3000, 20), (20, 3000), (5000, 3), (3, 5000), (30_000, 48), (48, 30_000), (1, 1)]


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", EXTREME, ids=str)
def test_long_and_narrow_photos_are_what_pillow_makes_but_for_ties(squash, interpolation, size):
    import torch

    from retrieval.encoders.on_device import DevicePreprocessing

    width, height = size
    side = 64
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocessing = Preprocessing(side, interpolation, squash, MEAN, STD)
    levels = DevicePreprocessing(preprocessing, torch.device("cpu")).levels([pixels])[0].permute(1, 2, 0).numpy()
    differences = np.abs(levels - preprocessing.levels(pixels))
    assert differences.max() <= 1 and (differences > 0).mean() < 1e-2


def test_a_long_photo_is_resized_with_little_memory(monkeypatch):
    """Of a crop, matrices are made only for the part that it shows."""
    import torch

    from retrieval.encoders import on_device

    made = []

    def noted(*arguments):
        made.append(resampling_matrix(*arguments))
        return made[-1]

    monkeypatch.setattr(on_device, "resampling_matrix", noted)
    preprocess = on_device.DevicePreprocessing(Preprocessing(224, "bicubic", False, MEAN, STD), torch.device("cpu"))
    preprocess.levels([np.zeros((3, 5000, 3), np.uint8), np.zeros((480, 30_000, 3), np.uint8)])
    assert max(matrix.nbytes for matrix in made) < 1_000_000


@pytest.mark.parametrize("limit", ["LONGEST_SIDE", "PIXELS_AT_ONCE"])
def test_what_is_too_large_for_the_device_is_resized_by_pillow(monkeypatch, limit):
    import torch

    from retrieval.encoders import on_device

    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in [(40, 30), (900, 50)]]
    preprocessing = Preprocessing(16, "bicubic", True, MEAN, STD)
    preprocess = on_device.DevicePreprocessing(preprocessing, torch.device("cpu"))
    lengths = []

    def noted(length, *others):
        lengths.append(length)
        return resampling_matrix(length, *others)

    monkeypatch.setattr(on_device, limit, {"LONGEST_SIDE": 800, "PIXELS_AT_ONCE": 40_000}[limit])
    monkeypatch.setattr(on_device, "resampling_matrix", noted)
    levels = preprocess.levels(photos)
    assert sorted(lengths) == [30, 40]
    np.testing.assert_array_equal(levels[1].permute(1, 2, 0).numpy(), preprocessing.levels(photos[1]))


def test_no_photos_give_no_inputs():
    import torch

    from retrieval.encoders.on_device import DevicePreprocessing

    preprocessing = Preprocessing(32, "bicubic", False, MEAN, STD)
    assert DevicePreprocessing(preprocessing, torch.device("cpu"))([]).shape == (0, 3, 32, 32)


def test_pixels_in_registered_memory_are_sent_as_they_are(monkeypatch):
    import torch

    from retrieval.encoders import on_device

    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in [*SIZES, *SIZES[:3]]]
    preprocess = on_device.DevicePreprocessing(Preprocessing(32, "bicubic", False, MEAN, STD), torch.device("cpu"))
    expected = preprocess.levels(photos).numpy()
    monkeypatch.setattr(on_device, "is_registered", lambda photo: True)
    np.testing.assert_array_equal(preprocess.levels(photos).numpy(), expected)


def test_more_pixels_than_fit_at_once_are_resized_in_turn(monkeypatch):
    import torch

    from retrieval.encoders import on_device

    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (30 + index % 2, 40, 3), dtype=np.uint8) for index in range(9)]
    preprocess = on_device.DevicePreprocessing(Preprocessing(16, "bilinear", False, MEAN, STD), torch.device("cpu"))
    expected = preprocess(photos).numpy()
    monkeypatch.setattr(on_device, "PIXELS_AT_ONCE", 2500)
    np.testing.assert_allclose(preprocess(photos).numpy(), expected, atol=1e-6)


def matrices_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of all calls of `resampling_matrix`, as they come."""
    made = []

    def noted(*key: Any) -> Any:
        made.append(key)
        return resampling_matrix(*key)

    monkeypatch.setattr("retrieval.encoders.on_device.resampling_matrix", noted)
    return made


def test_photos_of_many_sizes_keep_the_matrices_that_fit(monkeypatch):
    import torch

    from retrieval.encoders import on_device

    made = matrices_made(monkeypatch)
    photos = [np.full((30 + 7 * index, 40, 3), index, np.uint8) for index in range(9)]
    for kept, expected in ((1, 18 + 18), (on_device.KEPT_BYTES, 10)):
        made.clear()
        monkeypatch.setattr(on_device, "KEPT_BYTES", kept)
        preprocess = on_device.DevicePreprocessing(Preprocessing(16, "bicubic", True, MEAN, STD), torch.device("cpu"))
        for _ in range(2):
            inputs = preprocess.levels(photos).numpy()
            assert [np.unique(image).tolist() for image in inputs] == [[index] for index in range(9)]
        assert len(made) == expected


def test_matrices_of_several_hundred_sizes_are_kept_for_all_threads(monkeypatch):
    import torch

    from retrieval.encoders import on_device

    made = matrices_made(monkeypatch)
    preprocess = on_device.DevicePreprocessing(Preprocessing(8, "bicubic", True, MEAN, STD), torch.device("cpu"))
    photos = [np.full((20 + index, 500 + index, 3), index % 256, np.uint8) for index in range(300)]
    preprocess.levels(photos)
    assert len(made) == 600
    with ThreadPoolExecutor(2) as threads:
        for inputs in threads.map(preprocess.levels, [photos, photos[::-1]]):
            assert inputs.shape == (300, 3, 8, 8)
    assert len(made) == 600


def test_results_are_fetched_as_arrays():
    import torch

    from retrieval.encoders.on_device import fetched, separate_stream

    with separate_stream(torch.device("cpu")):
        arrays = fetched(torch.arange(6).reshape(2, 3).T, torch.ones(2, dtype=torch.float16))
    assert arrays[0].tolist() == [[0, 3], [1, 4], [2, 5]] and arrays[1].dtype == np.float16
