"""XLIFF: what lxml, which shares no code with us, reads before and after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from engine.documents.file import Options
from engine.documents.xliff import parse_xliff, write_xliff
from engine.errors import BadDocument
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most

OLD = """\ufeff<?xml version="1.0" encoding="utf-16"?>\r
<!-- made by hand -->
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:x="urn:x">
 <file original="a.html" source-language="en" datatype='html'><body>
  <trans-unit id="1">
    <source>Save &amp; <g id="1">close</g><x id="2"/> the %s</source>
    <note>Keep <source/> it</note>
    <alt-trans><source>Save</source><target>Sauver</target></alt-trans>
  </trans-unit>
  <trans-unit id="2" approved="yes"><source>Approved</source><target>Approuvé</target></trans-unit>
  <trans-unit id="3"><source>Old</source><target
    state="needs-translation" state-qualifier='x' >Vieux</target></trans-unit>
  <trans-unit id="4"><source>Made</source><target state="final">Fait</target></trans-unit>
  <trans-unit id="5"><source>Empty</source><target/></trans-unit>
  <trans-unit id="6" translate="no"><source>Kept</source></trans-unit>
  <group translate="no"><trans-unit id="7"><source>Kept too</source></trans-unit>
    <trans-unit id="8" translate="yes"><source>Not kept</source></trans-unit></group>
  <trans-unit id="9"><source><bpt id="1">&lt;b></bpt>Bold<ept id="1">&lt;/b></ept> and
    <ph id="2">{n<sub>sub</sub>}</ph>, <mrk mtype="protected">Yiwen</mrk>
    <![CDATA[<&]]><!-- no --> &#233;<it id="3" pos="open">[i]</it></source></trans-unit>
  <trans-unit id="10"><source>One. Two.</source><seg-source><mrk mtype="seg" mid="a">One.</mrk> <mrk mtype="seg" mid="b"
    >Two.</mrk></seg-source><target><mrk mtype="seg" mid="a">Un.</mrk> <mrk mtype="seg" mid="b"/></target></trans-unit>
  <trans-unit id="11"><source>Three.</source><seg-source><mrk mtype="seg" mid="a">Three.</mrk></seg-source></trans-unit>
  <trans-unit id="12"><source>  12 </source></trans-unit>
  <x:trans-unit><x:source>Not ours</x:source></x:trans-unit>
 </body></file>
</xliff>
"""
NEW = """<xlf:xliff version="2.1" xmlns:xlf="urn:oasis:names:tc:xliff:document:2.0" srcLang="en"><xlf:file id="f">
 <xlf:unit id="u"><xlf:originalData><xlf:data id="d">&lt;b></xlf:data></xlf:originalData>
  <xlf:segment id="s1">
   <xlf:source>Hello <xlf:pc id="1" dataRefStart="d">world</xlf:pc><xlf:ph id="2"/></xlf:source>
  </xlf:segment>
  <xlf:ignorable><xlf:source> and </xlf:source></xlf:ignorable>
  <xlf:segment id="s2" state="initial" subState="my:x">
   <xlf:source>A <xlf:sc id="3"/>b<xlf:ec startRef="3"/></xlf:source>
   <xlf:target>A b</xlf:target></xlf:segment>
  <xlf:segment id="s3" state="reviewed"><xlf:source>Done</xlf:source><xlf:target>Fait</xlf:target></xlf:segment>
 </xlf:unit>
 <xlf:unit id="v" translate="no"><xlf:segment><xlf:source>Kept</xlf:source></xlf:segment></xlf:unit>
</xlf:file></xlf:xliff>"""


def rebuilt(source, change=lambda text: text, **more):
    document = parse_xliff(source, Options(**more))
    return rebuild(document, write_xliff, [change(block.text) for block in document.blocks])


def texts(source, **more):
    return [block.text for block in parse_xliff(source, Options(**more)).blocks]


def accented(text):
    return text.replace("e", "é").replace("o", "ó").replace("O", "Ó")


def read(source):
    parser = etree.XMLParser(resolve_entities=False, no_network=True, encoding="utf-8")
    return etree.fromstring(source.removeprefix("\ufeff").encode(), parser)


def without_targets(root):
    """All but targets and states, as canonical XML; the white space before a target is its own."""
    for element in root.iter("{*}segment", "{*}target"):
        for name in ("state", "state-qualifier", "subState"):
            element.attrib.pop(name, None)
    for target in root.xpath("//*[local-name()='target'][not(ancestor::*[local-name()='alt-trans'])]"):
        target.getparent().remove(target)
    return "".join(etree.tostring(root, method="c14n").decode().split())


def targets(source):
    return {
        unit.get("id"): unit.find("{*}target")
        for unit in read(source).iter("{*}trans-unit", "{*}segment")
        if unit.find("{*}target") is not None
    }


def test_only_what_lacks_a_translation_is_translated():
    assert texts(OLD) == [
        "Save & <s1>close</s1><s2></s2> the <s3></s3>",
        "Old",
        "Empty",
        "Not kept",
        "<s1>Bold</s1> and\n    <s2></s2>, <s3></s3>\n    <& é<s4></s4>",
        "Two.",
        "<s1>Three.</s1>",
    ]
    assert texts(NEW) == ["Hello <s1>world</s1><s2></s2>", "A <s1>b</s1>"]


def test_what_is_translated_is_so_again_when_asked_unless_it_is_approved():
    assert {"Made", "One."} <= {*texts(OLD, retranslate=True)}
    assert "Approved" not in texts(OLD, retranslate=True)
    assert "Done" in texts(NEW, retranslate=True)


@pytest.mark.parametrize("source", [OLD, NEW])
@pytest.mark.parametrize("retranslate", [False, True])
def test_every_byte_comes_back_and_only_targets_change(source, retranslate):
    assert rebuilt(source, retranslate=retranslate) == source
    changed = rebuilt(source, accented, retranslate=retranslate)
    assert without_targets(read(changed)) == without_targets(read(source))


def test_targets_hold_the_codes_and_states_of_1_2():
    written = targets(rebuilt(OLD, accented))
    assert written["1"].get("state") == "translated"
    assert "".join(written["1"].itertext()) == "Savé & clósé thé %s"
    assert [etree.QName(code).localname for code in written["1"]] == ["g", "x"]
    assert dict(written["3"].attrib) == {"state": "translated"}
    assert written["4"].text == "Fait"
    assert [etree.QName(code).localname for code in written["9"]] == ["bpt", "ept", "ph", "mrk", "it"]
    assert [segment.text for segment in written["10"]] == ["Un.", "Twó."]
    assert [segment.get("mid") for segment in written["11"]] == ["a"]


def test_a_target_is_put_where_it_belongs():
    changed = rebuilt(OLD, accented)
    assert '</source>\n    <target state="translated">Savé &amp; <g id="1">' in changed
    changed = rebuilt(NEW, accented)
    assert '<xlf:segment id="s1" state="translated">\n' in changed
    assert "</xlf:source>\n   <xlf:target>Hélló <xlf:pc" in changed
    changed = rebuilt(NEW, lambda text: text + "!")
    assert '<xlf:segment id="s2" state="translated">' in changed
    assert '<xlf:target>A <xlf:sc id="3"/>b<xlf:ec startRef="3"/>!</xlf:target>' in rebuilt(
        NEW, lambda text: text + "!"
    )


def test_the_language_is_named_where_the_file_does_not():
    assert "datatype='html' target-language=\"fr\"><body>" in rebuilt(OLD, target="fr")
    assert ' srcLang="en" trgLang="fr"><xlf:file' in rebuilt(NEW, target="fr")
    named = NEW.replace("srcLang", 'trgLang="de" srcLang')
    assert rebuilt(named, target="fr") == named


def test_codes_that_cross_stand_alone():
    source = OLD[: OLD.index("<trans-unit")] + (
        '<trans-unit id="1"><source><bx id="1"/>a<bx id="2"/>b<ex id="1"/>c<ex id="2"/></source></trans-unit>'
        "</body></file></xliff>"
    )
    assert texts(source) == ["<s1></s1>a<s2>b<s3></s3>c</s2>"]


@pytest.mark.parametrize("hostile", ['--> <b> & " \n\n ]]>', "\0\ud800\ufffe\x01", "</target><target>", "&lt;&#0;\r"])
def test_a_hostile_translation_stays_text(hostile):
    for source in (OLD, NEW):
        changed = rebuilt(source, lambda text: text + hostile)
        assert without_targets(read(changed)) == without_targets(read(source))
        assert len(targets(changed)) > len(targets(source))


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><xliff version="1.2">&b;</xliff>'
XXE = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><xliff version="1.2"/>'


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "damaged: no element found"),
        (OLD[:-20], "damaged: .*line"),
        ("<a>\0</a>", "damaged"),
        ("<a>\ud800</a>", "damaged"),
        ("<xliff version='1.2'>&nbsp;</xliff>", "damaged: undefined entity"),
        ("<y:xliff version='1.2'/>", "damaged: unbound prefix"),
        (BOMB, "DOCTYPE"),
        (XXE, "DOCTYPE"),
        ("<a>" * 100_000 + "</a>" * 100_000, "more than 256 deep"),
        ("<html/>", "no XLIFF 1 or 2: its root is <html>, version unknown"),
        ('<xliff version="3.0"/>', "version 3.0"),
    ],
)
def test_what_is_no_xliff_is_refused_in_a_sentence(source, sentence):
    with pytest.raises(BadDocument, match=sentence):
        parse_xliff(source)


@pytest.mark.timeout(60)
def test_a_file_of_megabytes_is_read_in_seconds():
    with cpu_at_most(6):
        start, end = OLD.index("<trans-unit"), OLD.index('<trans-unit id="2"')
        source = OLD[:start] + OLD[start:end] * 15_000 + OLD[end:]
        assert len(parse_xliff(source).blocks) > 15_000
        start = OLD.index("Save &amp;")
        source = OLD[:start] + '<bpt id="1"/>' * 50_000 + "<x/>" * 40_000 + '<ept id="2"/>' * 1_000 + OLD[start:]
        assert rebuilt(source) == source


PARTS = """<g>|</g>|<x id="1"/>|<bpt id="1">b</bpt>|<ept id="1"/>|<mrk>|</mrk>|<s1>|&lt;s1&gt;|%s a|<!-- > -->
|<![CDATA[<]]>|</source><target>|</target><source>|&#13;|<?p > ?>|<q a='>'/>|\r\n""".split("|")


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=10).map("".join))
def test_any_content_comes_back_or_is_refused(content):
    for source in (OLD.replace("Approved", content), NEW.replace("Done", content), content):
        try:
            assert rebuilt(source, retranslate=True) == source
        except BadDocument:
            continue
        changed = rebuilt(source, lambda text: "<&" + text, retranslate=True)
        assert without_targets(read(changed)) == without_targets(read(source))
