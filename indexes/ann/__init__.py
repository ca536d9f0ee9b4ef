"""Approximate nearest neighbours: which rows may be nearest to a query, without comparing all of them.

In: the embeddings of a collection and sample texts. Out: an index file, its `AnnEntry`, and shortlists of row ids that
the collection scores exactly. `base` holds the interface, `kinds` the implementations by name."""
