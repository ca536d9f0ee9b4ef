"""The scorer's reader, against one word at a time, written out."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch
WORDS = 12


@pytest.fixture(autouse=True)
def without_gradients(request):
    import torch

    with torch.set_grad_enabled("learns" in request.node.name):
        yield


@pytest.fixture
def decoder():
    import torch

    from retrieval.training.decoder import Decoder, DecoderSettings

    torch.manual_seed(0)
    return Decoder(DecoderSettings(heads=4, longest=9, smoothing=0.0), 16, torch.randn(WORDS, 384)).eval()


def text(decoder, numbers):
    """Words [m + 2, 768] between marks; what the tower says of the whole text is anything."""
    import torch

    words = torch.full((len(numbers) + 2, 768), 7.0)
    words[:, 384:] = 0
    for place, number in enumerate(numbers):
        words[place + 1, 384:] = decoder.vocabulary[number]
    return words


def regions(count, seed=1):
    import torch

    found = torch.randn(count, 49, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1)


def one_by_one(decoder, numbers, of_image):
    """log p of a text, each word from a fresh reading of nothing but those before it."""
    total = 0.0
    for place, number in enumerate(numbers):
        states = decoder.read(text(decoder, numbers[:place])[: place + 1, 384:])
        for block in decoder.looks:
            states = block(states, of_image)
        total += float(decoder.among(states[-1]).log_softmax(-1)[number])
    return total


def test_a_text_is_weighed_word_by_word_with_the_image_and_without(decoder):
    numbers, images = [3, 3, 0, 11, 5], regions(4)
    found = decoder(text(decoder, numbers), images)
    assert found.shape == (4,) and found.std() > 1e-3
    without = one_by_one(decoder, numbers, decoder.without_image(images[0]))
    for image in range(4):
        expected = one_by_one(decoder, numbers, decoder.region_norm(images[image])) - without
        assert float(found[image]) == pytest.approx(expected, abs=1e-4)
        assert float(decoder(text(decoder, numbers), images[[image]])[0]) == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_the_mean_surprise_at_known_words(decoder):
    import torch

    texts = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 0, 1]]
    words = torch.stack([text(decoder, each) for each in texts]).reshape(2, 2, 5, 768)
    numbers = torch.full((4, 5), -1)
    numbers[:, 1:4] = torch.tensor(texts)
    numbers[3, 2] = -1  # too rare to be among the vocabulary
    images = decoder.region_norm(regions(2))
    surprises = [-one_by_one(decoder, each, images[index // 2]) for index, each in enumerate(texts)]
    rare = one_by_one(decoder, texts[3][:2], images[1]) - one_by_one(decoder, texts[3][:1], images[1])
    expected = (sum(surprises) + rare) / 11
    found = decoder.loss(words, numbers.reshape(2, 2, 5), regions(2))
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_it_learns_which_word_an_image_stands_for(decoder):
    import torch

    images = regions(WORDS)
    words = torch.stack([text(decoder, [number]) for number in range(WORDS)]).unsqueeze(1)
    numbers = torch.full((WORDS, 1, 3), -1)
    numbers[:, 0, 1] = torch.arange(WORDS)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    decoder.train()
    for _ in range(150):
        optimizer.zero_grad()
        decoder.loss(words, numbers, images).backward()
        optimizer.step()
    decoder.eval()
    scores = torch.stack([decoder(text(decoder, [number]), images) for number in range(WORDS)])
    assert (scores.argmax(1) == torch.arange(WORDS)).all()
    own = scores.diagonal()
    assert (own > 0).all() and (scores.sum(1) - own < 0).all(), "an image makes its word likelier, others less"


def test_a_word_outside_the_vocabulary_is_read_too(decoder):
    words = text(decoder, [1, 2])
    words[2, 384:] = -decoder.vocabulary[7]
    found = decoder(words, regions(3))
    assert found.isfinite().all() and found.std() > 1e-4


def test_of_a_long_text_the_beginning_is_read(decoder):
    import torch

    numbers = [index % WORDS for index in range(30)]
    torch.testing.assert_close(
        decoder(text(decoder, numbers), regions(2)), decoder(text(decoder, numbers[:9]), regions(2))
    )
    words = text(decoder, numbers).expand(2, 1, -1, -1)
    assert decoder.loss(words, torch.zeros(2, 1, 32, dtype=torch.int64), regions(2)).isfinite()


def test_a_text_without_words_scores_nought(decoder):
    assert not decoder(text(decoder, []), regions(2)).any()


def test_evidence_is_what_a_word_loses_without_a_region(decoder):
    """Against a reader that is given the other 48 regions only."""
    import torch

    numbers, image = [3, 0, 11], regions(1)[0]
    words = text(decoder, numbers)
    found = decoder.evidence(words, image)
    assert found.shape == (5, 49) and not found[0].any() and not found[4].any()
    whole = decoder.region_norm(image)
    for region in (0, 17, 48):
        others = torch.cat([whole[:region], whole[region + 1 :]])
        for place in range(3):
            upto = numbers[: place + 1]
            surprise = [
                one_by_one(decoder, upto, seen) - one_by_one(decoder, upto[:-1], seen) for seen in (whole, others)
            ]
            assert float(found[place + 1, region]) == pytest.approx(surprise[0] - surprise[1], abs=1e-4)


def test_the_rest_of_a_long_text_has_no_evidence(decoder):
    found = decoder.evidence(text(decoder, [index % WORDS for index in range(30)]), regions(1)[0])
    assert found.shape == (32, 49) and found[1:10].any(1).all() and not found[10:].any()
