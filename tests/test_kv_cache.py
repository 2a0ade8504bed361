"""The bookkeeping of pages: who holds which, what is shared, what the window lets go, and that nothing is ever lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.inference.kv_cache import PAGE_TOKENS, Pages, pages_of


def some_ids(count, first=0):
    return list(range(first, first + count))


def written(pages, ids):
    """A table all of whose ids are computed."""
    table = pages.open(ids)
    pages.share(table, ids[table.length :])
    pages.advance(table, len(ids) - table.length)
    return table


def take_in(pages, table, ids, chunks):
    """The ids that `table` lacks, by chunks of so many tokens, the last number again and again. Yields as each is in,
    before anything is let go."""
    chunks = list(chunks)
    while table.position < len(ids):
        count = pages.span(table, min(len(ids) - table.position, chunks.pop(0) if len(chunks) > 1 else chunks[0]))
        assert pages.grow(table, count)
        yield count
        pages.share(table, ids[table.position : table.position + count])
        pages.advance(table, count)


def longer(pages, table, tokens):
    for _ in range(tokens):
        assert pages.grow(table, 1)
        pages.advance(table, 1)


def test_a_prompt_gets_the_pages_it_fills_and_gives_them_back():
    pages = Pages(5)
    table = pages.open(some_ids(2 * PAGE_TOKENS + 1))
    assert (len(table.pages), table.length, table.position, pages.used, pages.free) == (3, 0, 0, 3, 2)
    pages.close(table)
    pages.close(table)
    assert (pages.used, pages.free) == (0, 5)


def test_a_page_more_is_taken_with_the_first_token_that_needs_it():
    pages = Pages(3)
    table = written(pages, some_ids(PAGE_TOKENS))
    assert len(table.pages) == 1
    longer(pages, table, 1)
    assert len(table.pages) == 2
    longer(pages, table, PAGE_TOKENS - 1)
    assert len(table.pages) == 2


def test_without_a_free_page_nothing_is_changed():
    pages = Pages(3)
    held = written(pages, some_ids(2 * PAGE_TOKENS))
    before = list(held.pages)
    assert not pages.grow(held, 2 * PAGE_TOKENS)
    assert pages.open(some_ids(2 * PAGE_TOKENS, 500)) is None
    assert pages.open(some_ids(4 * PAGE_TOKENS)) is None
    assert (held.pages, pages.free) == (before, 1)


def test_pages_can_be_kept_for_others():
    pages = Pages(3)
    assert pages.open(some_ids(PAGE_TOKENS), spare=3) is None
    assert pages.open(some_ids(PAGE_TOKENS), spare=2)


@pytest.mark.parametrize(("same", "shared"), [(31, 0), (32, 1), (63, 1), (64, 2), (90, 2)])
def test_full_pages_of_the_same_beginning_are_shared(same, shared):
    pages = Pages(9)
    first = written(pages, some_ids(90))
    other = pages.open([*some_ids(same), *some_ids(90 - same, 500)])
    assert other.length == other.position == shared * PAGE_TOKENS
    assert other.pages[:shared] == first.pages[:shared]
    assert set(other.pages[shared:]).isdisjoint(first.pages)
    assert pages.used == 6 - shared


def test_the_last_token_of_a_prompt_is_always_computed():
    pages = Pages(9)
    written(pages, some_ids(2 * PAGE_TOKENS))
    assert pages.open(some_ids(2 * PAGE_TOKENS)).length == PAGE_TOKENS
    assert pages.open(some_ids(2 * PAGE_TOKENS + 1)).length == 2 * PAGE_TOKENS


def test_the_same_page_after_another_beginning_is_another():
    pages = Pages(9)
    written(pages, [*some_ids(PAGE_TOKENS), *some_ids(PAGE_TOKENS, 100)])
    assert pages.open([*some_ids(PAGE_TOKENS, 100), *some_ids(40)]).length == 0
    assert pages.open([*some_ids(PAGE_TOKENS, 200), *some_ids(PAGE_TOKENS, 100), 1]).length == 0


def test_a_prompt_is_shared_as_far_as_its_launched_chunks_go():
    pages = Pages(9)
    ids = some_ids(4 * PAGE_TOKENS)
    table = pages.open(ids)
    for start, end, found in ((0, 40, 1), (40, 63, 1), (63, 70, 2), (70, 128, 3)):
        pages.share(table, ids[start:end])  # from here on, so that one of the same step may share
        other = pages.open(ids)
        assert other.length == found * PAGE_TOKENS
        pages.close(other)
        pages.advance(table, end - start)


def test_two_who_compute_the_same_at_once_leave_one_page_of_it():
    pages, ids = Pages(9), some_ids(70)
    tables = pages.open(ids), pages.open(ids)
    for table in tables:
        pages.share(table, ids)
        pages.advance(table, 70)
    assert pages.known == 2
    assert pages.open(ids).pages[:2] == tables[0].pages[:2]


@pytest.mark.parametrize(("first", "found"), [(0, 1), (500, 2)])
def test_what_is_in_a_page_stays_known_until_it_is_taken_again_the_end_of_the_oldest_first(first, found):
    pages = Pages(6)
    for start in (0, 500):
        pages.close(written(pages, some_ids(2 * PAGE_TOKENS + 1, start)))
    assert (pages.known, pages.used) == (4, 0)
    pages.open(some_ids(3 * PAGE_TOKENS, 900))  # the two that nobody knows, and one of the oldest
    assert pages.open(some_ids(2 * PAGE_TOKENS + 1, first)).length == found * PAGE_TOKENS


def test_who_takes_a_page_again_is_not_found_under_its_old_content():
    pages = Pages(2)
    pages.close(written(pages, some_ids(2 * PAGE_TOKENS)))
    pages.close(written(pages, some_ids(2 * PAGE_TOKENS, 500)))
    assert pages.open(some_ids(2 * PAGE_TOKENS)).length == 0


def test_what_stood_behind_a_page_is_not_found_behind_its_new_content():
    pages, ids = Pages(6, window=64), some_ids(4 * PAGE_TOKENS)
    kept, others = pages.open(ids), pages.open(some_ids(2 * PAGE_TOKENS, 900))
    pages.share(kept, ids)
    second = kept.pages[1]
    pages.advance(kept, 4 * PAGE_TOKENS)  # lets the second go, and keeps the third
    new = [*ids[:PAGE_TOKENS], *some_ids(PAGE_TOKENS, 500)]
    assert written(pages, new).pages == [kept.pages[0], second]
    pages.close(others)
    assert pages.open([*new, *ids[2 * PAGE_TOKENS :]]).length == 2 * PAGE_TOKENS


def test_nothing_is_known_after_a_failure():
    pages = Pages(4)
    table = written(pages, some_ids(3 * PAGE_TOKENS))
    pages.forget()
    pages.share(table, some_ids(PAGE_TOKENS))  # whoever goes on is of no use to others
    pages.close(table)
    assert pages.open(some_ids(3 * PAGE_TOKENS)).length == 0


def test_nothing_is_shared_where_that_is_not_wanted():
    pages = Pages(9, share=False)
    written(pages, some_ids(90))
    assert pages.open(some_ids(90)).length == 0


def test_a_window_keeps_the_first_page_and_the_last_tokens():
    pages = Pages(40, window=100)
    table = written(pages, some_ids(50))
    first, used = table.pages[0], []
    for made in range(1, 2_000):
        longer(pages, table, 1)
        assert table.position == 50 + made
        assert table.length >= min(table.position, PAGE_TOKENS + 100)
        assert table.pages[0] == first
        assert pages.used == len(table.pages) == pages_of(table.length)
        used.append(pages.used)
    assert (min(used[200:]), max(used)) == (1 + pages_of(100), pages.most(2_049))


@given(st.integers(1, 600), st.lists(st.integers(1, 500), min_size=1, max_size=9), st.integers(0, 900))
@settings(max_examples=60, deadline=None)
def test_what_a_token_looks_back_at_with_a_window_depends_on_its_position_alone(window, chunks, prompt):
    """Not on how the prompt is cut, nor on what of it was found."""
    pages, ids = Pages(400, window), some_ids(900)
    alone, looked = pages.open(ids[:1]), []
    pages.advance(alone, 1)
    for _ in range(len(ids)):
        looked.append(alone.length)  # by the token at len(looked) + 1, before this one is there
        longer(pages, alone, 1)
    for _ in range(3):
        table = pages.open(ids[:prompt])
        for count in take_in(pages, table, ids[:prompt], chunks):
            first = max(1, table.position)
            places = range(first, table.position + count)
            assert looked[first - 1 : places.stop - 1] == [table.length + place - table.position for place in places]
        pages.close(table)


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 900), st.integers(1, 300)), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_with_a_window_what_is_found_makes_nobody_hold_more_than_a_lone_one(window, asked):
    ids = some_ids(900)
    pages = Pages(Pages(0, window).most(900), window)
    for count, chunk in asked:
        table = pages.open(ids[:count])
        for _ in take_in(pages, table, ids[:count], [chunk]):
            assert len(table.pages) <= pages.most(count)
        pages.close(table)
    again = pages.open(ids)
    assert again.length <= window + 2 * PAGE_TOKENS + 8 * PAGE_TOKENS


def test_with_a_window_the_pages_before_it_are_shared():
    pages, ids = Pages(40, window=64), some_ids(400)
    list(take_in(pages, pages.open(ids), ids, [50]))
    assert pages.open(ids).length == 64 + PAGE_TOKENS  # the fourth is the last before the first letting go


@pytest.mark.parametrize(("tokens", "window", "most"), [(1, None, 1), (33, None, 2), (33, 100, 2), (9_999, 100, 9)])
def test_the_most_pages_of_a_sequence_are_known_beforehand(tokens, window, most):
    assert Pages(100, window).most(tokens) == most


@given(st.integers(1, 200), st.integers(1, 800), st.lists(st.integers(1, 200), min_size=1, max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_sequence_ever_holds_more_than_that(window, prompt, chunks, decodes):
    pages = Pages(200, window)
    table = pages.open(some_ids(prompt))
    left = prompt
    for chunk in chunks:
        count = pages.span(table, min(left, chunk))
        if not count:
            break
        assert pages.grow(table, count)
        assert len(table.pages) <= pages.most(table.position + max(count, left))
        pages.advance(table, count)
        left -= count
    if decodes and not left:
        longer(pages, table, 100)
        assert len(table.pages) <= pages.most(table.position)


class Story(RuleBasedStateMachine):
    """Sequences of few different tokens come, grow and go at random; a plain model says what the pages must hold."""

    COUNT = 12

    def __init__(self):
        super().__init__()
        self.pages = Pages(self.COUNT)
        self.open = []  # [table, ids, how many are computed]
        self.inside = {}  # page → the ids up to its end, as last written in full

    def write(self, sequence, count):
        table, ids, done = sequence
        part = ids[done : done + count]
        self.pages.share(table, part)
        self.put(table, ids, done, len(part))
        self.pages.advance(table, len(part))
        sequence[2] += len(part)

    def put(self, table, ids, start, count):
        for index in range(start, start + count):
            page = table.pages[index // PAGE_TOKENS]
            assert self.holders(page) == 1, "a page is written that another reads"
            self.inside[page] = tuple(ids[: index + 1])

    def holders(self, page):
        return sum(page in table.pages for table, _, _ in self.open)

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=5), rest=st.integers(0, PAGE_TOKENS - 1))
    def come(self, kinds, rest):
        ids = [int(kind) for kind in kinds for _ in range(PAGE_TOKENS)] + [2] * rest
        free, used = self.pages.free, self.pages.used
        table = self.pages.open(ids)
        if table is None:
            assert pages_of(len(ids)) > free
            assert self.pages.used == used
            return
        assert table.length < len(ids)
        for place in range(table.length // PAGE_TOKENS):
            assert self.inside[table.pages[place]] == tuple(ids[: (place + 1) * PAGE_TOKENS])
        self.open.append([table, ids, table.length])

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), count=st.integers(1, 90))
    def go_on(self, which, count):
        sequence = self.open[which % len(self.open)]
        if sequence[2] < len(sequence[1]):
            self.write(sequence, count)
            return
        table, ids, done = sequence
        free, held = self.pages.free, len(table.pages)
        if not self.pages.grow(table, 1):
            assert free == 0
            return
        assert len(table.pages) - held == free - self.pages.free
        ids.append(3)
        self.put(table, ids, done, 1)
        self.pages.advance(table, 1)
        sequence[2] += 1

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def leave(self, which):
        table, *_ = self.open.pop(which % len(self.open))
        self.pages.close(table)

    @rule()
    def fail(self):
        for table, *_ in self.open:
            self.pages.close(table)
        self.open.clear()
        self.pages.forget()
        assert (self.pages.used, self.pages.known) == (0, 0)

    @invariant()
    def every_page_is_held_or_free(self):
        held = {page for table, _, _ in self.open for page in table.pages}
        assert (self.pages.used, self.pages.free) == (len(held), self.COUNT - len(held))
        assert held.isdisjoint(self.pages._free)
        assert all(len(set(table.pages)) == len(table.pages) for table, _, _ in self.open)


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
