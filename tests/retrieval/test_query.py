"""The value of a query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from indexes.errors import CrosslookError
from retrieval.images import Photo
from retrieval.query import ImagePart, Query, TextPart

NUMBER: Any = 5
PHOTO = Photo(np.zeros((2, 3, 3), np.uint8), 3, 2, None)


def test_a_text_is_a_query_of_one_text_of_weight_one():
    query = Query.of("a dog")
    assert query == Query((TextPart("a dog", 1.0),)) and query.only_text("lite") == "a dog"
    assert Query.of(query) is query


def test_parts_keep_their_order_and_weights():
    parts = (TextPart("a dog"), ImagePart(PHOTO, 0.5), TextPart("snow", -1))
    query = Query(parts)
    assert query.texts == (parts[0], parts[2]) and query.images == (parts[1],)


def test_a_query_without_parts_is_refused():
    with pytest.raises(CrosslookError, match=r"^the query is empty[^\n]*$"):
        Query(())


def test_parts_in_a_list_become_a_tuple():
    parts: Any = [TextPart("a dog")]
    query = Query(parts)
    assert query == Query.of("a dog") and hash(query) == hash(Query.of("a dog"))


@pytest.mark.parametrize("parts", ["a dog", 5, None, ("a dog",), [TextPart("a dog"), 5], (TextPart(NUMBER),)])
def test_parts_of_another_type_are_refused_in_one_line(parts):
    with pytest.raises(CrosslookError, match=r"^(a query has|a part of a query is|the text of a query)[^\n]*$"):
        Query(parts)


@pytest.mark.parametrize("query", [5, None, b"a dog", ["a dog"]])
def test_what_is_no_query_is_refused_in_one_line(query):
    with pytest.raises(CrosslookError, match=r"^a query is a text or a Query, not [^\n]*$"):
        Query.of(query)


@pytest.mark.parametrize("weight", [0, float("nan"), float("inf")])
def test_a_weight_that_weighs_nothing_or_everything_is_refused(weight):
    with pytest.raises(CrosslookError, match=r"^a part of a query cannot weigh [^\n]*: give a finite number[^\n]*$"):
        Query((TextPart("a dog"), TextPart("a cat", weight)))


@pytest.mark.parametrize(
    "parts",
    [(ImagePart(PHOTO),), (TextPart("a dog"), ImagePart(PHOTO)), (TextPart("a"), TextPart("b")), (TextPart("a", -1),)],
)
def test_who_reads_one_text_only_says_so_with_its_name(parts):
    with pytest.raises(CrosslookError, match="^the scorer blip reads queries of one text only"):
        Query(parts).only_text("the scorer blip")
