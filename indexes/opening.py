"""What a writer starts from: the commit in force, or what can be made of it after a damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from indexes.checksums import file_checksum
from indexes.collection import ann_folder, segment_folder
from indexes.commits import CURRENT, find_commit, manifest_names, name_current, put_in_force
from indexes.errors import DamagedCollectionError
from indexes.files import writing_to
from indexes.manifest import AnnEntry, Binding, Manifest, SegmentEntry
from indexes.recovery import rebuild, repaired_entry, segment_numbers, set_aside


class Opening:
    """Used by the one writer, which holds the lock. dropped: rows that were lost with damaged segments. notes: what was
    found and mended, a line each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped = 0
        self.notes: list[str] = []

    def manifest(self, binding: Binding, repair: bool) -> Manifest:
        """The manifest to go on from; a new one for `binding` where nothing was ever committed.

        repair: rebuild a lost manifest from the segments, check every file, and set damaged segments aside. Raises
        `CrosslookError` where the collection is damaged and `repair` was not asked for, or cannot be written to."""
        manifest = self._manifest_to_go_on_from(binding, repair)
        return self._repaired(manifest) if repair else manifest

    def _manifest_to_go_on_from(self, binding: Binding, repair: bool) -> Manifest:
        """The one in force; the newest whole one where CURRENT is lost; one made anew from the segments where the very
        first commit was interrupted, or `repair` asks for it."""
        try:
            commit = find_commit(self.folder)
        except DamagedCollectionError as error:
            if not repair:
                raise
            return self._rebuilt(binding, str(error))
        if commit is None:
            interrupted = bool(segment_numbers(self.folder))
            return self._rebuilt(binding, "the first run was interrupted") if interrupted else Manifest(binding)
        if commit.fault is not None:
            self.notes.append(f"{commit.fault}: {commit.manifest.file_name}, the newest one that is whole, counts")
            with writing_to(self.folder):
                self._set_aside_unnamed(commit.manifest)
                name_current(self.folder, commit.manifest)
        return commit.manifest

    def _rebuilt(self, binding: Binding, reason: str) -> Manifest:
        rebuilt = rebuild(self.folder)
        damaged = [self.folder / name for name in manifest_names(self.folder)]
        if rebuilt is None:
            useless = [(segment_folder(self.folder, number), "") for number in segment_numbers(self.folder)]
        else:
            useless = list(rebuilt.useless)
        with writing_to(self.folder):
            for path, why in useless:
                target = set_aside(self.folder, path)
                self.notes.append(f"{path} cannot be used{': ' * bool(why)}{why}; it is now {target}")
            if rebuilt is None:
                (self.folder / CURRENT).unlink(missing_ok=True)
                manifest = Manifest(binding)
            else:
                manifest = rebuilt.manifest.next()
                put_in_force(self.folder, manifest)
            for path in damaged:
                set_aside(self.folder, path)
        if rebuilt is not None:
            images = sum(entry.rows for entry in manifest.segments)
            self.notes.append(
                f"{reason}; the manifest was rebuilt from {len(manifest.segments):,} segments with {images:,} images"
            )
        return manifest

    def _repaired(self, manifest: Manifest) -> Manifest:
        """With every file checked, what is damaged set aside, and checksums where there were none."""
        entries: list[SegmentEntry] = []
        for entry in manifest.segments:
            place = segment_folder(self.folder, entry.number)
            kept = repaired_entry(place, entry, manifest.binding)
            if isinstance(kept, SegmentEntry):
                entries.append(kept)
                continue
            self.dropped += entry.rows - entry.dead
            with writing_to(self.folder):
                moved = f"; it is now {set_aside(self.folder, place)}" if place.exists() else ""
            self.notes.append(f"segment {entry.number} is damaged ({kept}){moved}")
        ann = self._checked_ann(manifest.ann)
        if tuple(entries) == manifest.segments and ann == manifest.ann:
            return manifest
        repaired = manifest.next(segments=tuple(entries), ann=ann)
        with writing_to(self.folder):
            put_in_force(self.folder, repaired)
        return repaired

    def _checked_ann(self, ann: AnnEntry | None) -> AnnEntry | None:
        """The ANN index, with its checksum; None where its file is not what it was."""
        if ann is None:
            return None
        try:
            count, checksum = file_checksum(ann_folder(self.folder) / ann.file_name)
        except OSError:
            count, checksum = -1, ""
        if count == ann.bytes and checksum == (ann.checksum or checksum):
            return replace(ann, checksum=checksum)
        self.notes.append("the ANN index is damaged: `search optimize` makes it anew")
        return None

    def _set_aside_unnamed(self, manifest: Manifest) -> None:
        """A manifest that is not surely the last may not name all that counts: nothing is removed for that."""
        named = {entry.number for entry in manifest.segments}
        for number in segment_numbers(self.folder):
            if number not in named:
                target = set_aside(self.folder, segment_folder(self.folder, number))
                self.notes.append(f"that manifest does not name segment {number}, which is now {target}")
