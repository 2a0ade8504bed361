"""XML as the format of a text: what is a block of it and what stays, as a caller's rules say, and through the door."""

import random
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.echo import EchoBackend
from engine.errors import BrokenMarkup
from engine.markup import html, marks, plain, verify, xml
from engine.markup.preview import page
from engine.markup.spans import rebuild
from engine.types import Block, Document, TagRules
from tests.conftest import Serve
from tests.test_formats import Scripted, ask, run, shown, upper
from tests.test_verify import like, translated

FIXTURES = Path(__file__).parent / "fixtures" / "markup" / "xml"


def rules(outline=True, **names):
    return TagRules(**{kind: frozenset(said.split()) for kind, said in names.items()}, outline=outline)


def texts(source, **said):
    return [block.text for block in xml.parse(source, rules(**said)).blocks]


def in_capitals(source, **said):
    document = xml.parse(source, rules(**said))
    assert rebuild(document, xml.write, [block.text for block in document.blocks]) == source
    loud = []
    for block in document.blocks:
        pieces = marks.pieces(block.text, block.tags)
        loud.append(marks.spell([piece.upper() if isinstance(piece, str) else piece for piece in pieces], block.tags))
    return rebuild(document, xml.write, loud)


# ---------------------------------------------------------------------------------------------------------------------
# blocks

PAPER = """<document>
  <meta>
    <title>A document's title</title>
  </meta>
  <content>
    <par>This is the first sentence. Followed by a second one.</par>
    <par>This is the <b>third</b> sentence.</par>
  </content>
</document>"""
BLOCKS = ["A document's title", "This is the first sentence. Followed by a second one."]
FIRM = "<par>The firm said it had been </par><par> conducting an internal investigation.</par>"
LIST = "<p>Bring:<ul>\n<li>bread</li>\n<li>some <b>wine</b></li>\n</ul>and salt.</p>"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Press <i>Continue</i> to advance.", ["Press <s1>Continue</s1> to advance."]),
        ('<x id="17">Welcome the participants</x> today.', ["<s1>Welcome the participants</s1> today."]),
        ("Is <a>internal <b>inv</b></a> now", ["Is <s1>internal <s2>inv</s2></s1> now"]),
        ("AI<a/> is our everyday<b></b> life", ["AI<s1></s1> is our everyday<s2></s2> life"]),
        (FIRM, ["The firm said it had been", "conducting an internal investigation."]),
        (LIST, ["Bring:", "bread", "some <s1>wine</s1>", "and salt."]),
        ("<li>Choose <menu><ui>File</ui><ui>Open</ui></menu>.</li>", ["Choose <s1><s2>File</s2><s3>Open</s3></s1>."]),
        ("<r><p>Use <b>x</b></p><p><b>So</b> <u>be</u></p></r>", ["Use <s1>x</s1>", "So", "be"]),
        ("<r><p>Use <b>x</b>, <u>y</u></p><p><b>So</b> <u>be</u></p></r>", [..., "<s1>So</s1> <s2>be</s2>"]),
        ("<a>one</a>\n<b>two</b> ", ["one", "two"]),
        ("<p>7</p><p> </p><q/>", []),
        ("", []),
    ],
)
def test_an_element_beside_text_is_inline_and_what_holds_text_else_is_a_block(source, expected):
    found = texts(source)
    assert [text if said is not ... else ... for text, said in zip(found, expected, strict=True)] == expected


def test_the_outline_gives_way_to_what_a_caller_says():
    third = "This is the <s1>third</s1> sentence."
    assert texts(PAPER) == texts(PAPER, outline=False, splitting="title par") == [*BLOCKS, third]
    assert len(texts(PAPER, outline=False)) == 1
    assert texts(PAPER, splitting="b") == [*BLOCKS, "This is the", "third", "sentence."]
    assert texts(FIRM, non_splitting="par") == [
        "<s1>The firm said it had been </s1><s2> conducting an internal investigation.</s2>"
    ]
    assert texts(FIRM, non_splitting="par", splitting="par") == texts(FIRM)
    assert texts("<p>one<br/>two</p>", splitting="br") == ["one", "two"]
    assert texts("<p>one <b>two <par>three</par></b> four</p>", splitting="par") == ["one", "two", "three", "four"]
    assert len(texts(LIST, non_splitting="ul")) == 1


def test_what_is_ignored_or_says_so_stays_a_word_among_the_others():
    source = "Open the page <x>Settings <b>now</b> <x/></x> to begin."
    assert texts(source, ignore="x") == ["Open the page <s1></s1> to begin."]
    assert in_capitals(source, ignore="x") == "OPEN THE PAGE <x>Settings <b>now</b> <x/></x> TO BEGIN."
    assert texts("<r><a>One</a><x>Two</x><a>Three</a></r>", ignore="x") == ["One", "Three"]
    kept = ["translate='no'", 'its:translate="no"', "translatable='false'", "class='a notranslate'", "xml:lang='de'"]
    for said in kept:
        assert texts(f"<r xml:lang='en-GB'>Say <b {said}>so</b> <i xml:lang='en'>now</i></r>") == [
            "Say <s1></s1> <s2>now</s2>"
        ]
    assert texts("<a title=\" translate='no'\">Say</a>") == ["Say"]


def test_names_are_those_of_the_source_with_prefix_and_case():
    source = "<d:r xmlns:d='urn:d'><d:p>One <d:x>two</d:x></d:p> <d:P>three</d:P></d:r>"
    assert texts(source) == ["One <s1>two</s1>", "three"]
    assert texts(source, ignore="d:x") == ["One <s1></s1>", "three"]
    assert texts(source, ignore="x d:p") == ["three"]


# ---------------------------------------------------------------------------------------------------------------------
# what is read, and written


@pytest.mark.parametrize(
    ("source", "text", "written"),
    [
        ("a &amp; b &lt; c", "a & b < c", "A &amp; B &lt; C"),
        ("a &#x41;&#66;&quot;&apos;", "a AB\"'", "A AB\"'"),
        ("caf&eacute;&nbsp;a", "café\u00a0a", "CAFÉ&nbsp;A"),
        ("a&#xA0;b", "a\u00a0b", "A&#xA0;B"),
        ("a &amp;lt; b", "a &lt; b", "A &amp;LT; B"),
        ("AT&T &co; x", "AT&T <s1></s1> x", "AT&amp;T &co; X"),
        ("a ]&#93;> b", "a ]]> b", "A ]]&gt; B"),
        ("a\n  <b>c</b>  d", "a <s1>c</s1>  d", "A <b>C</b>  D"),
        ("<a x='&lt; &co; &#10;' y=\"'\">b</a> c", "<s1>b</s1> c", "<a x='&lt; &co; &#10;' y=\"'\">B</a> C"),
        ("a<!--b--><?c d?><![CDATA[<e>]]> f", "a<s1></s1><s2></s2><s3></s3> f", "A<!--b--><?c d?><![CDATA[<e>]]> F"),
        ("<r xml:space='preserve'>a\r\n  b</r>", "a\n  b", "<r xml:space='preserve'>A\r\n  B</r>"),
        ("at %1$s, {0} {{ x }}", "at <s1></s1>, <s2></s2> <s3></s3>", "AT %1$s, {0} {{ x }}"),
        ("see https://a.b/c?d&amp;e.", "see <s1></s1>.", "SEE https://a.b/c?d&amp;e."),
        ("a &lt;s1> b <i>c</i>", "a <s1> b <s2>c</s2>", "A &lt;S1&gt; B <i>C</i>"),
    ],
)
def test_a_text_is_read_as_a_reader_reads_it_and_written_for_the_next(source, text, written):
    assert texts(source) == [text]
    assert in_capitals(source) == written
    assert verify.skeleton("xml", written) == verify.skeleton("xml", source)


def test_what_xml_cannot_hold_is_left_out_of_a_translation():
    (block,) = xml.parse("<r>a</r>").blocks
    assert xml.write(block, "a\0\x0b\ud800\ufffe]]>\r\n\tb") == "a]]&gt;&#13;\n\tb"


def test_no_entity_of_a_document_is_expanded_and_what_is_declared_stays():
    laughs = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30))
    head = (
        f"<?xml version='1.0' encoding='gbk'?>\n<!-- ]> ' -->\n<!DOCTYPE r SYSTEM 'http://a.b/c.dtd' [{laughs}<!--'-->"
    )
    head += "<!ENTITY eacute 'an e'><!ENTITY nbsp '&#160;'>]>\n"
    assert texts(f"{head}<r>say &a29; caf&eacute;&nbsp;so</r>") == ["say <s1></s1> caf<s2></s2>\u00a0so"]
    assert in_capitals(f"{head}<r>say &a29;</r>") == f"{head}<r>SAY &a29;</r>"


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("bare text", "BARE TEXT"),
        ("\ufeff <?xml version='1.0'?> one <p>two</p>", "\ufeff <?xml version='1.0'?> ONE <p>TWO</p>"),
        ("<a>one</a><b>two</b> three", "<a>ONE</a><b>TWO</b> THREE"),
        ("<x:a y:b='c'>one</x:a>", "<x:a y:b='c'>ONE</x:a>"),
        ("<a b='&amp;&co;&'>&co; one &; two</a>", "<a b='&amp;&co;&'>&co; ONE &amp;; TWO</a>"),
        (
            "<?xml version='1.1' encoding='gbk'?><ä ö='ü'>é</ä>\n",
            "<?xml version='1.1' encoding='gbk'?><ä ö='ü'>É</ä>\n",
        ),
    ],
)
def test_a_fragment_needs_no_root_and_no_declaration(source, written):
    assert in_capitals(source) == written
    assert verify.skeleton("xml", written) == verify.skeleton("xml", source)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("a\n<b>c", "<b> at line 2, column 1 is not closed"),
        ("<é>ü<b>c</i></é>", "<b> at line 1, column 5 is not closed"),
        ("a</b>", "</b> at line 1, column 2 closes a tag that is not open"),
        ("</yiwen-fragment><yiwen-fragment>", "not well formed at line 1, column 18"),
        ("<?xml version='1.0'?>\nAT&T\n<r>a < b</r>", "not well formed at line 3, column 6"),
        ("a <b c=1/>", "not well formed at line 1, column"),
        ("a <b c='1' c='2'/>", "not well formed at line 1, column"),
        ("a <!-- b", "not well formed at line 1, column 3"),
        ("<!DOCTYPE a [<!ENTITY", "not well formed at line 1, column 1"),
        ("a \x0b", "not well formed at line 1, column 3"),
        ("a ]]> b", "not well formed at line 1, column"),
    ],
)
def test_what_is_not_well_formed_is_refused_and_the_error_says_where(source, what):
    with pytest.raises(BrokenMarkup, match=re.escape(what)):
        xml.parse(source)


# ---------------------------------------------------------------------------------------------------------------------
# whole documents


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("strings.xml", 7, "Hello <s1></s1>, you have <s2></s2> <s3>new</s3> tickets."),
        ("topic.dita", 9, "$ ferry --start\n  Ferry is ready.\n  It waits for boats."),
        ("page.xhtml", 7, "We serve coffee, tea & <s1>fresh <s2>bread</s2></s1>.<s3></s3>Come in!"),
        ("book.xml", 5, "<s1>Tar</s1> <s2>helps</s2>."),
        ("feed.xml", 6, "It carries <b>forty</b> cars."),
        ("fragment.xml", 1, None),
    ],
)
def test_files_of_known_kinds_are_cut_as_people_read_them(name, count, some):
    found = texts((FIXTURES / name).read_bytes().decode())
    assert len(found) == count
    assert some is None or some in found


TREES = st.recursive(
    st.sampled_from(
        ["one word", " two\n", "<x/>", "<!--c-->", "&amp;", "&co;", "\u00a0", "<![CDATA[d]]>", "<?e?>", "3", "中"]
    ),
    lambda inner: st.tuples(st.sampled_from("abpq"), st.lists(inner, max_size=4)).map(
        lambda made: f"<{made[0]}>{''.join(made[1])}</{made[0]}>"
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TREES, max_size=5).map("".join), st.integers(0, 2**32), st.sets(st.sampled_from("abp")), st.booleans())
def test_any_tree_keeps_its_structure_in_any_translation_under_any_rules(source, seed, names, outline):
    said = TagRules(*(frozenset(names & set(kind)) for kind in ("a", "b", "p")), outline)
    document = xml.parse(source, said)
    dice = random.Random(seed)
    new = [translated(block.text, block.tags, dice) for block in document.blocks]
    assert like("xml", source, rebuild(document, xml.write, new))
    assert rebuild(document, xml.write, [block.text for block in document.blocks]) == source


def test_the_oracle_sees_tags_attributes_comments_and_entities():
    source = "<a b='c'>x<!--c--></a>"
    assert like("xml", source, '<a  b = "c"\n>another<!--c--></a >')
    for other in (
        "<a b='d'>x<!--c--></a>",
        "<a b='c'>x</a>",
        "<a b='c'>x<!--d--></a>",
        "<a b='c'>x<!--c--><i/></a>",
        "x",
    ):
        assert not like("xml", source, other)
    assert not like("xml", "a &b; c &copy;", "a c")
    assert like("xml", "a &b; c &copy;", "d &b;")
    with pytest.raises(verify.Unverifiable, match="not well formed"):
        verify.skeleton("xml", "<a")


def test_a_block_that_would_break_the_document_keeps_its_source():
    blocks = tuple(Block(f"a{number}", f"a{number}", "raw") for number in range(9))
    document = Document(tuple(part for number in range(9) for part in ("<p>", number, "</p>")), blocks)
    new = ["b", "<i>", "b", "</p><p>", "b", "b & c", "b", "<!---->", "b"]
    assert verify.at_fault("xml", document, lambda _block, text: text, new) == [1, 3, 7]


# ---------------------------------------------------------------------------------------------------------------------
# HTML under the same rules


def test_html_obeys_the_rules_too():
    source = "<P>One <B>two</B> <code>x</code></P><div>three</div><div>four <X-Y>five</X-Y></div>"

    def found(**said):
        return [block.text for block in html.parse(source, rules(**said)).blocks]

    assert found() == ["One <s1>two</s1> <s2></s2>", "three", "four <s1>five</s1>"]
    assert found(ignore="b x-y") == ["One <s1></s1> <s2></s2>", "three", "four <s1></s1>"]
    assert found(splitting="b") == ["One", "two", "three", "four <s1>five</s1>"]
    assert found(non_splitting="div") == ["One <s1>two</s1> <s2></s2>", "<s1>three</s1><s2>four <s3>five</s3></s2>"]
    assert found(outline=False) == found()


# ---------------------------------------------------------------------------------------------------------------------
# where lines end

LINES = "The boat\nleft. It was\r\nlate. \nNobody\n  saw `a\nb` it\n\nThe end"


def test_lines_are_sentences_unless_a_caller_says_otherwise():
    def found(split):
        document = plain.parse(LINES, split)
        assert rebuild(document, plain.write, [block.text for block in document.blocks]) == LINES
        return [block.text for block in document.blocks]

    assert found("sentences") == [
        "The boat", "left. It was", "late.", "Nobody", "saw `a", "b` it", "The end",
    ]  # fmt: skip
    assert found("no_newlines") == ["The boat left. It was late.", "Nobody saw <s1></s1> it", "The end"]
    assert found("none") == ["The boat left. It was late. Nobody saw <s1></s1> it", "The end"]
    assert [block.text for block in plain.parse("今天\n很好 \n ok", "none").blocks] == ["今天很好 ok"]


def test_with_lines_joined_the_model_is_asked_for_whole_sentences():
    def asked(**more):
        backend = Scripted(upper, segment_tokens=100)
        events = run(ask("She bought oat\nbiscuits.\n\nThe end.", "text", **more), backend)
        assert shown(events) == events[-1].text
        return [prompt.source for prompt in backend.prompts], events[-1].text

    assert asked() == (["She bought oat", "biscuits.", "The end."], "SHE BOUGHT OAT\nBISCUITS.\n\nTHE END.")
    for split in ("no_newlines", "none"):
        assert asked(split=split) == (["She bought oat biscuits.", "The end."], "SHE BOUGHT OAT BISCUITS.\n\nTHE END.")


# ---------------------------------------------------------------------------------------------------------------------
# through the door


@pytest.mark.parametrize("budget", [3, 12, 200])
@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.name)
def test_what_is_streamed_is_the_result_and_what_is_not_changed_is_the_source(path, budget):
    source = path.read_bytes().decode()
    same = run(ask(source, "xml"), EchoBackend(segment_tokens=budget))
    assert shown(same) == same[-1].text == source
    loud = run(ask(source, "xml"), Scripted(upper, segment_tokens=budget))
    assert shown(loud) == loud[-1].text != source
    assert like("xml", source, loud[-1].text)
    assert loud[-1].warnings == ()


def test_a_request_brings_its_rules():
    backend = Scripted(upper, segment_tokens=100)
    source = "<r><p>Open <x>Settings</x> now.</p><q>Or </q><q>do not.</q></r>"
    said = rules(ignore="x", non_splitting="q")
    assert run(ask(source, "xml", tags=said), backend)[-1].text == (
        "<r><p>OPEN <x>Settings</x> NOW.</p><q>OR </q><q>DO NOT.</q></r>"
    )
    assert [prompt.source for prompt in backend.prompts] == [
        "Open <s1></s1> now.", "<s1>Or </s1><s2>do not.</s2>",
    ]  # fmt: skip
    page_text = run(ask("<p>Open <x>it</x></p>", "html", tags=said), Scripted(upper))[-1].text
    assert page_text == "<p>OPEN <x>it</x></p>"


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def test_the_api_takes_xml_and_refuses_what_is_none(url: str) -> None:
    asked = {"target_lang": "de", "source_lang": "en", "format": "xml"}
    answer = httpx.post(f"{url}/translate", json={**asked, "text": "<a>One &amp; <b>two</b></a>"})
    assert (answer.status_code, answer.json()["translation"]) == (200, "<a>One &amp; <b>two</b></a>")
    refused = httpx.post(f"{url}/translate", json={**asked, "text": "<a>One"})
    assert (refused.status_code, refused.json()["code"]) == (400, "broken_markup")
    assert "<a> at line 1, column 1 is not closed" in refused.text


def test_a_preview_shows_xml_word_for_word():
    assert "<pre>\n&lt;a&gt;b&lt;/a&gt;</pre>" in page("xml", "<a>b</a>")
