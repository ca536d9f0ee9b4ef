"""The kinds of integers that address things in a collection, and who may keep them.

All are int64, and the types are aliases: they say what a function takes, and the type checker sees integers.

| kind          | counts                                                                | may be kept by             |
|---------------|-----------------------------------------------------------------------|----------------------------|
| RowId         | rows and failures ever added to a collection, from 1; never reused    | anyone, also on disk       |
| Position      | rows of one snapshot: segments in its order, rows in theirs, from 0   | users of that `Collection` |
| SegmentIndex  | segments of one snapshot, from 0                                      | users of that `Collection` |
| SegmentNumber | segments ever written to a collection, from 1; names the folder       | anyone, also on disk       |
| Offset        | rows of one segment, from 0                                           | users of that segment      |
| EntryOffset   | entries of one segment: its rows from 0, then its failures            | its deletion vector        |

Row ids ascend within a segment and from each segment to the next, so that ids, positions and offsets are in the same
order. Merging gives rows new positions, offsets and segments, and keeps their ids. -1 stands for none.

    position = starts[segment index] + offset            starts: position of the first row of each segment
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RowId: TypeAlias = int
RowIds: TypeAlias = NDArray[np.int64]
Position: TypeAlias = int
Positions: TypeAlias = NDArray[np.int64]
SegmentIndex: TypeAlias = int
SegmentIndices: TypeAlias = NDArray[np.int64]
SegmentNumber: TypeAlias = int
Offset: TypeAlias = int
Offsets: TypeAlias = NDArray[np.int64]
EntryOffsets: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
