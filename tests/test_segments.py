import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.markup import html, markdown, marks, plain
from engine.markup.segments import segments_of
from engine.types import Block
from tests.timing import cpu_at_most

WORDS = "One two. Three <b>four. Five</b> six! <i>Seven <b>eight</b></i> nine? <br> ten %s {x} https://a.bc/d. 中文。"
WORDS = WORDS.split()


def cut(source, budget, parse=html.parse):
    (block,) = parse(source).blocks
    segments, tails = segments_of([block], len, budget)
    return block, segments, tails[0]


@pytest.mark.parametrize(
    ("source", "budget", "expected"),
    [
        ("One here. <b>Two.</b> Three there.", 100, ["One here. <s1>Two.</s1> Three there."]),
        ("One here. <b>Two there.</b> Three.", 21, ["One here.", "<s1>Two there.</s1>", "Three."]),
        ("Go <b>home. Now</b> please. Do it.", 32, ["Go <s1>home. Now</s1> please.", "Do it."]),
        ("It is so.<br> Well, then.", 21, ["It is so.", "Well, then."]),
        ("A <b>very long. Sentence here.</b> B", 18, ["A", "very long.", "Sentence here.", "B"]),
        ("A <i>b <b>cc</b> d</i> e", 12, ["A", "b", "<s2>cc</s2>", "d", "e"]),
    ],
)
def test_marks_are_kept_whole_or_opened(source, budget, expected):
    assert [part.text for part in cut(source, budget)[1]] == expected


def test_a_pair_over_two_lines_is_opened():
    block = Block("One <s1>two\nthree</s1> four", "", "", {1: ("<b>", "</b>")})
    segments, _ = segments_of([block], len, 100)
    assert [part.text for part in segments] == ["One", "two", "three", "four"]


def test_marks_alone_are_no_segment():
    block = Block("<s1></s1>\nWord\n<s2></s2>", "", "", {1: ("%s", ""), 2: ("%d", "")})
    segments, tails = segments_of([block], len, 100)
    assert [(part.gap, part.text) for part in segments] == [("<s1></s1>\n", "Word")]
    assert tails == ["\n<s2></s2>"]


def test_a_segment_has_the_tags_of_its_marks_and_the_number_of_its_block():
    blocks = plain.parse("Say %s now.\nOr {x} then. Or not at all.").blocks
    segments, _ = segments_of(blocks, len, 25)
    assert [(part.index, part.block, part.tags) for part in segments] == [
        (0, 0, {1: ("%s", "")}),
        (1, 1, {1: ("{x}", "")}),
        (2, 1, {}),
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join), st.integers(1, 80))
def test_gaps_segments_and_tail_are_the_block_and_each_segment_is_well_nested(source, budget):
    for parse in (html.parse, plain.parse):
        for block in parse(source).blocks:
            segments, tails = segments_of([block], len, budget)
            assert "".join(part.gap + part.text for part in segments) + tails[0] == block.text
            for part in segments:
                assert marks.mend(part.text, part.tags, part.text) == part.text


def test_no_segment_is_over_the_budget_where_words_are_short():
    dice = random.Random(5)
    for _ in range(40):
        source = " ".join(dice.choices(WORDS, k=80))
        for block in html.parse(source).blocks:
            segments, _ = segments_of([block], len, 60)
            assert all(part.tokens == len(part.text) <= 60 for part in segments)
            assert all(a.index + 1 == b.index for a, b in pairwise(segments))


def test_a_hundred_thousand_marks_take_no_quadratic_time():
    source = "<b>a <i>b</i> c.</b> " * 25_000
    with cpu_at_most(9):
        segments, _ = segments_of(html.parse(source).blocks, len, 400)
    assert len(segments) > 1000


def test_pairs_nested_deep_take_no_quadratic_time():
    source = "x" + "<b>a " * 10_000 + "</b> y" * 10_000
    with cpu_at_most(5):
        segments, _ = segments_of(html.parse(source).blocks, len, 100)
    assert segments


@pytest.mark.parametrize("line_break", ["<br>", "<BR/>", "<br class=x>"])
def test_a_line_ends_at_a_break(line_break):
    block, segments, tail = cut(f"One here{line_break}two <b>there{line_break}three</b> four", 100)
    assert [part.text for part in segments] == ["One here", "two", "there", "three", "four"]
    assert "".join(part.gap + part.text for part in segments) + tail == block.text


def test_what_only_holds_a_break_is_none():
    (block,) = markdown.parse("Use the `<br>` tag to break lines.\n").blocks
    assert len(segments_of([block], len, 100)[0]) == 1


@pytest.mark.parametrize(
    "tag", ["<w:br/>", '<w:r><w:rPr><w:b/></w:rPr><w:br w:type="page"/></w:r>', "<a:br><a:rPr lang='en'/></a:br>"]
)
def test_a_break_of_office_is_one(tag):
    block = Block("One<s1></s1>two", "", "", {1: (tag, "")})
    assert [part.text for part in segments_of([block], len, 100)[0]] == ["One", "two"]


def test_hard_breaks_of_markdown_are_breaks():
    (block,) = markdown.parse("One here\\\ntwo  \nthree *four*\n").blocks
    segments, _ = segments_of([block], len, 100)
    assert [part.text for part in segments] == ["One here", "two", "three <s3>four</s3>"]


@pytest.mark.parametrize(
    "name",
    [
        "user_name",
        "app.use()",
        "std::vector",
        "camelCase",
        "MAX_SIZE",
        "$price",
        "os.path.join",
        "__init__",
        "isOpenNow",
    ],
)
def test_a_name_of_a_program_is_no_segment(name):
    block = Block(name, name, "")
    assert segments_of([block], len, 100) == ([], [name])


@pytest.mark.parametrize(
    "word",
    [
        "Hello",
        "v-text",
        "Über",
        "API",
        "U.S. law",
        "He said.",
        "e-mail",
        "файл_имя",
        "MwSt",
        "GmbH",
        "e.g",
        "Hello.World",
    ],
)
def test_a_word_is_one(word):
    assert [part.text for part in segments_of([Block(word, word, "")], len, 100)[0]] == [word]
