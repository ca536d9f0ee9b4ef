"""The scorer's reader, against one token at a time, written out."""

from __future__ import annotations

import pytest

from tests.retrieval.training.readers import VOCABULARY, log_likelihood, random_regions, small_reader, text

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def without_gradients():
    import torch

    with torch.no_grad():
        yield


@pytest.fixture
def reader():
    return small_reader()


def test_a_text_is_weighed_token_by_token_with_the_image_and_without(reader):
    ids, images = [3, 3, 0, 11, 5], random_regions(4)
    logits = reader(text(reader, ids), images)
    assert logits.shape == (4,) and logits.std() > 1e-3
    without = log_likelihood(reader, ids, reader.no_regions(images[0]))
    for image in range(4):
        expected = log_likelihood(reader, ids, images[image]) - without
        assert float(logits[image]) == pytest.approx(expected, abs=1e-4)
        assert float(reader(text(reader, ids), images[[image]])[0]) == pytest.approx(expected, abs=1e-4)


def test_a_token_outside_the_vocabulary_is_read_too(reader):
    tokens = text(reader, [1, 2])
    tokens[2, 384:] = -reader.vocabulary[7]
    logits = reader(tokens, random_regions(3))
    assert logits.isfinite().all() and logits.std() > 1e-4


def test_of_a_long_text_the_beginning_is_read(reader):
    import torch

    ids, images = [index % VOCABULARY for index in range(30)], random_regions(2)
    torch.testing.assert_close(reader(text(reader, ids), images), reader(text(reader, ids[:9]), images))


def test_a_text_without_tokens_scores_nought(reader):
    assert not reader(text(reader, []), random_regions(2)).any()


def test_evidence_is_what_a_token_loses_without_a_region(reader):
    """Against a reader that is given the other 48 regions only."""
    import torch

    ids, image = [3, 0, 11], random_regions(1)[0]
    evidence = reader.evidence(text(reader, ids), image)
    assert evidence.shape == (5, 49) and not evidence[0].any() and not evidence[4].any()
    for region in (0, 17, 48):
        others = torch.cat([image[:region], image[region + 1 :]])
        for place in range(3):
            with_all, without = (
                log_likelihood(reader, ids[: place + 1], regions) - log_likelihood(reader, ids[:place], regions)
                for regions in (image, others)
            )
            assert float(evidence[place + 1, region]) == pytest.approx(with_all - without, abs=1e-4)


def test_the_rest_of_a_long_text_has_no_evidence(reader):
    ids = [index % VOCABULARY for index in range(30)]
    evidence = reader.evidence(text(reader, ids), random_regions(1)[0])
    assert evidence.shape == (32, 49) and evidence[1:10].any(1).all() and not evidence[10:].any()
