"""Gettext catalogues: what polib, which shares no code with us, reads before and after."""

import polib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.file import Options
from engine.documents.po import parse_po, write_po
from engine.errors import BadDocument
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most

CATALOGUE = r"""# French, by hand.
msgid ""
msgstr ""
"Language: fr\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n > 1);\n"

#. shown on the button
#: src/main.c:12
msgid "Open the file"
msgstr ""

msgctxt "verb"
msgid "Save \"%s\" in {folder}\n"
msgstr ""

msgid "Done already"
msgstr "Déjà fait"

#: src/list.c:3
#, fuzzy, c-format
#| msgid "A file was %s"
msgid "The file is %s"
msgstr "Un fichier était %s"

#, fuzzy
msgid "Good bye"
msgstr "Salut"

#, c-format
msgid "%d file"
msgid_plural "%d files"
msgstr[0] ""
msgstr[1] ""

msgid ""
"First line\n"
"\tsecond line, C:\\new\n"
msgstr ""

msgid "Bell \007 and \x41"
msgstr ""

#~ msgid "Old"
#~ msgstr "Vieux"
"""


def rebuilt(source, change=lambda text: text, **more):
    document = parse_po(source, Options(**more))
    return rebuild(document, write_po, [change(block.text) for block in document.blocks])


def texts(source, **more):
    return [block.text for block in parse_po(source, Options(**more)).blocks]


def accented(text):
    return text.translate(str.maketrans("aeiou", "áéíóú"))


def read(source, tmp_path):
    path = tmp_path / "catalogue.po"
    path.write_bytes(source.encode())
    return polib.pofile(str(path), encoding="utf-8")


def test_only_what_lacks_a_translation_is_translated():
    assert texts(CATALOGUE) == [
        "Open the file",
        'Save "<s1></s1>" in <s2></s2>\n',
        "The file is <s1></s1>",
        "Good bye",
        "<s1></s1> file",
        "<s1></s1> files",
        "First line\n\tsecond line, <s1></s1>\n",
    ]
    assert "Done already" in texts(CATALOGUE, retranslate=True)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_byte_comes_back(newline):
    source = "\ufeff" + CATALOGUE.replace("\n", newline)
    assert rebuilt(source) == source
    assert rebuilt(source, retranslate=True) == source


def test_only_msgstr_and_fuzzy_flags_change(tmp_path):
    before, after = read(CATALOGUE, tmp_path), read(rebuilt(CATALOGUE, lambda text: text + "é"), tmp_path)
    assert after.metadata == before.metadata
    assert [(entry.msgid, entry.msgctxt, entry.msgid_plural, entry.comment, entry.occurrences) for entry in after] == [
        (entry.msgid, entry.msgctxt, entry.msgid_plural, entry.comment, entry.occurrences) for entry in before
    ]
    written = {entry.msgid: entry.msgstr or entry.msgstr_plural for entry in after}
    assert written["Open the file"] == "Open the fileé"
    assert written['Save "%s" in {folder}\n'] == 'Save "%s" in {folder}\né\n'
    assert written["Done already"] == "Déjà fait"
    assert written["%d file"] == {0: "%d fileé", 1: "%d filesé"}
    assert written["First line\n\tsecond line, C:\\new\n"] == "First line\n\tsecond line, C:\\new\né\n"
    assert written["Old"] == "Vieux"


def test_a_fuzzy_entry_is_translated_anew_and_trusted():
    written = rebuilt(CATALOGUE, accented)
    assert '#, c-format\nmsgid "The file is %s"\nmsgstr "Thé fílé ís %s"\n' in written
    assert '\n\nmsgid "Good bye"\nmsgstr "Góód byé"\n' in written
    assert "fuzzy" not in written


def test_a_language_with_one_form_gets_the_plural():
    source = 'msgid "One file"\nmsgid_plural "%d files"\nmsgstr[0] ""\n'
    assert texts(source) == ["<s1></s1> files"]
    three = source + 'msgstr[1] ""\nmsgstr[2] "have"\n'
    assert texts(three) == ["One file", "<s1></s1> files"]


def test_a_translation_of_several_lines_is_written_as_gettext_does():
    source = 'msgid "One\\n"\r\n"two"\r\nmsgstr ""\r\n'
    assert rebuilt(source, str.upper) == source[:-4] + '""\r\n"ONE\\n"\r\n"TWO"\r\n'


@pytest.mark.parametrize("hostile", ['--> <b> & " \n\n \\', "\0nul", "#, fuzzy", '"\nmsgid "x', "\ud800 \u2028"])
def test_a_hostile_translation_stays_inside_its_string(hostile, tmp_path):
    written = rebuilt(CATALOGUE, lambda text: hostile + text).replace("\ud800", "?")
    after = read(written, tmp_path)
    assert [entry.msgid for entry in after] == [entry.msgid for entry in read(CATALOGUE, tmp_path)]
    expected = (hostile + "Open the file").strip("\n").replace("\0", "").replace("\ud800", "?")
    assert after.find("Open the file").msgstr == expected


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "no msgid"),
        ("# a comment\n", "no msgid"),
        ("Dear all,\nhello", "line 1: 'Dear all,'"),
        ('msgid "a"\nmsgstr "b\n', 'line 2: .*"b'),
        ('msgid "a"\n\nmsgid "b"\nmsgstr ""', "line 3: msgid comes a second time"),
        ('msgid "a"\n', "lacks its msgid or msgstr"),
        ('msgstr "a"\n', "lacks its msgid or msgstr"),
        ('"a"\n', "belongs to no keyword"),
        ("msgid\nmsgstr", "has no string"),
        ("\0\ud800", "damaged at line 1"),
    ],
)
def test_what_is_no_catalogue_is_refused_in_a_sentence(source, sentence):
    with pytest.raises(BadDocument, match=sentence):
        parse_po(source)


@pytest.mark.timeout(60)
def test_a_catalogue_of_megabytes_is_read_in_seconds():
    with cpu_at_most(6):
        source = "".join(f'#: a.c:{n}\nmsgid "Message {n} of many, %s"\nmsgstr ""\n\n' for n in range(30_000))
        assert rebuilt(source) == source
        parse_po('msgid "a"\nmsgstr "' + "word " * 1_000_000 + '"\n')


PARTS = st.sampled_from(
    ['msgid "a %s"\n', 'msgstr ""\n', 'msgstr[1] "x"', '"b\\n"\n', "#, fuzzy\n", "#~ x\n", '"', "\\", "\n", "\r", " é"]
)


@given(st.lists(PARTS | st.text(max_size=5), max_size=12).map("".join))
def test_any_text_comes_back_or_is_refused(source):
    try:
        assert rebuilt(source) == source
    except BadDocument:
        return
    again = rebuilt(source, lambda text: f'"\\{text}\n')
    assert len(parse_po(again, Options(retranslate=True)).blocks) >= len(parse_po(source).blocks)


@pytest.mark.parametrize(("target", "language"), [("fr", "fr"), ("zh", "zh_CN"), ("", "en")])
def test_the_header_names_the_language_translated_into(target, language):
    source = 'msgid ""\nmsgstr ""\n"Language: en\\n"\n"X: y\\n"\n\nmsgid "Language: x"\nmsgstr ""\n'
    document = parse_po(source, Options(target=target))
    rebuilt = rebuild(document, write_po, [block.text for block in document.blocks])
    assert rebuilt == source.replace("Language: en", f"Language: {language}")


def test_a_message_that_looks_like_a_header_stays():
    source = 'msgid ""\nmsgstr ""\n"X: y\\n"\n\nmsgid ""\n"Language: %s\\n"\nmsgstr ""\n'
    document = parse_po(source, Options(target="fr"))
    assert rebuild(document, write_po, [block.text for block in document.blocks]) == source
