"""The trained fusion scorer on a device of torch, for many pairs at once: evaluation, batches of queries.

It has the weights of the model directory's `model.safetensors`, to which `scorer.onnx` refers as well, and computes
`PairReader`, in float16 on a GPU. Its fusion is nearer to the network's in float32 than that of the int8 graph is: over
4,800 pairs of Flickr8k it differs by 0.0015 (root mean square, at most 0.0064), the int8 graph by 0.035 (at most 0.15).
Fusion of the candidates of one text has a deviation of 1.7."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.on_device.torch_memory import lacks_memory
from retrieval.encoders.base import QueryFeatures
from retrieval.encoders.device_memory import GpuMemoryError, memory_for
from retrieval.encoders.runtime import once
from retrieval.encoders.torch_start import without_cudnn_attention
from retrieval.fusion.base import Candidates, EncodedQuery, TwoWayLogits
from retrieval.fusion.pair_reader import PairReader
from retrieval.fusion.regions_on_device import MOST_BYTES, Regions, RegionsOnDevice, sent
from retrieval.fusion.scorer import FusionScorer
from retrieval.training.stored_model import read_model

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

TOKENS_AT_ONCE = 100_000  # of all pairs of a batch: a gigabyte of intermediate values
LEAST_TOKENS = 4  # that a pair counts for, so that a batch has at most 25,000: CUDA's attention takes 65,535 at most


class DeviceScorer(FusionScorer):
    """`FusionScorer` on a device. Explanations stay on the processor.

    If the device lacks memory, fewer pairs are scored together, now and later. fault: why the processor scores since;
    None as long as the device does."""

    def __init__(
        self,
        folder: Path,
        device: Any,
        tokens_at_once: int = TOKENS_AT_ONCE,
        region_bytes: int = MOST_BYTES,
        processor_may: bool = False,
    ) -> None:
        """device: `torch.device`. region_bytes: of images that are there at once. processor_may: whether the processor
        scores if the device lacks memory for one pair, which raises `CrosslookError` else.

        Raises `CrosslookError` as `FusionScorer` does."""
        super().__init__(folder)
        self.fault: str | None = None
        self._device = device
        self._tokens_at_once = tokens_at_once
        self._processor_may = processor_may
        self._regions = RegionsOnDevice(device, region_bytes)
        without_cudnn_attention(device)

    @once
    def _reader(self) -> PairReader:
        model, _ = read_model(self.folder)
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        with memory_for("the scorer"):
            return PairReader(model.scorer, dtype).eval().to(self._device)

    def load(self) -> None:
        if self._by_device(lambda: self._reader) is None:
            super().load()

    def score_many(self, queries: Sequence[EncodedQuery], candidates: Sequence[Candidates]) -> list[TwoWayLogits]:
        """`score_both_ways` of each query with its own candidates. An image that several queries meet is sent to the
        device and projected once.

        Raises `CrosslookError` as `score` does, and if a GPU lacks memory."""
        for query in queries:
            query.query.only_text("the fusion scorer")
        if not queries:
            return []
        counts = [len(item) for item in candidates]
        texts = [query.features for query in queries]
        filled = [item for item in candidates if len(item)]
        fusion = self._by_device(lambda: self._fusion_of(texts, counts, self._regions(filled) if filled else iter(())))
        if fusion is None:
            pairs = zip(queries, candidates, strict=True)
            return [FusionScorer.score_both_ways(self, query, item) for query, item in pairs]
        logits = []
        parts = np.split(fusion, np.cumsum(counts)[:-1])
        for query, item, part in zip(queries, candidates, parts, strict=True):
            similarities, length = item.similarities, int(query.features.mask.sum())
            to_text = self.to_text.logits(similarities, part, length)
            logits.append(TwoWayLogits(self.to_image.logits(similarities, part), to_text))
        return logits

    @property
    def device(self) -> str:
        """What scores now, by torch's name, such as `cuda`."""
        return "cpu" if self.fault is not None else str(self._device.type)

    def score(self, query: EncodedQuery, candidates: Candidates) -> NDArray[np.float32]:
        return self.score_both_ways(query, candidates).to_image

    def score_both_ways(self, query: EncodedQuery, candidates: Candidates) -> TwoWayLogits:
        return self.score_many([query], [candidates])[0]

    def fusion(self, features: QueryFeatures, regions: NDArray[Any]) -> NDArray[np.float32]:
        if not len(regions):
            return np.zeros(0, np.float32)
        fusion = self._by_device(lambda: self._fusion_of([features], [len(regions)], self._regions.of_array(regions)))
        return super().fusion(features, regions) if fusion is None else fusion

    def _by_device(self, compute: Callable[[], Value]) -> Value | None:
        """None if the device has not enough memory, now or before, and the processor may do it instead."""
        if self.fault is not None:
            return None
        try:
            return compute()
        except (RuntimeError, GpuMemoryError) as error:
            if not (isinstance(error, GpuMemoryError) or lacks_memory(error)):
                raise
            if not self._processor_may:
                raise CrosslookError("the GPU has too little free memory to score a pair: use --device cpu") from error
        self._regions.clear()
        self._free()
        self.fault = "the GPU has too little free memory to score a pair"
        return None

    def _free(self) -> None:
        """What torch keeps of freed memory is the device's again, for other tensors of other sizes."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _fusion_of(
        self,
        texts: Sequence[QueryFeatures],
        counts: Sequence[int],
        parts: Iterator[tuple[Regions, NDArray[np.int64]]],
    ) -> NDArray[np.float32]:
        """Fusion of pairs, float32 [pairs]. counts: pairs of each text. parts: of the pairs, with their images."""
        rows = [self._rows_of(text) for text in texts]
        text_of_pair = np.repeat(np.arange(len(rows)), counts)
        fusion = [np.zeros(0, np.float32)]
        first = 0
        for regions, images in parts:
            fusion.append(self._fusion_of_part(rows, text_of_pair[first : first + len(images)], images, regions))
            first += len(images)
            del regions  # before there are those of the next part
        return np.concatenate(fusion)

    def _fusion_of_part(
        self,
        rows: Sequence[NDArray[np.float32]],
        text_of_pair: NDArray[np.int64],
        images: NDArray[np.int64],
        regions: Regions,
    ) -> NDArray[np.float32]:
        lengths = np.array([max(len(item) - 1, 0) for item in rows])[text_of_pair]
        fusion = np.zeros(len(lengths), np.float32)
        order = np.argsort(lengths, kind="stable")  # so that texts of one length are neighbours
        order = order[lengths[order] > 0]
        ends = np.cumsum(np.maximum(lengths[order], LEAST_TOKENS))
        outputs: list[Tensor] = []  # all batches are launched before the first result is waited for
        low, begin = 0, 0
        while low < len(order):
            high = max(low + 1, int(np.searchsorted(ends, begin + self._tokens_at_once, side="right")))
            pairs = order[low:high]
            output = self._batch_that_fits(rows, text_of_pair[pairs], images[pairs], regions)
            if output is None:
                self._tokens_at_once = max(1, (int(ends[high - 1]) - begin) // 2)
                continue
            outputs.append(output)
            low, begin = high, int(ends[high - 1])
        if outputs:
            fusion[order] = torch.cat(outputs).cpu().numpy()
        return fusion

    def _batch_that_fits(
        self, rows: Sequence[NDArray[np.float32]], texts: NDArray[np.int64], images: NDArray[np.int64], regions: Regions
    ) -> Tensor | None:
        """`_batch`; None if the memory did not suffice for these pairs, though there are several."""
        try:
            with torch.inference_mode():
                return self._batch(rows, texts, images, regions)
        except RuntimeError as error:
            if len(texts) == 1 or not lacks_memory(error):
                raise
        self._free()  # only now that the error, which holds tensors, is gone
        return None

    def _rows_of(self, text: QueryFeatures) -> NDArray[np.float32]:
        """What `PairReader` reads of a text: float32 [p + 1, 384], without EOS, which is not scored."""
        tokens = text.tokens[0][text.mask[0]][:-1]
        return tokens[: self._reader.reader.settings.max_tokens + 1, tokens.shape[1] // 2 :]

    def _batch(
        self, rows: Sequence[NDArray[np.float32]], texts: NDArray[np.int64], images: NDArray[np.int64], regions: Regions
    ) -> Tensor:
        """Fusion of one batch of pairs, on the device. texts: of each pair, ordered by length; the pairs of a text are
        neighbours."""
        begins = np.diff(texts, prepend=-1) != 0
        chosen = [rows[text] for text in texts[begins]]
        padded = np.zeros((len(chosen), max(len(item) for item in chosen), chosen[0].shape[1]), np.float32)
        for row, item in enumerate(chosen):
            padded[row, : len(item)] = item
        row_of_pair = np.cumsum(begins) - 1
        lengths, pairs = np.unique(np.array([len(item) - 1 for item in chosen])[row_of_pair], return_counts=True)
        distinct, image_of_pair = np.unique(images, return_inverse=True)
        return self._reader(
            *(sent(array, self._device) for array in (padded, row_of_pair, image_of_pair)),
            self._reader.project(regions.of(distinct)),
            list(zip(lengths.tolist(), pairs.tolist(), strict=True)),
        )
