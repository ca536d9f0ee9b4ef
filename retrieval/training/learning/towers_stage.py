"""The stage in which the towers of an open_clip model learn, by the contrast of photos and captions (ITC)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from retrieval.captions import Skipped, left_out_lines
from retrieval.training import accelerator
from retrieval.training.data.batches import endless, part_of_batch, steps_an_epoch, take
from retrieval.training.data.decoded import DecodedPhotos
from retrieval.training.data.photo_batches import PhotoBatch, PhotoLoader
from retrieval.training.inference import recall_at_1
from retrieval.training.learning.feeding import batches
from retrieval.training.learning.losses import contrast
from retrieval.training.parallel import current_device, on_device

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retrieval.captions import CaptionedImage
    from retrieval.encoders.openclip import OpenClipEncoder
    from retrieval.training.accelerator import Batch
    from retrieval.training.data.photos import Captioned
    from retrieval.training.learning.settings import TrainSettings

AT_ONCE = 64
LARGEST_SCALE = 100.0  # inverse of the smallest temperature


@dataclass(frozen=True)
class Drawn:
    """images: numbers, int64 [n]. captions: of each. seeds: int64 [n], of its random view."""

    images: NDArray[np.int64]
    captions: list[list[str]]
    seeds: NDArray[np.int64]


class TowersStage:
    """Every photo is seen in another random view in every epoch. An unreadable photo is left out of its batch, and
    reported the first time. Judged by R@1 on dev, by similarity, both ways."""

    name = "towers"

    def __init__(
        self,
        encoder: OpenClipEncoder,
        training: Sequence[Captioned],
        dev: Sequence[Captioned],
        settings: TrainSettings,
        key: str,
        note: Callable[[str], None] = lambda text: None,
        photos: Path | None = None,
    ) -> None:
        """training, dev: images, each with its set. note: receives a line for each photo that cannot be read. photos:
        the folder on whose disk decoded photos are kept for the next epoch, None to keep none."""
        self.module: nn.Module = encoder.model.to(current_device())
        self.schedule = settings.towers
        self._images, self._dev = training, dev
        self.batch = part_of_batch(self.schedule.batch, len(self._images))
        self.steps = steps_an_epoch(len(self._images), self.batch)
        self.weights = {"itc": settings.itc}
        self.patient_from = 0
        self.key = key
        self._training_photos = PhotoLoader(encoder, training, DecodedPhotos(photos, note))
        self._dev_photos = PhotoLoader(encoder, dev, DecodedPhotos(None))
        self._tokenizer = encoder.tokenizer
        self._token_ids: dict[str, NDArray[np.int32]] = {}
        self._tokenizing = Lock()  # tokenisers of the hub set their length in each call, which fails in two threads
        self._order: Iterator[int] = iter(())
        self._note = note
        self._unreadable: deque[tuple[str, Skipped]] = deque()  # with their names, from the threads that load
        self._named: set[str] = set()
        self._spares_memory = False

    def begin(self, number: int, rng: np.random.Generator) -> None:
        self._order = endless(lambda: rng.permutation(len(self._images)))

    def draw(self, rng: np.random.Generator) -> Drawn:
        images = take(self._order, self.batch)
        captions = [self._draw_captions(self._images[index][1], rng) for index in images]
        return Drawn(images, captions, rng.integers(2**62, size=len(images)))

    def _draw_captions(self, image: CaptionedImage, rng: np.random.Generator) -> list[str]:
        chosen = rng.permutation(len(image.captions))[: self.schedule.captions]
        return [image.captions[index] for index in chosen]

    def load(self, drawn: Drawn) -> Batch:
        photos = self._training_photos.load(drawn.images.tolist(), drawn.seeds)
        self._take_down(photos, [self._images[index] for index in drawn.images])
        if photos.pixels is None:
            self._report()
            raise next(iter(photos.unreadable.values()))
        texts = [caption for row in photos.rows for caption in drawn.captions[row]]
        owners = np.repeat(np.arange(len(photos.rows)), [len(drawn.captions[row]) for row in photos.rows])
        return {"pixels": photos.pixels, "tokens": self._tokens(texts), "owners": on_device(owners)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self._report()
        of_images = self.module.encode_image(batch["pixels"], normalize=True)
        of_texts = self.module.encode_text(batch["tokens"], normalize=True)
        with accelerator.full_precision():
            logits = self.module.logit_scale.exp() * of_texts.float() @ of_images.float().T
            return {"itc": contrast(logits, batch["owners"])}

    def spare_memory(self) -> bool:
        """By computing activations a second time instead of keeping them."""
        if self._spares_memory:
            return False
        self.module.set_grad_checkpointing(True)
        self._spares_memory = True
        return True

    @staticmethod
    def stored_name(name: str) -> str:
        """The name itself, which is open_clip's."""
        return name

    def clamp(self) -> None:
        self.module.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def judge(self, module: nn.Module) -> dict[str, float]:
        images, texts, counts = [], [], []
        starts = iter(range(0, len(self._dev), AT_ONCE))
        steps = -(-len(self._dev) // AT_ONCE)
        for batch in batches(lambda: next(starts), self._load_dev, steps, accelerator.acceleration().ahead):
            self._report()
            if not batch:
                continue
            with accelerator.reduced_precision():
                images.append(module.encode_image(batch["pixels"], normalize=True).float().cpu().numpy())
                texts += [
                    module.encode_text(tokens, normalize=True).float().cpu().numpy()
                    for tokens in batch["tokens"].split(AT_ONCE)
                ]
            counts += batch["counts"].tolist()
        if not images:
            raise CrosslookError(f"none of the {len(self._dev)} images to choose by can be read")
        owners = np.repeat(np.arange(len(counts)), counts)
        return recall_at_1(np.concatenate(images), np.concatenate(texts), owners)

    def _load_dev(self, low: int) -> Batch:
        """The dev images from number `low` on, with all their captions. Empty if none of them can be read."""
        images = self._dev[low : low + AT_ONCE]
        photos = self._dev_photos.load(range(low, low + len(images)))
        self._take_down(photos, images)
        if photos.pixels is None:
            return {}
        captions = [images[row][1].captions for row in photos.rows]
        counts = torch.tensor([len(texts) for texts in captions], device="cpu")
        tokens = self._tokens([text for texts in captions for text in texts])
        return {"pixels": photos.pixels, "tokens": tokens, "counts": counts}

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """int64 [n, length] on the device of the training. Each text is tokenized once."""
        with self._tokenizing, torch.device("cpu"):  # tokenizers make tensors on the default device
            new = list(dict.fromkeys(text for text in texts if text not in self._token_ids))
            if new:
                self._token_ids |= zip(new, self._tokenizer(new).numpy().astype(np.int32), strict=True)
        return on_device(np.stack([self._token_ids[text] for text in texts]).astype(np.int64))

    def _take_down(self, photos: PhotoBatch, images: Sequence[Captioned]) -> None:
        """Take down which photos of a batch cannot be read. images: those of the batch."""
        for row, error in photos.unreadable.items():
            captions, image = images[row]
            self._unreadable.append((f"{captions.source}\0{image.image}", Skipped(image.image, error.reason)))

    def _report(self) -> None:
        """Name the unreadable photos, each of them once."""
        while self._unreadable:
            name, skipped = self._unreadable.popleft()
            if name not in self._named:
                self._named.add(name)
                self._note(left_out_lines([skipped])[0])
