"""`search --batch`: whatever is on the other end, every line is answered and nothing hangs."""

from __future__ import annotations

import json
import os
import select
import threading

import numpy as np
import pytest

from cli import batch
from indexes.collection import Collection
from indexes.errors import CrosslookError
from indexes.writer import CollectionWriter
from retrieval.engine import Engine
from tests.batches import BINDING, make_batch
from tests.cli.running import FAKE_MODEL, Started, script_command
from tests.support import FakeEncoder


@pytest.fixture
def engine(collection):
    return Engine(Collection.open(collection), FakeEncoder())


@pytest.fixture
def answers(engine, tmp_path, capfd):
    """The answers to the lines of a file."""

    def run(content: bytes) -> list[dict[str, object]]:
        (tmp_path / "queries").write_bytes(content)
        batch.answer_batch(engine, str(tmp_path / "queries"), 1, None, 0.0)
        return [json.loads(line) for line in capfd.readouterr().out.split("\n")[:-1]]

    return run


@pytest.mark.parametrize(
    ("content", "queries"),
    [
        (b"", []),
        (b"a cat\na dog\n", ["a cat", "a dog"]),
        (b"a cat\na dog", ["a cat", "a dog"]),
        (b"a cat\r\na dog\r\n", ["a cat", "a dog"]),
        (b"\xef\xbb\xbfa cat\n", ["a cat"]),
        ("ein süßer 日本 🏠\n".encode(), ["ein süßer 日本 🏠"]),
        (b"nul\0inside\n", ["nul\0inside"]),
        (b"form\x0cfeed\x85\n".replace(b"\x85", "\x85".encode()), ["form\x0cfeed\x85"]),
        ("line\u2028separator\n".encode(), ["line\u2028separator"]),
        (b"word " * 5000 + b"\n", ["word " * 5000]),
    ],
)
def test_every_line_is_a_query(answers, content, queries):
    records = answers(content)
    assert [record["query"] for record in records] == queries
    assert all(len(record["hits"]) == 1 for record in records)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "is empty"),
        (b" \t ", "is empty"),
        (b"\xff\xfe\x00garbage", "is not UTF-8"),
        (b"caf\xe9", "is not UTF-8"),
        (bytes(range(128, 256)), "is not UTF-8"),
        (b"x" * 1_000_001, "is longer than 1,000,000 bytes"),
        (b"x" * 5_000_000, "is longer than 1,000,000 bytes"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_no_query_is_an_error_of_its_own(answers, line, error, end):
    records = answers(b"a cat\n" + line + b"\na dog\n" + (line + end if line else b""))
    assert [record.get("error") is None for record in records][:3] == [True, False, True]
    assert all(error in record["error"] for record in records[1::2])
    assert len(records) == (4 if line else 3)


def test_many_lines_are_answered_in_their_order(answers):
    queries = [f"query {number}" for number in range(500)]
    assert [record["query"] for record in answers("\n".join(queries).encode())] == queries


@pytest.mark.parametrize(
    "error", [TypeError("odd"), RuntimeError("odd"), MemoryError(), AssertionError("odd"), SystemExit(3)]
)
def test_whatever_ends_the_reading_reaches_the_one_who_waits(engine, tmp_path, monkeypatch, capfd, error):
    def chunks(descriptor):
        yield b"a cat\n"
        raise error

    (tmp_path / "queries").write_text("")
    monkeypatch.setattr(batch, "read_chunks", chunks)
    with pytest.raises(type(error)) as raised:
        batch.answer_batch(engine, str(tmp_path / "queries"), 1, None, 0.0)
    assert raised.value is error
    assert json.loads(capfd.readouterr().out)["query"] == "a cat", "what came before is answered"


@pytest.mark.parametrize("name", ["none", ".", "queries/inside", "x" * 5000])
def test_a_file_that_cannot_be_read_is_one_line(engine, tmp_path, name):
    (tmp_path / "queries").write_text("a cat\n")
    with pytest.raises(CrosslookError, match="cannot read the queries in"):
        batch.answer_batch(engine, str(tmp_path / name), 1, None, 0.0)


def test_a_closed_stdin_is_an_error(engine, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CrosslookError, match="standard input is closed"):
        batch.answer_batch(engine, "-", 1, None, 0.0)


def test_a_stdin_that_never_blocks_is_waited_for(engine, monkeypatch, capfd):
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    monkeypatch.setattr("sys.stdin", os.fdopen(ours))
    selected = threading.Event()
    real = select.select

    def select_and_tell(*arguments):
        selected.set()
        return real(*arguments)

    monkeypatch.setattr(select, "select", select_and_tell)

    def write():
        selected.wait()
        os.write(theirs, b"a cat\n")
        os.close(theirs)

    threading.Thread(target=write).start()
    batch.answer_batch(engine, "-", 1, None, 0.0)
    assert json.loads(capfd.readouterr().out)["query"] == "a cat"


# Real processes, over a collection of the made-up model.


@pytest.fixture
def small(tmp_path):
    with CollectionWriter(tmp_path / "small", BINDING) as writer:
        writer.commit(make_batch(1, 3))
    return tmp_path / "small"


@pytest.mark.parametrize("shell", ["<&-", "<&- >/dev/null", "<&- 2>&1"])
def test_a_closed_stdin_does_not_hang(search_after, small, shell):
    run = search_after(FAKE_MODEL, "--batch", "-", "-i", small, shell=shell)
    assert run.returncode == 2
    assert "standard input is closed" in run.stderr + run.stdout or "/dev/null" in shell


def test_a_stdin_that_can_only_be_written_is_one_line(search_after, small, tmp_path):
    run = search_after(FAKE_MODEL, "--batch", "-", "-i", small, shell=f"0>{tmp_path}/file")
    assert run.returncode == 2 and "cannot read the queries in -: Bad file descriptor" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_slow_writer_gets_each_answer_though_a_line_comes_in_pieces(small):
    with Started(script_command(FAKE_MODEL, "--batch", "-", "-k", 1, "-i", small), text=False) as batch_run:
        lines = iter(batch_run.stdout.readline, b"")
        for pieces in ([b"a c", b"at\n"], ["süß\n".encode()[:2], "süß\n".encode()[2:]], [b"\n"]):
            for piece in pieces:
                batch_run.stdin.write(piece)
            assert json.loads(next(lines))["query"] == b"".join(pieces).decode().strip()
        batch_run.stdin.write(b"without an end")
        batch_run.stdin.close()
        assert json.loads(next(lines))["query"] == "without an end"
    assert batch_run.process.returncode == 0


def test_a_reader_that_stops_ends_the_batch_though_more_is_to_come(small):
    with Started(script_command(FAKE_MODEL, "--batch", "-", "-k", 1, "-i", small), text=False) as batch_run:
        batch_run.stdin.write(b"a cat\n")
        assert batch_run.stdout.readline()
        batch_run.stdout.close()
        batch_run.stdin.write(b"a dog\n")
        assert batch_run.process.wait(timeout=30) == 0
        assert batch_run.stderr.read() == b""


def test_the_similarities_are_those_of_the_engine(answers, engine):
    """The lines that are no queries do not shift the answers."""
    records = answers(b"\n\xff\na cat\n\na dog\n")
    for record in records:
        if "hits" in record:
            expected = engine.search(record["query"], 1)[0].similarity
            assert np.isclose(record["hits"][0]["similarity"], expected, atol=1e-6)
