"""The image tower as it works on a GPU: on torch's CPU device, by the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.images import Photo
from tests.retrieval.encoders.small_gpu import SmallGpu

pytestmark = pytest.mark.torch
SIZES = [(300, 200), (120, 500), (64, 64), (640, 480), (65, 64), (300, 200)]


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    rng = np.random.default_rng(0)
    return [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None) for width, height in SIZES
    ]


@cache
def encoder_of(name: str, takes_pixels: bool, half: bool = False, **preprocessing: Any) -> Any:
    """With random weights from a fixed seed."""
    import open_clip
    import torch

    from retrieval.encoders.openclip import OpenClipEncoder

    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=None)
    model.visual.preprocess_cfg |= preprocessing
    tokenizer = open_clip.get_tokenizer(name)
    return OpenClipEncoder(name, model, preprocess, tokenizer, {}, "cpu", half, takes_pixels)


def features(encoder: Any, photos: Sequence[Photo]) -> Any:
    return encoder.encode_images([encoder.prepare(photo) for photo in photos])


def assert_near(encoder: Any, expected: Any, least_cosine: float) -> None:
    assert encoder.embeddings.shape == expected.embeddings.shape and encoder.regions.shape == expected.regions.shape
    assert encoder.embeddings.dtype == np.float32 and encoder.regions.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(encoder.embeddings, axis=1), 1, atol=1e-5)
    assert (encoder.embeddings * expected.embeddings).sum(axis=1).min() > least_cosine
    regions, others = encoder.regions.astype(np.float64), expected.regions.astype(np.float64)
    assert np.linalg.norm(regions - others) < 10 * (1 - least_cosine) ** 0.5 * np.linalg.norm(others)


@pytest.mark.parametrize(
    ("name", "half", "least_cosine"),
    [("ViT-B-32", False, 0.99999), ("ViT-B-32", True, 0.9995), ("RN50", True, 0.999), ("MobileCLIP2-S0", True, 0.999)],
)
def test_photos_that_the_device_resizes_become_what_open_clip_makes_of_them(name, half, least_cosine, photos):
    on_host, on_device = encoder_of(name, takes_pixels=False), encoder_of(name, takes_pixels=True, half=half)
    assert on_device.takes_pixels and not on_host.takes_pixels
    assert on_device.prepare(photos[0]) is photos[0].pixels
    assert_near(features(on_device, photos), features(on_host, photos), least_cosine)


def test_the_fingerprint_and_the_texts_are_the_same_however_images_are_computed(photos):
    expected, encoder = encoder_of("ViT-B-32", takes_pixels=False), encoder_of("ViT-B-32", takes_pixels=True, half=True)
    assert (encoder.fingerprint, encoder.dim, encoder.region_shape) == (
        expected.fingerprint,
        expected.dim,
        expected.region_shape,
    )
    texts = encoder.encode_texts(["a dog"]).embeddings
    assert (texts * expected.encode_texts(["a dog"]).embeddings).sum() > 0.999


def test_inputs_of_the_model_are_taken_as_well_as_pixels(photos):
    encoder = encoder_of("ViT-B-32", takes_pixels=True)
    inputs = [encoder.to_input(photo) for photo in photos]
    assert inputs[0].dtype == np.float32 and inputs[0].shape == (3, 224, 224)
    assert_near(encoder.encode_images(inputs), features(encoder, photos), 0.99999)


def test_the_weights_in_16_bits_are_copies_of_the_image_tower_alone():
    import torch

    from retrieval.encoders.openclip_images import lowered

    model = encoder_of("RN50", takes_pixels=False).model
    copied = lowered(model, torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in copied.named_parameters()}
    assert dtypes["visual.conv1.weight"] == torch.bfloat16 and dtypes["visual.bn1.weight"] == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    shared = {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in copied.parameters()}
    assert shared == {id(value) for name, value in model.named_parameters() if not name.startswith("visual.")}
    buffers = dict(copied.named_buffers())
    assert buffers["visual.bn1.running_var"].dtype == torch.float32
    assert buffers["visual.bn1.num_batches_tracked"].dtype == torch.int64
    originals = {buffer.data_ptr() for buffer in model.visual.buffers()}
    assert not originals & {buffer.data_ptr() for buffer in copied.visual.buffers()}
    assert all(
        torch.equal(value, model.get_parameter(name).to(value.dtype)) for name, value in copied.named_parameters()
    )


def test_weights_become_16_bits_one_by_one_and_none_is_copied_in_32(monkeypatch):
    import torch

    from retrieval.encoders.openclip_images import lowered

    def refuse(tensor: Any, memo: Any) -> Any:
        raise AssertionError(f"a tensor of {tensor.shape} is copied as it is")

    model = encoder_of("ViT-B-32", takes_pixels=False).model
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", refuse)
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    assert {parameter.dtype for parameter in lowered(model, torch.bfloat16).visual.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("step", ["to the GPU", "to 16 bits"])
def test_no_memory_for_the_weights_is_one_line(monkeypatch, step):
    import open_clip
    import torch

    from retrieval.encoders import openclip_images
    from retrieval.encoders.openclip import OpenClipEncoder

    def lack(*arguments: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 588.00 MiB.\nMore")

    encoder = encoder_of("ViT-B-32", takes_pixels=False)
    if step == "to the GPU":
        monkeypatch.setattr(open_clip.CLIP, "to", lack)
    else:
        monkeypatch.setattr(openclip_images, "lowered", lack)
    with pytest.raises(CrosslookError, match="^the GPU has too little free memory for the weights: use --device cpu$"):
        OpenClipEncoder("a model", encoder.model, encoder.preprocess, encoder.tokenizer, {}, "cpu", half=True)


def test_16_bit_copies_of_weights_are_not_kept(tower):
    import torch

    from retrieval.encoders.openclip_images import autocast

    with autocast(torch.device("cpu"), torch.bfloat16):
        assert not torch.is_autocast_cache_enabled()


def test_a_tower_that_insists_on_float32_computes_in_16_bits_from_its_float32_weights(photos, monkeypatch):
    import torch

    from retrieval.encoders import openclip_images

    def stubborn(model: Any, dtype: Any) -> Any:
        copied = openclip_images_lowered(model, dtype)
        copied.visual.conv1.to(torch.float32)
        return copied

    openclip_images_lowered = openclip_images.lowered
    monkeypatch.setattr(openclip_images, "lowered", stubborn)
    encoder = encoder_of.__wrapped__("ViT-B-32", takes_pixels=True, half=True)
    assert_near(features(encoder, photos), features(encoder_of("ViT-B-32", takes_pixels=False), photos), 0.999)


def test_a_preprocessing_of_another_kind_stays_on_the_processor(photos):
    encoder = encoder_of("ViT-B-32", takes_pixels=True, resize_mode="longest")
    assert not encoder.takes_pixels
    np.testing.assert_array_equal(encoder.prepare(photos[0]), encoder.to_input(photos[0]))


@pytest.fixture
def tower(photos: list[Photo]) -> Any:
    import open_clip
    import torch

    from retrieval.encoders.openclip_images import ImageTower
    from retrieval.encoders.preprocessing import preprocessing_of
    from tests.tiny_clip import TINY_CLIP

    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY_CLIP).eval()
    preprocessing = preprocessing_of(
        {"size": 64, "resize_mode": "shortest", "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    )
    example = np.zeros((3, 64, 64), np.float32)
    return ImageTower(model, torch.device("cpu"), torch.float32, preprocessing, example)


def test_a_lack_of_memory_makes_batches_smaller_and_loses_none(tower, photos, monkeypatch):
    pixels = [photo.pixels for photo in photos]
    expected = tower.encode(pixels)
    small = SmallGpu(tower.compute, 2)
    monkeypatch.setattr(tower, "compute", small)
    encoded = tower.encode(pixels)
    np.testing.assert_allclose(encoded.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(encoded.regions, expected.regions, atol=1e-2)
    assert small.calls == [1] * len(pixels) and tower.encode(pixels[:2]).embeddings.shape[0] == 2


def test_no_memory_for_a_single_image_is_one_line(tower, photos, monkeypatch):
    monkeypatch.setattr(tower, "compute", SmallGpu(tower.compute, 0))
    with pytest.raises(CrosslookError, match="^the GPU has too little free memory for an image: use --device cpu$"):
        tower.encode([photos[0].pixels])


def test_threads_that_encode_at_once_get_what_one_gets(tower, photos):
    orders = [np.random.default_rng(seed).permutation(len(photos)) for seed in range(12)]
    expected = tower.encode([photo.pixels for photo in photos]).embeddings
    with ThreadPoolExecutor(3) as threads:
        batches = threads.map(lambda order: tower.encode([photos[index].pixels for index in order]), orders)
        for order, batch in zip(orders, batches, strict=True):
            np.testing.assert_allclose(batch.embeddings, expected[order], atol=1e-5)


def test_float16_which_has_a_smaller_range_computes_from_float32_weights(tower, photos, monkeypatch):
    import torch

    from retrieval.encoders import openclip_images

    def refuse(model: Any, dtype: Any) -> Any:
        raise AssertionError("weights are not to be lowered")

    monkeypatch.setattr(openclip_images, "lowered", refuse)
    half = openclip_images.ImageTower(tower.model, torch.device("cpu"), torch.float16, None, tower.example)
    inputs = [np.full((3, 64, 64), value, np.float32) for value in (-1, 0.5)]
    assert_near(half.encode(inputs), tower.encode(inputs), 0.999)


def test_a_collection_is_the_same_whether_workers_or_threads_decode_and_near_that_of_a_cpu(tmp_path, monkeypatch):
    from indexes.collection import Collection
    from retrieval.indexing.pipeline import index_folders
    from tests.support import write_photos

    write_photos(tmp_path / "photos", 40)
    vectors = []
    for name, takes_pixels, workers in (("cpu", False, 0), ("threads", True, 0), ("workers", True, 2)):
        monkeypatch.setattr("retrieval.indexing.workers.worker_count", lambda *arguments, count=workers: count)
        index_folders([tmp_path / "photos"], tmp_path / name, encoder_of("ViT-B-32", takes_pixels))
        collection = Collection.open(tmp_path / name)
        vectors.append(collection.embeddings(np.arange(40)).astype(np.float32))
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-3)
    assert (vectors[0] * vectors[2]).sum(axis=1).min() > 0.9995
