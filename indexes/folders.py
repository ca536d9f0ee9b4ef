"""What lies in a folder: the folder's own path, and every path that continues it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def folder_prefix(folder: bytes) -> bytes:
    """What every path in the folder begins with."""
    return folder.rstrip(os.sep.encode()) + os.sep.encode()


def is_in_folder(path: bytes, folders: Sequence[bytes]) -> bool:
    """Whether the path is one of the folders or lies in one of them."""
    return any(path == folder or path.startswith(folder_prefix(folder)) for folder in folders)


def are_in_folder(paths: pa.ChunkedArray, folder: bytes) -> NDArray[np.bool_]:
    """`is_in_folder` for a column of paths and one folder, bool [n]."""
    import pyarrow.compute as pc  # takes longer to import than a query takes; most queries have no folder

    mask = pc.or_(pc.starts_with(paths, folder_prefix(folder)), pc.equal(paths, folder))
    return np.asarray(mask.to_numpy(), np.bool_)
