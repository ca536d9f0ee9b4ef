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
def reader():
    import torch

    from retrieval.training.model.reader import Reader, ReaderSettings

    torch.manual_seed(0)
    made = Reader(ReaderSettings(heads=4, longest=9, smoothing=0.0, image_dropout=0.25), 16, torch.randn(WORDS, 384))
    with torch.no_grad():
        made.log_scale.zero_()
    return made.eval()


def text(reader, numbers):
    """Words [m + 2, 768] between marks; what the tower says of the whole text is anything."""
    import torch

    words = torch.full((len(numbers) + 2, 768), 7.0)
    words[:, 384:] = 0
    for place, number in enumerate(numbers):
        words[place + 1, 384:] = reader.vocabulary[number]
    return words


def regions(count, seed=1):
    import torch

    return torch.randn(count, 49, 16, generator=torch.Generator().manual_seed(seed))


def one_by_one(reader, numbers, of_image):
    """log p of a text, each word from a fresh reading of nothing but those before it."""
    total = 0.0
    for place, number in enumerate(numbers):
        states = reader.look(reader.read(text(reader, numbers[:place])[: place + 1, 384:]), of_image)
        logits = (
            reader.leave(states[-1]) @ reader.outputs(reader.vocabulary).T / 4 + reader.common(reader.vocabulary)[:, 0]
        )
        total += float(logits.log_softmax(-1)[number])
    return total


def test_a_text_is_weighed_word_by_word_with_the_image_and_without(reader):
    numbers, images = [3, 3, 0, 11, 5], regions(4)
    found = reader(text(reader, numbers), images)
    assert found.shape == (4,) and found.std() > 1e-3
    without = one_by_one(reader, numbers, reader.without_image(images[0]))
    for image in range(4):
        expected = one_by_one(reader, numbers, images[image]) - without
        assert float(found[image]) == pytest.approx(expected, abs=1e-4)
        assert float(reader(text(reader, numbers), images[[image]])[0]) == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def groups(reader):
    """Two groups of two images with two texts each, of several lengths: words, numbers, regions, and the texts' numbers
    as lists. One word is too rare to be among the vocabulary."""
    import torch

    texts = [[1, 2, 3], [4, 5], [7], [10, 0, 1, 6], [2, 2], [3, 4, 5], [], [9, 8]]
    words, numbers = torch.zeros(8, 6, 768), torch.full((8, 6), -1)
    for row, each in enumerate(texts):
        words[row, : len(each) + 2] = text(reader, each)
        numbers[row, 1 : len(each) + 1] = torch.tensor(each)
    numbers[3, 2] = -1
    shape = (2, 2, 2)
    return words.unflatten(0, shape), numbers.unflatten(0, shape), regions(4).unflatten(0, (2, 2)), texts


def test_a_few_words_find_in_many_images_what_projected_keys_and_values_give(reader):
    import torch

    torch.manual_seed(2)
    attend, images = reader.looks[0].attention, torch.randn(5, 49, 16)
    for sequence in (torch.randn(3, 16), torch.randn(5, 3, 16)):
        torch.testing.assert_close(attend.few(sequence, images), attend(sequence, images), atol=1e-5, rtol=1e-4)


def test_every_text_of_a_group_meets_every_image_of_it(reader, groups):
    """As one text with one image at a time."""
    import torch

    with torch.no_grad():
        reader.log_scale.fill_(-0.5)
        reader.prior.fill_(0.7)
    words, numbers, images, texts = groups
    _, logits = reader.read_groups(words, numbers, images)
    assert logits.shape == (2, 4, 2)
    for group in range(2):
        for row in range(4):
            expected = reader(text(reader, texts[4 * group + row]), images[group])
            torch.testing.assert_close(logits[group, row], expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_mean_surprise_at_known_words(reader, groups):
    """With their own image, and at a share of `image_dropout` with none."""
    words, numbers, images, texts = groups
    seen = images.flatten(0, 1)
    surprise, alone = 0.0, 0.0
    for row, each in enumerate(texts):
        for upto in range(len(each)):
            if (row, upto) == (3, 1):
                continue
            said = each[: upto + 1], each[:upto]
            surprise -= one_by_one(reader, said[0], seen[row // 2]) - one_by_one(reader, said[1], seen[row // 2])
            none = reader.without_image(seen[0, :1])
            alone -= one_by_one(reader, said[0], none) - one_by_one(reader, said[1], none)
    known = sum(map(len, texts)) - 1
    found, _ = reader.read_groups(words, numbers, images)
    assert float(found) == pytest.approx(0.75 * surprise / known + 0.25 * alone / known, abs=1e-4)


def test_it_learns_which_word_an_image_stands_for(reader):
    import torch

    images = regions(WORDS)
    words = torch.stack([text(reader, [number]) for number in range(WORDS)])[:, None, None]
    numbers = torch.full((WORDS, 1, 1, 3), -1)
    numbers[:, 0, 0, 1] = torch.arange(WORDS)
    optimizer = torch.optim.Adam(reader.parameters(), lr=5e-3)
    reader.train()
    for _ in range(150):
        optimizer.zero_grad()
        reader.read_groups(words, numbers, images.unsqueeze(1))[0].backward()
        optimizer.step()
    reader.eval()
    scores = torch.stack([reader(text(reader, [number]), images) for number in range(WORDS)])
    assert (scores.argmax(1) == torch.arange(WORDS)).all()
    own = scores.diagonal()
    assert (own > 0).all() and (scores.sum(1) - own < 0).all(), "an image makes its word likelier, others less"


def test_a_word_outside_the_vocabulary_is_read_too(reader):
    words = text(reader, [1, 2])
    words[2, 384:] = -reader.vocabulary[7]
    found = reader(words, regions(3))
    assert found.isfinite().all() and found.std() > 1e-4


def test_of_a_long_text_the_beginning_is_read(reader):
    import torch

    numbers = [index % WORDS for index in range(30)]
    torch.testing.assert_close(reader(text(reader, numbers), regions(2)), reader(text(reader, numbers[:9]), regions(2)))
    words = text(reader, numbers).expand(2, 1, 1, -1, -1)
    loss, logits = reader.read_groups(words, torch.zeros(2, 1, 1, 32, dtype=torch.int64), regions(2).unsqueeze(1))
    assert loss.isfinite()
    torch.testing.assert_close(logits.flatten(), reader(text(reader, numbers[:9]), regions(2)), atol=1e-4, rtol=1e-4)


def test_a_text_without_words_scores_nought(reader):
    assert not reader(text(reader, []), regions(2)).any()


def test_evidence_is_what_a_word_loses_without_a_region(reader):
    """Against a reader that is given the other 48 regions only."""
    import torch

    numbers, image = [3, 0, 11], regions(1)[0]
    words = text(reader, numbers)
    found = reader.evidence(words, image)
    assert found.shape == (5, 49) and not found[0].any() and not found[4].any()
    for region in (0, 17, 48):
        others = torch.cat([image[:region], image[region + 1 :]])
        for place in range(3):
            upto = numbers[: place + 1]
            surprise = [
                one_by_one(reader, upto, seen) - one_by_one(reader, upto[:-1], seen) for seen in (image, others)
            ]
            assert float(found[place + 1, region]) == pytest.approx(surprise[0] - surprise[1], abs=1e-4)


def test_the_rest_of_a_long_text_has_no_evidence(reader):
    found = reader.evidence(text(reader, [index % WORDS for index in range(30)]), regions(1)[0])
    assert found.shape == (32, 49) and found[1:10].any(1).all() and not found[10:].any()
