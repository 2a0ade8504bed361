"""What a Markdown page says outside its paragraphs: titles, texts of images, boxes, HTML blocks, front matter."""

import re
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from engine.markup.markdown import parse, write
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most, times_as_long

MARK = re.compile(r"(</?s\d+>)")


def rebuilt(source, change=lambda text: text):
    document = parse(source)
    return rebuild(document, write, [change(block.text) for block in document.blocks])


def upper(text):
    return "".join(part if MARK.fullmatch(part) else part.upper() for part in MARK.split(text))


def texts(source):
    return [block.text for block in parse(source).blocks]


CASES = [
    ("![a cat](u.png)", "![A CAT](u.png)"),
    ('x ![a *b*](u "c") y', 'X ![A *B*](u "C") Y'),
    ("![a][r] ![r] ![r][]\n\n[r]: /u", "![A][r] ![R][r] ![R][r]\n\n[r]: /u"),
    ('![](u "t") x', '![](u "T") X'),
    ("[![a](i)](u 't')", "[![A](i)](u 'T')"),
    ("[a](u (t))", "[A](u (T))"),
    ("[a](<u v> \"t\") ", "[A](<u v> \"T\") "),
    ("[a](u\n'not yet') b", "[A](u 'not yet') B"),
    ("a [r]\n\n[r]: /u 'one two'", "A [R][r]\n\n[r]: /u 'ONE TWO'"),
    ("[r]: /u\n  \"t\"\n\n[r]", "[r]: /u\n  \"T\"\n\n[R][r]"),
    ("> [r]: /u (t)\n> x", "> [r]: /u (T)\n> X"),
    ("| [a](u 't') | b |\n|--|--|", "| [A](u 'T') | B |\n|--|--|"),
    ('a <img alt="b" src=c> d', 'A <img alt="B" src=c> D'),
    ('<span title="t">all</span>', '<span title="T">ALL</span>'),
    ('a <img alt="{{ b }}"> c', 'A <img alt="{{ b }}"> C'),
    ("<div>\n<p title=t>a <b>b</b></p>\n</div>", "<div>\n<p title=T>A <b>B</b></p>\n</div>"),
    ("<div>\na\nb\n</div>\n\nc", "<div>\nA B\n</div>\n\nC"),
    ("> <div>\n> a\n> b <i\n> id=x>c</i></div>", "> <div>\n> A B <i id=x>C</i></div>"),
    ("- <p>a\n  b</p>\n- c", "- <p>A B</p>\n- C"),
    ("<div>a\r\nb</div>\r\n", "<div>A B</div>\r\n"),
    ("<div>{{ x }} a {% y %}</div>", "<div>{{ x }} A {% y %}</div>"),
    ("<code>\na\n</code> b", "<code>\na\n</code> b"),
    ("<!-- a\n\nb --> c", "<!-- a\n\nb --> C"),
    ("<script>\na\n</script>\n\n<style>b</style>", "<script>\na\n</script>\n\n<style>b</style>"),
    ("<pre>\n\nc</pre>", "<pre>\n\nc</pre>"),
    ("::: tip A *b* {#i}\nc\n:::", "::: tip A *B* {#i}\nC\n:::"),
    (":::note[a b]{.c}\nd\n:::", ":::note[A B]{.c}\nD\n:::"),
    ("::: include a.md\n:::", "::: include a.md\n:::"),
    ('!!! note "a b"\n\n    c\n\nd', '!!! note "A B"\n\n    C\n\nD'),
    ('??? tip inline "a"\n    b', '??? tip inline "A"\n    B'),
    ("!!! so what\n\nb", "!!! SO WHAT\n\nB"),
    ("> [!WARNING]\n> a", "> [!WARNING]\n> A"),
    ("Term *a*\n: b\n: c", "TERM *A*\n: B\n: C"),
    ("a[^n]\n\n[^n]: b *c*", "A[^n]\n\n[^n]: B *C*"),
    ("- [ ] a\n- [x] b", "- [ ] A\n- [x] B"),
    ("# a {#b}\n\n{: .c}", "# A {#b}\n\n{: .c}"),
    ("a {{< b c=\"d\" >}} {{% e %}} {% f %} {{ g }} h", "A {{< b c=\"d\" >}} {{% e %}} {% f %} {{ g }} H"),
    ("[a](javascript:b) ![c](data:d)", "[A](javascript:b) ![C](data:d)"),
    ("a ~b~ c", "A ~B~ C"),
    ("H~2~O is", "H~2~O IS"),
    ("~a~b ~c~", "~A~B ~C~"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_what_a_reader_reads_is_translated_and_nothing_else(source, expected):
    assert rebuilt(source) == source
    assert rebuilt(source, upper) == expected


NASTY = [
    'a"b',
    "a'b",
    "a(b",
    "a)b",
    "a\\",
    "a\\b",
    "a`b",
    "a|b",
    "a$b",
    "a<b>",
    "a&amp;b",
    "a&b",
    "a{{b",
    "a]b",
    "a\n\nb",
]
TITLED = ['x [l](u "t") ` y $', "x [l](u 't') y", "x ![i](u (t)) y", '[l]\n\n[l]: /u "t"', "|`x [l](u 't')|\n|-|"]


def titles(source):
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    return [child.attrs.get("title") for token in tokens for child in token.children or () if child.type in ("link_open", "image")]  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("title", NASTY)
@pytest.mark.parametrize("source", TITLED)
def test_any_title_is_read_as_it_was_meant(source, title):
    assert titles(rebuilt(source, lambda text: title if text == "t" else text)) == [" ".join(title.split())]


@pytest.mark.parametrize("alt", NASTY)
def test_any_attribute_of_inline_html_stays_in_its_tag(alt):
    source = "`x` a ` <img alt='t'> ` $ b"
    written = rebuilt(source, lambda text: alt if text == "t" else text)
    tokens = MarkdownIt("commonmark").parse(written)[1].children
    assert [token.type for token in tokens] == ["code_inline", "text", "code_inline", "text"] or [
        token.type for token in tokens if token.type == "html_inline"
    ] == [token.type for token in MarkdownIt("commonmark").parse(source)[1].children if token.type == "html_inline"]


@pytest.mark.parametrize("text", [*NASTY, "<b>", "</div>", "-->", "a\n\n\nb", "a\r\n\r\nb"])
def test_a_text_in_an_html_block_does_not_end_it(text):
    source = "<div>\n<p>t</p>\n</div>\n\nx"
    tokens = MarkdownIt("commonmark").parse(rebuilt(source, lambda old: text if old == "t" else old))
    assert [token.type for token in tokens] == ["html_block", "paragraph_open", "inline", "paragraph_close"]


FRONT = """---
# a comment
title: Plain text # not this
linkTitle: "Quoted \\"text\\" \\u00e9"
subtitle: 'It''s here'
description: >-
  Folded over
  two lines
summary: true
date: 2024-01-01
tags: [a, title]
nested:
  title: not this
abstract: first line
  and a second
caption: {a: b}
slug: no-title
---

Text
"""


def test_front_matter_gives_what_a_reader_sees():
    assert texts(FRONT) == ["Plain text", 'Quoted "text" é', "It's here", "Folded over two lines", "Text"]
    assert texts("+++\ntitle = 'a b' # c\ndescription = \"d\"\ndate = 2024\n[params]\ntitle = 'e'\n+++\n") == [
        "a b",
        "d",
    ]
    assert texts("---\ntitle: {{ x }}\nsummary: '{{ y }} z'\n---\n") == []


ODD = [
    *NASTY,
    "true",
    "12",
    "x: y",
    "x #y",
    "- x",
    "[x]",
    "@x",
    "x:",
    ": x",
    "é: ü",
    "x\0\x07y",
    '"',
    "'",
    "#x",
    "10 Tips",
]


@pytest.mark.parametrize("text", ODD)
def test_any_value_of_front_matter_is_read_as_it_was_meant(text):
    written = rebuilt(FRONT, lambda _: text)
    meant = " ".join(re.sub(r"[\0-\x1f]", " ", text).split())
    values = yaml.safe_load(written.split("---\n")[1])
    keys = ("title", "linkTitle", "subtitle", "description")
    assert [values[key] for key in keys] == [meant] * 4
    before = yaml.safe_load(FRONT.split("---\n")[1])
    assert {key: value for key, value in values.items() if key not in keys} == {
        key: value for key, value in before.items() if key not in keys
    }
    toml = rebuilt("+++\ntitle = 'a'\ndescription = \"b\"\n+++\n", lambda _: text)
    assert tomllib.loads(toml.split("+++\n")[1]) == {"title": meant, "description": meant}


def test_an_empty_translation_keeps_the_source():
    source = '# a\n\nb ![c](d "e")\n\n<p>f</p>\n\n[g]: h "i"'
    assert rebuilt(source, lambda _: "") == source
    assert rebuilt(source, lambda _: " \n") == source


def test_what_cannot_be_written_stays_as_it_was():
    source = "a [b][c] d\n\n[c]: e"
    block = parse(source).blocks[0]
    assert write(block, "<s1>[x](y)</s1>") in ("[\\[x\\](y)][c]", block.source)
    assert write(block, "x" * 30 + "[" * 200 + "<s1>y</s1>") != ""


@given(st.lists(st.sampled_from(["![", "[", "](u 't')", "](v)", "<b title=x>", "</b>", "<div>", "\n", "> ", "| ", "w ", "`", "*"])).map("".join))  # noqa: E501  # fmt: skip
def test_soup_of_things_in_things_comes_back(source):
    assert rebuilt(source) == source
    rebuilt(source, upper)


def test_a_very_long_paragraph_is_offered_unless_it_is_full_of_marks():
    assert len(parse("a word " * 200_000).blocks) == 1
    assert len(parse("a *word* " * 200_000).blocks) == 0


def test_ten_times_the_page_takes_at_most_about_ten_times_as_long():
    page = '# A *b*\n\nSome **bold** text, a [link](u "t") and\nmore `code`.\n\n- one\n- ![two](v)\n\n| a | b |\n|---|---|\n| c | d |\n\n' * 150  # noqa: E501  # fmt: skip
    assert times_as_long(lambda: rebuilt(page * 10), lambda: rebuilt(page)) < 14  # a square would be 100


SLOW = ["![", "![a](", "[a](b 'c", "[a]: b 'c\n", "<b title='", "<div>\n", "> <p>\n", "::: tip a\n", "!!! a\n    ", "a\n: b\n", "<b>", "</i>", "_a ", "~a ", "~"]  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("part", SLOW)
def test_a_page_made_to_be_slow_is_not(part):
    source = part * (15_000 // len(part))
    with cpu_at_most(3):
        assert rebuilt(source) == source


@pytest.mark.parametrize(
    "source", ["".join(f"{'  ' * depth}- Item {depth}\n" for depth in range(25)), "> " * 50 + "Deep"]
)
def test_deep_nesting_is_offered(source):
    def offered():
        return [block.text for block in parse(source).blocks]

    with ThreadPoolExecutor(1) as thread:  # as the server reads: a thread has no deeper stack than this one
        assert len(thread.submit(offered).result()) == source.count("Item") + source.count("Deep")


def test_lists_of_attributes_stay():
    source = '![A cat](c.png "Asleep"){width=50%} and [a guide](x.html){target=_blank rel="me"} follow.\n'
    (title, block) = parse(source).blocks
    assert title.text == "Asleep"
    assert block.text == "<s1>A cat</s1><s2></s2> and <s3>a guide</s3><s4></s4> follow."
