"""The losses: image-text contrast (ITC) and image-text matching (ITM). The reader computes LM itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize, one_hot

if TYPE_CHECKING:
    from torch import Tensor


def contrast(logits: Tensor, image_of_text: Tensor, softness: Tensor | None = None) -> Tensor:
    """Symmetric listwise cross-entropy (ITC): every text among all images, and every image among all texts.

        -1/2 mean over t of sum over i of p(i | t) log softmax_i(logits_t,i)  -1/2 mean over i of the same the other way

    The target p is shared among all texts of an image. logits: float [t, i], scaled similarities. image_of_text: int
    [t]. softness: float [t, i], how well a text fits other images (near-duplicate captions are common); it is added to
    the targets before they are normalised. Returns a scalar."""
    positives = one_hot(image_of_text, logits.shape[1]).to(logits.dtype)
    if softness is not None:
        positives = positives + softness
    to_image = positives / positives.sum(1, keepdim=True)
    to_text = positives / positives.sum(0, keepdim=True)
    return -(to_image * logits.log_softmax(1)).sum(1).mean() / 2 - (to_text * logits.log_softmax(0)).sum(0).mean() / 2


def matching(logits: Tensor) -> Tensor:
    """Listwise cross-entropy within groups of images and their captions (ITM): every caption among the images of its
    group, and for its image among the captions of the other images.

    logits: float [groups, t, i], by the scorer; the first t / i texts belong to the first image, and so on. Returns a
    scalar."""
    texts, images = logits.shape[1:]
    owner = torch.arange(images).repeat_interleave(texts // images)
    positive = logits.gather(2, owner.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
    negatives = logits.masked_fill(one_hot(owner, images).bool(), float("-inf")).logsumexp(1)[:, owner]
    to_image = logits.logsumexp(2) - positive
    to_text = torch.logaddexp(negatives, positive) - positive
    return (to_image.mean() + to_text.mean()) / 2


def softness_of(texts: Tensor, image_of_text: Tensor, count: int, weight: float, temperature: float) -> Tensor:
    """How well each text fits each image, judged by the image's captions alone: the softmax over the images of the
    text's similarity to the mean of their captions.

    texts: float [t, dim], unit norm, by the frozen text tower. count: of images. Returns [t, count], whose rows sum to
    `weight`."""
    with torch.no_grad():
        of_image = normalize(one_hot(image_of_text, count).to(texts.dtype).T @ texts, dim=-1)
        return weight * (texts @ of_image.T / temperature).softmax(1)
