"""Composed weights kept aside, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from torch import Tensor


class Kept:
    """Tensors by key, of `limit` bytes together at most."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes, self.built = limit, 0, 0
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of that key; made where it is not held. One that alone is over the limit is not kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        tensor = make()
        size = tensor.numel() * tensor.element_size()
        with self._lock:
            self.built += 1
            if key not in self._held and size <= self.limit:
                while self.bytes + size > self.limit:
                    _, old = self._held.popitem(last=False)
                    self.bytes -= old.numel() * old.element_size()
                self._held[key] = tensor
                self.bytes += size
        return tensor

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self.bytes = 0
