"""`lite` on a device of torch, here the processor, against ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import HEADS, MANY_TEXTS, MAPS, TOWERS, LiteEncoder
from retrieval.images import decode
from retrieval.indexing.pipeline import index_folders
from retrieval.samples import gather_samples
from tests.retrieval.encoders.small_gpu import SmallGpu

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("error:The given NumPy array is not writable")]
TEXTS = ["a dog", "", "two men in a boat on a lake, at dusk", "café 日本 100%", "word " * 300]
LEAST_COSINE = 1 - 1e-5
STEP = 2  # of int8, at which regions may differ


@pytest.fixture
def on_torch(monkeypatch):
    """`lite` as it is with a GPU, by the heads in a directory."""
    import torch

    monkeypatch.setattr(
        "retrieval.encoders.lite.gpu_of_torch", lambda device: None if device == "cpu" else torch.device("cpu")
    )
    return lambda heads=HEADS: LiteEncoder(heads=heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    gather_samples(folder)
    return folder


@pytest.fixture(scope="module")
def photos(folder):
    return [decode(path.read_bytes(), 224) for path in sorted(folder.iterdir())]


def encoded(encoder, photos):
    return encoder.encode_images([encoder.prepare(photo) for photo in photos])


def cosines(features, expected):
    return (features.embeddings * expected.embeddings).sum(axis=1)


def test_the_image_tower_gives_the_maps_of_the_graph(photos):
    import torch

    from retrieval.encoders.lite_torch_image import read_image_tower

    encoder = LiteEncoder(device="cpu")
    prepared = [encoder.prepare(photo) for photo in photos[:4]]
    with torch.inference_mode():
        outputs = read_image_tower(TOWERS / "image.onnx")(torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2))
    for output, expected in zip(outputs, encoder.maps(prepared, MAPS), strict=True):
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-3)
        assert expected.std() > 0.1


@pytest.mark.parametrize("side", [224, 225, 288])
def test_the_image_tower_reads_other_sizes_as_tensorflow_pads_them(side):
    import torch

    from retrieval.encoders.lite_torch_image import Convolution, ImageTower

    with torch.inference_mode():
        _, stride8, stride16, stride32 = ImageTower().eval()(torch.zeros(1, 3, side, side))
    assert [maps.shape[-1] for maps in (stride8, stride16, stride32)] == [-(-side // stride) for stride in (8, 16, 32)]
    ones = Convolution(1, 1, 3, 2)
    torch.nn.init.ones_(ones.weight)
    torch.nn.init.zeros_(ones.bias)
    with torch.inference_mode():
        sums = ones(torch.ones(1, 1, 4, 4))[0, 0]
    assert sums.tolist() == [[9, 6], [6, 4]], "the odd row of padding is at the bottom, the odd column at the right"


@pytest.mark.parametrize("heads", [HEADS, None], ids=["trained", "towers alone"])
def test_images_are_encoded_as_by_onnx_runtime(on_torch, photos, heads):
    encoder, expected = on_torch(heads), encoded(LiteEncoder(heads=heads, device="cpu"), photos)
    features = encoded(encoder, photos)
    assert cosines(features, expected).min() > LEAST_COSINE
    assert features.regions.dtype == expected.regions.dtype
    difference = np.abs(features.regions.astype(np.float32) - expected.regions)
    if heads is None:
        assert difference.max() < 0.1
    else:
        assert difference.max() <= STEP and (difference > 0).mean() < 0.01


def test_more_images_than_fit_the_device_together_are_encoded_alike(on_torch, photos, monkeypatch):
    encoder = on_torch()
    expected = encoded(encoder, photos[:5])
    monkeypatch.setattr("retrieval.encoders.lite_torch.IMAGES_AT_ONCE", 2)
    features = encoded(encoder, photos[:5])
    np.testing.assert_allclose(features.embeddings, expected.embeddings, atol=1e-5)
    assert features.regions.shape == expected.regions.shape
    assert np.abs(features.regions.astype(int) - expected.regions.astype(int)).max() <= 1


def test_photos_are_resized_on_the_device(on_torch, photos):
    encoder = on_torch()
    assert encoder.takes_pixels and not LiteEncoder(device="cpu").takes_pixels
    assert encoder.prepare(photos[0]) is photos[0].pixels
    assert encoder.batch_size > LiteEncoder(device="cpu").batch_size


@pytest.mark.parametrize("heads", [HEADS, None], ids=["trained", "towers alone"])
def test_many_texts_are_encoded_as_by_onnx_runtime(on_torch, heads):
    texts = TEXTS * (1 + MANY_TEXTS // len(TEXTS))
    encoder = on_torch(heads)
    features, expected = encoder.encode_texts(texts), LiteEncoder(heads=heads, device="cpu").encode_texts(texts)
    np.testing.assert_allclose(features.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(features.tokens, expected.tokens, atol=1e-4)
    np.testing.assert_array_equal(features.mask, expected.mask)
    np.testing.assert_array_equal(features.truncated, expected.truncated)
    few, expected_few = encoder.encode_texts(TEXTS), LiteEncoder(heads=heads, device="cpu").encode_texts(TEXTS)
    np.testing.assert_array_equal(few.embeddings, expected_few.embeddings)


def test_a_collection_is_extended_on_either(on_torch, folder, tmp_path):
    paths = sorted(folder.iterdir())
    for name, part in (("a", paths[:3]), ("b", paths[3:6])):
        (tmp_path / name).mkdir()
        for path in part:
            shutil.copy(path, tmp_path / name)
    on_gpu, on_cpu = on_torch(), load_encoder("lite", "cpu")
    assert on_gpu.fingerprint == on_cpu.fingerprint
    on_cpu_photos = encoded(on_cpu, [decode(path.read_bytes(), 224) for path in paths[:6]]).embeddings
    assert index_folders([tmp_path / "a"], tmp_path / "collection", on_gpu).new == 3
    outcome = index_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "collection", on_cpu)
    assert (outcome.new, outcome.unchanged) == (3, 3)
    collection = Collection.open(tmp_path / "collection")
    table = collection.table(["path"])
    order = np.argsort([Path(path.decode()).name for path in table["path"].to_pylist()])
    stored = collection.embeddings(np.array(table["position"].to_pylist())[order])
    names = np.argsort([path.name for path in paths[:6]])
    assert (stored.astype(np.float32) * on_cpu_photos[names]).sum(axis=1).min() > 0.999


def test_a_few_texts_import_no_torch_where_there_may_be_a_gpu():
    script = """
import sys
from pathlib import Path
from indexes.on_device import gpus
from retrieval.encoders import load_encoder
gpus.GPUS = (Path("."),)
encoder = load_encoder("lite")
encoder.encode_texts(["a dog"])
print("torch" in sys.modules)
print(encoder.takes_pixels, "torch" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert run.stdout.split("\n")[0] == "False" and run.stdout.split()[2] == "True"


def test_no_gpu_for_torch_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CrosslookError, match="^torch finds no CUDA device: use --device cpu$"):
        _ = LiteEncoder(device="cuda").takes_pixels


@pytest.mark.parametrize("file", ["image.onnx", "text.onnx"])
def test_a_damaged_tower_is_one_clear_line(on_torch, tmp_path, file):
    from retrieval.encoders.lite_torch_image import read_image_tower
    from retrieval.encoders.lite_torch_text import read_text_network

    read = read_image_tower if file == "image.onnx" else read_text_network
    for keep in (0, 100):
        (tmp_path / file).write_bytes((TOWERS / file).read_bytes()[:keep])
        with pytest.raises(CrosslookError, match=rf"^cannot read [^\n]*{file}[^\n]*reinstall crosslook\)$"):
            read(tmp_path / file)
    other = TOWERS / ("text.onnx" if file == "image.onnx" else "image.onnx")
    with pytest.raises(CrosslookError, match=r"^cannot read [^\n]*of another version \(reinstall crosslook\)$"):
        read(other)


def test_damaged_heads_are_one_clear_line(on_torch, tmp_path, photos):
    shutil.copytree(HEADS, tmp_path / "heads")
    (tmp_path / "heads" / "model.safetensors").write_bytes(b"{")
    with pytest.raises(CrosslookError, match=r"^cannot read [^\n]*model.safetensors[^\n]*\(train the model again\)$"):
        on_torch(tmp_path / "heads").encode_images([photos[0].pixels])


def little_memory(monkeypatch, name, room):
    """Gives a class of `lite_torch` room for so many items at once. Returns the sizes of the batches that fitted."""
    from retrieval.encoders import lite_torch

    kind, small = getattr(lite_torch, name), SmallGpu(None, room)
    compute = kind.compute

    def limited(device, items, *others):
        small.encode = lambda *arguments: compute(device, *arguments)
        return small(items, *others)

    monkeypatch.setattr(kind, "compute", limited)
    return small.calls


def test_a_lack_of_memory_makes_batches_smaller(on_torch, photos, monkeypatch):
    expected = encoded(on_torch(), photos[:5])
    calls = little_memory(monkeypatch, "LiteOnDevice", 2)
    encoder = on_torch()
    features = encoded(encoder, photos[:5])
    assert encoder.takes_pixels and calls == [1, 2, 2, 1]
    np.testing.assert_allclose(features.embeddings, expected.embeddings, atol=1e-5)
    assert features.regions.shape == expected.regions.shape


@pytest.mark.parametrize("is_late", [False, True])
def test_without_memory_for_an_image_the_processor_goes_on_with_one_note(on_torch, photos, monkeypatch, is_late):
    notes: list[str] = []
    encoder = LiteEncoder(heads=HEADS, note=notes.append)
    expected = encoded(LiteEncoder(heads=HEADS, device="cpu"), photos[:5])
    if is_late:
        assert encoder.takes_pixels
    calls = little_memory(monkeypatch, "LiteOnDevice", 0)
    for _ in range(2):
        features = encoded(encoder, photos[:5])
        np.testing.assert_array_equal(features.embeddings, expected.embeddings)
        np.testing.assert_array_equal(features.regions, expected.regions)
    assert encoder.takes_pixels == is_late and calls == []
    assert notes == ["the GPU has too little free memory for an image: lite goes on without it"]


def test_without_memory_for_the_weights_or_with_a_gpu_that_fails_the_processor_works(on_torch, monkeypatch):
    import torch

    from retrieval.encoders import lite_torch

    for error, note in (
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the GPU has too little free memory for the weights"),
        (RuntimeError("no kernel image\nMore"), "the GPU cannot be used (no kernel image)"),
    ):

        def fail(network, *arguments, error=error, **options):
            raise error

        monkeypatch.setattr(lite_torch.ImageNetwork, "to", fail)
        notes: list[str] = []
        encoder = LiteEncoder(note=notes.append)
        assert not encoder.takes_pixels and encoder.batch_size == LiteEncoder(device="cpu").batch_size
        assert notes == [f"{note}: lite goes on without it"]
        with pytest.raises(CrosslookError) as raised:
            _ = LiteEncoder(device="cuda").takes_pixels
        assert str(raised.value) == f"{note}: use --device cpu"


def test_without_memory_for_texts_the_processor_encodes_them(on_torch, monkeypatch):
    texts = TEXTS[:4] * (MANY_TEXTS // 4)
    notes: list[str] = []
    expected = LiteEncoder(heads=HEADS, device="cpu").encode_texts(texts)
    calls = little_memory(monkeypatch, "DeviceTexts", 10)
    np.testing.assert_allclose(on_torch().encode_texts(texts).embeddings, expected.embeddings, atol=1e-5)
    assert calls and max(calls) <= 10
    little_memory(monkeypatch, "DeviceTexts", 0)
    encoder = LiteEncoder(heads=HEADS, note=notes.append)
    np.testing.assert_array_equal(encoder.encode_texts(texts).embeddings, expected.embeddings)
    assert notes == ["the GPU has too little free memory for a text: lite goes on without it"]


def test_a_run_of_the_lite_encoder_without_memory_indexes_all(on_torch, folder, tmp_path, monkeypatch):
    notes: list[str] = []
    encoder = LiteEncoder(heads=HEADS, note=notes.append)
    assert encoder.takes_pixels
    little_memory(monkeypatch, "LiteOnDevice", 0)
    outcome = index_folders([folder], tmp_path / "collection", encoder)
    assert outcome.new == len(list(folder.iterdir())) and outcome.failed == 0 and len(notes) == 1
