"""A file system that fails at every call in turn loses nothing, and the next run ends as if it had not failed."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.verification import verify
from indexes.writer import CollectionWriter
from tests.file_system import failing_at
from tests.indexes.contents import contents
from tests.support import BINDING, make_batch

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


def states(path):
    """What counts, or None where nothing was committed yet."""
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
    call, outcomes = 0, []
    while True:
        call += 1
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(start, tried)
        code = CODES[call % len(CODES)]
        with failing_at(call, lambda code=code: OSError(code, os.strerror(code)), once) as count:
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
            assert states(tried) in (states(start), states(expected))
        act(tried)
        assert contents(tried) == contents(expected), f"call {call}"
        assert verify(tried).faults == ()
        assert len(Collection.open(tried).removed(["id"])) == len(Collection.open(expected).removed(["id"]))
    assert sum(outcomes) > 10
