"""A collection that another process is still making."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from cli.being_indexed import BeingIndexedError, being_indexed, reported_if_being_indexed
from indexes.errors import CrosslookError
from indexes.writer import CollectionWriter
from indexes.writer_lock import HOLDER, holder
from tests.batches import BINDING, make_batch


@pytest.fixture
def writer(tmp_path):
    """A writer at work in this process, without a commit yet."""
    with CollectionWriter(tmp_path / "c", BINDING) as writer:
        yield writer


def leave_holder(folder, **changes):
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-02 03:04:05"} | changes
    folder.mkdir(exist_ok=True)
    (folder / HOLDER).write_text(json.dumps(note))


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_query_over_it_finds_nothing_and_says_why(search, writer, tmp_path):
    run = search("a cat", index=writer.folder)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"is being indexed by process {os.getpid()} on" in run.stderr
    assert "since 2" in run.stderr and "no images are committed yet" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    (tmp_path / "queries").write_text("a cat\n")
    assert search("--batch", tmp_path / "queries", index=writer.folder).returncode == 1


@pytest.mark.parametrize("words", [("status",), ("status", "--failures"), ("optimize",), ("remove", "x")])
def test_other_commands_cannot_go_on_and_say_why(search, writer, words):
    run = search(*words, index=writer.folder)
    assert (run.returncode, run.stdout) == (2, "")
    assert "is being indexed by process" in run.stderr and len(run.stderr.splitlines()) == 1


def test_it_counts_as_such_until_there_are_images(writer):
    assert "no images are committed yet" in str(being_indexed(writer.folder))
    writer.commit(folders=["/photos"])
    assert "no images are committed yet" in str(being_indexed(writer.folder))
    writer.commit(make_batch(1, 2))
    assert being_indexed(writer.folder) is None


def test_one_that_nobody_writes_to_is_not(tmp_path, collection, ended):
    assert being_indexed(tmp_path / "none") is None
    assert being_indexed(collection) is None
    leave_holder(tmp_path / "killed", pid=ended)
    assert being_indexed(tmp_path / "killed") is None
    with pytest.raises(CrosslookError, match="no collection") as error, reported_if_being_indexed(tmp_path / "killed"):
        raise CrosslookError("no collection")
    assert not isinstance(error.value, BeingIndexedError)


def test_a_damaged_one_is_told_to_be_damaged(writer):
    writer.commit(make_batch(1, 2))
    next(writer.folder.glob("manifest-*.json")).write_text("{")
    assert being_indexed(writer.folder) is None


def test_a_process_on_another_machine_is_believed(tmp_path, ended):
    leave_holder(tmp_path / "shared", pid=ended, host="elsewhere")
    assert holder(tmp_path / "shared") == f"process {ended} on elsewhere since 2026-01-02 03:04:05"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x", "host": "y", "since": "z"}', "\0"])
def test_a_note_that_is_damaged_names_nobody(tmp_path, content):
    (tmp_path / HOLDER).write_text(content)
    assert holder(tmp_path) is None


@pytest.mark.parametrize("pid", [10**30, -(10**9)])
def test_a_number_that_no_process_can_have_names_nobody(tmp_path, pid):
    leave_holder(tmp_path, pid=pid)
    assert holder(tmp_path) is None


def test_a_second_writer_is_told_who_is_at_work(writer):
    with pytest.raises(CrosslookError, match=f"is being written to by process {os.getpid()} on"):
        CollectionWriter(writer.folder, BINDING)
