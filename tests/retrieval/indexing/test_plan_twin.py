"""The plan equals that of a slow twin, which looks at one path at a time, for random folders before and after."""

from __future__ import annotations

import os
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from indexes.rows import failures_table
from retrieval.indexing.files import File
from retrieval.indexing.known import Known
from retrieval.indexing.listing import Listing
from retrieval.indexing.planning import make_plan

ROOTS = (b"/photos", b"/photos/.hidden", b"/card")
PLACES = (b"/photos", b"/photos/a", b"/photos/a/x", b"/photos/usb", b"/photos/.hidden", b"/card", b"/card/in", b"/old")


def some_files(rng):
    """Path -> (content, mtime, ctime). The content gives the size; many contents have the same size."""
    return {
        rng.choice(PLACES) + b"/%d" % rng.randrange(6): (
            rng.choice([b"p", b"q", b"rr", b"ss", b"ttt", b"uuuu"]),
            rng.randrange(2),
            rng.choice([1, 2]),
        )
        for _ in range(rng.randrange(14))
    }


def changed(rng, before):
    """The files after changes: some stay, some are touched, changed, removed or added; folders are removed or moved."""
    after = {}
    for path, (content, mtime, ctime) in before.items():
        fate = rng.random()
        if fate < 0.4:
            after[path] = (content, mtime, ctime)
        elif fate < 0.5:
            after[path] = (content, mtime, ctime + 5)
        elif fate < 0.6:
            after[path] = (rng.choice([b"p", b"new", b"rr"]), mtime, ctime + 5)
    for _ in range(rng.randrange(3)):
        source, target = rng.choice(PLACES), rng.choice(PLACES)
        inside = [path for path in before if os.path.dirname(path) == source]
        for path in inside:
            after.pop(path, None)
            if rng.random() < 0.7:
                after[target + b"/" + os.path.basename(path) + b"m"] = before[path]
    return after | {path: value for path, value in some_files(rng).items() if rng.random() < 0.3}


class World:
    """What a collection knows, and what the disk holds now."""

    def __init__(self, seed):
        rng = random.Random(seed)
        self.before = some_files(rng)
        self.after = changed(rng, self.before)
        self.roots = rng.sample(ROOTS, rng.randrange(1, 4))
        self.forget = rng.random() < 0.2
        self.knows_ctime = rng.random() < 0.8
        self.mounts = frozenset(rng.sample([b"/photos/usb", b"/card"], rng.randrange(3)))
        self.mounts_now = frozenset(mount for mount in (b"/photos/usb", b"/card") if rng.random() < 0.5)
        # Folders may exist without images. A folder that exists has its parents.
        empty = rng.sample(PLACES, rng.randrange(len(PLACES)))
        inner = {os.path.dirname(path) for path in self.after} | set(empty) | set(self.roots) | self.mounts_now
        self.folders = {place for place in PLACES if any(is_in(folder, place) for folder in inner)}
        self.excluded = {b"/photos/a/x"} & self.folders if rng.random() < 0.3 else set()

    def visited(self):
        return {
            folder
            for folder in self.folders
            for root in self.roots
            if is_in(folder, root) and b"/." not in folder[len(root) :] and not self.is_excluded(folder)
        }

    def is_excluded(self, path):
        return any(is_in(path, folder) for folder in self.excluded)

    def listed(self):
        visited = self.visited()
        return {path: value for path, value in self.after.items() if os.path.dirname(path) in visited}

    def plan(self):
        files = [File(path, len(content), m, c) for path, (content, m, c) in sorted(self.listed().items())]
        listing = Listing(
            tuple(files),
            (),
            visited=frozenset(self.visited()),
            left_out=frozenset(self.excluded),
            mounts=self.mounts_now & self.visited(),
        )
        names = list(self.before)
        values = list(self.before.values())
        rows = pa.table(
            {
                "position": pa.array(range(len(names)), pa.int64()),
                "id": pa.array(range(100, 100 + len(names)), pa.int64()),
                "path": pa.array(names, pa.binary()),
                "size": pa.array([len(content) for content, _, _ in values], pa.int64()),
                "mtime_ns": pa.array([mtime for _, mtime, _ in values], pa.int64()),
                "ctime_ns": pa.array([ctime if self.knows_ctime else 0 for _, _, ctime in values], pa.int64()),
                "content_hash": pa.array([content for content, _, _ in values], pa.binary()),
            }
        )
        known = Known(rows, failures_table([]), np.zeros(0, np.int64), ROOTS, tuple(self.mounts))
        existing = {*self.after, *self.folders, *(folder + b"/." for folder in self.folders)}
        return make_plan(
            listing,
            self.roots,
            known,
            lambda path: self.after[path][0],
            lambda path: path not in existing,
            forget=self.forget,
        )


def is_in(path, folder):
    return path == folder or path.startswith(folder + b"/")


def groups_of_files(world):
    """Path -> the twin's group for a listed file; a "new" file may turn out to be moved."""
    groups = {}
    for path, (content, mtime, ctime) in world.listed().items():
        if path not in world.before:
            groups[path] = "new"
            continue
        old, old_mtime, old_ctime = world.before[path]
        if (len(old), old_mtime) == (len(content), mtime) and (not world.knows_ctime or old_ctime == ctime):
            groups[path] = "unchanged"
        else:
            groups[path] = "touch" if old == content else "reencode"
    return groups


def fate_of_row(world, path):
    """Of a row whose file was not listed: "stays", "goes" or "kept"; "drive" where that depends on the other rows of a
    mount point."""
    visited, listed = world.visited(), world.listed()
    if not any(is_in(path, root) for root in world.roots):
        return "stays"
    nearest = os.path.dirname(path)
    while nearest not in visited and nearest not in world.excluded and nearest != b"/":
        if nearest in ROOTS and nearest in world.folders and nearest not in world.roots:
            return "stays"
        nearest = os.path.dirname(nearest)
    if nearest in world.excluded:
        return "goes"
    mounts = world.mounts | world.mounts_now & visited
    inside = [mount for mount in mounts if is_in(path, mount) and any(is_in(mount, root) for root in world.roots)]
    if not world.forget and any(mount in world.mounts - (world.mounts_now & visited) for mount in inside):
        return "kept"
    folder = os.path.dirname(path)
    while folder != b"/" and not world.forget:
        if folder in visited and not any(is_in(other, folder) for other in listed):
            return "kept"
        folder = os.path.dirname(folder)
    return "drive" if inside and not world.forget else "goes"


@pytest.mark.parametrize("block", range(8))
def test_the_plan_is_that_of_the_twin(block):
    for seed in range(block * 250, block * 250 + 250):
        world = World(seed)
        plan, listed = world.plan(), world.listed()
        groups = groups_of_files(world)

        by_group = Counter(groups.values())
        assert plan.unchanged == by_group["unchanged"], seed
        assert {rename.file.path for rename in plan.touch} == {path for path in groups if groups[path] == "touch"}, seed
        assert {item.file.path for item in plan.reencode} == {p for p in groups if groups[p] == "reencode"}, seed
        new = {item.file.path for item in plan.add}, {rename.file.path for rename in plan.rename}
        assert not new[0] & new[1] and new[0] | new[1] == {path for path in groups if groups[path] == "new"}, seed

        # For every content, as many files are moved as there are pairs of a new file and a row without its file.
        free = [path for path in world.before if path not in world.after or path not in listed]
        free = [path for path in free if fate_of_row(world, path) != "stays" or path not in world.after]
        wanted = Counter(listed[path][0] for path in groups if groups[path] == "new")
        offered = Counter(world.before[path][0] for path in free)
        assert Counter(listed[rename.file.path][0] for rename in plan.rename) == wanted & offered, seed
        assert all(world.before[rename.old][0] == listed[rename.file.path][0] for rename in plan.rename), seed
        assert len({rename.replaces for rename in plan.rename}) == len(plan.rename), seed

        moved = {rename.old for rename in plan.rename}
        removed = {gone.path for gone in plan.remove}
        fates = {path: fate_of_row(world, path) for path in world.before if path not in listed and path not in moved}
        assert removed <= {path for path in fates if fates[path] in ("goes", "drive")}, seed
        assert removed >= {path for path in fates if fates[path] == "goes"}, seed
        kept = {path for path in fates if fates[path] == "kept"}
        kept |= {path for path in fates if fates[path] == "drive" and path not in removed}
        assert plan.kept == len(kept) == sum(item.images for item in plan.kept_in), seed
        assert all(any(is_in(path, item.folder) for item in plan.kept_in) for path in kept), seed
        for path in fates:  # a drive loses single images, or none
            if fates[path] == "drive":
                alive = [other for other in groups if groups[other] in ("unchanged", "touch")]
                mounts = [mount for mount in world.mounts_now & world.visited() if is_in(path, mount)]
                renamed = [(rename.old, rename.file.path) for rename in plan.rename]
                is_another = any(
                    not any(is_in(other, mount) for other in alive)
                    and not any(is_in(old, mount) and is_in(other, mount) for old, other in renamed)
                    for mount in mounts
                )
                assert (path in removed) is not is_another, seed

        known = {content for content, _, _ in world.before.values()}
        contents = Counter(listed[item.file.path][0] for item in (*plan.add, *plan.reencode))
        for item in (*plan.add, *plan.reencode):
            content = listed[item.file.path][0]
            assert item.may_be_known or (content not in known and contents[content] == 1), seed
