import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup.html import parse, write
from engine.markup.spans import rebuild
from engine.types import TagRules


def rebuilt(source, change=lambda text: text):
    document = parse(source)
    return rebuild(document, write, [change(block.text) for block in document.blocks])


def texts(source, **options):
    return [block.text for block in parse(source, **options).blocks]


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
    assert texts("<p>a <x-y>b</x-y> c</p>", rules=TagRules(ignore=frozenset({"x-y"}))) == ["a <s1></s1> c"]


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
