"""The embedded encoder, as it ships, without torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.encoders.lite import TOWERS, LiteEncoder
from retrieval.images import Photo, decode
from retrieval.samples import gather_samples


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    paths = gather_samples(tmp_path_factory.mktemp("samples"))
    return {path.stem: decode(path.read_bytes(), 224) for path in paths}


def test_what_ships_is_small_and_is_what_the_configuration_says():
    config = json.loads((TOWERS / "config.json").read_text())
    for name, checksum in config["sha256"].items():
        assert hashlib.sha256((TOWERS / name).read_bytes()).hexdigest() == checksum
    assert sum(path.stat().st_size for path in TOWERS.iterdir()) <= 50e6


def test_the_fingerprint_follows_the_weights(lite, tmp_path):
    for path in TOWERS.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert LiteEncoder(towers=tmp_path).fingerprint == lite.fingerprint
    config = json.loads((TOWERS / "config.json").read_text())
    config["sha256"]["image.onnx"] = "0" * 64
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert LiteEncoder(towers=tmp_path).fingerprint != lite.fingerprint


def test_embeddings_are_unit_norm_and_tokens_have_the_stated_shape(lite, photos):
    features = lite.encode_images([lite.prepare(photo) for photo in photos.values()])
    assert features.embeddings.dtype == np.float32 and features.embeddings.shape == (len(photos), lite.dim)
    np.testing.assert_allclose(np.linalg.norm(features.embeddings, axis=1), 1, atol=1e-5)
    assert features.regions.dtype == lite.region_dtype and features.regions.shape[1:] == lite.region_shape == (49, 672)
    text = lite.encode_texts(["a dog", "a cup of coffee on a table"])
    np.testing.assert_allclose(np.linalg.norm(text.embeddings, axis=1), 1, atol=1e-5)


def test_an_image_is_encoded_alike_alone_and_among_others(lite, photos):
    prepared = [lite.prepare(photo) for photo in photos.values()]
    together = lite.encode_images(prepared)
    for index, image in enumerate(prepared):
        alone = lite.encode_images([image])
        np.testing.assert_array_equal(alone.embeddings[0], together.embeddings[index])
        np.testing.assert_array_equal(alone.regions[0], together.regions[index])


def test_a_text_is_encoded_alike_alone_and_among_others(lite):
    texts = ["a dog", "a cup of coffee on a wooden table next to a book", "cat", "", "a dog"] * 10
    together = lite.encode_texts(texts)
    for index, text in enumerate(texts[:5]):
        alone = lite.encode_texts([text])
        np.testing.assert_allclose(alone.embeddings[0], together.embeddings[index], atol=1e-5)
        length = int(alone.mask.sum())
        np.testing.assert_allclose(alone.tokens[0, :length], together.tokens[index, :length], atol=1e-4)
        assert together.mask[index].sum() == length
        assert not together.tokens[index, length:].any()


def test_regions_lie_as_the_picture_does(lite):
    """Row by row from the top left: a change in a corner of the picture changes the region of that corner most."""
    grey = np.full((224, 224, 3), 128, np.uint8)
    for row, column in ((0, 0), (0, 6), (6, 0), (6, 6), (2, 4)):
        marked = grey.copy()
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        marked[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = noise
        regions = lite.encode_images([grey, marked]).regions.astype(np.float32)
        changed = np.abs(regions[1] - regions[0]).sum(axis=1).reshape(7, 7)
        most_row, most_column = np.unravel_index(changed.argmax(), (7, 7))
        assert abs(most_row - row) <= 1 and abs(most_column - column) <= 1


def test_the_embedding_is_the_mean_of_class_embeddings_weighted_by_probability(lite, photos):
    """ConSE by its formula."""
    from safetensors.numpy import load_file

    classes = load_file(TOWERS / "model.safetensors")["class_embeddings"].astype(np.float64)
    prepared = lite.prepare(photos["coffee"])
    logits = lite.maps([prepared], ["logits"])[0][0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    mean = sum(probability * name for probability, name in zip(probabilities, classes, strict=True))
    np.testing.assert_allclose(
        lite.encode_images([prepared]).embeddings[0], mean / np.linalg.norm(mean), rtol=0, atol=1e-5
    )


def test_maps_of_three_depths_are_within_reach(lite, photos):
    names = ["logits", "stride8", "stride16", "stride32"]
    maps = lite.maps([lite.prepare(photos["coffee"])], names)
    assert [values.shape for values in maps] == [(1, 1000), (1, 48, 28, 28), (1, 120, 14, 14), (1, 672, 7, 7)]


def test_the_whole_picture_is_seen(lite):
    """Squashed, not cropped: a stripe at the very edge of a wide picture reaches the model."""
    pixels = np.zeros((100, 1000, 3), np.uint8)
    pixels[:, -20:] = 255
    prepared = lite.prepare(Photo(pixels, 1000, 100, None))
    assert prepared.shape == (224, 224, 3)
    assert prepared[:, -3:].mean() > 200


@pytest.mark.parametrize(
    ("query", "photo"),
    [("a cat", "chelsea"), ("a cup of coffee", "coffee"), ("a temple", "china"), ("a flower", "flower")],
)
def test_a_sample_photo_is_found_by_what_it_shows(lite, photos, query, photo):
    embeddings = lite.encode_images([lite.prepare(image) for image in photos.values()]).embeddings
    best = int((embeddings @ lite.encode_texts([query]).embeddings[0]).argmax())
    assert list(photos)[best] == photo


def test_a_text_beyond_the_limit_is_cut_and_marked(lite):
    features = lite.encode_texts(["a dog", "dog " * 3000])
    assert features.truncated.tolist() == [False, True]
    assert features.mask.sum(axis=1).tolist() == [4, lite.max_tokens]


def test_words_outside_the_vocabulary_do_not_fail(lite):
    features = lite.encode_texts(["🏠", "日本語の写真", "\x00\x01", "\u202eabc"])
    assert np.isfinite(features.embeddings).all()


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_damaged_model_file_is_one_clear_line(tmp_path, damage):
    for path in TOWERS.iterdir():
        if path.name != "text.onnx":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "text.onnx").write_bytes(damage)
    with pytest.raises(CrosslookError, match=r"^cannot load [^\n]*text.onnx[^\n]*$"):
        LiteEncoder(towers=tmp_path).encode_texts(["a dog"])


@pytest.mark.parametrize("name", ["nonsense", "/nowhere/at/all"])
def test_an_unknown_model_says_what_to_use(name):
    with pytest.raises(CrosslookError, match="search models"):
        load_encoder(name)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(CrosslookError, match="is not a model directory"):
        load_encoder(str(tmp_path))


def test_cuda_that_is_not_there_is_refused(monkeypatch):
    from retrieval.encoders.runtime import import_onnxruntime

    onnxruntime = import_onnxruntime()

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CrosslookError, match="--device cpu"):
        load_encoder("lite", "cuda")


def test_all_sessions_share_their_threads():
    script = """
import os, sys
from pathlib import Path
from retrieval.cores import usable_cores
from retrieval.encoders.runtime import open_session
weights = Path("retrieval/weights")
sessions = [open_session(weights / "lite" / "text.onnx")]
one = len(os.listdir("/proc/self/task"))
sessions += [open_session(path) for path in sorted((weights / "lite-heads").glob("*.onnx"))]
print(len(sessions), usable_cores(), len(os.listdir("/proc/self/task")) - one)
"""
    if not Path("/proc/self/task").exists():
        pytest.skip("threads can be counted on Linux only")
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    sessions, cores, more = map(int, run.stdout.split())
    assert (sessions, more) == (5, 0) and cores > 1


def test_sessions_opened_at_once_make_their_threads_once():
    script = """
import threading, time
from retrieval.encoders.runtime import import_onnxruntime
onnxruntime = import_onnxruntime()
from pathlib import Path
from retrieval.encoders.runtime import open_session
make, made = onnxruntime.set_global_thread_pool_sizes, []
def slowly(*counts):
    time.sleep(0.1)
    made.append(counts)
    make(*counts)
onnxruntime.set_global_thread_pool_sizes = slowly
opened = []
def work():
    opened.append(open_session(Path("retrieval/weights/lite-heads/text_head.onnx")))
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(len(opened), len(made))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert run.stdout.split() == ["3", "1"]


def test_threads_that_others_made_are_shared():
    script = """
from retrieval.encoders.runtime import import_onnxruntime
onnxruntime = import_onnxruntime()
from pathlib import Path
from retrieval.encoders.runtime import open_session
onnxruntime.set_global_thread_pool_sizes(1, 1)
model = Path("retrieval/weights/lite-heads/text_head.onnx")
options = onnxruntime.SessionOptions()
options.use_per_session_threads = False
theirs = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
print([output.name for output in open_session(model).get_outputs()])
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert run.stdout.strip() == "['embedding']"


def test_a_model_that_memory_does_not_suffice_for_is_not_called_damaged(monkeypatch):
    from retrieval.encoders import runtime

    class Lacking:
        def __init__(self, *arguments, **options):
            raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(runtime.import_onnxruntime(), "InferenceSession", Lacking)
    with pytest.raises(CrosslookError, match="not enough memory now$"):
        runtime.open_session(TOWERS / "image.onnx")
