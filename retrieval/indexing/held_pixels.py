"""Reading: how much memory may photos take between their decoding and the end of their encoding?

Photos are passed on in the order of their files, so the first one must never wait for room that later ones take."""

from __future__ import annotations

import threading

HELD_BYTES = 400_000_000


class HeldPixels:
    """Bytes that several threads share. Each works at a turn; turns are passed on in order. Whoever has the turn that
    is expected next is admitted without room, once all bytes that were passed on before are released. So no more is
    held than `total` and what one turn takes."""

    def __init__(self, total: int = HELD_BYTES) -> None:
        self.total = total
        self.taken = 0  # bytes held now
        self._passed_on = 0  # of them, in a batch
        self._expected = 0
        self._waiting: list[int] = []
        self._is_closed = False
        self._changed = threading.Condition()

    def admit(self, turn: int, size: int, waits: bool = True) -> None:
        """Holds `size` bytes. With `waits`, once there is room for them."""
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._is_closed or not waits or self._fits(turn, size))
            self._waiting.remove(turn)
            self.taken += size

    def _fits(self, turn: int, size: int) -> bool:
        return size == 0 or self.taken + size <= self.total or (turn <= self._expected and self._passed_on == 0)

    def expect(self, turn: int) -> None:
        """All turns before were passed on."""
        with self._changed:
            self._expected = turn
            self._changed.notify_all()

    def lacks_room(self, turn: int) -> bool:
        """Whether this turn waits for bytes to be released."""
        return turn in self._waiting

    def pass_on(self, size: int) -> None:
        """These bytes will be released, whatever happens to other turns."""
        with self._changed:
            self._passed_on += size

    def release(self, size: int) -> None:
        with self._changed:
            self._passed_on -= size
            self.taken -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
