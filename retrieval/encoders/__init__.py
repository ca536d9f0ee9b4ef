"""How does an image or a query become vectors?

In: decoded photos, queries and texts. Out: embeddings that are compared by inner product, and the token vectors of
image regions and of the text, for the scorer (`base.Encoder`). `load_encoder` finds the model of a name."""

from retrieval.encoders.base import Encoder, ImageFeatures, QueryFeatures
from retrieval.encoders.by_name import DEFAULT_MODEL, canonical_name, is_openclip_name, load_encoder

__all__ = [
    "DEFAULT_MODEL",
    "Encoder",
    "ImageFeatures",
    "QueryFeatures",
    "canonical_name",
    "is_openclip_name",
    "load_encoder",
]
