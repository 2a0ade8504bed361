import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mdit_py_plugins.footnote import footnote_plugin

from engine.markup import verify
from engine.markup.markdown import parse, write
from engine.markup.marks import pieces
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most

FIXTURES = Path(__file__).parent / "fixtures" / "markup" / "markdown"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "markup"
FRONT_MATTER = re.compile(r"\A---\n.*?\n---(\n|\Z)", re.DOTALL)
MARK = re.compile(r"(</?s\d+>)")
ACCENTS = str.maketrans("aceinosuyACEINOSUY", "áćéíńóśúýÁĆÉÍŃÓŚÚÝ")
HOSTILE = "*_`[x](y)<b>&lt;|~~$#"


def rebuilt(source, translate=lambda text: text):
    document = parse(source)
    return rebuild(document, write, [translate(block.text) for block in document.blocks])


def by_run(change):
    """A translation that changes what stands between the marks."""

    def translate(text):
        return "".join(part if MARK.fullmatch(part) else change(part) for part in MARK.split(text))

    return translate


def tight(run):
    """Chinese takes no spaces, and its punctuation is wide."""
    if not re.search("[A-Za-z]", run):
        return run
    run = re.sub(r"[A-Za-zÀ-ɏ']+", "译文", run.strip())
    for narrow, wide in (". ", "。"), (", ", "，"), (": ", "："), ("(", "（"), (")", "）"), ('"', "”"):
        run = run.replace(narrow, wide)
    return re.sub(r"(?<=译文) (?=译文)", "", re.sub(r"\.$", "。", re.sub(",$", "，", run)))


PSEUDO = {
    "accents": by_run(lambda run: run.translate(ACCENTS)),
    "tight": by_run(tight),
    "hostile": lambda text: f"1. # {text}{HOSTILE}",
}


def html_skeleton(source):
    return str([item for item in verify.skeleton("html", " ".join(source.split())) if item != verify.TEXT])


def parser():
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).use(footnote_plugin)


def skeleton(source):
    """markdown-it's tokens without their text; the declared changes make no difference."""

    def inline(children):
        shown = []
        for token in children:
            if token.type in ("text", "softbreak"):
                continue
            if token.type == "html_inline":
                shown.append({"<em>": "em_open", "</em>": "em_close", "<strong>": "strong_open",
                              "</strong>": "strong_close", "<del>": "s_open", "</del>": "s_close"}
                             .get(token.content, html_skeleton(token.content)))  # fmt: skip
            elif token.type == "image":
                shown.append((token.type, token.attrs["src"]))
            elif token.type == "code_inline":
                shown.append((token.type, " ".join(token.content.split())))
            else:
                shown.append((token.type, token.attrs.get("href"), "title" in token.attrs))
        return [item[0] if isinstance(item, tuple) and item[0].startswith(("em", "strong", "s_")) else item
                for item in shown]  # fmt: skip

    env = {}
    tokens = parser().parse(source, env)
    blocks = [
        inline(token.children)
        if token.type == "inline"
        else (token.type, html_skeleton(token.content))
        if token.type == "html_block"
        else (token.type, token.tag, token.info, token.content)
        for token in tokens
    ]
    return blocks, {label: ref["href"] for label, ref in env.get("references", {}).items()}


def pages():
    return sorted(SHARED.glob("*-docs/**/*.md"))


def examples():
    return json.loads((FIXTURES / "examples.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["commonmark", "gfm"])
def test_every_example_of_the_specifications_comes_back_as_it_was(name):
    assert [source for source in examples()[name] if rebuilt(source) != source] == []


@pytest.mark.parametrize("pseudo", PSEUDO)
@pytest.mark.parametrize("name", ["commonmark", "gfm"])
def test_translated_examples_keep_their_skeleton(name, pseudo):
    for source in examples()[name]:
        translated = rebuilt(source, PSEUDO[pseudo])
        assert skeleton(translated) == skeleton(source), translated


@pytest.mark.skipif(not SHARED.exists(), reason="the corpora are not here")
@pytest.mark.parametrize("pseudo", PSEUDO)
def test_translated_pages_keep_their_skeleton(pseudo):
    for path in pages():
        source = path.read_bytes().decode()
        assert rebuilt(source) == source
        translated = rebuilt(source, PSEUDO[pseudo])
        source, translated = FRONT_MATTER.sub("", source), FRONT_MATTER.sub("", translated)
        assert skeleton(translated) == skeleton(source), path


@pytest.mark.parametrize("start", ["", "\ufeff", "\ufeff---\r\nlayout: x\r\n---\r\n"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_nul_tabs_and_a_byte_order_mark_stay(start, line_end):
    source = start + line_end.join(["# A\0b", "", "-\tc\td  ", "\te *f*", "", "> g\\", "> h", ""])
    assert rebuilt(source) == source
    changed = rebuilt(source, PSEUDO["accents"])
    assert changed == start + line_end.join(["# Á\0b", "", "-\tć\td  ", "\té *f*", "", "> g\\", "> h", ""])


SOUP = [*"a B 中 。 é * _ ** ~~ ` ``` [ ] ( ) < > & | \\ # - + 1. = $ $$ ^ ! : ::: { } {{ }} % ~ \" '".split(" ")]
SOUP += ["\n", "\n\n", "\r\n", "\r", "\t", "    ", " ", "\0", "\ufeff", "\u00a0", "\x85", "\u2028", "\x0b", "\ud83d"]
SOUP += [
    "[a]: b\n",
    "[^a]",
    "[^a]: c",
    "<b>",
    "</b>",
    "<!--",
    "-->",
    "&amp;",
    "http://a.b/",
    "|-|-|\n",
    "<s1>",
    "</s1>",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SOUP), max_size=60).map("".join))
def test_any_text_comes_back_as_it_was_and_none_raises(source):
    assert rebuilt(source) == source
    for translate in PSEUDO.values():
        rebuilt(source, translate)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SOUP), max_size=60).map("".join))
def test_marks_are_well_nested_and_each_has_its_tag(source):
    for block in parse(source).blocks:
        runs = pieces(block.text, block.tags)
        assert any(map(str.isalpha, "".join(run for run in runs if isinstance(run, str))))
        opened, seen = [], []
        for mark in re.finditer(r"<(/?)s(\d+)>", block.text):
            number = int(mark[2])
            if number not in block.tags:
                continue
            if mark[1]:
                assert opened.pop() == number
            else:
                opened.append(number)
                seen.append(number)
        assert not opened
        assert seen == sorted(block.tags)


CASES = [
    ("a [b] c\n\n[b]: d", "一 <s1>二</s1> 三", "一 [二][b] 三\n\n[b]: d"),
    ("a [b][] c\n\n[b]: d", "一<s1>二</s1>三", "一[二][b]三\n\n[b]: d"),
    ("a _b_ c", "一<s1>二</s1>三", "一*二*三"),
    ("a **b.** c", "一<s1>二。</s1>三", "一**二。** 三"),
    ("a **b** c", "一**<s1>二</s1>三", "一\\*\\***二**三"),
    ("see http://a.b/c_d.", "见<s1></s1>。", "见http://a.b/c_d 。"),
    ("| `d\\|e` f | b |\n|---|---|", "x | <s1></s1>", "| x \\| `d\\|e` | b |\n|---|---|"),
    ("> a\n> b\n> c", "d e", "> d e"),
    ("- [x] a", "[b](c)", "- [x] \\[b\\](c)"),
    ("a {{ b }} {% c %} {{< d >}} e", "x <s3></s3><s1></s1> <s2></s2>", "x {{< d >}}{{ b }} {% c %}"),
    ("# a {#id}", "b", "# b {#id}"),
    ("a `b` <br> c", "<s2></s2> <s9></s9> <s1></s1> d", "<br> \\<s9\\>\\</s9\\> `b` d"),
    ("AT&amp;T &copy; *x*", "AT&T © <s1>y</s1>", "AT&amp;T &copy; *y*"),
    ("a &lt;b&gt;", "<b> a", "\\<b\\> a"),
    ("*[a](b)*", "c", "*[c](b)*"),
    ("a<sup>b</sup>c", "d<s1>e</s1>f", "d<sup>e</sup>f"),
    ("::: tip A\nb\n:::", "c", "::: tip c\nb\n:::"),
    ("> [!NOTE]\n> a", "b", "> [!NOTE]\n> b"),
    ("\\www.a.b c", "<s1></s1> d", "\\www.a.b d"),
    ("| a\\|b http://c.d e |\n|---|", "f", "| f |\n|---|"),
    ("a $x_1$ b", "c <s1></s1>", "c $x_1$"),
    ("a^[b c] d", "e<s1>f</s1> g", "e^[f] g"),
]


@pytest.mark.parametrize(("source", "translation", "expected"), CASES)
def test_a_translation_is_written_so_that_it_is_read_as_meant(source, translation, expected):
    text = parse(source).blocks[0].text
    assert rebuilt(source, lambda other: translation if other == text else other) == expected


def test_code_math_definitions_and_data_are_not_offered():
    source = "---\nlayout: a\n---\n\n```\nb\n```\n\n    c\n\n$$\nd\n$$\n\n[f]: g\n\n---\n\n123\n\ni\n"
    assert [block.text for block in parse(source).blocks] == ["i"]


def test_lines_are_joined_with_a_space_but_for_chinese():
    assert parse("a\nb").blocks[0].text == "a b"
    assert parse("> 中\n> 文").blocks[0].text == "中文"


def test_a_number_that_stands_in_the_text_is_not_taken():
    block = parse(r"a \<s1> *b* `<s2>`").blocks[0]
    assert block.text == "a <s1> <s2>b</s2> <s3></s3>"


@pytest.mark.parametrize(
    "part",
    ["[", "[a](", "*a ", "**a *b ", ">", "`a``", "<!--", "{{", "http://a.b_", "$a ", "^[a", "![a", "~~a", "a\\\n"],
)
def test_a_text_made_to_be_slow_is_not(part):
    source = part * (30_000 // len(part))
    with cpu_at_most(3):
        assert rebuilt(source) == source
