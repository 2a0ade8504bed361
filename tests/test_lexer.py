import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup.lexer import attributes, lex

SOUP = ["<", ">", "</", "<!--", "-->", "--!>", "<a ", "<b>", "</b>", "<title>", "<script>", "</script>", "<svg>"]
SOUP += ["<![CDATA[", "]]>", '="', "='", "=", "/", "\0", "\r\n", " ", "x", "é", "&amp;", "<?", "</ x", "<plaintext>"]


def kinds(source):
    return [(token.kind, source[token.start : token.end]) for token in lex(source)]


@given(st.lists(st.sampled_from(SOUP)).map("".join))
def test_tokens_tile_tag_soup(source):
    tokens = list(lex(source))
    assert [0, *(token.end for token in tokens)] == [*(token.start for token in tokens), len(source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", [("text", "a < b")]),
        ("a<", [("text", "a<")]),
        ("</", [("text", "</")]),
        ("</>x", [("junk", "</>"), ("text", "x")]),
        ("</ x>y", [("comment", "</ x>"), ("text", "y")]),
        ('a<b c="', [("text", "a"), ("junk", '<b c="')]),
        ("<!-->x", [("comment", "<!-->"), ("text", "x")]),
        ("<!--->x", [("comment", "<!--->"), ("text", "x")]),
        ("<!--a--!>x", [("comment", "<!--a--!>"), ("text", "x")]),
        ("<?a?>x", [("comment", "<?a?>"), ("text", "x")]),
        ("<![CDATA[a>b]]>", [("comment", "<![CDATA[a>"), ("text", "b]]>")]),
        ("<svg><![CDATA[a>b]]>", [("start", "<svg>"), ("cdata", "<![CDATA[a>b]]>")]),
        ("<title><b></TITLE >", [("start", "<title>"), ("rcdata", "<b>"), ("end", "</TITLE >")]),
        ("<svg><title><b>", [("start", "<svg>"), ("start", "<title>"), ("start", "<b>")]),
        ("<plaintext></plaintext>", [("start", "<plaintext>"), ("raw", "</plaintext>")]),
        (
            "<script><!--<script></script>--></script>",
            [("start", "<script>"), ("raw", "<!--<script></script>-->"), ("end", "</script>")],
        ),
    ],
)
def test_odd_markup_is_cut_as_browsers_do(source, expected):
    assert kinds(source) == expected


def test_attributes_have_the_spans_of_name_and_value():
    source = "<A x=\"1\" Y = '2' z=3/ w/>"
    (token,) = lex(source)
    values = [(one.name, source[one.start : one.end], one.quote) for one in attributes(source, token)]
    assert values == [("x", "1", '"'), ("y", "2", "'"), ("z", "3/", ""), ("w", "", "")]
    assert (token.tag, token.self_closing) == ("a", True)


@pytest.mark.parametrize(
    "source",
    [
        "<" * 10**6,
        "<!--" * 10**5,
        "<a " + "x" * 10**6,
        '<a "' * 10**5,
        "<i>" * 10**5,
        "<svg>" * 10**5 + "</math>" * 10**5,
        "<script><!--" * 10**5,
    ],
    ids=lambda source: source[:8],
)
def test_hostile_input_takes_no_quadratic_time(source):
    assert sum(token.end - token.start for token in lex(source)) == len(source)
