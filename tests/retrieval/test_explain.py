"""Where words look, with the embedded model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cli.demo import gather_samples
from cli.show.heat import draw, overlay
from indexes.errors import CrosslookError
from retrieval.encoders import load_encoder
from retrieval.engine import Engine
from retrieval.explain import explain, words_of
from retrieval.indexing.pipeline import index_folders


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lite", "cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return {path.stem: path for path in gather_samples(tmp_path_factory.mktemp("samples"))}


def test_every_word_has_its_map(encoder, samples):
    found = explain(encoder, "a cup of coffee, on a table!", samples["coffee"])
    assert found.words == ("a", "cup", "of", "coffee,", "on", "a", "table!")
    assert found.heat.shape == (7, 7, 7) and (found.heat >= 0).all() and found.heat.max() > 0
    assert 0 < found.match < 1 and -1 <= found.similarity <= 1
    assert found.photo.pixels.shape == (400, 600, 3)


def test_pieces_of_a_word_are_one_word():
    text = "unbelievableness of cats"
    spans = [(0, 0), (0, 2), (2, 12), (12, 16), (17, 19), (20, 24), (0, 0)]
    words, pieces = words_of(text, spans)
    assert words == ("unbelievableness", "of", "cats") and pieces == [[1, 2, 3], [4], [5]]


def test_the_engine_explains_what_it_ranked(encoder, samples, tmp_path):
    index_folders([samples["coffee"].parent], tmp_path / "c", encoder)
    engine = Engine.open(tmp_path / "c")
    hit = engine.search("a cup of coffee", k=1)[0]
    found = engine.explain("a cup of coffee", hit.path)
    assert found.match == pytest.approx(hit.match, abs=0.02) and found.similarity == pytest.approx(
        hit.similarity, abs=2e-3
    )


def test_a_large_jpeg_is_explained_as_it_was_indexed(encoder, samples, tmp_path):
    """Both decode it at a fraction of its size."""
    (tmp_path / "photos").mkdir()
    Image.open(samples["coffee"]).convert("RGB").resize((3000, 2000)).save(tmp_path / "photos" / "large.jpg")
    index_folders([tmp_path / "photos"], tmp_path / "c", encoder)
    engine = Engine.open(tmp_path / "c")
    hit = engine.search("a cup of coffee")[0]
    found = engine.explain("a cup of coffee", hit.path)
    assert found.match == pytest.approx(hit.match, abs=2e-3) and found.photo.pixels.shape[1] < 3000


def test_a_turned_photo_is_explained_upright(encoder, samples, tmp_path):
    """By EXIF: the picture lies on its side in the file, and the maps are those of the upright one."""
    upright = Image.open(samples["coffee"]).convert("RGB")
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    straight, turned = (explain(encoder, "a cup", tmp_path / f"{name}.png") for name in ("upright", "turned"))
    np.testing.assert_array_equal(straight.photo.pixels, turned.photo.pixels)
    np.testing.assert_array_equal(straight.heat, turned.heat)


@pytest.mark.parametrize("name", ["nothing.png", "text.png"])
def test_what_cannot_be_read_is_one_line(encoder, tmp_path, name):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(CrosslookError, match=name):
        explain(encoder, "a dog", tmp_path / name)


@pytest.mark.parametrize("text", ["", " ", "\u200b"])
def test_a_text_without_words_is_refused(encoder, samples, text):
    with pytest.raises(CrosslookError, match="no words"):
        explain(encoder, text, samples["coffee"])


def test_heat_is_drawn_where_it_is():
    grey = Image.new("RGB", (70, 140), (128, 128, 128))
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 1
    drawn = np.asarray(overlay(grey, heat)).astype(int)
    colourful = drawn.max(-1) - drawn.min(-1)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    assert 20 <= row < 40 and 50 <= column < 60
    assert colourful[100:].max() == 0


def test_the_sheet_has_a_panel_for_the_picture_and_each_word(encoder, samples):
    sheet = draw(explain(encoder, "a cup of coffee on a table", samples["coffee"]))
    assert sheet.size[0] > 4 * 240 and sheet.size[1] > 2 * 160
