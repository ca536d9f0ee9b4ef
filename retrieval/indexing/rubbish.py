"""Folders in which no photo of anybody's lies: thumbnails, trash, caches of other programs."""

from __future__ import annotations

from collections.abc import Set

# As the programs write them, on systems that tell case apart.
NAMES = frozenset(
    {
        *(b"@eaDir", b"#recycle", b"#snapshot"),  # Synology
        *(b"@Recycle", b"@Recently-Snapshot", b"~snapshot"),  # QNAP, NetApp
        *(b"files_trashbin", b"files_versions"),  # Nextcloud
        *(b"lost+found", b"node_modules"),
    }
)
# Of systems that do not, in lower case.
NAMES_IN_ANY_CASE = frozenset(
    {
        *(b"$recycle.bin", b"recycler", b"recycled", b"system volume information"),  # Windows
        *(b"__macosx", b"network trash folder", b"temporary items"),  # macOS
    }
)
PREVIEWS = b".lrdata"  # Lightroom
# Apple's.
LIBRARIES = (b".photoslibrary", b".migratedphotolibrary", b".photolibrary", b".aplibrary", b".migratedaplibrary")
ORIGINALS = frozenset({b"originals", b"masters"})
DERIVATIVES = frozenset(
    {b"resources", b"derivatives", b"previews", b"thumbnails", b"database", b"internal", b"private"}
)
# A folder of one of the first names, beside one of each of the others.
LAYOUTS = (
    ({b"thumbs", b"encoded-video"}, {b"upload", b"library"}, {b"encoded-video", b"profile", b"backups"}),  # Immich
    ({b"cache"}, {b"sidecar"}, {b"config"}),  # PhotoPrism
)


def is_rubbish(name: bytes, parent: bytes, siblings: Set[bytes], in_library: bool) -> bool:
    """Whether a folder holds nothing but what programs made. parent: the name of the folder it lies in; siblings: all
    names there; in_library: what `is_in_library` says of the parent."""
    lowered = name.lower()
    if name in NAMES or lowered in NAMES_IN_ANY_CASE or lowered.endswith(PREVIEWS):
        return True
    if in_library and lowered in DERIVATIVES:
        return True
    if lowered == b"preview" and parent.startswith(b"appdata_"):  # Nextcloud
        return True
    return any(name in names and all(siblings & beside for beside in rest) for names, *rest in LAYOUTS)


def is_in_library(name: bytes, parent_is: bool = False) -> bool:
    """Whether a folder is one of Apple's photo libraries, or lies in one, outside its originals."""
    lowered = name.lower()
    return lowered.endswith(LIBRARIES) or (parent_is and lowered not in ORIGINALS)
