"""Who holds which pages of the KV cache: block tables, shared prefixes, the window. Bookkeeping only, without tensors.

A page holds the keys and values of 32 tokens in every layer. Full pages of a prompt are found again by what stands in
them and before them, so that prompts that begin alike are computed once. Sharing is exact: a page is looked up by the
tokens themselves and by a number that its forerunner got with its content, which no other content ever gets.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

PAGE_TOKENS = 32  # a page of a 7B is 4 MiB in bf16, and 16 tokens of a sequence's last page stay empty on average
STRIDE_PAGES = 8  # a window lets go so many at once; more would hold more memory, fewer cut prompts into smaller steps
ROOT = 0  # the content before the first page


@dataclass(slots=True, eq=False)
class Table:
    """The block table of one sequence. Only `Pages` changes it."""

    pages: list[int]  # those it holds, in order; it may hold more than its tokens fill
    length: int = 0  # tokens whose keys and values are in them, so also the place of the next one
    position: int = 0  # of the next token in RoPE; more than `length` once a window has let pages go
    content: int | None = ROOT  # of the last full page that was shared; None where nothing more will be
    rest: list[int] = field(default_factory=list)  # ids after that page


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)


class Pages:
    """`count` pages, numbered from 0. With a `window` a sequence keeps its first page and at least the last `window`
    tokens, in whole pages. What is between is let go at fixed positions, so that what a token looks back at depends on
    its position alone: not on how its prompt was cut or shared, nor on who else runs. One thread calls it; the counts
    may be read from any."""

    def __init__(self, count: int, window: int | None = None, share: bool = True) -> None:
        self.count, self.window, self.shares = count, window, share
        if window is not None:
            stride = min(STRIDE_PAGES, pages_of(window))
            first = pages_of(window) + 2  # beside the first page and the window one is too many
            self._stride, self._first = stride * PAGE_TOKENS, -(-first // stride) * stride * PAGE_TOKENS
        self._free = OrderedDict.fromkeys(range(count))  # the next to be taken first; content may still be known
        self._holders = [0] * count
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}  # (content before, ids) → page
        self._keys: dict[int, tuple[int, tuple[int, ...]]] = {}  # page → its key in `_known`
        self._content = [ROOT] * count  # of the pages in `_known`
        self._contents = ROOT  # how many there have been

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    @property
    def known(self) -> int:
        """Pages whose content would be found again, held or free."""
        return len(self._keys)

    def most(self, tokens: int) -> int:
        """The most pages that a sequence of so many tokens ever holds."""
        if self.window is None:
            return pages_of(tokens)
        return min(pages_of(tokens), 1 + pages_of(self.window) + self._stride // PAGE_TOKENS)

    def span(self, table: Table, tokens: int) -> int:
        """How many of so many tokens may be one step's: with a window, none beyond the next place of letting go."""
        if self.window is None:
            return tokens
        place = max(self._first, (table.position // self._stride + 1) * self._stride)
        return min(tokens, place - table.position)

    def open(self, ids: Sequence[int], spare: int = 0) -> Table | None:
        """A table for `ids`, with the pages of its beginning that are known (never all: the last token has to be
        computed) and room for the rest; with a window, for as many of them as it ever holds at once. None, and nothing
        is changed, where fewer than `spare` pages would stay free."""
        found: list[int] = []
        content = ROOT
        # with a window, only what was computed before the first letting go, and not up to that place: who begins there
        # would not let go
        end = len(ids) if self.window is None else min(len(ids), self._first)
        for start in range(0, end - PAGE_TOKENS, PAGE_TOKENS):
            page = self._known.get((content, tuple(ids[start : start + PAGE_TOKENS])))
            if page is None:
                break
            found.append(page)
            content = self._content[page]
        new = self.most(len(ids)) - len(found)
        if new + sum(not self._holders[page] for page in found) + spare > self.free:
            return None
        for page in found:
            self._hold(page)
        tokens = len(found) * PAGE_TOKENS
        table = Table(found, tokens, tokens, content)
        table.pages.extend(self._take() for _ in range(new))
        return table

    def grow(self, table: Table, tokens: int) -> bool:
        """Makes room for so many tokens more, not above `span`. False, and nothing is changed, where too few pages are
        free."""
        new = pages_of(table.length + tokens) - len(table.pages)
        if new > self.free:
            return False
        for _ in range(new):
            table.pages.append(self._take())
        return True

    def share(self, table: Table, ids: Sequence[int]) -> None:
        """The step about to be launched writes these ids, the next of `table`: whoever is opened from now on finds the
        pages they fill. Not for tokens that are not known yet, so not after `advance` without it."""
        if table.content is None or not self.shares:
            return
        table.rest += ids
        full = table.position // PAGE_TOKENS  # nothing was let go yet, so this is the place in `pages` too
        for page in table.pages[full : full + len(table.rest) // PAGE_TOKENS]:
            key = table.content, tuple(table.rest[:PAGE_TOKENS])
            del table.rest[:PAGE_TOKENS]
            if key not in self._known:  # else another computes the same at the same time: one page of it is enough
                self._contents += 1
                self._known[key], self._keys[page], self._content[page] = page, key, self._contents
            table.content = self._content[self._known[key]]

    def advance(self, table: Table, tokens: int) -> None:
        """The step that writes so many tokens has been launched. What leaves the window is let go."""
        table.length += tokens
        table.position += tokens
        if self.window is None or table.position % self._stride:
            return
        gone = table.length // PAGE_TOKENS - pages_of(self.window) - 1
        if gone > 0:
            self._release(table.pages[1 : 1 + gone])
            del table.pages[1 : 1 + gone]
            table.length -= gone * PAGE_TOKENS
            table.content = None  # from here on keys and values depend on what was let go, too

    def close(self, table: Table) -> None:
        """Lets all its pages go; what is in them stays known until they are taken again. Twice is once."""
        self._release(table.pages)
        table.pages, table.length, table.position, table.content = [], 0, 0, None

    def forget(self) -> None:
        """Nothing is known any more; for when a step failed, and who knows what it has written."""
        self._known.clear()
        self._keys.clear()

    def _hold(self, page: int) -> None:
        self._free.pop(page, None)
        self._holders[page] += 1

    def _take(self) -> int:
        page, _ = self._free.popitem(last=False)
        if page in self._keys:
            del self._known[self._keys.pop(page)]
        self._holders[page] = 1
        return page

    def _release(self, pages: Sequence[int]) -> None:
        for page in reversed(pages):  # the beginning of a text is the likeliest to come again, so it is taken last
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free[page] = None
                if page not in self._keys:
                    self._free.move_to_end(page, last=False)
