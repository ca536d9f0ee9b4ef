"""The contrastive loss against loops."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.torch


def unit(count, dim=6, seed=0):
    import torch

    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def by_loops(texts, images, image_of_text, scale):
    """Cross-entropy of every text over images; of every image over texts, its captions sharing the target."""
    total = 0.0
    for text, owner in zip(texts, image_of_text, strict=True):
        exponents = [math.exp(scale * float(text @ image)) for image in images]
        total -= math.log(exponents[owner] / sum(exponents)) / len(texts) / 2
    for number, image in enumerate(images):
        exponents = [math.exp(scale * float(text @ image)) for text in texts]
        captions = [index for index, owner in enumerate(image_of_text) if owner == number]
        total -= (
            sum(math.log(exponents[index] / sum(exponents)) for index in captions) / len(captions) / len(images) / 2
        )
    return total


@pytest.mark.parametrize("image_of_text", [[0, 1, 2], [0, 0, 1, 2, 2, 2]])
def test_it_is_symmetric_cross_entropy_with_shared_targets(image_of_text):
    import torch

    from retrieval.training.learning.losses import contrast

    texts, images = unit(len(image_of_text)), unit(3, seed=1)
    loss = contrast(7.0 * texts @ images.T, torch.tensor(image_of_text))
    assert float(loss) == pytest.approx(by_loops(texts, images, image_of_text, 7.0), rel=1e-5)


def test_soft_targets_let_a_near_duplicate_off_lightly():
    """Two images with the same caption, and a model that takes each for the other: held against it only without."""
    import torch

    from retrieval.training.learning.losses import contrast, softness_of

    caption = unit(1)
    texts, owners = torch.cat([caption, caption]), torch.tensor([0, 1])
    soft = softness_of(texts, owners, 2, 1.0, 0.05)
    torch.testing.assert_close(soft, torch.full((2, 2), 0.5))
    wrong_way_round = torch.tensor([[0.0, 4.0], [4.0, 0.0]])
    hard, eased = (float(contrast(wrong_way_round, owners, softness)) for softness in (None, soft))
    assert hard == pytest.approx(4 + math.log(1 + math.exp(-4)), rel=1e-5)
    assert eased == pytest.approx(0.75 * 4 + math.log(1 + math.exp(-4)), rel=1e-5)


def test_softness_is_shared_out_in_full():
    import torch

    from retrieval.training.learning.losses import softness_of

    softness = softness_of(unit(6), torch.tensor([0, 0, 1, 1, 2, 2]), 3, 0.2, 0.05)
    torch.testing.assert_close(softness.sum(1), torch.full((6,), 0.2))


def test_matching_is_listwise_both_ways():
    """Every caption among the images; and for its image among the captions of the others, written out."""
    import torch

    from retrieval.training.learning.losses import matching

    logits = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for group in logits.tolist():
        for text in range(6):
            positive = group[text][text // 2]
            others = [group[other][text // 2] for other in range(6) if other // 2 != text // 2]
            total -= math.log(math.exp(positive) / sum(map(math.exp, group[text]))) / 2
            total -= math.log(math.exp(positive) / (math.exp(positive) + sum(map(math.exp, others)))) / 2
    assert float(matching(logits)) == pytest.approx(total / 18, abs=1e-5)


def test_matching_a_single_image_has_nothing_to_learn():
    import torch

    from retrieval.training.learning.losses import matching

    logits = torch.randn(4, 2, 1, requires_grad=True)
    loss = matching(logits)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
