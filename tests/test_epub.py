"""E-books: pages stay XHTML, the order of parts and all that is no text stay."""

from xml.parsers import expat

import pytest

from engine.documents.epub import read_epub
from engine.documents.file import Options
from engine.errors import BadDocument
from tests.archives import PSEUDO, pseudo, texts, unzipped, zipped
from tests.timing import cpu_at_most

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" lang="en" xml:lang="en"><head><title>Chapter one</title>
<script type="text/javascript" src="x.js"/><style/></head>
<body><h1 id="a">One<br/>day</h1><p>It was <em>cold</em>&nbsp;<a id="n"/>and <span class="x"/>dark.</p>
<img src="x.png" alt="A cat"/>
<p><code/>After code</p></body></html>"""
BOOK = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>A book</dc:title><dc:language>en</dc:language><dc:creator>Ann</dc:creator>
<dc:description>&lt;p&gt;What it is about&lt;/p&gt;</dc:description></metadata><manifest>
<item id="two" href="text/two%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>
<item id="far" href="https://example.org/x.xhtml" media-type="application/xhtml+xml"/>
</manifest><spine toc="ncx"><itemref idref="one"/><itemref idref="two"/></spine></package>"""
CONTENTS = """<?xml version="1.0"?>
<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "http://www.daisy.org/z3986/2005/ncx-2005-1.dtd">
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><docTitle><text>A book</text></docTitle><navMap><navPoint><navLabel>
<text>Chapter one</text></navLabel><content src="text/one.xhtml"/></navPoint></navMap></ncx>"""
CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"""
PARTS = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OEBPS/text/two b.xhtml": "<html><body><p>The end</p></body></html>",
    "OEBPS/text/one.xhtml": PAGE,
    "OEBPS/nav.xhtml": '<html><body><nav><ol><li><a href="one.xhtml">Chapter one</a></li></ol></nav></body></html>',
    "OEBPS/book.opf": BOOK,
    "OEBPS/toc.ncx": CONTENTS,
    "OEBPS/x.png": bytes(range(256)),
}
LOCK = """<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData>
<enc:EncryptionMethod Algorithm="{}"/></enc:EncryptedData></encryption>"""


def read(parts=PARTS, target=""):
    return read_epub(zipped(parts), Options(target=target))


def test_a_book_is_read_in_the_order_of_its_pages():
    assert texts(read()) == [
        "A book",
        "<p>What it is about</p>",
        "Chapter one",
        "One<s1></s1>day",
        "It was <s1>cold</s1>\u00a0<s2></s2>and <s3></s3>dark.",
        "A cat",
        "After code",
        "The end",
        "Chapter one",
        "A book",
        "Chapter one",
    ]


def test_a_book_without_a_change_comes_back_byte_for_byte():
    file = read_epub(data := zipped(PARTS), Options(target="fr"))
    assert file.save(texts(file)) == data


@pytest.mark.parametrize("name", PSEUDO)
def test_pages_stay_well_formed_and_nothing_else_changes(name):
    new = unzipped(pseudo(read(), name))
    assert list(new) == list(PARTS)
    assert new["mimetype"] == PARTS["mimetype"].encode()
    assert new["OEBPS/x.png"] == PARTS["OEBPS/x.png"]
    for part, content in new.items():
        if part.endswith(("ml", "opf", "ncx")):
            parser = expat.ParserCreate()
            parser.UseForeignDTD(True)  # as readers do: &nbsp; is declared there
            parser.Parse(content, True)


def test_new_words_stand_where_the_old_ones_did():
    new = {name: content.decode() for name, content in unzipped(pseudo(read())).items() if "png" not in name}
    assert '<p>Ít wáś <em>ćóld</em>&nbsp;<a id="n"/>áńd <span class="x"/>dárk.</p>' in new["OEBPS/text/one.xhtml"]
    assert 'src="x.js"/><style/></head>' in new["OEBPS/text/one.xhtml"]
    assert "<text>Ćháptér óńé</text>" in new["OEBPS/toc.ncx"]
    assert "<dc:title>Á bóók</dc:title><dc:language>en<" in new["OEBPS/book.opf"]


def test_a_book_says_its_new_language_where_it_said_the_old_one():
    new = {name: content.decode() for name, content in unzipped(pseudo(read(target="fr"))).items() if "png" not in name}
    assert "<dc:language>fr</dc:language>" in new["OEBPS/book.opf"]
    assert 'lang="fr" xml:lang="fr"><head>' in new["OEBPS/text/one.xhtml"]
    assert new["OEBPS/nav.xhtml"].startswith('<html lang="fr"><body>')


def test_scrambled_fonts_are_no_lock():
    parts = PARTS | {"META-INF/encryption.xml": LOCK.format("http://www.idpf.org/2008/embedding")}
    assert len(read(parts).blocks) == 11


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"a": "x"}, "no e-book"),
        (PARTS | {"mimetype": "application/zip"}, "no e-book"),
        (PARTS | {"META-INF/encryption.xml": LOCK.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}, "DRM"),
        (PARTS | {"META-INF/container.xml": "<x/>"}, "where its list of pages is"),
        (PARTS | {"OEBPS/book.opf": BOOK[:-9]}, "OEBPS/book.opf is damaged"),
        ({name: content for name, content in PARTS.items() if "one" not in name}, "no part OEBPS/text/one.xhtml"),
        (
            PARTS | {"OEBPS/toc.ncx": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'},
            "has a DOCTYPE",
        ),
        (PARTS | {"OEBPS/nav.xhtml": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'}, "entities"),
    ],
)
def test_a_bad_book_is_refused_in_a_sentence(parts, said):
    with pytest.raises(BadDocument) as caught:
        read(parts)
    assert said in str(caught.value)


def test_a_page_that_is_nested_deep_is_read_in_time():
    with cpu_at_most(5):
        deep = "<html><body>" + "<div>" * 100_000 + "Deep down" + "</div>" * 100_000 + "</body></html>"
        assert "Deep down" in texts(read(PARTS | {"OEBPS/nav.xhtml": deep}))
