"""The verifiers: what they see, what they do not mind, whom they blame; and documents nobody should have written."""

import random
import re
import warnings
from contextlib import suppress

import html5lib
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.markup import marks, verify
from engine.markup.parse import PARSERS
from engine.markup.spans import rebuild
from engine.tools import evaluate_markup
from engine.types import Block, Document
from tests.timing import cpu_at_most

FIXTURES = evaluate_markup.FIXTURES


def like(markup, one, other):
    return verify.unordered(verify.skeleton(markup, one)) == verify.unordered(verify.skeleton(markup, other))


@pytest.mark.parametrize(
    ("source", "skeleton"),
    [
        ("<p>a <b>b</b><br>", "(p … (b … )b <br"),
        ("<p title=x class=y>a", "(p class='y' title …"),
        ("<meta name=description content=x>", "<meta content name='description'"),
        ("<!DOCTYPE html><html lang=en id=x><!-- a -->", "<!html None None (html id='x' <!-- a "),
        ("<script>a<b</script><code>c</code><pre> \n</pre>", "(script …a<b )script (code …c )code (pre … \n )pre"),
        ("<svg><![CDATA[a<b]]></svg> \0", "(svg … )svg"),
    ],
)
def test_html_is_its_tags_and_where_there_is_text(source, skeleton):
    assert " ".join(verify.skeleton("html", source)) == skeleton


@pytest.mark.parametrize(
    ("source", "skeleton"),
    [
        ("a *b*\n***", "(Paragraph … (Emphasis … )Emphasis )Paragraph Rule None"),
        ("a [b](c 'd') `e  f`\ng  \nh", "(Paragraph … (Link c True … )Link Code e f … HardBreak None … )Paragraph"),
        ("a <em>b</em> <i  title='x'>c</i>", "(Paragraph … (Emphasis … )Emphasis <(i title … </i> )Paragraph"),
        ("---\ntitle: a\nb:\n  - c\n---\n", "title b"),
        ("***\n\n---\nb: c\n\n---\n", "Rule None Rule None (Paragraph … )Paragraph Rule None"),
        ("<div title=a>\nb\n</div>", "(HtmlBlock (div title … )div )HtmlBlock"),
        ("```py\na\n```", "(CodeBlock {'Fenced': 'py'} …a\n )CodeBlock"),
        ("- [x] $a$[^1]\n\n[^1]: b", None),
    ],
)  # fmt: skip
def test_markdown_is_its_events_without_text(source, skeleton):
    found = verify.skeleton("markdown", source)
    assert skeleton is None or " ".join(found) == skeleton
    if skeleton is None:
        assert {"TaskListMarker True", "InlineMath a", "FootnoteReference 1", "(FootnoteDefinition 1"} <= set(found)


@pytest.mark.parametrize(
    ("markup", "source", "rebuilt"),
    [
        ("html", "<p>a <b>b</b> <i>c</i>", "<p><i>C</i> a <b>B</b>"),
        ("html", "<html><p title=a alt=b>c", "<html lang=fr dir=ltr><p alt=B title=A>C"),
        ("markdown", "!!! note\n\n    a *b*", "!!! note\n\n    A *B*"),
        ("markdown", "a\n\n:   b\n\n    c", "A\n\n:   B\n\n    C"),
        ("markdown", "a *b* [c](d)\ne", "[C](d) <em>B</em> a e"),
        ("markdown", "[a][] `x` $y$\n\n[a]: b", "$y$ [A][a] `x`\n\n[a]: b"),
        ("markdown", "---\ntitle: a\n---\n![b](c 'd')", "---\ntitle: B\n---\n![B](c 'D')"),
        ("markdown", "\ufeff# a\r\n\r\nb\ud800", "\ufeff# A\r\n\r\nB"),
    ],
)
def test_what_a_translation_may_change_makes_no_difference(markup, source, rebuilt):
    assert like(markup, source, rebuilt)


@pytest.mark.parametrize(
    ("markup", "source", "rebuilt"),
    [
        ("html", "<p>a b", "<p>a <b>"),
        ("html", "<p>a <b>b <i>c</i></b>", "<p>a <b>b</b> <i>c</i>"),
        ("html", "<p title='a'>b", "<p title='a' c='d'>b"),
        ("html", "<code>a</code>", "<code>b</code>"),
        ("html", "a<script>b</script>", "a<script>c</script>"),
        ("markdown", "a", "1. a"),
        ("markdown", "    (a", "    (b"),
        ("markdown", "---\n# a\nb: c\n---\n", "---\n# a\nc: c\n---\n"),
        ("markdown", "a *b*", "a \\*b*"),
        ("markdown", "**a *b***", "**a** *b*"),
        ("markdown", "a\n\nb", "a b"),
        ("markdown", "[a](b)", "[a](c)"),
        ("markdown", "`a`", "`b`"),
        ("markdown", "<i>a</i>", "<i>a</i> <i>b"),
        ("markdown", "<div>\na\n</div>", "<div>\n<p>a\n</div>"),
    ],
)
def test_any_other_change_does(markup, source, rebuilt):
    assert not like(markup, source, rebuilt)


# ---------------------------------------------------------------------------------------------------------------------
# who is at fault


def raw(block, text):
    return text


def lines(count):
    blocks = tuple(Block(f"line {number}", f"line {number}", "") for number in range(count))
    skeleton = [part for number in range(count) for part in (number, "\n\n")]
    return Document(tuple(skeleton), blocks)


@pytest.mark.parametrize("guilty", [[], [0], [999], [3, 4], [0, 500, 999]])
def test_only_the_guilty_are_named_and_soon(guilty, monkeypatch):
    asked = []
    skeleton = verify.skeleton
    monkeypatch.setattr(verify, "skeleton", lambda markup, source: asked.append(1) or skeleton(markup, source))
    texts = [f"- ligne {number}" if number in guilty else f"ligne {number}" for number in range(1000)]
    assert verify.at_fault("markdown", lines(1000), raw, texts) == guilty
    assert len(asked) <= 2 + 20 * len(guilty)  # the source, all at once, and twice the logarithm of 1,000 for each


def test_where_too_many_are_guilty_the_rest_is_given_up():
    texts = [f"- ligne {number}" if number % 2 else f"ligne {number}" for number in range(1000)]
    faults = verify.at_fault("markdown", lines(1000), raw, texts)
    assert set(range(1, 1000, 2)) <= set(faults)
    mixed = [f"line {number}" if number in faults else text for number, text in enumerate(texts)]
    assert like("markdown", rebuild(lines(1000), raw, mixed), rebuild(lines(1000), raw, ["x"] * 1000))


def test_two_that_are_harmless_apart_are_not_both_kept():
    texts = ["<!-- a", "ligne 1", "b -->", "ligne 3"]
    assert len(verify.at_fault("html", lines(4), raw, texts)) >= 1


def test_plain_text_and_what_has_not_changed_are_never_at_fault():
    assert verify.at_fault("text", lines(2), raw, ["<b>", "*"]) == []
    assert verify.at_fault("html", lines(2), raw, ["line 0", "line 1"]) == []


def test_a_block_within_a_tag_of_another_is_judged_with_it():
    parser = PARSERS["html"]
    document = parser.parse('<p>a <img alt="cat"> sat')
    texts = [block.text.replace("cat", 'ch"at>').replace("a ", "un ") for block in document.blocks]
    assert verify.at_fault("html", document, parser.write, texts) == []
    careless = [index for index, block in enumerate(document.blocks) if block.text == "cat"]

    def write(block, text):
        return text if text == 'ch"at>' else parser.write(block, text)

    assert verify.at_fault("html", document, write, texts) == careless


def test_a_source_that_cannot_be_verified_is_nobodys_fault(monkeypatch):
    document = Document((0, "<i>" * 10**5), (Block("a", "a", ""),))
    assert verify.at_fault("html", document, raw, ["b"]) is None
    monkeypatch.setattr(verify, "MOST_CHARACTERS", 10)
    assert verify.at_fault("markdown", lines(3), raw, ["a", "b", "c"]) is None


def test_a_fault_of_the_reader_is_not_the_translations(monkeypatch):
    monkeypatch.setattr(verify.pyromark, "events", lambda *_, **__: 1 / 0)
    with pytest.raises(verify.Unverifiable, match="ZeroDivisionError"):
        verify.skeleton("markdown", "a")


HARD_TO_READ = {
    "nested": "<i>" * 10**5,
    "formatting": "".join(f"<p><b a={number}>x</p>" for number in range(2_000)),
    "attributes": "<a " + " ".join(f"a{number}" for number in range(10**5)),
    "dashes": "<!--" + " -" * 10**5,
    "name": "<" + "a" * 10**5,
    "ampersands": "<a b='" + "&" * 10**5,
    "less-than": "<" * 10**5,
    "tables": "<table>" * 10**4,
    "table text": "<table>" + "<b>x" * 10**4,
    "rows": "<table>" + "<tr><td>x" * 10**4,
    "lists": "<ul><li>" * 10**4,
    "select": "<select>" * 10**4,
    "foreign": "<svg>" + "<g>" * 10**4,
}


@pytest.mark.parametrize("source", HARD_TO_READ.values(), ids=HARD_TO_READ)
def test_reading_is_bounded_or_given_up(source):
    with cpu_at_most(5), suppress(verify.Unverifiable):
        verify.skeleton("html", source)


# ---------------------------------------------------------------------------------------------------------------------
# other readers agree


def tree(source):
    """The skeleton of html5lib's own tree, and of BeautifulSoup's."""

    def walk(tag):
        for child in tag.children:
            if getattr(child, "name", None):
                yield child.name
                yield from walk(child)
                yield ")"
            elif str(child).strip():
                yield type(child).__name__

    with warnings.catch_warnings(action="ignore"):  # that it may be XML, or look like a file name
        return list(walk(BeautifulSoup(source, "html5lib")))


@pytest.mark.parametrize("pseudo", evaluate_markup.PSEUDO)
def test_same_tokens_are_the_same_tree(pseudo):
    parser = PARSERS["html"]
    for source in evaluate_markup.html5lib_documents(FIXTURES / "html"):
        document = parser.parse(source)
        texts = [evaluate_markup.PSEUDO[pseudo](block.text, block.tags) for block in document.blocks]
        rebuilt = rebuild(document, parser.write, texts)
        look = evaluate_markup.LOOK[pseudo]
        if look(verify.skeleton("html", rebuilt)) == look(verify.skeleton("html", source)) and pseudo != "hostile":
            assert tree(rebuilt) == tree(source)
            assert html5lib.parse(rebuilt).tag == html5lib.parse(source).tag


# ---------------------------------------------------------------------------------------------------------------------
# any document, any translation

# without `~~`: to pulldown-cmark it strikes through next to any character
WORDS = (
    "mot 译文 。 * _ ` [x](y) <b> &lt; | $# 1.\t# -\t \\ <!-- --> ]]> </p> &amp ' \" {{x}} http://a.b/ ! <s99> = :::"
)
WORDS = [word.replace("\t", " ") for word in WORDS.split(" ")]
TAG_SOUP = (
    "<b> </b> <p> </p> <i> </i> <a\thref=x> </a> <br> <!--c--> <code> </code> <ul> <li> </ul> <td> <table> </table>"
)
TAG_SOUP += " <pre> </pre> <script> </script> <img\talt=x> <svg> </svg> <title> </title> < > & &lt; &nbsp; x é word \0"
WHOLE = re.compile(r"\A(?:<br|<img|<!--|[`!])|</(?:code|script|svg|pre)>\Z")
MARKDOWN = [
    "# a *b* c",
    "a **b** [c](d) e",
    "- a `b`\n- c\n  d",
    "> a",
    "| a | *b* |\n|---|---|\n| c | `d` e |",
    "1. a <b>b</b>",
    "a\n===",
    "![a](b) c",
    "```\na\n```",
    "[a][b]\n\n[b]: c",
    "a ~~b~~ <br> c",
]


def translated(text, tags, dice):
    """Other words, and marks in another order, but in each other as they were; tags without their partners stay."""
    mix = dice.shuffle if all(end or WHOLE.search(start) for start, end in tags.values()) else list
    levels = [(0, [])]
    for piece in marks.pieces(text, tags):
        if isinstance(piece, str):
            levels[-1][1].append("".join(dice.choices(WORDS, k=3)) if any(map(str.isalpha, piece)) else piece)
        elif piece.kind == "close":
            number, parts = levels.pop()
            mix(parts)
            levels[-1][1].append(f"<s{number}>{''.join(parts)}</s{number}>")
        else:
            levels.append((piece.number, []))
    (_, parts) = levels.pop()
    mix(parts)
    return "".join(parts).strip()


def rebuilt(markup, source, dice):
    parser = PARSERS[markup]
    document = parser.parse(source)
    texts = [translated(block.text, block.tags, dice) for block in document.blocks]
    return rebuild(document, parser.write, texts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(TAG_SOUP.split(" ")), max_size=30), st.integers(0, 2**32))
def test_any_tag_soup_keeps_its_structure_in_any_translation(parts, seed):
    source = " ".join(parts).replace("\t", " ")
    assert like("html", source, rebuilt("html", source, random.Random(seed)))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKDOWN), max_size=6).map("\n\n".join), st.integers(0, 2**32))
def test_any_page_keeps_its_structure_in_any_translation(source, seed):
    assert like("markdown", source, rebuilt("markdown", source, random.Random(seed)))
