"""Listing: folders without photos of the user's own: thumbnails, trash, caches of other programs."""

from __future__ import annotations

from collections.abc import Set

# As the programs write them, on systems where case matters.
NAMES = frozenset(
    {
        *(b"@eaDir", b"#recycle", b"#snapshot"),  # Synology
        *(b"@Recycle", b"@Recently-Snapshot", b"~snapshot"),  # QNAP, NetApp
        *(b"files_trashbin", b"files_versions"),  # Nextcloud
        *(b"lost+found", b"node_modules"),
    }
)
# On systems where it does not; in lower case.
NAMES_IN_ANY_CASE = frozenset(
    {
        *(b"$recycle.bin", b"recycler", b"recycled", b"system volume information"),  # Windows
        *(b"__macosx", b"network trash folder", b"temporary items"),  # macOS
    }
)
PREVIEWS = b".lrdata"  # Lightroom
# Apple
LIBRARIES = (b".photoslibrary", b".migratedphotolibrary", b".photolibrary", b".aplibrary", b".migratedaplibrary")
ORIGINALS = frozenset({b"originals", b"masters"})
DERIVATIVES = frozenset(
    {b"resources", b"derivatives", b"previews", b"thumbnails", b"database", b"internal", b"private"}
)
# A folder with one of the names of the first set is rubbish if every other set has a name beside it.
LAYOUTS = (
    ({b"thumbs", b"encoded-video"}, {b"upload", b"library"}, {b"encoded-video", b"profile", b"backups"}),  # Immich
    ({b"cache"}, {b"sidecar"}, {b"config"}),  # PhotoPrism
)


def is_rubbish(name: bytes, parent: bytes, siblings: Set[bytes], in_library: bool) -> bool:
    """Whether a folder holds only what programs made. parent: the name of its parent folder. siblings: all names in
    that. in_library: what `is_in_library` gives for the parent."""
    lowered = name.lower()
    if name in NAMES or lowered in NAMES_IN_ANY_CASE or lowered.endswith(PREVIEWS):
        return True
    if in_library and lowered in DERIVATIVES:
        return True
    if lowered == b"preview" and parent.startswith(b"appdata_"):  # Nextcloud
        return True
    return any(name in names and all(siblings & beside for beside in others) for names, *others in LAYOUTS)


def is_in_library(name: bytes, parent_is: bool = False) -> bool:
    """Whether a folder is one of Apple's photo libraries or lies in one, outside its originals. parent_is: the same of
    its parent folder."""
    lowered = name.lower()
    return lowered.endswith(LIBRARIES) or (parent_is and lowered not in ORIGINALS)
