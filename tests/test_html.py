import re
from pathlib import Path

import html5lib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup.html import parse, write
from engine.markup.spans import rebuild

FIXTURES = Path(__file__).parent / "fixtures" / "markup" / "html"
CORPUS = Path(__file__).parents[2] / "shared" / "data" / "markup" / "html5lib-tests" / "tree-construction"
MARK = re.compile(r"(</?s\d+>)")
READ = {"title", "alt", "placeholder", "aria-label", "aria-description", "label", "summary", "content", "value"}
ACCENTS = str.maketrans("aceinosuy", "áćéíńóśúý")
PSEUDO = {
    "accents": lambda run: run.translate(ACCENTS),
    "cjk": lambda run: re.sub("[A-Za-z]+", "译文", run),
    "hostile": lambda run: re.sub("[A-Za-z]+", lambda word: word[0] + "*_`[x](y)<b>&lt;|~~$#", run),
}


def documents(folder):
    for path in sorted(folder.rglob("*.dat")):
        for case in re.split(r"(?:^|\n\n)(?=#data\n)", path.read_bytes().decode()):
            if case.startswith("#data\n") and "\n#document-fragment\n" not in case:
                yield case[6:].split("\n#errors")[0]


def rebuilt(source, change=lambda text: text):
    document = parse(source)
    return rebuild(document, write, [change(block.text) for block in document.blocks])


def pseudo(name):
    def change(text):
        return "".join(run if MARK.fullmatch(run) else PSEUDO[name](run) for run in MARK.split(text))

    return change


def skeleton(source):
    def walk(node):
        attributes = sorted((str(key), "" if key in READ else value) for key, value in node.attrib.items())
        comment = None if isinstance(node.tag, str) else node.text
        found.append((str(node.tag), attributes, bool((node.text or "").strip()), comment))
        for child in node:
            walk(child)
            found.append(bool((child.tail or "").strip()))
        found.append("end")

    found = []
    walk(html5lib.parse(source, namespaceHTMLElements=False))
    return found


def texts(source, **options):
    return [block.text for block in parse(source, **options).blocks]


FOLDERS = [FIXTURES, pytest.param(CORPUS, marks=pytest.mark.skipif(not CORPUS.is_dir(), reason="not here"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=["sample", "all"])
def test_untranslated_documents_come_back_byte_for_byte(folder):
    sources = list(documents(folder))
    assert len(sources) >= 143
    assert [source for source in sources if rebuilt(source) != source] == []


@pytest.mark.parametrize("name", PSEUDO)
@pytest.mark.parametrize("folder", FOLDERS, ids=["sample", "all"])
def test_another_reader_sees_the_same_tree(folder, name):
    change = pseudo(name)
    assert [doc for doc in documents(folder) if skeleton(rebuilt(doc, change)) != skeleton(doc)] == []


@given(st.lists(st.sampled_from("<b> </b> <p> </p> <!-- --> <code> </code> < > & &lt; &nbsp; x é".split())))
def test_tag_soup_comes_back(parts):
    assert rebuilt(" ".join(parts)) == " ".join(parts)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p> <b><i>all</i></b> </p>", ["all"]),
        ("<p>a <b>bold</b> c<br>d</p>", ["a <s1>bold</s1> c<s2></s2>d"]),
        ("<p>H<sub>2</sub>O</p>", ["H<s1>2</s1>O"]),
        ("<p>run <code>x</code> now</p><pre>no</pre>", ["run <s1></s1> now"]),
        ("<p>a <b translate=no>X</b> c <i class='x notranslate'>Y</i> z", ["a <s1></s1> c <s2></s2> z"]),
        ("<p>1 2</p><p>3</p><script>no</script><textarea>no</textarea>", []),
        ("<p>a&nbsp;b &copy;\n  c</p>", ["a\u00a0b © c"]),
        ("<p>x &lt;s1&gt; <b>y</b></p>", ["x <s1> <s2>y</s2>"]),
        ("<p>a <b>b</p><p>c</b> d</p>", ["a <s1></s1>b", "c<s1></s1> d"]),
        ("<title>A &amp; B</title><meta name=description content='C'><img alt=D title=''>", ["A & B", "C", "D"]),
        ("<input type=submit value=Go><input value=no placeholder=Name>", ["Go", "Name"]),
        ("<a title='&copy=1 &copy; x'>1</a>", ["&copy=1 © x"]),
    ],
)
def test_blocks(source, expected):
    assert texts(source) == expected


def test_an_ignored_tag_is_kept():
    assert texts("<p>a <x-y>b</x-y> c</p>", ignore_tags=frozenset({"x-y"})) == ["a <s1></s1> c"]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("a&nbsp;b", "c\u00a0d <&", "c&nbsp;d &lt;&amp;"),
        ("<p>&copy; a <b>b</b></p>", "© a <s1>c</s1>", "<p>&copy; a <b>c</b></p>"),
        ("<img alt=cat>", "a \"b'", '<img alt="a &quot;b\'">'),
        ("<img alt=cat>", "chat", "<img alt=chat>"),
        ("<img alt='cat'>", "l'un", "<img alt='l&#39;un'>"),
        ("a <b>b</b>", "<s1>B</s1> <s7>", "<b>B</b> &lt;s7&gt;"),
    ],
)
def test_a_translation_is_written(source, text, expected):
    assert rebuilt(source, lambda _: text) == expected


def test_attributes_of_tags_inside_a_run_come_before_it():
    assert texts('<p>a <img alt="cat"> sat</p>') == ["cat", "a <s1></s1> sat"]


@pytest.mark.parametrize(
    "source",
    ["x<i>y" * 10**5, "x<b></b>" * 10**5, "<i>" * 10**5 + "x" + "</i>" * 10**5, "<code>" * 10**5, "&nbsp;" * 10**5],
    ids=lambda source: source[:8],
)
def test_hostile_input_takes_no_quadratic_time(source):
    assert rebuilt(source, lambda text: text + " x").count("<") == source.count("<")
