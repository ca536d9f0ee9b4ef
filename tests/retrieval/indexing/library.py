"""A stand-in for a collection, which carries a plan out in memory; and files for it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from indexes.collection import Collection
from indexes.rows import Failure, failures_table
from retrieval.indexing.roots import find_roots
from retrieval.indexing.settings import Settings
from retrieval.indexing.survey import survey
from retrieval.progress import Observer
from tests.retrieval.indexing.plans import table


@dataclass
class Library:
    """A collection as dictionaries: rows by id. It carries a plan out as the pipeline does: a file is not embedded if
    its content is that of a row, or of a removed row."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    gone: list[dict[str, Any]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    manifest: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            folders=(), excludes=(), mounts=(), devices={}, passed_over={}, next_id=1
        )
    )
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)
    next_id: int = 1

    def table(self, columns):
        return self._table(list(self.rows.values()), columns)

    def dead(self, columns):
        return self._table(self.gone, columns)

    def failures(self):
        return failures_table(self.failed)

    @staticmethod
    def _table(rows, columns):
        return table(rows).select(["position", *columns])

    def run(self, *folders, stop=lambda: False, **settings):
        """One run. Returns its plan; `notes`, `skipped` and `embedded` are those of this run."""
        self.notes, self.skipped, self.embedded = [], [], []
        observer = Observer(
            note=self.notes.append,
            failure=lambda path, reason: self.skipped.append((os.path.basename(os.fsdecode(path)), reason)),
            should_stop=stop,
        )
        roots = find_roots(folders, self.manifest.folders)
        outcome = survey(roots, cast(Collection, self), Settings(**settings), observer)
        self._carry_out(outcome)
        return outcome.plan

    def _carry_out(self, outcome):
        plan = outcome.plan
        for rename in (*plan.touch, *plan.rename):
            row = self.rows.pop(rename.replaces)
            assert row["path"] == rename.old
            self._put(rename.file, row["content_hash"])
        for gone in plan.remove:
            self.gone.append(self.rows.pop(gone.id))
        self.failed = [item for item in self.failed if item.id not in {gone.id for gone in plan.forget}]
        for encoding in (*plan.reencode, *plan.add):
            content = Path(os.fsdecode(encoding.file.path)).read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            known = {row["content_hash"] for row in (*self.rows.values(), *self.gone)}
            if encoding.replaces in self.rows:
                self.gone.append(self.rows.pop(encoding.replaces))
            if content.startswith(b"broken"):
                file = encoding.file
                failure = (file.path, file.size, file.mtime_ns, file.ctime_ns)
                self.failed = [item for item in self.failed if item.id != encoding.replaces]
                self.failed.append(Failure(self.next_id, *failure, 0, "is damaged"))
                self.next_id += 1
                continue
            assert encoding.may_be_known or digest not in known
            if digest not in known:
                self.embedded.append(os.path.basename(os.fsdecode(encoding.file.path)))
            self._put(encoding.file, digest)
        self.manifest = SimpleNamespace(
            folders=outcome.folders,
            excludes=outcome.excludes,
            mounts=outcome.mounts,
            devices=outcome.devices,
            passed_over=outcome.passed_over,
            next_id=self.next_id,
        )

    def remove(self, folder):
        """As `search remove` does."""
        inside = os.fsencode(folder) + b"/"
        self.gone += [row for row in self.rows.values() if row["path"].startswith(inside)]
        self.rows = {id: row for id, row in self.rows.items() if not row["path"].startswith(inside)}
        self.manifest.folders = tuple(name for name in self.manifest.folders if name != str(folder))

    def lose(self, folder):
        """As a repair does after the segment with these rows was damaged."""
        inside = os.fsencode(folder) + b"/"
        self.rows = {id: row for id, row in self.rows.items() if not row["path"].startswith(inside)}

    def _put(self, file, digest):
        row = {"id": self.next_id, "path": file.path, "size": file.size, "mtime_ns": file.mtime_ns}
        self.rows[self.next_id] = row | {"ctime_ns": file.ctime_ns, "content_hash": digest}
        self.next_id += 1

    def paths(self, folder):
        return sorted(os.path.relpath(os.fsdecode(row["path"]), folder) for row in self.rows.values())


def write(folder, *names, of=""):
    """Writes files. The content is different for every name, and for another `of`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}{of}")
