"""The towers of an open_clip model learn: the contrast of images and captions (ITC), from the photos themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.cores import usable_cores
from retrieval.training.applying import first_both_ways
from retrieval.training.batches import endless, part_of_batch, steps_an_epoch, take
from retrieval.training.features import photo_of, view
from retrieval.training.losses import contrast
from retrieval.training.parallel import current_device, on_device
from retrieval.training.towers import OpenClipSight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval.captions import CaptionedImage, CaptionSet
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.training.settings import TrainSettings

AT_ONCE = 64
LARGEST_SCALE = 100.0
RANDOM_VIEW = 2  # see `view`


class TowersStage:
    """Every photo is decoded anew and seen in another random view each time. Judged by R@1 on dev by similarity, both
    ways."""

    name = "towers"

    def __init__(
        self,
        encoder: OpenClipEncoder,
        training: Sequence[CaptionSet],
        dev: Sequence[CaptionSet],
        settings: TrainSettings,
        key: str,
    ) -> None:
        self.module: nn.Module = encoder.model.to(current_device())
        self.schedule = settings.towers
        self._images, self._dev = (
            [(each, image) for each in part for image in each.images] for part in (training, dev)
        )
        self.batch = part_of_batch(self.schedule, len(self._images))
        self.steps = steps_an_epoch(len(self._images), self.batch)
        self.weights = {"itc": settings.itc}
        self.patient_from = 0
        self.key = key
        self._sight = OpenClipSight(encoder)
        self._tokenize = encoder.tokenizer
        self._order: Iterator[int] = iter(())

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._order = endless(lambda: rng.permutation(len(self._images)))

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        images = [self._images[index] for index in take(self._order, self.batch)]
        texts, owners = [], []
        for row, (_, image) in enumerate(images):
            chosen = rng.permutation(len(image.captions))[: self.schedule.captions]
            texts += [image.captions[index] for index in chosen]
            owners += [row] * len(chosen)
        seeds = rng.integers(2**62, size=len(images))
        with self._autocast():
            of_images = self._embed_images(self.module, images, seeds)
            of_texts = self._embed_texts(self.module, texts)
        logits = self.module.logit_scale.exp() * of_texts.float() @ of_images.float().T
        return {"itc": contrast(logits, on_device(np.array(owners)))}

    def clamp(self) -> None:
        self.module.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def judge(self, module: nn.Module) -> dict[str, float]:
        images, texts = [], []
        for low in range(0, len(self._dev), AT_ONCE):
            some = self._dev[low : low + AT_ONCE]
            images.append(self._embed_images(module, some).float().cpu().numpy())
            captions = [caption for _, image in some for caption in image.captions]
            texts += [
                self._embed_texts(module, captions[at : at + AT_ONCE]).float().cpu().numpy()
                for at in range(0, len(captions), AT_ONCE)
            ]
        owners = np.repeat(np.arange(len(self._dev)), [len(image.captions) for _, image in self._dev])
        return first_both_ways(np.concatenate(images), np.concatenate(texts), owners)

    def _embed_images(
        self,
        module: Any,
        images: Sequence[tuple[CaptionSet, CaptionedImage]],
        seeds: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """Unit norm, [n, dim]. seeds: of random views; without them as they are."""

        def seen(index: int) -> NDArray[np.float32]:
            photo = photo_of(*images[index], self._sight.image_size)
            number = 0 if seeds is None else RANDOM_VIEW
            rng = np.random.default_rng(None if seeds is None else seeds[index])
            return np.asarray(view(photo, number, self._sight, rng))

        with ThreadPoolExecutor(usable_cores()) as threads:
            pixels = np.stack(list(threads.map(seen, range(len(images)))))
        found: Tensor = module.encode_image(on_device(pixels), normalize=True)
        return found

    def _embed_texts(self, module: Any, texts: Sequence[str]) -> Tensor:
        with torch.device("cpu"):  # tokenizers make their tensors where new ones are made, and expect them there
            words = self._tokenize(list(texts))
        found: Tensor = module.encode_text(words.to(current_device()), normalize=True)
        return found

    @staticmethod
    def _autocast() -> Any:
        kind = current_device().type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")
