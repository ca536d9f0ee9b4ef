"""The scorer: its fast path against its slow twin, its gradient against autograd, what it may and may not depend on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture
def read_out():
    import torch

    from retrieval.training.scorer import ReadOut, ScorerSettings

    torch.manual_seed(0)
    return ReadOut(ScorerSettings(dim=16)).eval()


def texts(*lengths, seed=0):
    """Words [n, longest, 768] and mask; what stands beyond a text's end is anything but zero."""
    import torch

    words = torch.randn(len(lengths), max(lengths), 768, generator=torch.Generator().manual_seed(seed))
    return words, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def regions(count, dim=16, seed=1):
    import torch

    found = torch.randn(count, 49, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1)


def test_all_pairs_are_what_each_pair_gives_by_itself(read_out):
    import torch

    words, mask = texts(3, 7, 5)
    images = regions(4)
    found = read_out.all_pairs(words, mask, images)
    assert found.shape == (3, 4) and found.std() > 0.01
    for text in range(3):
        for image in range(4):
            one = slice(text, text + 1)
            alone, looks = read_out(words[one, : mask[text].sum()], mask[one, : mask[text].sum()], images[[image]])
            torch.testing.assert_close(found[text, image], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(looks.sum(-1), torch.ones(1, int(mask[text].sum())))


def test_all_pairs_are_right_at_the_sharpest_scales_too(read_out):
    """One word that is opposed to all regions, where the exponentials are smallest."""
    import torch

    words, mask = texts(1, 2)
    asked, _, _ = read_out.words(words, mask)
    images = torch.cat([-asked[:1, :1].expand(1, 49, 16), regions(1)]).detach()
    with torch.no_grad():
        read_out.log_word_scale.fill_(20.0).log_()
        read_out.log_region_scale.fill_(20.0).log_()
    found = read_out.all_pairs(words, mask, images)
    alone, _ = read_out(words[:1, :1], mask[:1, :1], images[:1])
    torch.testing.assert_close(found[0, 0], alone[0], atol=1e-3, rtol=1e-3)


def test_the_fast_path_learns_what_the_slow_one_would(read_out):
    """The gradients of all weights agree."""
    import torch

    words, mask = texts(3, 5)
    images = regions(2)
    read_out.all_pairs(words, mask, images).square().sum().backward()
    fast = {name: parameter.grad.clone() for name, parameter in read_out.named_parameters()}
    read_out.zero_grad()
    pairs = [(text, image) for text in range(2) for image in range(2)]
    text_rows, image_rows = (list(each) for each in zip(*pairs, strict=True))
    read_out(words[text_rows], mask[text_rows], images[image_rows])[0].square().sum().backward()
    for name, parameter in read_out.named_parameters():
        torch.testing.assert_close(fast[name], parameter.grad, atol=2e-4, rtol=1e-3, msg=name)


def test_a_word_that_names_a_region_looks_at_it(read_out):
    import torch

    words, mask = texts(1)
    asked, _, _ = read_out.words(words, mask)
    images = regions(1)
    images[0, 17] = asked[0, 0]
    with torch.no_grad():
        read_out.log_word_scale.fill_(3)
    logit, looks = read_out(words, mask, images)
    assert looks[0, 0].argmax() == 17
    assert logit > read_out(words, mask, regions(1))[0]


def test_the_order_of_regions_does_not_matter_to_the_read_out(read_out):
    import torch

    words, mask = texts(4)
    images = regions(1)
    torch.testing.assert_close(read_out(words, mask, images)[0], read_out(words, mask, images.flip(1))[0])


def test_the_written_out_gradient_is_autograds(read_out):
    import torch

    from retrieval.training.decoder import Decoder, DecoderSettings
    from retrieval.training.export import Explainer
    from retrieval.training.model import Model
    from retrieval.training.scorer import quantize

    model = torch.nn.Module()  # the parts of a model that score
    model.read_out, model.decoder = read_out, Decoder(DecoderSettings(heads=4), 16, torch.randn(5, 384)).eval()
    model.weights = torch.tensor([0.7, 0.3])
    model.fusion, model.parts = Model.fusion.__get__(model), Model.parts.__get__(model)
    words, mask = texts(5)
    stored = quantize(regions(2))
    unit = torch.nn.functional.normalize(stored.float(), dim=-1)
    for image in range(2):
        asked, weights, _ = read_out.words(words, mask)
        fusion, looks, gradient, _ = Explainer(model)(words[0], stored[image])
        free = looks.detach().clone().requires_grad_()
        logit = 0.7 * read_out.compare(asked, weights, mask, unit[[image]], free @ unit[[image]])[0]
        torch.testing.assert_close(logit + 0.3 * model.decoder(words[0], unit[[image]])[0], fusion)
        logit.backward()
        torch.testing.assert_close(gradient, free.grad, atol=1e-5, rtol=1e-4)


def test_marks_and_what_the_tower_says_of_the_whole_text_are_not_read(read_out):
    import torch

    words, mask = texts(5, 4)
    images = regions(3)
    marked = torch.cat([words[:, :1], words, words[:, :1]], dim=1)
    marked[:, 0] = marked[:, -1] = 0
    marked[..., :384] = 7
    with_marks = torch.cat([mask[:, :1], mask, torch.tensor([[True], [True]])], dim=1)
    torch.testing.assert_close(
        read_out.all_pairs(marked, with_marks, images), read_out.all_pairs(words, mask, images), atol=1e-5, rtol=1e-5
    )


def test_a_text_without_words_scores_nought(read_out):
    import torch

    words, mask = torch.zeros(2, 3, 768), torch.ones(2, 3, dtype=torch.bool)
    assert not read_out.all_pairs(words, mask, regions(2)).any()
    assert not read_out(words, mask, regions(2))[0].any()


def test_int8_regions_keep_their_direction():
    import torch

    from retrieval.training.scorer import quantize

    images = regions(5, dim=256)
    stored = quantize(images)
    assert stored.dtype == torch.int8 and stored.abs().amax() == 127
    again = torch.nn.functional.normalize(stored.float(), dim=-1)
    assert (again * images).sum(-1).min() > 0.9995


def test_regions_know_their_place_and_are_unit_norm():
    import torch

    from retrieval.training.scorer import Regions, ScorerSettings

    torch.manual_seed(0)
    module = Regions(ScorerSettings(dim=16)).eval()
    same_everywhere = torch.randn(1, 1, 1350).expand(1, 49, 1350)
    found = module(same_everywhere, torch.randn(1, 1000))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 49))
    assert (found[0, 0] - found[0, 1]).abs().max() > 1e-3
