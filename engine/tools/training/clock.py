"""Time that training takes, without that in which models are judged or saved. A step has ended when it is told of."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_STEPS = 30  # after these compilation is over
TIMED_STEPS = 100  # of which a step's time is the median


class Clock:
    def __init__(self, before: float = 0.0) -> None:
        """`before`: seconds the run took until it was resumed."""
        self._before = before
        self._began = self._step_began = self._saved_at = time.perf_counter()
        self._durations: list[float] = []

    def stepped(self) -> None:
        now = time.perf_counter()
        self._durations.append(now - self._step_began)
        self._step_began = now

    @contextmanager
    def standing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._step_began = time.perf_counter()

    def saved(self) -> None:
        self._saved_at = self._step_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self._before + self.seconds_here

    @property
    def seconds_here(self) -> float:
        return time.perf_counter() - self._began

    @property
    def seconds_since_saved(self) -> float:
        return time.perf_counter() - self._saved_at

    @property
    def steps(self) -> int:
        return len(self._durations)

    @property
    def seconds_a_step(self) -> float:
        """The median of the last hundred; of the later half, where there were fewer than twice the first ones."""
        first = min(FIRST_STEPS, self.steps // 2)
        return statistics.median(self._durations[first:][-TIMED_STEPS:]) if self._durations else 0.0
