"""Memory under the limit of a container, by made-up files of control groups."""

from __future__ import annotations

import os

import pytest

from retrieval.usable_memory import usable_memory
from tests.retrieval.made_up_groups import groups

MACHINE = 64 * 2**30


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)


def memory(folder, membership, files):
    return usable_memory(*groups(folder, membership, files))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max\n", MACHINE), ("1073741824\n", 2**30), (f"{2**50}\n", MACHINE), ("", MACHINE), ("0\n", MACHINE)],
)
def test_a_limit_of_version_2(tmp_path, content, expected):
    assert memory(tmp_path, "0::/\n", {"memory.max": content}) == expected


def test_the_smallest_limit_of_the_groups_around_counts(tmp_path):
    files = {"box/memory.max": "3000000000", "box/run.scope/memory.max": "max", "other/memory.max": "1000"}
    assert memory(tmp_path, "0::/box/run.scope\n", files) == 3_000_000_000


@pytest.mark.parametrize(("content", "expected"), [("2000000000\n", 2_000_000_000), (f"{2**63 - 4096}\n", MACHINE)])
def test_a_limit_of_version_1(tmp_path, content, expected):
    membership = "12:memory:/box\n4:cpu,cpuacct:/box\n"
    assert memory(tmp_path, membership, {"memory/box/memory.limit_in_bytes": content}) == expected


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    assert usable_memory(tmp_path, tmp_path / "none") == MACHINE
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert usable_memory(tmp_path, tmp_path / "none") is None
