"""crosslook: text-to-image search over local photo collections.

>>> from retrieval import Engine
>>> Engine.open().search("a dog on a beach", k=10)  # doctest: +SKIP
"""

from indexes.errors import CrosslookError
from retrieval.engine import Engine, Hit, Results, Scorer

__all__ = ["CrosslookError", "Engine", "Hit", "Results", "Scorer"]
