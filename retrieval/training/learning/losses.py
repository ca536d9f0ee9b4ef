"""Losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize, one_hot

if TYPE_CHECKING:
    from torch import Tensor


def contrast(logits: Tensor, image_of_text: Tensor, softness: Tensor | None = None) -> Tensor:
    """Symmetric listwise cross-entropy: every text among all images, and every image among all texts, where all of an
    image's texts are right (the target is shared among them). Of scaled similarities it is the image-text contrast
    (ITC).

    logits: float [t, i]. image_of_text: int [t]. softness: float [t, i], rows or columns of which need not sum to one:
    how else a text may fit an image, added to the targets (near-duplicate captions are common). Returns a scalar."""
    right = one_hot(image_of_text, logits.shape[1]).to(logits.dtype)
    if softness is not None:
        right = right + softness
    to_image = right / right.sum(1, keepdim=True)
    to_text = right / right.sum(0, keepdim=True)
    return -(to_image * logits.log_softmax(1)).sum(1).mean() / 2 - (to_text * logits.log_softmax(0)).sum(0).mean() / 2


def matching(logits: Tensor) -> Tensor:
    """Image-text matching (ITM), listwise, in groups of images and their captions: every caption among the images of
    its group, and for its image among the captions of the others.

    logits: float [groups, t, i], by a scorer; the first t / i texts are the first image's, and so on. Returns a
    scalar."""
    texts, images = logits.shape[1:]
    owner = torch.arange(images).repeat_interleave(texts // images)
    own = logits.gather(2, owner.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
    of_others = logits.masked_fill(one_hot(owner, images).bool(), float("-inf")).logsumexp(1)[:, owner]
    to_image = logits.logsumexp(2) - own
    to_text = torch.logaddexp(of_others, own) - own
    return (to_image.mean() + to_text.mean()) / 2


def softness_of(texts: Tensor, image_of_text: Tensor, count: int, weight: float, temperature: float) -> Tensor:
    """How well each text fits each image, judged by the texts of that image alone: softmax of its similarity to the
    mean of them. texts: float [t, dim], unit norm, from the frozen text tower. count: of images. Returns [t, count],
    rows summing to `weight`."""
    with torch.no_grad():
        of_image = normalize(one_hot(image_of_text, count).to(texts.dtype).T @ texts, dim=-1)
        return weight * (texts @ of_image.T / temperature).softmax(1)
