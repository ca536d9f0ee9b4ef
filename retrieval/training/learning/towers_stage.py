"""The stage in which the towers of an open_clip model learn, by the contrast of photos and captions (ITC)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.captions import Skipped, left_out_lines
from retrieval.cores import usable_cores
from retrieval.training.data.batches import endless, part_of_batch, steps_an_epoch, take
from retrieval.training.data.photos import UnusablePhoto, photo_of
from retrieval.training.data.towers import OpenClipTransform
from retrieval.training.data.views import RANDOM, view
from retrieval.training.inference import recall_at_1
from retrieval.training.learning.losses import contrast
from retrieval.training.parallel import current_device, on_device

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval.captions import CaptionedImage
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.training.data.photos import Captioned
    from retrieval.training.learning.settings import TrainSettings

AT_ONCE = 64
LARGEST_SCALE = 100.0  # inverse of the smallest temperature


class TowersStage:
    """Every photo is decoded anew in every epoch, in another random view. An unreadable photo is left out of its batch,
    and reported the first time. Judged by R@1 on dev, by similarity, both ways."""

    name = "towers"

    def __init__(
        self,
        encoder: OpenClipEncoder,
        training: Sequence[Captioned],
        dev: Sequence[Captioned],
        settings: TrainSettings,
        key: str,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """training, dev: images, each with its set. note: receives a line for each photo that cannot be read."""
        self.module: nn.Module = encoder.model.to(current_device())
        self.schedule = settings.towers
        self._images, self._dev = training, dev
        self.batch = part_of_batch(self.schedule.batch, len(self._images))
        self.steps = steps_an_epoch(len(self._images), self.batch)
        self.weights = {"itc": settings.itc}
        self.patient_from = 0
        self.key = key
        self._transform = OpenClipTransform(encoder)
        self._tokenize = encoder.tokenizer
        self._order: Iterator[int] = iter(())
        self._note = note
        self._named: set[str] = set()

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._order = endless(lambda: rng.permutation(len(self._images)))

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        images = [self._images[index] for index in take(self._order, self.batch)]
        captions = [self._draw_captions(image, rng) for _, image in images]
        seeds = rng.integers(2**62, size=len(images))
        with self._autocast():
            pixels, rows = self._pixels(images, seeds)
            texts = [caption for row in rows for caption in captions[row]]
            owners = np.repeat(np.arange(len(rows)), [len(captions[row]) for row in rows])
            of_images = self._embed_images(self.module, pixels)
            of_texts = self._embed_texts(self.module, texts)
        logits = self.module.logit_scale.exp() * of_texts.float() @ of_images.float().T
        return {"itc": contrast(logits, on_device(owners))}

    def _draw_captions(self, image: CaptionedImage, rng: np.random.Generator) -> list[str]:
        chosen = rng.permutation(len(image.captions))[: self.schedule.captions]
        return [image.captions[index] for index in chosen]

    @staticmethod
    def stored_name(name: str) -> str:
        """The name itself, which is open_clip's."""
        return name

    def clamp(self) -> None:
        self.module.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def judge(self, module: nn.Module) -> dict[str, float]:
        images, texts, counts = [], [], []
        for low in range(0, len(self._dev), AT_ONCE):
            batch = self._dev[low : low + AT_ONCE]
            try:
                pixels, rows = self._pixels(batch)
            except CrosslookError:  # none of this batch can be read
                continue
            images.append(self._embed_images(module, pixels).float().cpu().numpy())
            captions = [caption for row in rows for caption in batch[row][1].captions]
            counts += [len(batch[row][1].captions) for row in rows]
            texts += [
                self._embed_texts(module, captions[at : at + AT_ONCE]).float().cpu().numpy()
                for at in range(0, len(captions), AT_ONCE)
            ]
        if not images:
            raise CrosslookError(f"none of the {len(self._dev)} images to choose by can be read")
        owners = np.repeat(np.arange(len(counts)), counts)
        return recall_at_1(np.concatenate(images), np.concatenate(texts), owners)

    def _pixels(
        self, images: Sequence[Captioned], seeds: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], list[int]]:
        """The tower's input for the readable images, float32 [n, 3, side, side], and their rows in `images`.

        seeds: of random views; None for the photos as they are. Raises `CrosslookError` if none can be read."""

        def prepared(index: int) -> NDArray[np.float32] | UnusablePhoto:
            try:
                photo = photo_of(*images[index], self._transform.image_size)
            except UnusablePhoto as error:
                return error
            number = 0 if seeds is None else RANDOM
            rng = np.random.default_rng(None if seeds is None else seeds[index])
            return np.asarray(view(photo, number, self._transform, rng))

        with ThreadPoolExecutor(usable_cores()) as threads:
            views = list(threads.map(prepared, range(len(images))))
        pixels, rows = [], []
        for index, (item, (captions, image)) in enumerate(zip(views, images, strict=True)):
            if not isinstance(item, UnusablePhoto):
                pixels.append(item)
                rows.append(index)
            elif (name := f"{captions.source}\0{image.image}") not in self._named:
                self._named.add(name)
                self._note(left_out_lines([Skipped(image.image, item.reason)])[0])
        if not rows:
            raise next(item for item in views if isinstance(item, UnusablePhoto))
        return np.stack(pixels), rows

    def _embed_images(self, module: Any, pixels: NDArray[np.float32]) -> Tensor:
        """float [n, dim], unit norm."""
        embeddings: Tensor = module.encode_image(on_device(pixels), normalize=True)
        return embeddings

    def _embed_texts(self, module: Any, texts: Sequence[str]) -> Tensor:
        """float [n, dim], unit norm."""
        with torch.device("cpu"):  # tokenizers make tensors on the default device, and work on the CPU only
            tokens = self._tokenize(list(texts))
        embeddings: Tensor = module.encode_text(tokens.to(current_device()), normalize=True)
        return embeddings

    @staticmethod
    def _autocast() -> Any:
        kind = current_device().type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")
