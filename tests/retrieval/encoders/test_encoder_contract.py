"""The contract of an encoder, which every implementation keeps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.encoders import Encoder, load_encoder
from retrieval.encoders.adapted import AdaptedEncoder, adapted_fingerprint
from retrieval.encoders.lite import LiteEncoder
from retrieval.images import Photo
from retrieval.query import ImagePart, Query, TextPart
from tests.support import FakeEncoder

KINDS = [
    "lite",
    "lite-untrained",
    "adapted",
    pytest.param("lite on torch", marks=pytest.mark.torch),
    pytest.param("lite-untrained on torch", marks=pytest.mark.torch),
    pytest.param("open_clip on torch", marks=pytest.mark.torch),
    pytest.param("open_clip as on a GPU", marks=pytest.mark.torch),
    pytest.param("open_clip on ONNX Runtime", marks=pytest.mark.torch),
    "made up",
]
TEXTS = ["a dog", "A cup of coffee, on a wooden table!", "", "café 日本 100%", "a dog"]


class MadeUpAdapter:
    """In the place of a trained adapter: 2 regions of 3 components, from the first cells."""

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[np.int8]]:
        return [inputs["cells"][:, :2, :3].astype(np.int8)]


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    if request.param == "made up":
        return FakeEncoder()
    if request.param.startswith("lite") and request.param.endswith("torch"):
        return lite_on_torch(request.param.split()[0])
    if request.param.startswith("lite"):
        return load_encoder(request.param, "cpu")
    if request.param == "adapted":
        towers = LiteEncoder("towers", device="cpu")
        config = {
            "towers": adapted_fingerprint(towers, towers),
            "sha256": {},
            "regions": {"count": 2, "dim": 3, "dtype": "int8"},
        }
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("retrieval.encoders.adapted.open_session", lambda path: MadeUpAdapter())
            encoder = AdaptedEncoder(Path("nowhere"), config, towers)
            encoder.encode_images([towers.prepare(photo) for photo in made_up_photos()])
        return encoder
    tiny_clip: Path = request.getfixturevalue("tiny_clip")
    if request.param == "open_clip on torch":
        from retrieval.encoders.openclip_loading import load_openclip

        return load_openclip(str(tiny_clip), "cpu")
    if request.param == "open_clip as on a GPU":
        from retrieval.encoders.openclip import OpenClipEncoder
        from retrieval.encoders.openclip_loading import load_openclip

        on_cpu = load_openclip(str(tiny_clip), "cpu")
        parts = (on_cpu.name, on_cpu.model, on_cpu.preprocess, on_cpu.tokenizer, on_cpu.config)
        return OpenClipEncoder(*parts, "cpu", takes_pixels=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return load_encoder(str(tiny_clip), "cpu")


def lite_on_torch(name: str) -> Encoder:
    """`lite` as it is with a GPU, on the processor."""
    import torch

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("retrieval.encoders.lite.gpu_of_torch", lambda device: torch.device("cpu"))
        encoder = load_encoder(name)
        assert isinstance(encoder, LiteEncoder) and encoder.takes_pixels
    return encoder


def made_up_photos() -> list[Photo]:
    rng = np.random.default_rng(0)
    sizes = [(300, 200), (120, 500), (64, 64), (65, 64)]
    return [
        Photo(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), width, height, None) for width, height in sizes
    ]


@pytest.fixture(scope="module")
def prepared(encoder: Encoder) -> list[NDArray[Any]]:
    return [encoder.prepare(photo) for photo in made_up_photos()]


def queries(texts: Sequence[str]) -> list[Query]:
    return [Query.of(text) for text in texts]


def test_images_become_unit_vectors_and_regions_of_the_stated_shape(encoder, prepared):
    features = encoder.encode_images(prepared)
    assert features.embeddings.dtype == np.float32 and features.embeddings.shape == (4, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(features.embeddings, axis=1), 1, atol=1e-5)
    assert features.regions.dtype == encoder.region_dtype and features.regions.shape == (4, *encoder.region_shape)


def test_an_image_does_not_depend_on_its_neighbours(encoder, prepared):
    together = encoder.encode_images(prepared)
    for index, image in enumerate(prepared):
        alone = encoder.encode_images([image])
        np.testing.assert_allclose(alone.embeddings[0], together.embeddings[index], atol=1e-5)
        np.testing.assert_allclose(alone.regions[0].astype(float), together.regions[index].astype(float), atol=1e-2)


def test_an_encoder_takes_pixels_as_they_are_if_it_says_so(encoder):
    photo = made_up_photos()[0]
    assert (encoder.prepare(photo) is photo.pixels) == encoder.takes_pixels


def test_queries_become_unit_vectors_and_a_vector_for_each_token(encoder):
    features = encoder.encode_queries(queries(TEXTS))
    count, longest = features.mask.shape
    assert features.embeddings.dtype == np.float32 and features.embeddings.shape == (count, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(features.embeddings, axis=1), 1, atol=1e-5)
    assert count == len(TEXTS) and features.tokens.shape[:2] == (count, longest) and features.tokens.dtype == np.float32
    assert features.truncated.shape == (count,) and features.truncated.dtype == features.mask.dtype == np.bool_
    lengths = features.mask.sum(axis=1)
    np.testing.assert_array_equal(features.mask, np.arange(longest) < lengths[:, None])
    assert lengths.max() == longest and not features.tokens[~features.mask].any()


def test_a_text_by_itself_is_the_same_as_a_query_of_one_text(encoder):
    features, of_texts = encoder.encode_queries(queries(TEXTS)), encoder.encode_texts(TEXTS)
    for name in ("embeddings", "tokens", "mask", "truncated"):
        np.testing.assert_array_equal(getattr(features, name), getattr(of_texts, name))


def test_a_query_does_not_depend_on_its_neighbours(encoder):
    together = encoder.encode_queries(queries(TEXTS))
    for row, text in enumerate(TEXTS):
        alone, among = encoder.encode_queries(queries([text])), together.of(row)
        assert among.mask.all() and among.mask.shape == alone.mask.shape
        np.testing.assert_allclose(among.embeddings, alone.embeddings, atol=1e-5)
        np.testing.assert_allclose(among.tokens, alone.tokens, atol=1e-4)


def test_a_text_that_is_too_long_is_cut_and_marked(encoder):
    features = encoder.encode_queries(queries(["a dog", "dog " * 3000]))
    assert features.truncated.tolist() == [False, True]
    assert features.mask.sum(axis=1).max() <= features.mask.shape[1] and features.mask[0].sum() < features.mask[1].sum()


@pytest.mark.parametrize(
    "parts",
    [
        (ImagePart(made_up_photos()[0]),),
        (TextPart("a dog"), ImagePart(made_up_photos()[0])),
        (TextPart("a dog"), TextPart("a cat", -0.5)),
        (TextPart("a dog", 2.0),),
    ],
    ids=["an image", "a text and an image", "two texts", "a weight"],
)
def test_other_queries_are_refused_in_one_line_that_names_the_model(encoder, parts):
    with pytest.raises(CrosslookError, match=r"^the model [^\n]* reads queries of one text only[^\n]*$") as caught:
        encoder.encode_queries([Query.of("a dog"), Query(parts)])
    assert encoder.name in str(caught.value)


def test_threads_get_what_one_gets(encoder, prepared):
    texts, images = encoder.encode_texts(TEXTS), encoder.encode_images(prepared)

    def both(_: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        again = [encoder.prepare(photo) for photo in made_up_photos()]
        return encoder.encode_texts(TEXTS).embeddings, encoder.encode_images(again).embeddings

    with ThreadPoolExecutor(8) as threads:
        for of_texts, of_images in threads.map(both, range(8)):
            np.testing.assert_allclose(of_texts, texts.embeddings, atol=1e-5)
            np.testing.assert_allclose(of_images, images.embeddings, atol=1e-5)


def test_every_token_has_its_span_or_none_has(encoder):
    text = "unbelievably good coffee"
    spans = encoder.token_spans(text)
    if spans is None:
        return
    assert len(spans) == encoder.encode_texts([text]).mask.sum()
    pieces = [text[start:end] for start, end in spans if start < end]
    assert "".join(pieces) == text.replace(" ", "")
