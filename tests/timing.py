"""How long a piece of work takes, in time of the CPU: a busy machine changes little of that."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cpu_at_most(seconds: float) -> Iterator[None]:
    """The test fails if what is done within takes the process longer, all its threads together."""
    start = time.process_time()
    yield
    took = time.process_time() - start
    assert took < seconds, f"took {took:.1f} s of the CPU, and {seconds} s is the most"


def times_as_long(large: Callable[[], object], small: Callable[[], object]) -> float:
    """As the other takes, at the least of three turns: who shares the core slows both. What other tests left behind is
    not looked through."""
    gc.collect()
    gc.freeze()
    ratios = [_cpu_seconds(large) / _cpu_seconds(small) for _ in range(3)]
    gc.unfreeze()
    return min(ratios)


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
