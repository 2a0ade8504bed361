"""Memory of this process in huge pages, of 2 MB, on Linux: for weights, which each step reads from end to end.

With pages of 4 kB the processor looks up an address, and begins to fetch ahead, every 4 kB: a step of one row of the
embedded model takes 1.05 times as long, of eight rows 1.10 (two cores of an AMD EPYC, 60 rounds in turns, 2026-11-21).
Knows nothing of what lies in the memory. See madvise(2), MADV_COLLAPSE, since Linux 6.1; elsewhere nothing happens.
"""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

LARGE = 2 << 20
COLLAPSE = 25  # MADV_COLLAPSE
MAPS = Path("/proc/self/maps")


def use() -> None:
    """Moves what is allocated now, in a thread of its own: it takes 2.7 s a GB, and others may work there meanwhile."""
    if sys.platform.startswith("linux"):
        Thread(target=_collapse, name="large pages", daemon=True).start()


def _collapse() -> None:
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        maps = MAPS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    for start, size in whole_pages(maps):
        advise(start, size, COLLAPSE)  # as far as there are such pages


def whole_pages(maps: str) -> Iterator[tuple[int, int]]:
    """(start, size) of the large pages that fit into each part of /proc/PID/maps that is private, written to and of no
    file."""
    for line in maps.splitlines():
        span, rights, _, _, inode, *name = line.split()
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        first, last = (int(end, 16) for end in span.split("-"))
        start, end = -(-first // LARGE) * LARGE, last // LARGE * LARGE
        if start < end:
            yield start, end - start
