"""Plain text: every byte comes back, and what programs put into texts is never shown to the model as words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup import plain
from engine.markup.spans import rebuild, without_tail


def rebuilt(document, change=lambda text: text):
    return rebuild(document, plain.write, [change(block.text) for block in document.blocks])


def only_block(source):
    (block,) = plain.parse(source).blocks
    return block


@given(
    st.text()
    | st.lists(
        st.sampled_from(["<b>", "</b>", "<i/>", "%s", "{x}", "`", "a@b.de", "/a/b", "http://x.y/)", "\r\n", " word "])
    ).map("".join)
)
def test_every_byte_comes_back(source):
    assert rebuilt(plain.parse(source)) == source


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("See https://a.org/x?y=1#z.", ["https://a.org/x?y=1#z"]),
        ("See (https://a.org/Foo_(bar)), please.", ["https://a.org/Foo_(bar)"]),
        ("请访问https://a.org/x，谢谢", ["https://a.org/x"]),
        ("Смотри https://ru.wikipedia.org/wiki/Москва сам", ["https://ru.wikipedia.org/wiki/Москва"]),
        ("Write to ann.b+c@mail.example.co.uk.", ["ann.b+c@mail.example.co.uk"]),
        ("%s has %1$d of %(total)s, %.2f or %-5d, 100%% sure", ["%s", "%1$d", "%(total)s", "%.2f", "%-5d"]),
        ("Hello {0}, {name}: {{ user.name }} ${x} %{y} {}", ["{0}", "{name}", "{{ user.name }}", "${x}", "%{y}", "{}"]),
        (
            "Run `rm -rf` in /usr/local/bin or ~/x/y, C:\\Users\\me",
            ["`rm -rf`", "/usr/local/bin", "~/x/y", "C:\\Users\\me"],
        ),
        ("Good :smile: and :+1: at 10:30:45", [":smile:"]),
        ("A line<br/>more <x id='1'/>text", ["<br/>", "<x id='1'/>"]),
        ("Half </b> of a <i>pair", ["</b>", "<i>"]),
        ("Open [X12X] of [X0X], not [X]", ["[X12X]", "[X0X]"]),
        ("{n, plural, one {# item} other {{x} items}} left", ["{n, plural, one {# item} other {{x} items}}"]),
        (
            "On {day, date, short} {who, select, male {he} other {they}} came",
            ["{day, date, short}", "{who, select, male {he} other {they}}"],
        ),
        (
            "{% if x %}yes{% endif %} $name or %USER% at %H:%M",
            ["{% if x %}", "{% endif %}", "$name", "%USER%", "%H", "%M"],
        ),
        (
            "Run ./run.sh or src/app/main.py, not D:/x/y or \\\\host\\share",
            ["./run.sh", "src/app/main.py", "D:/x/y", "\\\\host\\share"],
        ),
        ("and/or, he/she/they, km/h, 24/7, AC/DC, TCP/IP, I/O, n/a, w/o, 1/2/2024, client/server/peer", []),
        ("100% of C# and F# on .NET cost $5 or US$ 10; 5 % in 2024, 3:4", []),
        ("Ω ≈ 3, a_b, x:y, {not one} { nor this }, [link], 😀🏳️‍🌈", []),
        ("50% discount, 20% of it, and/or 3 < 4 > 2, a<b and c>d; rate: good", []),
    ],
)
def test_what_programs_read_is_kept(source, kept):
    assert [opening for opening, closing in only_block(source).tags.values() if not closing] == kept


def test_tags_are_pairs_where_they_nest():
    block = only_block("Press <b0>the <b1>red</b1></b0> button</b1>")
    assert block.text == "Press <s1>the <s2>red</s2></s1> button<s3></s3>"
    assert block.tags == {1: ("<b0>", "</b0>"), 2: ("<b1>", "</b1>"), 3: ("</b1>", "")}
    assert (
        plain.write(block, "<s1>Den <s2>roten</s2></s1> Knopf<s3></s3> drücken")
        == "<b0>Den <b1>roten</b1></b0> Knopf</b1> drücken"
    )


def test_a_mark_of_ours_in_the_text_is_a_tag_like_any_other():
    block = only_block("Write <s7> here")
    assert (block.text, block.tags) == ("Write <s1></s1> here", {1: ("<s7>", "")})
    assert rebuilt(plain.parse("Write <s7> here"), str.upper) == "WRITE <S1></S1> HERE"  # damage is the guard's to mend


def test_lines_and_what_has_no_words_stay():
    source = "\ufeff# Title \r\n\r\n\t1. {name}\n  https://a.org \n3.14 – 42 %\u2028last line\x00"
    document = plain.parse(source)
    assert [block.text for block in document.blocks] == ["# Title", "last line"]
    assert rebuilt(document, lambda text: f"[{text}]") == source.replace("# Title", "[# Title]").replace(
        "last line", "[last line]"
    )


def test_much_of_anything_takes_no_time():
    for part in (
        "a",
        "a.",
        "<a ",
        "`",
        "{",
        ":a",
        "/a",
        "%",
        "<b>",
        "</b>",
        "(",
        ")",
        "http://(",
        "a@",
        "1",
        "{a,plural,",
        "{a,plural,{",
        "a/",
        "$a",
        "%a",
        "\\\\a\\",
    ):
        source = "http://x" + part * (200_000 // len(part))
        assert rebuilt(plain.parse(source)) == source


def test_a_url_ends_before_the_sentence_does_however_long_its_tail():
    assert without_tail("http://a.b/(c)).).", ".") == "http://a.b/(c)"
    assert without_tail("http://a.b" + ").," * 100_000, ".,") == "http://a.b"
    assert len(without_tail("http://a." + "." * 200_000 + "x", ".")) == 200_010
