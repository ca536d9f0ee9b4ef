"""A cache of arrays that is bounded by their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ArrayCache:
    """Arrays by key. The least recently used are dropped first. Any number of threads may use it."""

    def __init__(self, capacity: int) -> None:
        """capacity: bytes of arrays to keep. An array larger than that is made for each call."""
        self._capacity = capacity
        self._bytes = 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], NDArray[np.generic]]) -> NDArray[Any]:
        """The array of a key, which `make` makes where it is not kept; read-only. It is a copy: what `make` returns may
        be someone's own, who may change it later."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        # Outside of the lock, since it takes milliseconds; two threads may make the same array.
        array = np.array(make())
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays and array.nbytes <= self._capacity:
                self._arrays[key] = array
                self._bytes += array.nbytes
            while self._bytes > self._capacity:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
