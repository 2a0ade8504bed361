"""The guard on real tagged sentences and their human translations, under nine kinds of damage, and the stream."""

import html
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup import marks
from engine.types import Block

HERE = Path(__file__).parent
PAIRS = [
    line.split("\t") for line in (HERE / "fixtures/markup/eurlex/pairs.tsv").read_text(encoding="utf-8").splitlines()
]
XLIFF = re.compile(r"<(/?)(g|x|bx|ex)\b(?:[^>]*?id=\"(\d+)\")?[^>]*?(/?)>")
MARK = re.compile(r"</?s\d+>")
BOLD_AND_BREAK = {1: ("<b>", "</b>"), 2: ("<br>", "")}


def marked(line):
    """(text with our marks, tags) of a line with XLIFF's inline codes."""
    tags, open_numbers, parts, done = {}, [], [], 0
    for found in XLIFF.finditer(line):
        parts.append(line[done : found.start()])
        done = found.end()
        ends, name, number, alone = found.groups()
        if ends:
            parts.append(f"</s{open_numbers.pop()}>")
        elif alone:
            number = int(number) + {"x": 1000, "bx": 2000, "ex": 3000}[name]
            tags[number] = (f'<{name} id="{number}"/>', "")
            parts.append(f"<s{number}></s{number}>")
        else:
            tags[int(number)] = (f"<g id='{number}'>", "</g>")
            open_numbers.append(int(number))
            parts.append(f"<s{number}>")
    return "".join([*parts, line[done:]]), tags


def words(text):
    return MARK.sub("", text)


def tree(text, tags):
    return marks._tree(marks.pieces(text, tags), tags)


def damaged(text, kind, dice):
    found = list(MARK.finditer(text))
    if kind == "width":
        return MARK.sub(lambda mark: mark.group().replace("<", "＜").replace(">", "＞"), text)
    if kind == "case":
        return MARK.sub(lambda mark: mark.group().replace("<", "< ").replace("s", "S"), text)
    if kind == "strip":
        return words(text)
    if kind == "truncate":
        return text[: dice.randrange(len(text) // 2, len(text))]
    if kind == "invent":
        place = dice.choice([0, len(text), found[0].start()])
        return text[:place] + "<s777>" + text[place:]
    one, other = sorted(dice.sample(found, 2), key=lambda mark: mark.start())
    if kind == "drop":
        return text[: one.start()] + text[one.end() :]
    if kind == "double":
        return text[: one.end()] + one.group() + text[one.end() :]
    if kind == "swap":
        return text[: one.start()] + other.group() + text[one.end() : other.start()] + one.group() + text[other.end() :]
    rest = text[: one.start()] + text[one.end() :]
    place = rest.rfind(" ", 0, len(rest)) + 1
    return rest[:place] + one.group() + rest[place:]


DAMAGE = ["width", "case", "double", "invent", "drop", "swap", "move", "strip", "truncate"]


@pytest.mark.parametrize("lang", [1, 2], ids=["de", "fr"])
def test_what_a_human_wrote_is_accepted_as_it_is(lang):
    for line in PAIRS:
        (text, tags), (reference, _) = marked(line[0]), marked(line[lang])
        assert marks.mend(text, tags, reference) == reference


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_mended_without_loss_or_not_at_all(kind):
    dice, outcomes = random.Random(5), Counter()
    for line in PAIRS:
        (text, tags), (reference, _) = marked(line[0]), marked(line[1])
        for _ in range(3):
            answer = damaged(reference, kind, dice)
            mended = marks.mend(text, tags, answer)
            outcomes[mended is not None] += 1
            if mended is not None:
                assert tree(mended, tags).parents == tree(text, tags).parents
                read = marks.read(answer, text, tags)
                assert words(mended) == "".join(piece for piece in read if isinstance(piece, str))
    if kind in ("width", "case", "double", "invent"):
        assert outcomes[False] == 0  # a slip of the pen
    if kind in ("width", "case"):
        assert marks.mend(text, tags, answer) == reference


@pytest.mark.parametrize(
    ("answer", "mended"),
    [
        ("Un <s1>chat</s1><s2></s2> ici", "Un <s1>chat</s1><s2></s2> ici"),
        ("Un <S1>chat</ s1><s2/> ici", "Un <s1>chat</s1><s2></s2> ici"),
        ("Un <s1>chat</s1> ici", "Un <s1>chat</s1> ici<s2></s2>"),
        ("Un <s1>chat</s1><s2> ici", "Un <s1>chat</s1><s2></s2> ici"),
        ("Un <s1>chat</s1><s2>ici</s2>", "Un <s1>chat</s1><s2></s2>ici"),
        ("Un <s1>cha<s2></s2>t</s1> ici", "Un <s1>chat</s1><s2></s2> ici"),
        ("<s1>Un</s1> <s1>chat</s1><s2></s2>", "<s1>Un</s1> chat<s2></s2>"),
        ("Un <s3>chat</s3> <s1>ici</s1><s2></s2>", "Un chat <s1>ici</s1><s2></s2>"),
        ("Un chat</s1><s2></s2> ici", None),
        ("Un <s1></s1>chat<s2></s2> ici", None),
        ("Un chat ici", None),
    ],
)
def test_one_answer_at_a_time(answer, mended):
    assert marks.mend("A <s1>cat</s1><s2></s2> here", BOLD_AND_BREAK, answer) == mended


def test_a_mark_that_is_text_stays_text():
    text, tags = "Write <s1> for <s2>bold</s2>", {2: ("<b>", "</b>")}
    answer = "Écrivez <s1> pour <s2>gras</s2>"
    assert marks.mend(text, tags, answer) == answer
    assert marks.mend("Write it <s2>bold</s2>", tags, answer) == "Écrivez  pour <s2>gras</s2>"


def test_pairs_that_cross_and_children_that_stick_out():
    tags = {1: ("<a>", "</a>"), 2: ("<b>", "</b>"), 3: ("<i>", "</i>")}
    nested = "<s1>one <s2>two</s2></s1> <s3>three</s3>"
    assert marks.mend(nested, tags, "<s1>eins</s1> <s2>zwei</s2> <s3>drei</s3>") is None
    assert marks.mend(nested, tags, "<s1>eins <s2>zwei</s1> und</s2> <s3>drei</s3>") == (
        "<s1>eins <s2>zwei</s2></s1> und <s3>drei</s3>"
    )
    assert marks.mend(nested, tags, "<s1>eins <s2>zwei</s2> <s3>und</s1> drei</s3>") is None


def test_runs_translated_apart_keep_every_mark_and_space():
    text = "A <s1>red  cat</s1> <s2></s2>\u00a0here"
    assert marks.apart(text, BOLD_AND_BREAK) == ["A", "red  cat", "here"]
    assert marks.together(text, BOLD_AND_BREAK, ["X", "Y", "Z"]) == "X <s1>Y</s1> <s2></s2>\u00a0Z"


def test_as_many_marks_as_anyone_sends_take_no_time():
    tags = dict.fromkeys(range(1, 20_001), ("<b>", "</b>"))
    deep = "".join(f"<s{number}>" for number in tags) + "x" + "".join(f"</s{number}>" for number in reversed(tags))
    assert marks.mend(deep, tags, deep) == deep
    assert marks.mend(deep, tags, "x") is None
    assert marks.read("<" * 200_000, "x", {}) == ["<" * 200_000]
    assert marks.read("< " * 100_000, "x", {}) == ["< " * 100_000]


# ---------------------------------------------------------------------------------------------------------------------
# the stream

SOUP = st.lists(
    st.sampled_from(
        ["<s1>", "</s1>", "<s2>", "</s2>", "<s2/>", "<s9>", "<", ">", "＜ S1 ＞", "</", "s", "1", " ", "Tom &"]
    )
    | st.text(max_size=5),
    max_size=14,
).map("".join)


def streamed(parts, text="A <s1>Tom &</s1> a<s2></s2>", spelling=None):
    block = Block(text, "", "html", BOLD_AND_BREAK, {"Tom &": "Tom &AMP;"} if spelling is None else spelling)
    restorer = marks.Restorer(block, html.escape)
    return "".join([*map(restorer.feed, parts), restorer.end()])


@given(SOUP, st.data())
def test_any_way_of_cutting_the_stream_gives_the_same(answer, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    parts = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert streamed(parts) == streamed([answer]) == streamed(answer)


@given(SOUP)
def test_what_is_streamed_is_well_nested(answer):
    given_tags = re.findall(r"</?b>|<br>", streamed([answer]))
    assert "".join(given_tags).replace("<br>", "") in ("", "<b></b>")
    assert given_tags.count("<br>") <= 1


@given(SOUP)
def test_what_was_mended_has_the_right_marks_and_all_words(answer):
    text = "A <s1>Tom &</s1> a<s2></s2>"
    mended = marks.mend(text, BOLD_AND_BREAK, answer)
    if mended is not None:
        assert tree(mended, BOLD_AND_BREAK).parents == {1: 0, 2: 0}
        read = marks.read(answer, text, BOLD_AND_BREAK)
        assert words(mended) == words("".join(piece for piece in read if isinstance(piece, str)))
        assert marks.mend(text, BOLD_AND_BREAK, mended) == mended


def test_a_stream_with_right_marks_is_what_restore_gives():
    for line in PAIRS:
        (text, tags), (reference, _) = marked(line[0]), marked(line[1])
        runs = {run: f"[{run}]" for run in marks.apart(reference, tags)[1:2]}
        block = Block(text, "", "html", tags, runs)
        restorer = marks.Restorer(block, html.escape)
        parts = [restorer.feed(character) for character in reference] + [restorer.end()]
        assert "".join(parts) == marks.restore(block, reference, html.escape)


def test_words_are_not_held_back_but_the_beginning_of_a_mark_is():
    restorer = marks.Restorer(Block("a <s1>b</s1>", "", "html", {1: ("<b>", "</b>")}), html.escape)
    said = [restorer.feed(part) for part in ("Un ", "<", "s1", ">ch", "at", "</s", "1> 1 <", " 2")]
    assert said == ["Un ", "", "", "<b>ch", "at", "", "</b> 1 ", "&lt; 2"]
    assert restorer.end() == ""
