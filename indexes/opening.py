"""What a writer starts from: the commit in force or, after damage, what can be made of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from indexes.checksums import file_checksum
from indexes.commits import CURRENT, find_commit, manifest_names, put_in_force, whole_manifests
from indexes.errors import CrosslookError, DamagedCollectionError, DamagedSegmentError
from indexes.files import writing_to
from indexes.manifest import AnnEntry, Binding, Manifest, SegmentEntry
from indexes.manifest_file import refuse_unknown
from indexes.paths import ann_folder, segment_folder
from indexes.recovery import (
    current_binding,
    rebuild,
    repaired_entry,
    segment_numbers,
    set_aside,
)

SKIPPED_IDS = 2**20  # after the largest id that is left, since larger ones may have been given and are lost


class Opening:
    """Used by the one writer, which holds the lock. dropped: rows that were lost with damaged segments. lost_deletions:
    segments whose deletion vector is lost, so that dead rows may count again. notes: what was mended, a line each.

    The order is always the same. First, what will not be named any more is copied aside. Then the manifest is put in
    force. Last, the original is removed as any leftover. A crash in between leaves both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped = 0
        self.lost_deletions: set[int] = set()
        self.notes: list[str] = []

    def manifest(self, binding: Binding, repair: bool) -> Manifest:
        """The manifest to go on from; a new one for `binding` where nothing was ever committed.

        repair: rebuild a lost manifest from the segments, check every file, and set damaged segments aside. Raises
        `CrosslookError` where the collection is damaged and `repair` is False, or it cannot be written to."""
        manifest = self._manifest_to_go_on_from(binding, repair)
        return self._repaired(manifest) if repair else manifest

    def _manifest_to_go_on_from(self, binding: Binding, repair: bool) -> Manifest:
        """The manifest in force. Where CURRENT is lost or names an older one, the newest manifest that is not damaged.
        Where there is none, one made from the segments, if the very first commit was interrupted or with `repair`."""
        try:
            commit = find_commit(self.folder)
        except DamagedCollectionError as error:
            if not repair:
                raise
            return self._rebuilt(error.reason, SKIPPED_IDS)
        if commit is None:
            interrupted = bool(segment_numbers(self.folder))
            return self._after_first_run(binding) if interrupted else Manifest(binding)
        refuse_unknown(commit.manifest.features.required_to_write, self.folder)  # before anything is written
        newer = self._newer(commit.manifest)
        if commit.fault is None and newer is None:
            return self._beyond_leftovers(commit.manifest)
        manifest = newer or commit.manifest
        fault = commit.fault or f"{self.folder / CURRENT} names an older commit"
        self.notes.append(f"{fault}: {manifest.file_name} counts, the newest one that is whole")
        # Where CURRENT is lost, a commit of which nothing is left may have given ids; but not before the first one.
        skipped = 0 if commit.fault is None or manifest.generation == 1 else SKIPPED_IDS
        manifest = replace(self._beyond_leftovers(manifest).next(), next_id=manifest.next_id + skipped)
        with writing_to(self.folder):
            self._set_aside_unnamed(manifest)
            put_in_force(self.folder, manifest)
        return manifest

    def _newer(self, manifest: Manifest) -> Manifest | None:
        """A manifest that goes on from the one in force: its commit was interrupted, or an older backup was copied over
        it. Others of a higher number are set aside."""
        for candidate in whole_manifests(self.folder, after=manifest.generation):
            if candidate.generation <= manifest.generation:  # its name lies
                return None
            counters = ("next_id", "next_segment", "next_ann")
            goes_on = candidate.binding == manifest.binding and all(
                getattr(candidate, name) >= getattr(manifest, name) for name in counters
            )
            folders = [segment_folder(self.folder, entry.number) for entry in candidate.segments]
            if goes_on and all(path.is_dir() for path in folders):
                return candidate
            target = set_aside(self.folder, self.folder / candidate.file_name)
            self.notes.append(f"{candidate.file_name} does not go on from the manifest in force; a copy is {target}")
        return None

    def _beyond_leftovers(self, manifest: Manifest) -> Manifest:
        """The manifest, with a number for the next segment that no folder has, even if leftovers cannot be removed."""
        number = max([manifest.next_segment, *(number + 1 for number in segment_numbers(self.folder))])
        return replace(manifest, next_segment=number)

    def _after_first_run(self, binding: Binding) -> Manifest:
        """There are segments, but nothing was ever committed."""
        if current_binding(self.folder) is not None:
            return self._rebuilt("the first run was interrupted", 0)
        with writing_to(self.folder):
            for number in segment_numbers(self.folder):
                target = set_aside(self.folder, segment_folder(self.folder, number))
                self.notes.append(f"segment {number} of an interrupted first run cannot be used; it is now {target}")
        return self._beyond_leftovers(Manifest(binding))

    def _rebuilt(self, reason: str, skipped_ids: int) -> Manifest:
        rebuilt = rebuild(self.folder)
        if rebuilt is None:
            raise CrosslookError(
                f"{self.folder}: {reason}, and nothing left of it says which model it was made with, so that it cannot "
                "be rebuilt: index into another collection (-i)"
            )
        if manifest_names(self.folder):  # else nothing was committed before
            self.notes += rebuilt.notes
        with writing_to(self.folder):
            for path, why in rebuilt.useless:
                self.notes.append(f"{path} cannot be used: {why}; it is now {set_aside(self.folder, path)}")
            for name in manifest_names(self.folder):
                set_aside(self.folder, self.folder / name)
            manifest = rebuilt.manifest.next(next_id=rebuilt.manifest.next_id + skipped_ids)
            put_in_force(self.folder, manifest)
        images = sum(entry.rows - entry.dead for entry in manifest.segments)
        parts = f"{len(manifest.segments):,} segment{'' if len(manifest.segments) == 1 else 's'}"
        self.notes.append(f"{reason}: the manifest was rebuilt from {parts} with {images:,} images")
        self.lost_deletions |= rebuilt.lost_deletions
        return manifest

    def _repaired(self, manifest: Manifest) -> Manifest:
        """The manifest after checking every file: without damaged segments, which are set aside, and with checksums
        where there were none."""
        entries: list[SegmentEntry] = []
        with writing_to(self.folder):
            for entry in manifest.segments:
                path = segment_folder(self.folder, entry.number)
                try:
                    kept = repaired_entry(path, entry, manifest.binding)
                except DamagedSegmentError as error:
                    self.dropped += entry.rows - entry.dead
                    moved = f"; it is now {set_aside(self.folder, path)}" if path.exists() else ""
                    self.notes.append(f"segment {entry.number} is damaged ({error.reason}){moved}")
                    continue
                if kept.dead < entry.dead:
                    self.lost_deletions.add(entry.number)
                    self.notes.append(f"what was dead in segment {entry.number} is lost: removed images may come back")
                entries.append(kept)
            ann = self._checked_ann(manifest.ann)
            if tuple(entries) == manifest.segments and ann == manifest.ann:
                return manifest
            repaired = manifest.next(segments=tuple(entries), ann=ann)
            put_in_force(self.folder, repaired)
        return repaired

    def _checked_ann(self, ann: AnnEntry | None) -> AnnEntry | None:
        """The ANN index, with its checksum; None if its file is damaged or missing. Raises `OSError` if it cannot
        be read now."""
        if ann is None:
            return None
        path = ann_folder(self.folder) / ann.file_name
        try:
            count, checksum = file_checksum(path)
        except FileNotFoundError:
            self.notes.append("the ANN index is missing: `search optimize` makes it anew")
            return None
        if count == ann.bytes and checksum == (ann.checksum or checksum):
            return replace(ann, checksum=checksum)
        target = set_aside(self.folder, path)
        self.notes.append(f"the ANN index is damaged, and now {target}: `search optimize` makes it anew")
        return None

    def _set_aside_unnamed(self, manifest: Manifest) -> None:
        """Segments that the manifest does not name: it may not be the newest one, and they may count."""
        named = {entry.number for entry in manifest.segments}
        for number in segment_numbers(self.folder):
            if number not in named:
                target = set_aside(self.folder, segment_folder(self.folder, number))
                self.notes.append(f"that manifest does not name segment {number}, which is now {target}")
