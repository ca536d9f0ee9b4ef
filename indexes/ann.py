"""The ANN index: which images may be the nearest to a text, without comparing it with all of them.

Rows lie in lists around centroids; codes of four bits for every two dimensions tell how each differs from its own
(Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search"; André et al. 2015, "Cache Locality Is Not
Enough", scanned in registers). A text looks into the lists that are nearest to it; what is best by code is then scored
exactly, by the stored embeddings. The centroids are compared one by one: by a graph, which inner products mislead, a
tenth of the nearest images was never found.

How many lists, and how long a shortlist, is tuned with texts: they lie in another region than images do, and find less
than images would at the same settings."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import CrosslookError
from indexes.exact import as_float32
from indexes.faiss_module import import_faiss
from indexes.manifest import AnnEntry

FEWEST_ROWS = 50_000  # of fewer, all are compared
DIMENSIONS_A_CODE = 2  # with four, shortlists must be four to eight times as long
FEWEST_LISTS, MOST_LISTS = 64, 65_536
SAMPLED_A_LIST = 40
ROWS_AT_ONCE = 65_536
RECALL_AT = 10
SHORTLISTS = (100, 200, 400, 800, 1600, 3200)
TIMED_TEXTS = 100
MARGIN = 0.005  # of recall, for texts it was not tuned with

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rows:
    """Rows of one segment. ids: int64 [n], ascending. embeddings: float16 [n, dim]."""

    ids: NDArray[np.int64]
    embeddings: NDArray[np.float16]


@dataclass(frozen=True)
class Source:
    """What an index is made of. parts: ids ascend from each to the next. gather: embeddings of some ids, [n, dim], as a
    search will get them. texts: float32 [q, dim], embeddings of texts such as people search by. progress: told what is
    being done, how far it is, and how far it goes."""

    parts: Sequence[Rows]
    gather: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
    texts: NDArray[np.float32]
    progress: Progress = lambda what, done, total: None

    @property
    def rows(self) -> int:
        return sum(len(part.ids) for part in self.parts)

    def blocks(self, what: str, after: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids and embeddings, a block at a time, of the rows with ids above `after`. what: is told to be done
        meanwhile."""
        firsts = [int(np.searchsorted(part.ids, after, side="right")) for part in self.parts]
        done, total = 0, self.rows - sum(firsts)
        for part, first in zip(self.parts, firsts, strict=True):
            for low in range(first, len(part.ids), ROWS_AT_ONCE):
                rows = slice(low, low + ROWS_AT_ONCE)
                yield part.ids[rows], as_float32(part.embeddings[rows])
                done += len(part.ids[rows])
                self.progress(what, done, total)


class Ann:
    """An index opened for searching."""

    def __init__(self, file: IO[bytes], entry: AnnEntry) -> None:
        """file: open for reading; a writer may have removed its name since. Raises `CrosslookError` when it is not the
        one that the manifest means."""
        faiss = import_faiss()
        self.entry = entry
        try:
            found = os.fstat(file.fileno()).st_size
            if found != entry.bytes:
                raise unusable_ann(file.name, f"it has {found:,} bytes, expected {entry.bytes:,}")
            # Not mapped: FAISS would copy these lists all the same, and each page would be in memory twice.
            self._index = faiss.read_index(_readable(faiss, file))
        except (OSError, RuntimeError, MemoryError) as error:
            raise unusable_ann(file.name, "it is not an index of FAISS") from error

    def shortlist(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Ids of the rows that are best by code, best first, int64 [q, count], padded with -1. queries: float32
        [q, dim].

        On one thread: several gain little in a few milliseconds, and wait for more after that, on the cores that the
        scorer needs."""
        with _on_one_thread():
            return _search(self._index, queries, count, self.entry.probes)


def _readable(faiss: Any, file: IO[bytes]) -> Any:
    """What FAISS reads an open file by, from its beginning, also where another thread reads it too. Linux opens it anew
    under this name; on macOS that name would share the file's offset with all others who read it."""
    if sys.platform == "linux":
        return f"/proc/self/fd/{file.fileno()}"
    if not hasattr(os, "pread"):  # Windows
        return file.name
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        content = os.pread(file.fileno(), size, place)
        place += len(content)
        return content

    return faiss.PyCallbackIOReader(read)


def unusable_ann(file: object, reason: str) -> CrosslookError:
    return CrosslookError(f"{file} cannot be used ({reason}): make it anew with `search optimize`")


def build_ann(source: Source, recall_target: float, path: Path) -> AnnEntry:
    """Make an index over all rows and write it to `path`. It is tuned by half of the texts, and measured by the others.

    recall_target: share of the exact first ten that is to be found, 0 to 1."""
    index = _trained(source)
    _add(index, source, after=0)
    exact = _exact_ids(source)
    entry = AnnEntry(recall_target=recall_target, rows=source.rows, last_id=int(source.parts[-1].ids[-1]))
    tuning, measuring = slice(0, None, 2), slice(1, None, 2)
    entry = _tuned(index, entry, source, source.texts[tuning], exact[tuning])
    return _written(index, _measured(index, entry, source, source.texts[measuring], exact[measuring]), path)


def extend_ann(old: Path, entry: AnnEntry, source: Source, path: Path) -> AnnEntry:
    """Add the rows that an index does not cover yet, keep how it is tuned, measure it again if there are texts to do so
    with, for which all rows are read, and write it to `path`."""
    try:
        index = import_faiss().read_index(str(old))
    except RuntimeError as error:
        raise unusable_ann(old, "it is not an index of FAISS") from error
    _add(index, source, after=entry.last_id)
    entry = replace(entry, rows=int(index.ntotal), last_id=int(source.parts[-1].ids[-1]))
    if len(source.texts):
        entry = _measured(index, entry, source, source.texts, _exact_ids(source))
    return _written(index, entry, path)


def lists_for(rows: int) -> int:
    """A power of two near twice the root of the rows. Twice as many would hardly be searched faster, and cost four
    times as much to learn."""
    wanted = 2 ** round(math.log2(2 * math.sqrt(max(rows, 1))))
    return int(min(max(wanted, FEWEST_LISTS), MOST_LISTS))


def _trained(source: Source) -> Any:
    faiss = import_faiss()
    lists, dim = lists_for(source.rows), source.parts[0].embeddings.shape[1]
    source.progress("learning lists and codes", 0, 1)
    padded = -(-dim // DIMENSIONS_A_CODE) * DIMENSIONS_A_CODE
    pad = f"Pad{padded}," if padded != dim else ""
    kind = f"{pad}IVF{lists},PQ{padded // DIMENSIONS_A_CODE}x4fsr"  # r: of residuals
    index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1
    index.train(_sampled(source, SAMPLED_A_LIST * lists))
    source.progress("learning lists and codes", 1, 1)
    return index


def _sampled(source: Source, count: int) -> NDArray[np.float32]:
    """Up to `count` rows, each as likely as any other."""
    chosen = np.sort(np.random.default_rng(0).permutation(source.rows)[:count])
    found, start = [], 0
    for part in source.parts:
        mine = chosen[(chosen >= start) & (chosen < start + len(part.ids))] - start
        found.append(as_float32(part.embeddings[mine]))
        start += len(part.ids)
    return np.concatenate(found)


def _add(index: Any, source: Source, after: int) -> None:
    for ids, block in source.blocks("adding images", after):
        index.add_with_ids(block, ids)


def _written(index: Any, entry: AnnEntry, path: Path) -> AnnEntry:
    try:
        import_faiss().write_index(index, str(path))
    except RuntimeError as error:  # faiss does not say why; a full disk is the likeliest
        raise CrosslookError(f"cannot write {path}: {str(error).splitlines()[-1]}; is the disk full?") from error
    return replace(entry, bytes=path.stat().st_size)


def _exact_ids(source: Source) -> NDArray[np.int64]:
    """The ids of the nearest rows to each text, int64 [q, RECALL_AT], padded with -1."""
    faiss, texts = import_faiss(), source.texts
    best = np.full((len(texts), RECALL_AT), -np.inf, np.float32)
    nearest = np.full((len(texts), RECALL_AT), -1, np.int64)
    for ids, block in source.blocks("searching exactly, to measure by"):
        found, rows = faiss.knn(texts, block, min(RECALL_AT, len(ids)), metric=faiss.METRIC_INNER_PRODUCT)
        best, nearest = np.concatenate([best, found], axis=1), np.concatenate([nearest, ids[rows]], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :RECALL_AT]
        best, nearest = np.take_along_axis(best, order, axis=1), np.take_along_axis(nearest, order, axis=1)
    return nearest


def _tuned(
    index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32], exact: NDArray[np.int64]
) -> AnnEntry:
    """With the lists and the shortlist that reach the target fastest or, where none does, come nearest to it."""
    lists = import_faiss().extract_index_ivf(index).nlist
    steps, best = lists.bit_length(), (False, 0.0, entry)
    for step in range(steps):
        probes = min(2**step, lists)
        ids = _search(index, texts, SHORTLISTS[-1], probes)
        shares = [share_found(ids[:, :length], exact) for length in SHORTLISTS]
        enough = [share >= min(entry.recall_target + MARGIN, 1.0) for share in shares]
        source.progress("tuning", step + 1, steps)
        if not any(enough):
            if not best[0] and max(shares) > best[1]:
                best = False, max(shares), replace(entry, probes=probes, shortlist=SHORTLISTS[int(np.argmax(shares))])
            continue
        tried = replace(entry, probes=probes, shortlist=SHORTLISTS[enough.index(True)])
        speed = -_milliseconds(index, tried, source, texts)
        if not best[0] or speed > best[1]:
            best = True, speed, tried
        if enough[0]:
            break  # with more lists the shortlist would be no shorter
    return best[2]


def _measured(
    index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32], exact: NDArray[np.int64]
) -> AnnEntry:
    recall = share_found(_search(index, texts, entry.shortlist, entry.probes), exact)
    milliseconds = _milliseconds(index, entry, source, texts)
    return replace(entry, recall=recall, milliseconds=milliseconds, measured_rows=entry.rows)


def _search(index: Any, queries: NDArray[np.float32], count: int, probes: int) -> NDArray[np.int64]:
    import_faiss().extract_index_ivf(index).nprobe = probes
    found: NDArray[np.int64] = index.search(np.ascontiguousarray(queries, np.float32), count)[1]
    return found


def share_found(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Recall: the mean share of each row of `exact`, which -1 pads, that is in the same row of `found`."""
    there = exact >= 0
    return float(((exact[:, :, None] == found[:, None]).any(axis=2) & there).sum() / max(there.sum(), 1))


def _milliseconds(index: Any, entry: AnnEntry, source: Source, texts: NDArray[np.float32]) -> float:
    """The median time of a search by one text, exact scoring included."""
    taken = []
    for text in texts[:TIMED_TEXTS]:
        started = time.perf_counter()
        with _on_one_thread():
            ids = _search(index, text[None], entry.shortlist, entry.probes)[0]
        as_float32(source.gather(ids[ids >= 0])) @ text
        taken.append(time.perf_counter() - started)
    return 1000 * float(np.median(taken))


@contextmanager
def _on_one_thread() -> Iterator[None]:
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
