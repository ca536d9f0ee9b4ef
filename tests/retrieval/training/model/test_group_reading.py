"""The scorer's training losses, against one text with one image at a time."""

from __future__ import annotations

import pytest

from tests.retrieval.training.readers import VOCABULARY, log_likelihood, random_regions, small_reader, text

pytestmark = pytest.mark.torch


@pytest.fixture
def reader():
    return small_reader()


@pytest.fixture
def groups(reader):
    """Two groups of two images with two texts each, of several lengths: tokens, vocabulary ids, regions, and the texts'
    ids as lists. One token is too rare to be in the vocabulary."""
    import torch

    texts: list[list[int]] = [[1, 2, 3], [4, 5], [7], [10, 0, 1, 6], [2, 2], [3, 4, 5], [], [9, 8]]
    tokens, ids = torch.zeros(8, 6, 768), torch.full((8, 6), -1)
    for row, of_text in enumerate(texts):
        tokens[row, : len(of_text) + 2] = text(reader, of_text)
        ids[row, 1 : len(of_text) + 1] = torch.tensor(of_text)
    ids[3, 2] = -1
    shape = (2, 2, 2)
    return tokens.unflatten(0, shape), ids.unflatten(0, shape), random_regions(4).unflatten(0, (2, 2)), texts


def test_every_text_of_a_group_meets_every_image_of_it(reader, groups):
    """As one text with one image at a time."""
    import torch

    from retrieval.training.model.group_reading import read_groups

    tokens, ids, images, texts = groups
    with torch.no_grad():
        reader.log_scale.fill_(-0.5)
        reader.prior.fill_(0.7)
        _, logits = read_groups(reader, tokens, ids, images)
        assert logits.shape == (2, 4, 2)
        for group in range(2):
            for row in range(4):
                expected = reader(text(reader, texts[4 * group + row]), images[group])
                torch.testing.assert_close(logits[group, row], expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_mean_surprise_at_known_tokens(reader, groups):
    """With their own image, and at a share of `image_dropout` with none."""
    import torch

    from retrieval.training.model.group_reading import read_groups

    tokens, ids, images, texts = groups
    regions = images.flatten(0, 1)
    no_regions = reader.no_regions(regions[0, :1])
    with_image, blind = 0.0, 0.0
    with torch.no_grad():
        for row, of_text in enumerate(texts):
            for place in range(len(of_text)):
                if (row, place) == (3, 1):  # outside the vocabulary
                    continue
                upto, before = of_text[: place + 1], of_text[:place]
                image = regions[row // 2]
                with_image -= log_likelihood(reader, upto, image) - log_likelihood(reader, before, image)
                blind -= log_likelihood(reader, upto, no_regions) - log_likelihood(reader, before, no_regions)
        known = sum(map(len, texts)) - 1
        loss, _ = read_groups(reader, tokens, ids, images)
    assert float(loss) == pytest.approx(0.75 * with_image / known + 0.25 * blind / known, abs=1e-4)


def test_of_a_long_text_the_beginning_is_read(reader):
    import torch

    from retrieval.training.model.group_reading import read_groups

    ids, images = [index % VOCABULARY for index in range(30)], random_regions(2)
    tokens = text(reader, ids).expand(2, 1, 1, -1, -1)
    with torch.no_grad():
        loss, logits = read_groups(reader, tokens, torch.zeros(2, 1, 1, 32, dtype=torch.int64), images.unsqueeze(1))
        assert loss.isfinite()
        torch.testing.assert_close(logits.flatten(), reader(text(reader, ids[:9]), images), atol=1e-4, rtol=1e-4)


def test_it_learns_which_token_an_image_stands_for(reader):
    import torch

    from retrieval.training.model.group_reading import read_groups

    images = random_regions(VOCABULARY)
    tokens = torch.stack([text(reader, [token]) for token in range(VOCABULARY)])[:, None, None]
    ids = torch.full((VOCABULARY, 1, 1, 3), -1)
    ids[:, 0, 0, 1] = torch.arange(VOCABULARY)
    optimizer = torch.optim.Adam(reader.parameters(), lr=5e-3)
    reader.train()
    for _ in range(150):
        optimizer.zero_grad()
        read_groups(reader, tokens, ids, images.unsqueeze(1))[0].backward()
        optimizer.step()
    reader.eval()
    scores = torch.stack([reader(text(reader, [token]), images) for token in range(VOCABULARY)])
    assert (scores.argmax(1) == torch.arange(VOCABULARY)).all()
    right = scores.diagonal()
    assert (right > 0).all() and (scores.sum(1) - right < 0).all(), "an image makes its token likelier, others less"
