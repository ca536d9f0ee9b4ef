"""From the embeddings of several heads and of the towers to the one that is stored: reduced in length, and corrected
for hubs.

The towers' own embeddings have a share in it because heads forget what no training caption speaks of. The text decides
how large a share: the more it is like the name of something that the towers were taught to tell ("an Egyptian cat"),
the more the towers are asked; whole sentences about people and what they do are left to the heads.

In a space of many dimensions some images are near to every text, and some texts to every image (Radovanović et al.
2010, "Hubs in Space"): they crowd the first places. From each similarity is taken how near the image is to texts as
such, and the text to images as such (the log-mean-exp over a bank, as in querybank normalisation: Bogolin et al. 2022).
Both are numbers of one image or text alone, so they fit the embedding, in components of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from indexes.faiss_module import import_faiss
from retrieval.training.model.heads import DIM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BANK = 192
TEMPERATURE = 0.1
LEAST = 0.2  # share of the towers in the similarity for a text that is far from all they know by name
MIDDLE, STEEPNESS = 0.65, 25.0  # from where, and how fast, the share grows to all of it
# Shares of the squared length: of the direction, and of the constant that meets the other side's correction.
DIRECTION, CONSTANT = 0.6, 0.3
LARGEST = 0.28  # the largest correction, which the rest of the length has room for


class Embedder(nn.Module):
    """Unit-norm embeddings of length 388 whose inner product is DIRECTION * (similarity - hubness of the image -
    hubness of the text), the latter as deviations from their means. The hubness of images counts the less the more the
    text is left to the towers: it is judged by captions, none of which may be like the name of a rare thing."""

    def __init__(self, parts: int, bank: int = BANK) -> None:
        """parts: heads and towers."""
        super().__init__()
        self.register_buffer("basis", torch.zeros(parts * DIM, DIM))
        for side in ("image", "text"):
            self.register_buffer(f"{side}_bank", torch.zeros(bank, DIM))
            self.register_buffer(f"{side}_shares", torch.full((bank,), 1 / bank))
            self.register_buffer(f"{side}_hubness", torch.zeros(()))

    @property
    def dim(self) -> int:
        return DIM + 4

    def reduced(self, parts: list[Tensor], known: Tensor | None = None) -> Tensor:
        """The embeddings by all heads and, last, by the towers, each [n, 384], as one, [n, 384], unit norm. known: of
        texts, [n], see `Heads.known`; None for images."""
        return normalize(_side_by_side(parts, known) @ self.basis, dim=-1)

    def images(self, parts: list[Tensor]) -> Tensor:
        """[n, 388], unit norm."""
        found = self.reduced(parts)
        excess = hubness(found, self.text_bank, self.text_shares) - self.image_hubness
        constant, correction = _corrections(excess)
        return torch.cat(
            [DIRECTION**0.5 * found, correction, constant, _rest(constant, correction), 0 * constant], dim=-1
        )

    def texts(self, parts: list[Tensor], known: Tensor) -> Tensor:
        """[n, 388], unit norm. known: [n], see `Heads.known`."""
        found = self.reduced(parts, known)
        excess = hubness(found, self.image_bank, self.image_shares) - self.text_hubness
        constant, correction = _corrections(excess)
        constant = constant * ((1 - share_of_towers(known)) / (1 - LEAST)).unsqueeze(-1)
        rest = _rest(constant, correction)
        return torch.cat([DIRECTION**0.5 * found, constant, correction, 0 * constant, rest], dim=-1)


def share_of_towers(known: Tensor) -> Tensor:
    """LEAST for a text that is like no name, one for a name. known: see `Heads.known`."""
    return LEAST + (1 - LEAST) * torch.sigmoid(STEEPNESS * (known - MIDDLE))


def _side_by_side(parts: list[Tensor], known: Tensor | None) -> Tensor:
    """[n, parts * 384], unit norm. The inner product of a text's with an image's is, but for the lengths, the mean of
    the similarities by heads and by towers, weighted by the text's share."""
    share = torch.full_like(parts[-1][:, 0], 0.5) if known is None else share_of_towers(known)
    share = share.unsqueeze(-1)
    of_heads = (1 - share) / max(len(parts) - 1, 1) ** 0.5
    return normalize(torch.cat([*(of_heads * each for each in parts[:-1]), share * parts[-1]], dim=-1), dim=-1)


def hubness(embeddings: Tensor, bank: Tensor, shares: Tensor) -> Tensor:
    """How near each is to the bank as a whole: TEMPERATURE * log of the mean of exp(similarity / TEMPERATURE).
    embeddings: [n, dim]. bank: [m, dim]. shares: [m], how much each counts, summing to one. Returns [n, 1]."""
    return TEMPERATURE * ((embeddings @ bank.T / TEMPERATURE).exp() @ shares).log().unsqueeze(-1)


def _corrections(excess: Tensor) -> tuple[Tensor, Tensor]:
    constant = torch.full_like(excess, CONSTANT**0.5)
    return constant, -excess.clamp(-LARGEST, LARGEST) * (DIRECTION / CONSTANT**0.5)


def _rest(constant: Tensor, correction: Tensor) -> Tensor:
    """What is missing to a length of one."""
    return (1 - DIRECTION - constant.square() - correction.square()).clamp(min=0).sqrt()


def fit_embedder(
    images: list[NDArray[np.float32]],
    texts: list[NDArray[np.float32]],
    known: NDArray[np.float32],
    seed: int = 0,
) -> Embedder:
    """The embedder for the embeddings of the training images and captions by all heads and, last, by the towers, each
    [n, 384]: the principal directions of both, and banks of their cluster means. known: [captions], see
    `Heads.known`."""
    embedder = Embedder(len(images), min(BANK, *(len(each) for each in (images[0], texts[0]))))
    familiar = torch.from_numpy(known)
    both = [_side_by_side(_tensors(images), None), _side_by_side(_tensors(texts), familiar)]
    moment = sum(each.T @ each / len(each) for each in (side.numpy().astype(np.float64) for side in both))
    _, directions = np.linalg.eigh(moment)
    embedder.basis.copy_(torch.from_numpy(directions[:, -DIM:].copy()))
    found = {"image": embedder.reduced(_tensors(images)), "text": embedder.reduced(_tensors(texts), familiar)}
    for side, vectors in found.items():
        means, shares = _clusters(vectors.numpy(), len(embedder.image_bank), seed)
        getattr(embedder, f"{side}_bank").copy_(torch.from_numpy(means))
        getattr(embedder, f"{side}_shares").copy_(torch.from_numpy(shares))
    embedder.image_hubness.copy_(hubness(found["image"], embedder.text_bank, embedder.text_shares).mean())
    embedder.text_hubness.copy_(hubness(found["text"], embedder.image_bank, embedder.image_shares).mean())
    return embedder


def _tensors(parts: list[NDArray[np.float32]]) -> list[Tensor]:
    return [torch.from_numpy(each) for each in parts]


def _clusters(vectors: NDArray[np.float32], count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means [count, dim] of clusters and the share of vectors in each."""
    faiss = import_faiss()
    means = faiss.Kmeans(vectors.shape[1], count, niter=10, seed=seed, max_points_per_centroid=len(vectors))
    means.cp.min_points_per_centroid = 1
    means.train(np.ascontiguousarray(vectors))
    assigned = means.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
    centroids: NDArray[np.float32] = np.asarray(means.centroids)
    return centroids, (np.bincount(assigned, minlength=count) / len(vectors)).astype(np.float32)
