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


def cpu_seconds(work: Callable[[], object]) -> float:
    """The best of three. What other tests left behind is not looked through."""
    times = []
    gc.collect()
    gc.freeze()
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    gc.unfreeze()
    return min(times)
