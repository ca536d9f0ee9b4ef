"""An ANN index is opened by its kind, once, from a file that may have lost its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from indexes.ann import kinds
from indexes.ann.kinds import AnnFile
from indexes.collection import Collection
from indexes.commits import put_in_force
from indexes.errors import CrosslookError
from indexes.manifest import AnnEntry
from indexes.paths import ann_folder
from indexes.writer import CollectionWriter
from tests.indexes.ann.exact_index import ExactIndex
from tests.indexes.ann_collections import BINDING, add_ann, exactly, text_embeddings
from tests.indexes.contents import ann_entry, manifest_of


def with_entry(path: Path, **changes: Any) -> Collection:
    """The collection after a commit that describes its index otherwise."""
    put_in_force(path, manifest_of(path).next(ann=replace(ann_entry(path), **changes)))
    return Collection.open(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"kind": "milvus"}, "is of kind 'milvus'"), ({"format": 2}, "is in format 2")],
    ids=["kind", "format"],
)
def test_an_index_of_a_later_version_is_refused_in_one_line_and_search_goes_on(
    path: Path, changes: dict[str, Any], reason: str
) -> None:
    collection, queries = with_entry(path, **changes), text_embeddings(3)
    with pytest.raises(CrosslookError, match=rf"^[^\n]*{re.escape(reason)}[^\n]*upgrade[^\n]*optimize`$"):
        collection.open_ann()
    assert collection.ann is None and collection.ann_fault is not None and reason in collection.ann_fault
    np.testing.assert_array_equal(collection.nearest(queries, 10)[1], exactly(collection, queries, 10))
    add_ann(path)
    assert Collection.open(path).ann is not None


def test_another_kind_is_used_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection asks nothing of FAISS: the exact twin takes its place."""

    def twin(file: IO[bytes], entry: AnnEntry) -> ExactIndex:
        segments = Collection.open(path).segments
        embeddings = np.concatenate([segment.embeddings.mapped for segment in segments])
        return ExactIndex(np.concatenate([segment.ids for segment in segments]), embeddings)

    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "exact": twin})
    before = Collection.open(path)
    collection, queries = with_entry(path, kind="exact"), text_embeddings(4)
    np.testing.assert_array_equal(collection.nearest(queries, 10)[1], exactly(before, queries, 10))
    assert collection.ann is not None and collection.ann.kind == "exact"


def test_it_is_opened_once_by_many_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[AnnEntry] = []
    real: Callable[..., Any] = kinds.KINDS["faiss"]

    def opener(file: IO[bytes], entry: AnnEntry) -> Any:
        opened.append(entry)
        return real(file, entry)

    monkeypatch.setattr(kinds, "KINDS", {"faiss": opener})
    collection = Collection.open(path)
    with ThreadPoolExecutor(8) as threads:
        indexes = list(threads.map(lambda _: collection.ann, range(8)))
    assert len(opened) == 1 and len({id(index) for index in indexes}) == 1


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_an_open_index_is_read_by_many_at_once_though_its_name_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    opened = Collection.open(path)
    texts = text_embeddings(5)
    index, entry = opened.open_ann(), opened.manifest.ann
    assert index is not None and entry is not None
    expected = index.shortlist(texts, 30)
    (ann_folder(path) / entry.file_name).unlink()
    monkeypatch.setattr("sys.platform", platform)
    with ThreadPoolExecutor(4) as threads:
        for ann in threads.map(lambda _: opened.open_ann(), range(8)):
            assert ann is not None
            np.testing.assert_array_equal(ann.shortlist(texts, 30), expected)


def test_closing_a_collection_closes_its_index(path: Path) -> None:
    with Collection.open(path) as collection:
        index = collection.ann
        assert index is not None
    with pytest.raises(CrosslookError, match="closed"):
        index.shortlist(text_embeddings(1), 3)
    collection.close()


def test_without_an_index_there_is_no_fault(tmp_path: Path) -> None:
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        writer.commit()
    collection = Collection.open(tmp_path / "c")
    assert collection.ann is None and collection.ann_fault is None and collection.open_ann() is None
    file = AnnFile(tmp_path, None)
    assert file.index is None and file.fault is None and not file.is_missing
