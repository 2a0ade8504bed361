"""Pages of 2 MB: which parts of the memory have room for them, and that what lies there stays as it is."""

import torch

from engine.inference import large_pages

MAPS = """\
55d0c0000000-55d0c0300000 rw-p 00000000 00:00 0                          [heap]
7f0000100000-7f0000500000 rw-p 00000000 00:00 0
7f0000600000-7f0000700000 rw-p 00000000 00:00 0
7f0001000000-7f0002000000 r--p 00000000 00:00 0
7f0003000000-7f0004000000 rw-s 00000000 00:01 42                         /dev/shm/shared
7f0005000000-7f0006000000 rw-p 00000000 08:01 99                         /opt/weights of mine.bin
7ffc00000000-7ffc00400000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_private_memory_of_no_file_is_moved_in_whole_pages():
    assert list(large_pages.whole_pages(MAPS)) == [(0x55D0C0000000, 2 << 20), (0x7F0000200000, 2 << 20)]


def test_each_of_these_is_asked_for_and_a_refusal_is_no_failure(tmp_path, monkeypatch):
    asked = []

    class Library:
        def __init__(self, *_, **__):
            self.madvise = lambda *arguments: asked.append(arguments) or -1

    (tmp_path / "maps").write_text(MAPS)
    monkeypatch.setattr(large_pages, "MAPS", tmp_path / "maps")
    monkeypatch.setattr(large_pages.ctypes, "CDLL", Library)
    large_pages._collapse()
    assert asked == [(start, size, 25) for start, size in large_pages.whole_pages(MAPS)]
    monkeypatch.setattr(large_pages, "MAPS", tmp_path / "none")
    large_pages._collapse()


def test_numbers_stay_as_they_are():
    numbers = torch.arange(16 << 20, dtype=torch.int32)
    large_pages._collapse()
    assert numbers.equal(torch.arange(16 << 20, dtype=torch.int32))
