"""An ANN index whose lists a device learns and fills, against the one that the processor makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indexes.ann import source as source_module
from indexes.ann.building import build_ann, extend_ann, lists_for
from indexes.ann.faiss_index import FaissIndex
from indexes.ann.faiss_module import import_faiss
from indexes.ann.filling import fill_by_device, padded_rows
from indexes.ann.source import Rows, Source
from indexes.ann.tuning import exact_ids
from indexes.on_device.base import DeviceError
from tests.indexes.ann_collections import TARGET, image_embeddings, text_embeddings
from tests.indexes.on_device.backends import backend_of
from tests.indexes.on_device.numpy_matrix import NumpyBackend

BACKENDS = ["numpy", pytest.param("torch", marks=pytest.mark.torch)]
COUNT = 5000
EMBEDDINGS = image_embeddings(COUNT)
IDS = np.arange(1, 2 * COUNT, 2)


def source_of(embeddings=EMBEDDINGS, texts: int = 100) -> Source:
    ids = IDS[: len(embeddings)]
    cut = len(ids) // 3
    parts = [Rows(ids[:cut], embeddings[:cut]), Rows(ids[cut:], embeddings[cut:])]
    return Source(parts, lambda asked: embeddings[np.searchsorted(ids, asked)], text_embeddings(texts))


class Known(NumpyBackend):
    """Chooses the lists that an index of FAISS chooses."""

    def chooser(self, centroids):
        faiss = import_faiss()
        return lambda rows: faiss.knn(rows, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]


@pytest.mark.parametrize("dim", [30, 31])
def test_with_equal_lists_the_index_is_the_same_to_the_byte(tmp_path, dim):
    faiss = import_faiss()
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3000, dim)).astype(np.float16)
    source = source_of(embeddings)
    padded = padded_rows(source.sample(10)).shape[1]
    pad = f"Pad{padded}," if padded != dim else ""
    files = []
    for name in ("by the processor", "by a device"):
        index = faiss.index_factory(dim, f"{pad}IVF64,PQ{padded // 2}x4fsr", faiss.METRIC_INNER_PRODUCT)
        index.train(source.sample(2000))
        if name == "by a device":
            fill_by_device(index, source, Known())
        else:
            for ids, block in source.blocks("adding"):
                index.add_with_ids(block, ids)
        faiss.write_index(index, str(tmp_path / name))
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("name", BACKENDS)
def test_it_reaches_the_recall_that_was_asked_for(tmp_path, name):
    entries = [build_ann(source_of(), TARGET, tmp_path / "ann", backend) for backend in (None, backend_of(name))]
    assert entries[1].recall >= TARGET - 0.02
    assert abs(entries[0].recall - entries[1].recall) < 0.05
    assert entries[1].rows == COUNT and entries[1].last_id == IDS[-1]
    with (tmp_path / "ann").open("rb") as file:
        index = FaissIndex(file, replace(entries[1], nprobe=lists_for(COUNT)))
    ids = index.shortlist(text_embeddings(5), COUNT)
    assert (np.sort(ids, axis=1) == IDS).all(), "every row is in one list"


@pytest.mark.parametrize("name", BACKENDS)
def test_it_can_be_extended(tmp_path, name):
    entry = build_ann(source_of(EMBEDDINGS[:4000]), TARGET, tmp_path / "old", backend_of(name))
    entry = extend_ann(tmp_path / "old", entry, source_of(), tmp_path / "new", backend_of(name))
    assert entry.rows == COUNT and entry.recall >= TARGET - 0.05


@pytest.mark.parametrize("name", BACKENDS)
def test_exact_ids_are_those_of_the_processor(name):
    source = source_of()
    np.testing.assert_array_equal(np.sort(exact_ids(source, backend_of(name))), np.sort(exact_ids(source)))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", BACKENDS)
def test_exact_ids_among_ties_and_rows_that_are_not_finite(name, value):
    embeddings = np.tile(EMBEDDINGS[:1], (3000, 1))
    embeddings[7, :3] = value
    ids = exact_ids(source_of(embeddings), backend_of(name))
    assert (ids[:, :7] == IDS[:7]).all() and (ids[:, 7:] == IDS[8:11]).all()


def test_a_small_collection_is_padded():
    assert (exact_ids(source_of(EMBEDDINGS[:4]), NumpyBackend())[:, 4:] == -1).all()


def test_a_device_that_fails_says_so(tmp_path):
    with pytest.raises(DeviceError):
        build_ann(source_of(), TARGET, tmp_path / "ann", NumpyBackend(most=100))


def test_blocks_are_added_in_their_order_and_an_error_ends_it(monkeypatch, tmp_path):
    monkeypatch.setattr(source_module, "ROWS_AT_ONCE", 100)
    added = []

    class Failing(NumpyBackend):
        def chooser(self, centroids):
            def choose(rows):
                added.append(len(rows))
                if len(added) > 10:
                    raise DeviceError("it fell off the bus")
                return np.zeros(len(rows), np.int64)

            return choose

    with pytest.raises(DeviceError, match="fell off the bus"):
        build_ann(source_of(), TARGET, tmp_path / "ann", Failing())
    assert len(added) < 30, "blocks that nobody waits for are not prepared"
    entry = build_ann(source_of(), TARGET, tmp_path / "ann", NumpyBackend())
    assert entry.rows == COUNT and entry.recall >= TARGET - 0.02


@pytest.mark.torch
def test_centroids_are_as_good_as_those_of_faiss_and_every_list_has_rows():
    faiss = import_faiss()
    sample = np.concatenate(
        [EMBEDDINGS[:3000].astype(np.float32), np.tile(EMBEDDINGS[:1].astype(np.float32), (500, 1))]
    )
    kmeans = faiss.Kmeans(sample.shape[1], 64, niter=10, spherical=True, min_points_per_centroid=1)
    kmeans.train(sample)
    backend = backend_of("torch")
    centroids = backend.centroids(sample, 64)
    assert centroids.shape == (64, sample.shape[1]) and centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    means = [(sample @ chosen.T).max(axis=1).mean() for chosen in (kmeans.centroids, centroids)]
    assert means[1] > means[0] - 0.01
    np.testing.assert_array_equal(centroids, backend.centroids(sample, 64))
    lists = backend.chooser(centroids)(sample.astype(np.float16))
    assert len(np.unique(lists)) > 60
    products = sample @ centroids.T
    of_lists = np.take_along_axis(products, lists[:, None], axis=1)[:, 0]
    assert (of_lists > products.max(axis=1) - 2e-3).all(), "up to the rounding of float16"


@pytest.mark.torch
def test_of_fewer_different_rows_than_lists_all_lists_have_a_centroid():
    sample = np.tile(EMBEDDINGS[:5].astype(np.float32), (40, 1))
    centroids = backend_of("torch").centroids(sample, 64)
    assert np.isfinite(centroids).all() and centroids.shape[0] == 64
