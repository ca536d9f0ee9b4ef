"""Reduction and hubness correction, against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.torch


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    from retrieval.training.fitting.embedder import fit_embedder

    rng = np.random.default_rng(0)
    low = rng.normal(size=(20, 384))  # the content lies in 20 directions, with a little noise
    images = [unit(rng.normal(size=(120, 20)) @ low + 0.5 * rng.normal(size=(120, 384))) for _ in range(2)]
    texts = [unit(rng.normal(size=(300, 20)) @ low + 0.5 * rng.normal(size=(300, 384))) for _ in range(2)]
    familiarity = rng.uniform(0.3, 0.9, 300).astype(np.float32)
    return fit_embedder(images, texts, familiarity), images, (texts, familiarity)


def tensors(arrays):
    import torch

    return [torch.from_numpy(array) for array in arrays]


def test_embeddings_are_unit_norm_and_have_388_components(fitted):
    embedder, images, (texts, familiarity) = fitted
    for embeddings in (embedder.images(tensors(images)), embedder.texts(tensors(texts), tensors([familiarity])[0])):
        assert embeddings.shape[1] == embedder.dim == 388
        np.testing.assert_allclose(embeddings.norm(dim=1), 1, atol=1e-5)


def test_the_inner_product_is_the_corrected_similarity(fitted):
    from retrieval.training.fitting.embedder import CONSTANT, DIRECTION, LEAST, share_of_towers

    embedder, images, (texts, familiarity) = fitted
    of_texts = tensors(texts), tensors([familiarity])[0]
    product = (embedder.texts(*of_texts) @ embedder.images(tensors(images)).T).numpy()
    plain_images, plain_texts = embedder.reduced(tensors(images)).numpy(), embedder.reduced(*of_texts).numpy()

    def hubness(embedding, bank, shares):
        nearness = (share * np.exp(10 * embedding @ mean) for mean, share in zip(bank, shares, strict=True))
        return 0.1 * np.log(sum(nearness))

    for text, image in ((0, 0), (5, 100), (299, 7)):
        of_image = hubness(plain_images[image], embedder.text_bank.numpy(), embedder.text_shares.numpy())
        of_text = hubness(plain_texts[text], embedder.image_bank.numpy(), embedder.image_shares.numpy())
        weight = (1 - float(share_of_towers(of_texts[1][text]))) / (1 - LEAST)
        hubs = weight * (of_image - float(embedder.image_hubness)) + of_text - float(embedder.text_hubness)
        expected = DIRECTION * (plain_texts[text] @ plain_images[image] - hubs)
        assert product[text, image] == pytest.approx(expected, abs=1e-5)
    assert CONSTANT + DIRECTION < 1


def test_the_reduction_keeps_what_heads_and_towers_say_together(fitted):
    """For each text, the sum of both similarities, weighted by the towers' share."""
    import torch

    from retrieval.training.fitting.embedder import share_of_towers

    embedder, images, (texts, familiarity) = fitted
    reduced = embedder.reduced(tensors(texts), tensors([familiarity])[0]) @ embedder.reduced(tensors(images)).T
    for text in range(0, 300, 30):
        share = float(share_of_towers(torch.tensor(familiarity[text])))
        together = (1 - share) * images[0] @ texts[0][text] + share * images[1] @ texts[1][text]
        assert np.corrcoef(together, reduced[text].numpy())[0, 1] > 0.97


def test_the_towers_share_is_largest_for_what_they_know_by_name():
    import torch

    from retrieval.training.fitting.embedder import LEAST, share_of_towers

    shares = share_of_towers(torch.tensor([-1.0, 0.4, 0.6, 0.7, 0.9, 1.0])).tolist()
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(LEAST, abs=0.01) == pytest.approx(shares[1], abs=0.01)
    assert shares[-1] == pytest.approx(1, abs=0.01)


def test_a_hub_is_pushed_down():
    """An image in the midst of all texts, which beats the right one for many of them, beats it less often."""
    import torch

    from retrieval.training.fitting.embedder import fit_embedder

    rng = np.random.default_rng(1)
    texts = unit(rng.normal(size=(400, 384)) + 0.5)
    images = unit(texts + 0.1 * rng.normal(size=texts.shape))
    images[0] = unit(texts.mean(0, keepdims=True))[0]
    familiarity = np.full(400, 0.3, np.float32)
    embedder = fit_embedder([images], [texts], familiarity)
    of_texts = [torch.from_numpy(texts)], torch.from_numpy(familiarity)
    plain = embedder.reduced(*of_texts) @ embedder.reduced([torch.from_numpy(images)]).T
    corrected = embedder.texts(*of_texts) @ embedder.images([torch.from_numpy(images)]).T
    before, after = ((similarities[1:].argmax(1) == 0).float().mean() for similarities in (plain, corrected))
    assert after < 0.5 * before and before > 0.2


def test_a_correction_too_large_for_the_length_is_cut(fitted):
    import torch

    embedder, images, _ = fitted
    fitted_mean = embedder.image_hubness.clone()
    try:
        embedder.image_hubness.fill_(fitted_mean + 5)
        embeddings = embedder.images(tensors(images))
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))
    finally:
        embedder.image_hubness.copy_(fitted_mean)
