"""From the embeddings by an ensemble of heads and by the towers to the embedding that is stored: 388 components.

Three things are done to n + 1 embeddings of 384 components each, by n heads and last by the towers.

1. Combine. They are concatenated with weights, and the text decides the weights: heads forget what no training caption
   mentions, and towers know it. With t = the towers' share, from `familiarity` (LEAST for a sentence about people, near
   1 for a name the classifier was taught, such as "an Egyptian cat"):

       text:   [(1 - t) h_1, ..., (1 - t) h_n] / sqrt(n),  t * tower        image: the same with t = 0.5

   So the inner product is, up to the lengths, the mean of the similarities by heads and by towers, weighted by t.

2. Reduce. Both are projected onto 384 principal directions and normalised: u (image) and v (text), with similarity
   u . v. The directions are eigenvectors of the uncentred second moment of the training embeddings, the mean of x x^T
   over images plus that over texts: an inner product has no mean to subtract.

3. Correct hubs. In high dimensions some images (hubs) are near to every text, and crowd the first places (Radovanovic
   et al. 2010, "Hubs in Space"); and some texts are near to every image. From each similarity is subtracted how near
   the image is to texts as such, and the text to images as such (querybank normalisation: Bogolin et al. 2022):

       hub(u) = T log(sum over b of share_b exp(u . b / T)) - mean,   b: a bank of 192 cluster means of training texts

   and hub(v) with a bank of images. Each is a number of one image or one text, so a stored vector can carry it.

The layout. Of the squared length, D = DIRECTION = 0.6 is for u or v, and CONSTANT = 0.3 for the constant c = sqrt(0.3),
which meets the correction of the other side: g(x) = -x D / c, with x clamped to +-LARGEST_HUBNESS.

                    384                  1            1           1          1
            +--------------------+-------------+-------------+----------+----------+
    image   |    sqrt(D) u       |  g(hub(u))  |      c      |  rest_u  |    0     |    388 components, unit norm
            +--------------------+-------------+-------------+----------+----------+
    text    |    sqrt(D) v       |     k c     |  g(hub(v))  |    0     |  rest_v  |    388 components, unit norm
            +--------------------+-------------+-------------+----------+----------+
    product        D u.v            -k D hub(u)    -D hub(v)       0          0

    image . text = D (u . v - k hub(u) - hub(v)),    k = (1 - t) / (1 - LEAST)

384 + 4: an inner product can subtract hub(u) only if the image carries it where the text carries a constant (one
component), and hub(v) only the other way round (another). So image and text have different layouts, and an image's
vector must not be compared with an image's: g(hub(u)) would meet g(hub(u')). The rest fills up to unit norm, which
nearest-neighbour search wants, in a component of its own for either side, so that it meets zero. k switches the
correction of images off for texts left to the towers: their hubness is judged by captions, none of which may be like
the name of a rare thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from indexes.ann.faiss_module import import_faiss
from retrieval.training.data.sizes import DIM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BANK = 192
TEMPERATURE = 0.1  # T
LEAST = 0.2  # the towers' share for a text that is far from all they know by name
MIDDLE, STEEPNESS = 0.65, 25.0  # of the sigmoid by which the share grows with familiarity
DIRECTION, CONSTANT = 0.6, 0.3  # D and C
LARGEST_HUBNESS = 0.28  # so that the components never exceed unit norm: 0.6 + 0.3 + (0.28 * 0.6)^2 / 0.3 < 1


class Embedder(nn.Module):
    """Makes the stored embeddings, see the module's docstring."""

    def __init__(self, parts: int, bank: int = BANK) -> None:
        """parts: heads, and one for the towers. bank: cluster means of each side."""
        super().__init__()
        self.register_buffer("basis", torch.zeros(parts * DIM, DIM))
        for side in ("image", "text"):
            self.register_buffer(f"{side}_bank", torch.zeros(bank, DIM))
            self.register_buffer(f"{side}_shares", torch.full((bank,), 1 / bank))
            self.register_buffer(f"{side}_hubness", torch.zeros(()))  # the mean, which is subtracted

    @property
    def dim(self) -> int:
        return DIM + 4

    def reduced(self, parts: list[Tensor], familiarity: Tensor | None = None) -> Tensor:
        """u or v, float [n, 384], unit norm.

        parts: the embeddings by all heads and last by the towers, each [n, 384]. familiarity: of texts, [n], see
        `Heads.familiarity`; None for images."""
        return normalize(_combined(parts, familiarity) @ self.basis, dim=-1)

    def images(self, parts: list[Tensor]) -> Tensor:
        """The stored vectors of images, float [n, 388], unit norm. parts: see `reduced`."""
        reduced = self.reduced(parts)
        hub = hubness(reduced, self.text_bank, self.text_shares) - self.image_hubness
        constant, correction = _corrections(hub)
        rest = _rest(constant, correction)
        return torch.cat([DIRECTION**0.5 * reduced, correction, constant, rest, 0 * constant], dim=-1)

    def texts(self, parts: list[Tensor], familiarity: Tensor) -> Tensor:
        """The vectors of texts, float [n, 388], unit norm. parts, familiarity: see `reduced`."""
        reduced = self.reduced(parts, familiarity)
        hub = hubness(reduced, self.image_bank, self.image_shares) - self.text_hubness
        constant, correction = _corrections(hub)
        constant = constant * ((1 - share_of_towers(familiarity)) / (1 - LEAST)).unsqueeze(-1)
        rest = _rest(constant, correction)
        return torch.cat([DIRECTION**0.5 * reduced, constant, correction, 0 * constant, rest], dim=-1)


def share_of_towers(familiarity: Tensor) -> Tensor:
    """t: LEAST for a text that is like no class name, near 1 for a class name. familiarity: [n]."""
    return LEAST + (1 - LEAST) * torch.sigmoid(STEEPNESS * (familiarity - MIDDLE))


def _combined(parts: list[Tensor], familiarity: Tensor | None) -> Tensor:
    """The weighted concatenation of step 1: float [n, parts * 384], unit norm."""
    share = torch.full_like(parts[-1][:, 0], 0.5) if familiarity is None else share_of_towers(familiarity)
    share = share.unsqueeze(-1)
    of_heads = (1 - share) / max(len(parts) - 1, 1) ** 0.5
    return normalize(torch.cat([*(of_heads * part for part in parts[:-1]), share * parts[-1]], dim=-1), dim=-1)


def hubness(embeddings: Tensor, bank: Tensor, shares: Tensor) -> Tensor:
    """T log(sum over b of share_b exp(embedding . b / T)): how near each embedding is to the bank, float [n, 1].

    embeddings: [n, dim]. bank: [m, dim]. shares: [m], summing to one."""
    return TEMPERATURE * ((embeddings @ bank.T / TEMPERATURE).exp() @ shares).log().unsqueeze(-1)


def _corrections(hub: Tensor) -> tuple[Tensor, Tensor]:
    """c and g(hub), both of the shape of `hub`."""
    constant = torch.full_like(hub, CONSTANT**0.5)
    return constant, -hub.clamp(-LARGEST_HUBNESS, LARGEST_HUBNESS) * (DIRECTION / CONSTANT**0.5)


def _rest(constant: Tensor, correction: Tensor) -> Tensor:
    """The component that makes the norm one."""
    return (1 - DIRECTION - constant.square() - correction.square()).clamp(min=0).sqrt()


def fit_embedder(
    images: list[NDArray[np.float32]],
    texts: list[NDArray[np.float32]],
    familiarity: NDArray[np.float32],
    seed: int = 0,
) -> Embedder:
    """Fit the principal directions and the banks on the training images and captions.

    images, texts: the embeddings by all heads and last by the towers, each [n, 384]. familiarity: [captions]."""
    embedder = Embedder(len(images), min(BANK, *(len(side) for side in (images[0], texts[0]))))
    of_texts = torch.from_numpy(familiarity)
    sides = [_combined(_tensors(images), None), _combined(_tensors(texts), of_texts)]
    moment = sum(side.T @ side / len(side) for side in (side.numpy().astype(np.float64) for side in sides))
    _, directions = np.linalg.eigh(moment)
    embedder.basis.copy_(torch.from_numpy(directions[:, -DIM:].copy()))
    reduced = {"image": embedder.reduced(_tensors(images)), "text": embedder.reduced(_tensors(texts), of_texts)}
    for side, vectors in reduced.items():
        means, shares = _clusters(vectors.numpy(), len(embedder.image_bank), seed)
        getattr(embedder, f"{side}_bank").copy_(torch.from_numpy(means))
        getattr(embedder, f"{side}_shares").copy_(torch.from_numpy(shares))
    embedder.image_hubness.copy_(hubness(reduced["image"], embedder.text_bank, embedder.text_shares).mean())
    embedder.text_hubness.copy_(hubness(reduced["text"], embedder.image_bank, embedder.image_shares).mean())
    return embedder


def _tensors(parts: list[NDArray[np.float32]]) -> list[Tensor]:
    return [torch.from_numpy(part) for part in parts]


def _clusters(vectors: NDArray[np.float32], count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """k-means: the cluster means [count, dim], and the share of the vectors in each cluster [count]."""
    faiss = import_faiss()
    means = faiss.Kmeans(vectors.shape[1], count, niter=10, seed=seed, max_points_per_centroid=len(vectors))
    means.cp.min_points_per_centroid = 1
    means.train(np.ascontiguousarray(vectors))
    assigned = means.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]
    centroids: NDArray[np.float32] = np.asarray(means.centroids)
    return centroids, (np.bincount(assigned, minlength=count) / len(vectors)).astype(np.float32)
