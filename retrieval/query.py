"""What a search is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import overload

from indexes.errors import CrosslookError
from retrieval.images import Photo


@dataclass(frozen=True)
class TextPart:
    """A text of a query. weight: as of `Query`."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class ImagePart:
    """A decoded image of a query, for images like it. weight: as of `Query`."""

    photo: Photo
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """What to look for: texts and images, each with a weight. The query's embedding is the weighted sum of theirs,
    divided by its length; a negative weight asks for images unlike that part. A query of a single text of weight 1 is
    what every encoder and scorer accepts; `only_text` refuses all others.

    parts: any iterable of parts, which becomes a tuple. Raises `CrosslookError` for a query without parts, a part of
    another type, and a weight that is zero or not finite."""

    parts: tuple[TextPart | ImagePart, ...]

    def __post_init__(self) -> None:
        if isinstance(self.parts, str) or not isinstance(self.parts, Iterable):
            raise CrosslookError(f"a query has a list of parts, not {self.parts!r}: use Query.of for a text")
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise CrosslookError("the query is empty: it needs a text or an image")
        for part in self.parts:
            if not isinstance(part, TextPart | ImagePart):
                raise CrosslookError(f"a part of a query is a TextPart or an ImagePart, not {part!r}")
            if isinstance(part, TextPart) and not isinstance(part.text, str):
                raise CrosslookError(f"the text of a query cannot be {part.text!r}: give a str")
            if part.weight == 0 or not math.isfinite(part.weight):
                raise CrosslookError(f"a part of a query cannot weigh {part.weight}: give a finite number other than 0")

    @classmethod
    def of(cls, query: str | Query) -> Query:
        """A text as a query; a query as it is. Raises `CrosslookError` for anything else."""
        if not isinstance(query, str | Query):
            raise CrosslookError(f"a query is a text or a Query, not {query!r}")
        return query if isinstance(query, Query) else cls((TextPart(query),))

    @property
    def texts(self) -> tuple[TextPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))

    def only_text(self, reader: str) -> str:
        """The text of a query that is a single text of weight 1.

        Raises `CrosslookError` for any other query. reader: the model that cannot read it, as the message names it."""
        part = self.parts[0]
        if len(self.parts) != 1 or not isinstance(part, TextPart) or part.weight != 1:
            raise CrosslookError(f"{reader} reads queries of one text only, without images, further texts or weights")
        return part.text


@dataclass(frozen=True)
class Hit:
    """One result. score: what ranked it. similarity: inner product of the embeddings, -1 to 1. match: calibrated
    probability that the image matches the query, 0 to 1, None without a calibrated scorer. width, height: pixels."""

    rank: int
    path: str
    score: float
    similarity: float
    match: float | None
    width: int
    height: int
    taken_at: datetime | None
    id: int


@dataclass(frozen=True)
class Results(Sequence[Hit]):
    """The hits of one query, best first.

    truncated: the query was longer than the encoder reads. milliseconds: by stage: encode, search, fetch, score, rows.
    best_match: the match of the first hit, also where `min_match` leaves it out; None without hits or without a
    calibrated scorer. unreadable: candidates that are left out because the scorer could not read their files again."""

    hits: tuple[Hit, ...]
    truncated: bool
    milliseconds: dict[str, float]
    best_match: float | None = None
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]
