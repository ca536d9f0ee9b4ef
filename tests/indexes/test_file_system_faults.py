"""A file system that fails at every call in turn loses nothing, and the next run ends as if it had not failed."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial

import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.batches import BINDING, make_batch
from tests.file_system import failing_at
from tests.indexes.contents import contents, removed_rows

CODES = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.ENOMEM)  # taken in turn


def begin(path):
    """Nothing at all."""


def add(path):
    with CollectionWriter(path, BINDING) as writer:
        if not len(writer.collection):
            writer.commit(make_batch(writer.manifest.next_id, 4), folders=("/photos",))


def change(path):
    with CollectionWriter(path, BINDING) as writer:
        if len(writer.collection) == 4:
            writer.commit(make_batch(writer.manifest.next_id, 3, folder="/new"), dead=[1], removed=[2])
        writer.merge()


def optimize(path):
    with CollectionWriter(path, BINDING) as writer:
        writer.merge(everything=True)


def repair(path):
    CollectionWriter(path, BINDING, repair=True).close()


def lose_manifest(path):
    add(path)
    change(path)
    for manifest in path.glob("manifest-*.json"):
        manifest.unlink()


def grow(path):
    add(path)
    change(path)


def error_of(code):
    return OSError(code, os.strerror(code))


def states(path):
    """What counts, or None if nothing was committed yet."""
    try:
        return contents(path)
    except CrosslookError as error:
        assert "no collection" in str(error)
        return None


@pytest.mark.parametrize(
    ("prepare", "act"),
    [(begin, add), (add, change), (grow, optimize), (lose_manifest, repair)],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
def test_a_failing_call_is_one_line_and_loses_nothing(tmp_path, monkeypatch, prepare, act, once):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody cuts the power; waiting for the disk takes long
    start, expected, tried = tmp_path / "start", tmp_path / "expected", tmp_path / "tried"
    prepare(start)
    start.mkdir(exist_ok=True)
    shutil.copytree(start, expected)
    act(expected)
    before, after = None if act is repair else states(start), contents(expected)
    removed = len(removed_rows(Collection.open(expected), ["id"]))
    call, outcomes = 0, []
    while True:
        call += 1
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(start, tried)
        with failing_at(call, partial(error_of, CODES[call % len(CODES)]), once) as count:
            try:
                act(tried)
                failed = False
            except CrosslookError as error:
                assert "\n" not in str(error)
                failed = True
        if count[0] < call:
            break
        outcomes.append(failed)
        if act is not repair:
            assert states(tried) in (before, after)
        act(tried)
        assert contents(tried) == after, f"call {call}"
        assert verify(tried).faults == ()
        assert len(removed_rows(Collection.open(tried), ["id"])) == removed
    assert sum(outcomes) > 10
