"""Planning: the lines that a survey tells people."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from retrieval.indexing.fates import Absence
from retrieval.indexing.plan import Kept


def kept_line(kept: Kept, root: bytes) -> str:
    """About a folder whose absent images are kept. root: the folder asked for in which it lies."""
    folder, count = os.fsdecode(kept.folder), counted(kept.images)
    facts = {
        Absence.EMPTIED: f"{folder} holds no images now, but {count} indexed there: kept; if it is a drive, mount it",
        Absence.UNMOUNTED: f"{folder} was a mounted drive and no longer is, but {count} indexed there: kept; mount it",
        Absence.REPLACED: f"{folder} seems to be another drive now, which lacks or hides images of which {count} "
        "indexed there: kept; mount the one they are on, or take this one away",
    }
    forgetting = f"{facts[kept.why]}; if they are gone for good, `search index --forget {quoted(root)}`"
    if kept.why is Absence.REPLACED:  # removing the folder would also remove the images of the drive that is there now
        return f"{forgetting} takes them out"
    return f"{forgetting} or {removal(kept.folder)}"


def gone_root_line(root: bytes, images: int) -> str:
    """About an indexed folder that is gone, of which images are still in the collection."""
    are = "image of it is" if images == 1 else "images of it are"
    return (
        f"{os.fsdecode(root)} is gone; {images:,} {are} still in the collection: if it is a drive, mount it; if it is "
        f"gone for good, {removal(root)} takes them out"
    )


def lost_line(root: bytes) -> str:
    """About an indexed folder that is away, whose images may have been lost with a damaged segment."""
    return (
        f"{os.fsdecode(root)} is not there now; images of it that were lost are embedded again by `search index "
        f"{quoted(root)}` when it is back; if it is gone for good, {removal(root)} forgets it"
    )


def unmatched_line(pattern: str, is_remembered: bool) -> str:
    """About a pattern that nothing in the folders matches."""
    if not is_remembered:
        return f"--exclude {as_typed(pattern)} matched nothing (patterns are as in .gitignore, relative to each FOLDER)"
    taking_back = f"`--no-exclude {as_typed(pattern)}` takes it back"
    return f"--exclude {as_typed(pattern)}, which the collection remembers, matched nothing: {taking_back}"


def passed_over_line(counts: Mapping[str, int]) -> str:
    """About pictures in formats that are not read, counted by ending; empty if there are none."""
    if not counts:
        return ""
    return "passed over: " + ", ".join(f"{count:,} {ending}" for ending, count in counts.items())


def counted(images: int) -> str:
    return f"{images:,} {'was' if images == 1 else 'were'}"


def removal(folder: bytes) -> str:
    return f"`search remove {quoted(folder)}`"


def quoted(path: bytes) -> str:
    """A path as it is typed in a shell."""
    return as_typed(os.fsdecode(path))


def as_typed(word: str) -> str:
    """A word as it is typed in a shell. One with a backslash, or with a character that is escaped when printed, is put
    into `$'...'`, which bash, zsh and ksh read."""
    if word.isprintable() and "\\" not in word:
        return shlex.quote(word)
    return "$'" + "".join(_typed(character) for character in word) + "'"


def _typed(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isascii() and character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
