"""Worker processes read what threads read."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.collection import Collection
from retrieval.indexing.held_pixels import HeldPixels
from retrieval.indexing.listing import list_images
from retrieval.indexing.pipeline import index_folders
from retrieval.indexing.plan import Encoding
from retrieval.indexing.read_ahead import read_batches
from retrieval.indexing.reading import ImageReader, Reading, reader_of_files
from retrieval.indexing.settings import Settings
from retrieval.indexing.workers import SHARED_BYTES, WorkerReader, shared_bytes, worker_count
from retrieval.progress import Observer
from tests.retrieval.images.files import files
from tests.retrieval.indexing.workers import workers
from tests.support import PixelEncoder, write_photos

PHOTOS = 40
ROOT = Path(__file__).parents[3]


@pytest.fixture
def encoder() -> PixelEncoder:
    return PixelEncoder()


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.indexing.workers.worker_count", lambda *arguments: 2)


def rows(collection: Collection) -> list[dict[str, Any]]:
    return list(collection.table([*collection.row(0).__dataclass_fields__]).to_pylist())


def indexed(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, **settings: Any) -> Any:
    """All that a run tells and leaves: counts, failures as they are reported, rows, embeddings, regions."""
    monkeypatch.setattr("retrieval.indexing.workers.worker_count", lambda *arguments: workers)
    monkeypatch.setattr("retrieval.indexing.photo_batches.BATCH_SECONDS", 1000.0)  # batches end at the same files
    reported: list[tuple[bytes, str]] = []
    observer = Observer(failure=lambda *failure: reported.append(failure))
    progress = index_folders([folder], path, PixelEncoder(), Settings(**settings), observer)
    collection = Collection.open(path)
    positions = np.arange(len(collection))
    arrays = [collection.embeddings(positions).tobytes(), collection.regions(positions).tobytes()]
    counts = {name: value for name, value in vars(progress).items() if name != "seconds"}
    return counts, reported, rows(collection), collection.failures().to_pylist(), arrays


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Files of all formats, whole and damaged, repeats, links, and what is no picture."""
    folder = tmp_path / "mixture"
    folder.mkdir()
    endings = {"jpeg": "jpg", "mpo": "mpo", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "tiff": "tif"}
    for number, (name, content) in enumerate(sorted(files().items())):
        ending = endings.get(name.split()[0], name.split()[0])
        (folder / f"{number:02d}.{ending}").write_bytes(content)
        (folder / f"{number:02d} cut.{ending}").write_bytes(content[: len(content) * 2 // 3])
    write_photos(folder, 12, first=100)
    for number in range(4):
        shutil.copy(folder / "101.png", folder / f"9{number} again.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "broken link.jpg").symlink_to("nowhere")
    (folder / "link.png").symlink_to("102.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes((folder / "103.png").read_bytes()[:-20])
    return folder


@pytest.mark.parametrize("max_pixels", [100_000_000, 1000])
def test_a_collection_is_the_same_as_by_threads(mixture, tmp_path, monkeypatch, max_pixels):
    by_threads = indexed(mixture, tmp_path / "threads", monkeypatch, 0, max_pixels=max_pixels)
    by_workers = indexed(mixture, tmp_path / "workers", monkeypatch, 2, max_pixels=max_pixels)
    assert by_workers == by_threads
    assert by_threads[0]["new"] > 10 and len(by_threads[1]) > 5


def test_a_later_run_is_the_same_as_by_threads(mixture, tmp_path, monkeypatch):
    """With changed files, and with copies of known content."""
    outcomes = []
    for name, count in (("threads", 0), ("workers", 2)):
        folder, path = tmp_path / name / "photos", tmp_path / name / "collection"
        shutil.copytree(mixture, folder, symlinks=True)
        indexed(folder, path, monkeypatch, count)
        for number in (100, 101, 102):
            shutil.copy(folder / "105.png", folder / f"{number}.png")
            shutil.copy(folder / "106.png", folder / f"{number} copy.png")
        write_photos(folder, 6, first=300)
        counts, reported, all_rows, failed, arrays = indexed(folder, path, monkeypatch, count)
        named = [row | {"path": os.path.basename(row["path"]), "ctime_ns": 0, "mtime_ns": 0} for row in all_rows]
        outcomes.append((counts, [os.path.basename(path) for path, _ in reported], named, len(failed), arrays))
    assert outcomes[0] == outcomes[1]


def contents_of(reading: Reading) -> tuple[Any, ...]:
    pixels = None if reading.prepared is None else (reading.prepared.shape, reading.prepared.tobytes())
    return reading.encoding, reading.row, pixels, reading.position, reading.failure, reading.postponed


@pytest.mark.parametrize("block_bytes", [100, 162, 400, 1000, 16_000_000])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_pixels_arrive_whole_whatever_room_there_is(photos, encoder, monkeypatch, block_bytes, size):
    """Blocks that hold no picture, one, some, and all. The pixels of a picture take 162 bytes."""
    monkeypatch.setattr("retrieval.indexing.workers.shared_bytes", lambda: 0)
    (photos / "005.png").write_bytes(b"no picture")
    encodings = [Encoding(file) for file in list_images([os.fsencode(photos)]).files]
    read = ImageReader(encoder, 1_000_000, reader_of_files(1_000_000))
    expected = [contents_of(item) for batch in read_batches(encodings, read, size, 0) for item in batch.readings]
    readings = []
    with WorkerReader(read, 2, len(encodings), block_bytes) as reader:
        for batch in reader.batches(encodings, size):
            assert 0 < len(batch.readings) <= size
            readings += [contents_of(item) for item in batch.readings]
            batch.release()
    assert readings == expected and not workers()


@pytest.mark.parametrize("most", [0, 500, 3000])
def test_photos_that_no_block_holds_take_no_more_memory_than_there_is(photos, encoder, monkeypatch, most):
    """Each of them takes 162 bytes."""
    seen: list[int] = []

    class Watched(HeldPixels):
        def admit(self, turn: int, size: int, waits: bool = True) -> None:
            super().admit(turn, size, waits)
            seen.append(self.taken)

    held = Watched(most)
    monkeypatch.setattr("retrieval.indexing.workers.HeldPixels", lambda: held)
    encodings = [Encoding(file) for file in list_images([os.fsencode(photos)]).files]
    read = ImageReader(encoder, 1_000_000, reader_of_files(1_000_000))
    count = 0
    with WorkerReader(read, 2, len(encodings), 100) as reader:
        for batch in reader.batches(encodings, 16):
            count += len(batch.readings)
            batch.release()
    assert count == PHOTOS == len(seen) and max(seen) <= most + 162 and held.taken == 0


def test_batches_that_are_kept_for_long_do_not_stop_the_next(photos, encoder, monkeypatch):
    """Two batches are with the encoder while the third is read."""
    monkeypatch.setattr("retrieval.indexing.workers.shared_bytes", lambda: 0)
    encodings = [Encoding(file) for file in list_images([os.fsencode(photos)]).files]
    read = ImageReader(encoder, 1_000_000, reader_of_files(1_000_000))
    kept: list[Any] = []
    with WorkerReader(read, 2, len(encodings), 200) as reader:
        for batch in reader.batches(encodings, 4):
            kept.append((batch, [contents_of(item) for item in batch.readings]))
            if len(kept) == 3:
                batch, readings = kept.pop(0)
                assert [contents_of(item) for item in batch.readings] == readings
                batch.release()


@pytest.mark.parametrize(("files", "blocks"), [(20, 6), (40, 7), (10_000, 12)])
def test_memory_is_registered_for_as_many_files_as_there_are(photos, encoder, monkeypatch, files, blocks):
    asked: list[Any] = []

    @contextmanager
    def note(parts: Any) -> Any:
        asked.extend(parts)
        yield

    monkeypatch.setattr("retrieval.indexing.workers.shared_bytes", lambda: 12 * 4096)
    monkeypatch.setattr("retrieval.indexing.workers.registered", note)
    encodings = [Encoding(file) for file in list_images([os.fsencode(photos)]).files]
    read = ImageReader(encoder, 1_000_000, reader_of_files(1_000_000))
    with WorkerReader(read, 2, files, 4000) as reader:
        for batch in reader.batches(encodings, 8):
            used = [item.prepared for item in batch.readings if item.prepared is not None]
            is_registered = [any(np.shares_memory(pixels, part) for part in asked) for pixels in used]
            assert all(is_registered) or files < 10_000  # what lies elsewhere is copied first
            batch.release()
    addresses = [part.ctypes.data for part in asked]
    assert len(asked) == blocks and {part.nbytes for part in asked} == {4000}
    assert all(address % 4096 == 0 for address in addresses) and sorted(set(addresses)) == addresses


def test_shared_memory_is_an_eighth_of_what_a_container_may_use(monkeypatch):
    for usable, expected in ((8_000_000_000, 1_000_000_000), (2**40, SHARED_BYTES), (None, SHARED_BYTES)):
        monkeypatch.setattr("retrieval.indexing.workers.usable_memory", lambda usable=usable: usable)
        assert shared_bytes() == expected


@pytest.mark.parametrize(
    ("files", "batch", "cores", "positions", "count"),
    [
        (20_000, 512, 16, 0, 13),
        (600, 512, 16, 0, 13),
        (40, 32, 16, 0, 3),
        (511, 512, 16, 0, 0),
        (20_000, 512, 4, 0, 1),
        (20_000, 512, 3, 0, 0),
        (20_000, 512, 16, 10**7, 0),
    ],
)
def test_workers_read_where_they_pay(files, batch, cores, positions, count):
    assert worker_count(files, batch, cores, positions) == count
