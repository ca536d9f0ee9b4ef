"""crosslook: text-to-image search over local photo collections.

>>> from retrieval import Engine
>>> Engine.open().search("a dog on a beach", k=10)  # doctest: +SKIP
"""

from indexes.errors import CrosslookError
from retrieval.engine import Engine
from retrieval.explain import Explanation
from retrieval.fusion import Scorer
from retrieval.privacy import switch_off_reports
from retrieval.query import Hit, Query, Results

__all__ = ["CrosslookError", "Engine", "Explanation", "Hit", "Query", "Results", "Scorer"]

switch_off_reports()  # what reports is imported later, by the functions that need it
