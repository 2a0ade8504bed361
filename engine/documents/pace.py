"""How fast a document goes, and when it will be done, from what was finished lately. Knows no document."""

import time
from collections import deque
from collections.abc import Callable

RATE_SECONDS = 10  # that tokens a second are told of
PACE_SECONDS = 60  # that what is left is reckoned from
FIRST_SECONDS = 2  # before which nobody knows


class Pace:
    """Counted on the event loop. `work` is the size of a segment's source, in tokens: what is left is told in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._finished: deque[list[float]] = deque()  # a second each: (when, tokens out, work done)

    def begin(self) -> None:
        self._began = self._clock()
        self._finished.clear()

    def add(self, tokens: int, work: int) -> None:
        now = self._clock()
        if self._finished and now - self._finished[-1][0] < 1:
            self._finished[-1][1] += tokens
            self._finished[-1][2] += work
        else:
            self._finished.append([now, tokens, work])
        while now - self._finished[0][0] > PACE_SECONDS:
            self._finished.popleft()

    def tokens_per_second(self) -> float:
        now = self._clock()
        tokens = sum(tokens for when, tokens, _ in self._finished if now - when <= RATE_SECONDS)
        return tokens / max(1.0, min(RATE_SECONDS, now - self._began))

    def seconds_left(self, work: int) -> float | None:
        """None where it cannot be told yet."""
        now = self._clock()
        done = sum(done for when, _, done in self._finished if now - when <= PACE_SECONDS)
        if not done or now - self._began < FIRST_SECONDS:
            return None
        return work * min(PACE_SECONDS, now - self._began) / done
