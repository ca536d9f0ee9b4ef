"""The number of cores under a quota of CPU time, by made-up files of control groups."""

from __future__ import annotations

import os

import pytest

from retrieval.cores import usable_cores
from tests.retrieval.made_up_groups import groups


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)


def cores(folder, membership, files):
    """The number of cores for these files of control groups, by path, and this membership of the process."""
    return usable_cores(*groups(folder, membership, files))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", 16),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # rounded up
        ("100000 100000\n", 1),
        ("1000 100000\n", 1),
        ("50000 10000\n", 5),
        ("6400000 100000\n", 16),  # more than the machine has
        ("", 16),
        ("200000\n", 16),
        ("200000 0\n", 16),
        ("0 100000\n", 16),
        ("many few\n", 16),
    ],
)
def test_a_quota_of_version_2_in_a_container(tmp_path, content, expected):
    assert cores(tmp_path, "0::/\n", {"cpu.max": content}) == expected


def test_the_smallest_quota_of_the_groups_around_counts(tmp_path):
    files = {
        "user.slice/cpu.max": "300000 100000",
        "user.slice/app.slice/cpu.max": "max 100000",
        "user.slice/app.slice/run.scope/cpu.max": "800000 100000",
        "other.slice/cpu.max": "100000 100000",
    }
    assert cores(tmp_path, "0::/user.slice/app.slice/run.scope\n", files) == 3


def test_of_a_path_that_only_the_host_sees_the_mounted_top_counts(tmp_path):
    assert cores(tmp_path, "0::/docker/0123abc\n", {"cpu.max": "200000 100000"}) == 2
    assert cores(tmp_path, "0::/../../elsewhere\n", {"cpu.max": "400000 100000"}) == 4


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(
    ("quota", "period", "expected"), [("-1", "100000", 16), ("250000", "100000", 3), ("50000", "100000", 1)]
)
def test_a_quota_of_version_1(tmp_path, folder, quota, period, expected):
    membership = "12:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/init.scope\n"
    files = {f"{folder}/box/cpu.cfs_quota_us": quota, f"{folder}/box/cpu.cfs_period_us": period}
    assert cores(tmp_path, membership, files) == expected


def test_a_quota_of_version_1_at_the_top_of_a_container(tmp_path):
    files = {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}
    assert cores(tmp_path, "4:cpu:/docker/0123abc\n", files) == 2


def test_a_quota_where_both_versions_are_mounted(tmp_path):
    assert cores(tmp_path, "0::/box\n3:memory:/\n", {"unified/box/cpu.max": "200000 100000"}) == 2


def test_taskset_and_quota_both_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert cores(tmp_path, "0::/\n", {"cpu.max": "800000 100000"}) == 1


@pytest.mark.parametrize("membership", ["", "nonsense", ":::", "0:", "0::\n", "x:cpu"])
def test_files_of_another_kind_change_nothing(tmp_path, membership):
    assert cores(tmp_path, membership, {}) == 16


def test_where_there_are_no_control_groups_the_cores_count(tmp_path, monkeypatch):
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 16
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 1
