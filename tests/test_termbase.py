"""Glossaries as files: what programs write is read, what is wrong is told by row, what is hostile costs nothing."""

import csv
import io
import json
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EmptyGlossary, GlossaryError, GlossaryTooLarge, UnsupportedGlossary
from engine.termbase.entries import MAX_FILE_BYTES, MAX_TERMS, MOST_PROBLEMS, Problem, sound
from engine.termbase.read import read
from engine.termbase.write import FORMATS, write
from engine.types import Term
from tests.archives import changed, unzipped, zipped
from tests.timing import cpu_at_most, times_as_long

FIXTURES = Path(__file__).parent / "fixtures" / "termbase"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0"
PAIRS = [("gearbox", "变速箱"), ("wind turbine", "风力发电机")]
TERMS = tuple(Term(source, target) for source, target in PAIRS)


def pairs(name, data, *langs):
    data = data.encode() if isinstance(data, str) else data
    return [(term.source, term.target) for term in read(name, data, *langs).terms]


def codes(found):
    return [(problem.row, problem.code) for problem in found.problems]


def workbook(*sheets):
    made = io.BytesIO()
    with xlsxwriter.Workbook(made, {"in_memory": True}) as book:
        for rows in sheets:
            sheet = book.add_worksheet()
            for number, row in enumerate(rows):
                for column, cell in enumerate(row):
                    if cell is not None:
                        sheet.write_string(number, column, cell) if isinstance(cell, str) else sheet.write(
                            number, column, cell
                        )
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", "gearbox,变速箱\nwind turbine,风力发电机\n"),
        ("header.csv", "source,target\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("no last line end.csv", "source,target\ngearbox,变速箱\nwind turbine,风力发电机"),
        ("Windows.csv", "source,target\r\ngearbox,变速箱\r\nwind turbine,风力发电机\r\n"),
        ("old Mac.csv", "source,target\rgearbox,变速箱\rwind turbine,风力发电机\r"),
        ("European Excel.csv", "Source;Target\ngearbox;变速箱\nwind turbine;风力发电机\n"),
        ("Excel's own line.csv", "sep=;\ngearbox;变速箱\nwind turbine;风力发电机\n"),
        ("pipes.txt", "gearbox|变速箱\nwind turbine|风力发电机\n"),
        ("tabs.tsv", "gearbox\t变速箱\nwind turbine\t风力发电机\n"),
        ("tabs without a name", "gearbox\t变速箱\nwind turbine\t风力发电机\n"),
        ("tabs named.csv", "gearbox\t变速箱\nwind turbine\t风力发电机\n"),
        ("full width.txt", "gearbox，变速箱\nwind turbine，风力发电机\n"),
        ("quotes.csv", '"gearbox","变速箱"\n"wind turbine","风力发电机"\n'),
        ("DocuTranslate.csv", "src,dst\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("TICO-19.csv", "id,sourceString,targetString\n1,gearbox,变速箱\n2,wind turbine,风力发电机\n"),
        ("Chinese.csv", "术语,译文\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("German.csv", "Begriff;Übersetzung;Anmerkung\ngearbox;变速箱;\nwind turbine;风力发电机;x\n"),
        ("French.csv", "terme source,traduction\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("turned round.csv", "target,source\n变速箱,gearbox\n风力发电机,wind turbine\n"),
        ("empty columns.csv", "source,target,,\ngearbox,变速箱,,\nwind turbine,风力发电机,,\n"),
        ("empty rows.csv", "\nsource,target\n\ngearbox,变速箱\n,\n\nwind turbine,风力发电机\n\n,,,\n"),
        ("no numbers meant.csv", "1,gearbox,变速箱\n2,wind turbine,风力发电机\n3,gearbox,变速箱\n"),
        ("first column empty.csv", ",gearbox,变速箱\n,wind turbine,风力发电机\n"),
        ("column without a name.csv", "source,target,\ngearbox,变速箱,x\nwind turbine,风力发电机,\n"),
        ("Italian.csv", "Termine di origine;Termine di destinazione\ngearbox;变速箱\nwind turbine;风力发电机\n"),
        ("Polish.csv", "źródło;cel\ngearbox;变速箱\nwind turbine;风力发电机\n"),
        ("Arabic.csv", "المصدر,الهدف\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("white space.csv", " source , target \n gearbox ,\u3000变速箱\n\ufeffwind turbine\xa0,风力发电机\n"),
        ("title above.csv", "My glossary,\nsource,target\ngearbox,变速箱\nwind turbine,风力发电机\n"),
        ("object.json", '{"gearbox": "变速箱", "wind turbine": "风力发电机"}'),
        ("pairs.json", '[["gearbox", "变速箱"], ["wind turbine", "风力发电机"]]'),
        ("objects.json", '[{"src": "gearbox", "dst": "变速箱"}, {"dst": "风力发电机", "src": "wind turbine"}]'),
        (
            "deep around.json",
            '{"glossary": {"name": "x", "terms": [["gearbox", "变速箱"], ["wind turbine", "风力发电机"]]}}',
        ),
        ("around.json", '{"terms": {"gearbox": "变速箱", "wind turbine": "风力发电机"}}'),
        ("JSON named.txt", '[["gearbox", "变速箱"], ["wind turbine", "风力发电机"]]'),
    ],
)
def test_the_tables_that_programs_and_people_write_are_read(name, text):
    assert pairs(name, text) == PAIRS


@pytest.mark.parametrize(
    ("text", "source_lang", "target_lang"),
    [
        ("en,zh\ngearbox,变速箱\n", "en", "zh"),
        ("English,Chinese\ngearbox,变速箱\n", "en", "zh"),
        ("英语,中文\ngearbox,变速箱\n", "en", "zh"),
        ("EN-US,zh_CN\ngearbox,变速箱\n", "en", "zh"),
        ("Source (English),Target (German)\ngearbox,Getriebe\n", "en", "de"),
        ("term,de\ngearbox,Getriebe\n", "", "de"),
        ("Term [en],Description [en],Term [de],Description [de]\ngearbox,of a car,Getriebe,\n", "en", "de"),
        ("Concept ID,Definition,en-US Term,de-DE Term\n1,of a car,gearbox,Getriebe\n", "en", "de"),
        ("Source term (EN);Target term (DE)\ngearbox;Getriebe\n", "en", "de"),
        ("English (United States),German (Germany)\ngearbox,Getriebe\n", "en", "de"),
        ("Entry_ID;English_United_States;Term_Info;German;Term_Info\n0;gearbox;x;Getriebe;x\n", "en", "de"),
        ("id,en,de\n1,gearbox,Getriebe\n", "en", "de"),
        ("source,target,tgt_lng\ngearbox,变速箱,zh-CN\n", "", "zh"),
        ("gearbox,变速箱,en,zh\nclutch,离合器,EN,ZH\n", "en", "zh"),
        ("gearbox,变速箱,en,zh\nEnglish,英语,en,zh\na,b,en,xx\n", "en", "zh"),
        ("gearbox,变速箱,en,zh\n", "en", "zh"),
        ("sourceLang,targetLang,sourceString,targetString\nen,es_XX,gearbox,caja de cambios\n", "en", "es"),
        ("源语言,目标语言\ngearbox,变速箱\n", "", ""),
        ("source,target\ngearbox,变速箱\n", "", ""),
    ],
)
def test_a_table_says_its_languages_in_the_header_or_in_its_rows(text, source_lang, target_lang):
    found = read("terms.csv", text.encode())
    assert (found.terms[0].source, found.source_lang, found.target_lang) == ("gearbox", source_lang, target_lang)


def test_of_many_languages_the_wanted_ones_are_read():
    table = "en,fr,de,pos,description\ngearbox,boîte de vitesses,Getriebe,noun,of a car\n"
    assert pairs("google.csv", table, "de", "fr") == [("Getriebe", "boîte de vitesses")]
    assert read("google.csv", table.encode(), "en", "de").terms[0].note == "of a car"
    with pytest.raises(GlossaryError, match=r"3 languages, English \(en\), French \(fr\) and German \(de\)"):
        read("google.csv", table.encode())
    with pytest.raises(GlossaryError, match="no terms in Japanese"):
        read("google.csv", table.encode(), "en", "ja")


def test_of_many_languages_beside_a_source_the_wanted_one_is_read():
    table = "term;casesensitive;en;de;fr\ngearbox;no;gearbox;Getriebe;boîte de vitesses\n"
    assert pairs("Lokalise.csv", table, "en", "fr") == [("gearbox", "boîte de vitesses")]
    assert pairs("Lokalise.csv", table.replace("en;", "x;"), "zh", "de") == [("gearbox", "Getriebe")]
    with pytest.raises(GlossaryError, match="columns in en, de, fr; say which"):
        read("Lokalise.csv", table.encode())


def test_rows_of_another_pair_are_left_out_and_told():
    table = b"source,target,source_lang,target_lang\na,b,en,de\nc,d,en,fr\ne,f,en,la\ng,h,,\n"
    found = read("deepl.csv", table, "en", "de")
    assert [term.source for term in found.terms] == ["a", "g"]
    assert codes(found) == [(3, "other_language"), (4, "language")]
    assert [term.source for term in read("deepl.csv", table).terms] == ["a", "g"]
    with pytest.raises(EmptyGlossary, match="in en, not ja"):
        read("deepl.csv", table[: table.index(b"g,h")], "ja", "de")


def test_a_header_of_another_language_leaves_nothing():
    with pytest.raises(EmptyGlossary, match="in en, not fr"):
        read("terms.csv", b"Source (English),Target (German)\ngearbox,Getriebe\n", "fr", "de")


@pytest.mark.parametrize("flag", ["yes", "TRUE", "1", "x", "Case-sensitive", "是", "区分大小写", "ja", "oui", "✓"])
def test_a_case_that_says_yes_is_yes(flag):
    assert read("terms.csv", f"source,target,case\nUS,美国,{flag}\n".encode()).terms == (Term("US", "美国", True),)


@pytest.mark.parametrize("flag", ["", "no", "FALSE", "0", "否", "-", "nein"])
def test_a_case_that_says_no_is_no(flag):
    found = read("terms.csv", f"source,target,case\nUS,美国,{flag}\n".encode())
    assert (found.terms, found.problems) == ((Term("US", "美国"),), ())


def test_a_case_that_says_neither_is_told_and_costs_no_row():
    found = read("terms.csv", "source,target,case\nUS,美国,perhaps\n".encode())
    assert (found.terms, codes(found)) == ((Term("US", "美国"),), [(2, "case")])


@pytest.mark.parametrize(
    ("table", "term"),
    [
        ("US,美国,yes,a country\nUK,英国,no,\n", Term("US", "美国", True, "a country")),
        ("US,美国,a country\nUK,英国,\n", Term("US", "美国", False, "a country")),
        ("source,target,Notes\nUS,美国,a country\n", Term("US", "美国", False, "a country")),
        ("HunYuan,\nUK,英国\n", Term("HunYuan", "")),
    ],
)
def test_case_note_and_an_empty_target_are_taken_over(table, term):
    assert read("terms.csv", table.encode()).terms[0] == term


@pytest.mark.parametrize(
    ("encoding", "pair"),
    [
        ("utf-8", ("gearbox", "变速箱")),
        ("utf-8-sig", ("gearbox", "变速箱")),
        ("utf-16", ("gearbox", "变速箱")),
        ("utf-16-le", ("gearbox", "变速箱")),
        ("utf-16-be", ("gearbox", "变速箱")),
        ("utf-32", ("gearbox", "变速箱")),
        ("utf-32-le", ("gearbox", "变速箱")),
        ("utf-32-be", ("gearbox", "变速箱")),
        ("gb18030", ("gearbox", "变速箱")),
        ("shift_jis", ("gearbox", "ギアボックス")),
        ("euc_kr", ("gearbox", "변속기")),
        ("cp1252", ("gearbox", "boîte à vitesses")),
        ("cp1251", ("gearbox", "коробка передач")),
    ],
)
def test_a_table_is_read_in_its_encoding(encoding, pair):
    target_lang = {"shift_jis": "ja", "euc_kr": "ko", "cp1252": "fr", "cp1251": "ru"}.get(encoding, "zh")
    table = f"source,target\n{','.join(pair)}\n"
    assert pairs("terms.csv", table.encode(encoding), "en", target_lang) == [pair]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("a,b\nc,d,e\nf,g\n", [(2, "columns")]),
        ("a,b\nc\nf,g\n", [(2, "columns")]),
        ("source,target\na,b\n\nc,d,e\n", [(4, "columns")]),
        ("a,b\n,d\n", [(2, "empty_source")]),
        ("a,b\nA,b\n", [(2, "duplicate")]),
        ("a,b\nＡ,c\n", [(2, "conflict")]),
        ("a,\na,a\n", [(2, "duplicate")]),
        (f"a,b\n{'c' * 257},d\n", [(2, "too_long")]),
        (f"a,b\nc,{'d' * 10_000}\n", [(2, "too_long")]),
        (f"a,b\n{'c' * 1_000_000}\n", [(2, "too_long")]),
        (f"a,b\n{',' * 1_000_000}\n", [(2, "too_long")]),
        (f'"a","b"\n"c","d"\n{"c" * 1_000_000},d\n', [(3, "too_long")]),
        (f'a,b\n"{"c" * 1_000_000}', [(2, "too_long")]),
        ("a,b\nc\x07,d\n", [(2, "characters")]),
        ("a,b\nc\x00c,d\n", [(2, "characters")]),
        ('a,b\n"c,d\ne,f\n', [(2, "quotes")]),
        ("My glossary,\nsource,target\na,b\n", [(1, "above_header")]),
        ("source,target,case\nUS,b,yes\nus,c,\n", []),
    ],
)
def test_what_is_wrong_is_told_with_its_row_and_good_rows_are_kept(table, expected):
    found = read("terms.csv", table.ljust(120, "\n").encode())
    assert codes(found) == expected
    assert found.terms


def test_a_stray_quotation_mark_costs_its_row_alone():
    table = 'a,b\n"c,d\ne,f\n5" disk,5寸盘\n"g, h","i ""j"""\n"k\nl",m\n'
    assert pairs("terms.csv", table) == [
        ("a", "b"),
        ("e", "f"),
        ('5" disk', "5寸盘"),
        ("g, h", 'i "j"'),
        ("k l", "m"),
    ]


def test_decimal_commas_do_not_part_a_european_table():
    assert pairs("terms.csv", "1,5 mm;1.5 mm\n2,5 mm;2.5 mm\n3 m;3 m\n")[0] == ("1,5 mm", "1.5 mm")


@pytest.mark.parametrize(
    "term",
    ["(a+)+$", "<b>", "<s1>", "🙂", "=1+1", "'=1", "\\", "a,b;c|d", '"', "@home", "-ase", "{x}", "[1]", "#", "\u202e"],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_term_may_look_like_anything(kind, term):
    terms = (Term(term, term), Term("a", term, True, term))
    found = read(f"terms.{kind}", write(kind, terms, "en", "zh"))
    assert (found.terms, found.problems) == (terms, ())


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
MADE = st.lists(st.builds(Term, WORDS, st.text(max_size=20) | WORDS, st.booleans(), st.text(max_size=20)), max_size=8)


@pytest.mark.parametrize("kind", FORMATS)
@given(made=MADE)
def test_what_is_written_is_read_again_equal(kind, made):
    terms, _ = sound(enumerate([*made, Term("term", "译名")], 1))
    found = read(f"terms.{kind}", write(kind, terms, "en", "zh", "a <name>"), "en", "zh")
    assert (found.terms, found.problems) == (terms, ())


@pytest.mark.parametrize("kind", ["tbx", "json"])
def test_the_languages_are_written_too(kind):
    found = read(f"terms.{kind}", write(kind, TERMS, "en", "zh-Hant"))
    assert (found.source_lang, found.target_lang) == ("en", "zh-Hant")


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_no_cell_that_is_written_starts_a_formula(kind):
    data = write(kind, [Term("=cmd|' /C calc'!A0", "+1", False, "@x"), Term("-a", "＝b")], "en", "zh")
    table = csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t" if kind == "tsv" else ",")
    assert [cell for row in table for cell in row if cell.startswith(("=", "+", "-", "@", "＝"))] == []


def test_a_kind_that_is_not_written_is_named():
    with pytest.raises(UnsupportedGlossary, match=r"'docx'.*csv, tsv, tbx, json"):
        write("docx", TERMS, "en", "zh")


def test_a_workbook_is_read_from_its_first_sheet_with_cells():
    rows = [
        ["id", "source", "target", "note"],
        [1, "gearbox", "变速箱"],
        [None],
        [2.0, "wind turbine", "风力发电机", "x"],
    ]
    assert pairs("terms.xlsx", workbook([], rows, [["no", "term"]])) == PAIRS


@pytest.mark.parametrize("name", ["terms.xlsx", "terms.csv", "terms", "terms.xls"])
def test_a_workbook_is_known_by_its_bytes(name):
    assert pairs(name, workbook(PAIRS)) == PAIRS


def test_a_table_may_be_named_as_an_old_workbook():
    assert pairs("export.xls", "gearbox\t变速箱\nwind turbine\t风力发电机\n".encode("utf-16")) == PAIRS


def test_a_formula_in_a_workbook_is_text_and_numbers_are_what_is_typed():
    made = io.BytesIO()
    with xlsxwriter.Workbook(made) as book:
        sheet = book.add_worksheet()
        sheet.write_formula(0, 0, "=cmd|' /C calc'!A0", value="harmless")
        sheet.write_string(0, 1, "b")
        sheet.write_number(1, 0, 1918)
        sheet.write_number(1, 1, 1.5)
        sheet.write_array_formula(2, 0, 2, 0, "{=SUM(A1:A2)}")
        sheet.write_boolean(2, 1, True)
    found = pairs("terms.xlsx", made.getvalue())
    assert found == [("=cmd|' /C calc'!A0", "b"), ("1918", "1.5"), ("=SUM(A1:A2)", "True")]


def test_a_workbook_keeps_a_term_without_target_and_tells_rows_as_excel_counts():
    found = read("terms.xlsx", workbook([["source", "target"], ["HunYuan"], [], ["", "x"]]))
    assert (found.terms, codes(found)) == ((Term("HunYuan", ""),), [(4, "empty_source")])


def test_a_column_of_a_workbook_that_has_no_name_costs_no_row():
    found = read("terms.xlsx", workbook([["source", "target"], ["gearbox", "变速箱", "", "by Li"]]))
    assert (found.terms, found.problems) == ((Term("gearbox", "变速箱"),), ())


def test_covers_and_hidden_sheets_are_passed_over_and_other_sheets_told():
    sheets = [[["hidden", "x"]], [["Terms of 2026"]], [["gearbox", "变速箱"]], [["clutch", "离合器"]]]
    hidden = (b'name="Sheet1" sheetId="1"', b'name="Sheet1" sheetId="1" state="hidden"')
    parts = unzipped(workbook(*sheets))
    parts["xl/workbook.xml"] = parts["xl/workbook.xml"].replace(*hidden)
    found = read("terms.xlsx", zipped(parts))
    assert found.terms == (Term("gearbox", "变速箱"),)
    assert codes(found) == [(0, "other_sheets")]
    assert "“Sheet2”, “Sheet4”" in found.problems[0].message


def test_what_excel_could_not_compute_is_no_term():
    found = read("terms.xlsx", workbook([["source", "target"], ["gearbox", "#REF!"], ["clutch", "离合器"]]))
    assert (found.terms, codes(found)) == ((Term("clutch", "离合器"),), [(2, "cell_error")])


def test_styles_and_rules_that_nobody_understands_do_not_matter():
    book = changed(
        workbook(PAIRS),
        styles=lambda source: "<damaged",
        sheet1=lambda source: source.replace(
            "</sheetData>", "</sheetData><conditionalFormatting><x/></conditionalFormatting>"
        ),
    )
    assert pairs("terms.xlsx", book) == PAIRS


SHEET = "xl/worksheets/sheet1.xml"


def with_sheet(content, method=ZIP_DEFLATED):
    return zipped({**unzipped(workbook(PAIRS)), SHEET: content}, method)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (lambda: with_sheet(b"<worksheet>" + b"<c/>" * 2_000_001, ZIP_STORED), GlossaryTooLarge, "cells"),
        (lambda: with_sheet(b" " * 101_000_000), GlossaryError, "zip bombs"),
        (with_sheet(b'<!DOCTYPE x [<!ENTITY a "b">]><worksheet/>'), GlossaryError, "DOCTYPE"),
        (with_sheet("<worksheet/>".encode("utf-16")), GlossaryError, "UTF-8"),
        (with_sheet(b"<worksheet><sheetData><row"), GlossaryError, "damaged"),
        (workbook(PAIRS)[:-100], GlossaryError, "damaged"),
        (workbook([]), EmptyGlossary, "no row"),
        (workbook([["one"], ["column"]]), GlossaryError, "one column"),
        (zipped({"a.txt": b"a,b"}), GlossaryError, "no Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, GlossaryError, "old binary format"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            GlossaryError,
            "protected by a password",
        ),
    ],
    ids=range(11),
)
def test_a_workbook_of_no_use_says_why(data, error, says):
    with pytest.raises(error, match=says):
        read("terms.xlsx", data() if callable(data) else data)


def test_a_workbook_whose_last_cell_is_a_million_rows_down_takes_seconds():
    rows = b'<row r="1"><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row><row r="%d"><c r="ZZZ9"><v>1</v></c></row>'
    sheet = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>' + rows
    for last in (1_048_576, 9_999_999_999):
        book = with_sheet(sheet % last + b"</sheetData></worksheet>")
        with cpu_at_most(8):
            assert pairs("terms.xlsx", book) == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "data", "error", "says"),
    [
        ("terms.csv", b"", EmptyGlossary, "is empty"),
        ("terms.csv", b" \r\n\n", EmptyGlossary, "is empty"),
        ("terms.csv", b",,\n,\n", EmptyGlossary, "no row"),
        ("terms.csv", b"source,target\n", EmptyGlossary, "no row"),
        ("terms.csv", b"source,target\n,b\n", EmptyGlossary, "Row 2: The source term is empty"),
        ("terms.csv", b"one\ncolumn\n", GlossaryError, "one column"),
        ("terms.csv", PNG, UnsupportedGlossary, "a PNG image"),
        ("terms.xlsx", PNG, UnsupportedGlossary, "a PNG image"),
        ("terms.png", b"a,b", UnsupportedGlossary, r"kind \.png"),
        ("terms.csv", b"\x7fELF" + bytes(range(256)) * 9, UnsupportedGlossary, "no text"),
        ("terms.csv", lambda: b"a" * (MAX_FILE_BYTES + 1), GlossaryTooLarge, "50 MB"),
        ("terms.csv", lambda: b"\n" * 500_001 + b"a,b", GlossaryTooLarge, "lines"),
        ("terms.html", b"<html><p>a,b", UnsupportedGlossary, r"kind \.html"),
        ("terms.xls", b"<html><p>a,b", UnsupportedGlossary, "root html"),
        ("terms.xml", b"<resources/>", UnsupportedGlossary, "root resources"),
        ("terms.json", b"[" * 100_000, GlossaryError, "nested too deep"),
        ("terms.json", b'{"a":' * 100_000, GlossaryError, "nested too deep"),
        ("terms.json", b'{"a": ', GlossaryError, "no valid JSON"),
        ("terms.json", b'"a"', GlossaryError, "bare value"),
        ("terms.json", lambda: b"[" + b"[]," * 2_100_000 + b"[]]", GlossaryTooLarge, "values"),
        ("terms.json", b'["a", "b"]', EmptyGlossary, "neither a pair"),
        ("terms.json", b'{"a": {"b": "c"}}', EmptyGlossary, "no text"),
        ("terms.json", b'[{"a": "b"}]', EmptyGlossary, "source and target are needed"),
        ("terms.tbx", b"<martif><text><body>", GlossaryError, "damaged"),
        ("terms.tbx", b"<tbx/>", GlossaryError, "two languages"),
        ("terms.tbx", lambda: b"<tbx>" + b"<a/>" * 3_000_001, GlossaryTooLarge, "elements"),
        ("terms.tbx", b"<tbx>" * 1_000, GlossaryError, "damaged"),
    ],
    ids=range(27),
)
def test_a_file_of_no_use_says_why(name, data, error, says):
    with pytest.raises(error, match=says) as caught:
        read(name, data() if callable(data) else data)
    assert 400 <= caught.value.status < 500


def test_a_json_file_is_told_on_by_its_entries():
    data = '[["a", "b"], ["c", "d", "e", "f"], 5, {"source": ["x"], "target": "y"}, ["g", null], '
    data += '{"source": 7, "target": 1.50}]'
    found = read("terms.json", data.encode())
    assert found.terms == (Term("a", "b"), Term("g", ""), Term("7", "1.50"))
    assert codes(found) == [(2, "shape"), (3, "shape"), (4, "shape")]


def test_two_values_for_one_key_of_json_are_a_conflict():
    found = read("terms.json", b'{"a": "b", "a": "c", "d": "\\ud800"}')
    assert (found.terms, codes(found)) == ((Term("a", "b"),), [(2, "conflict"), (3, "characters")])


def test_json_objects_may_have_languages_as_keys():
    found = read("terms.json", b'[{"en": "a", "de": "b"}, {"de": "d", "en": "c", "note": "e"}]', "de", "en")
    assert found.terms == (Term("b", "a"), Term("d", "c", note="e"))
    assert (found.source_lang, found.target_lang) == ("de", "en")


def test_json_objects_without_end_of_different_keys_take_seconds():
    data = [{f"k{number}": 1, "source": f"s{number}", "target": "t"} for number in range(5_000)]
    with cpu_at_most(5):
        found = read("terms.json", json.dumps(data).encode())
    assert (len(found.terms), found.problems[0].code) == (1_000, "keys")


def test_json_may_name_its_languages_around_its_terms():
    data = json.dumps({"source_lang": "EN", "target_lang": "zh-CN", "terms": [{"en": "a", "zh": "b", "case": True}]})
    found = read("terms.json", data.encode())
    assert (found.terms, found.source_lang, found.target_lang) == ((Term("a", "b", True),), "en", "zh")
    with pytest.raises(GlossaryError, match="in en, not fr"):
        read("terms.json", data.encode(), "fr", "zh")


def test_tbx_of_2008_is_read_as_a_terminologist_would():
    found = read("wind.tbx", (FIXTURES / "martif2008.tbx").read_bytes())
    assert found.terms == (
        Term("wind turbine", "Windkraftanlage", note="A machine that spins in the wind."),
        Term("wind generator", "Windkraftanlage", note="In trade journals."),
        Term("nacelle", "Gondel"),
    )
    assert (codes(found), found.source_lang, found.target_lang) == ([(2, "missing")], "en", "de")


def test_tbx_of_three_languages_asks_for_a_pair():
    data = (FIXTURES / "dca.tbx").read_bytes()
    assert read("a.tbx", data, "en", "zh").terms == (
        Term("interest rate", "利率", note="Prix de l’argent."),
        Term("SWIFT", ""),
    )
    assert pairs("a.tbx", data, "fr", "zh") == [("taux d’intérêt", "利率")]
    with pytest.raises(GlossaryError, match="3 languages"):
        read("a.tbx", data)


@pytest.mark.parametrize("name", ["a.tbx", "a.xml", "a.txt", "a"])
def test_tbx_in_the_style_of_named_elements_is_read_under_any_name(name):
    data = (FIXTURES / "dct.tbx").read_bytes()
    assert pairs(name, data) == [("列車", "기차")]
    assert pairs(name, data.replace(b"UTF-8", b"UTF-16").decode().encode("utf-16"), "ko", "ja") == [("기차", "列車")]


def test_a_memory_gives_its_short_units_as_terms_and_one_line_of_the_others():
    found = read("a.tmx", (FIXTURES / "memory.tmx").read_bytes())
    assert found.terms == (Term("gearbox", "boîte de vitesses"), Term("brake & clutch", "frein et embrayage"))
    assert (found.source_lang, found.target_lang) == ("en", "fr")
    assert codes(found) == [(4, "missing"), (2, "no_term")]
    assert "3 of 6 units" in found.problems[1].message


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BODY = '<langSet xml:lang="en"><tig><term>{}</term></tig></langSet>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declared",
    [
        f'<!ENTITY l0 "ha">{LAUGHS}',
        '<!ENTITY l9 SYSTEM "file:///etc/passwd">',
        '<!ENTITY % p SYSTEM "http://localhost/">%p;',
    ],
)
def test_an_entity_is_never_followed(declared, encoding):
    entry = f"<text><body><termEntry>{BODY.format('&l9;')}</termEntry></body></text>"
    with pytest.raises(GlossaryError, match="entities"):
        read("a.tbx", f"<!DOCTYPE martif [{declared}]><martif>{entry}</martif>".encode(encoding))


def test_an_entity_of_a_dtd_that_is_not_fetched_stays_as_it_is_written():
    entry = "<termEntry>&a;<langSet xml:lang='en'>&b;<tig><term>one&c;</term></tig></langSet>{}</termEntry>"
    body = f"<text><body>{entry.format(BODY.format('uno').replace('en', 'es'))}</body></text>"
    found = read("a.tbx", f"<!DOCTYPE martif SYSTEM 'TBX.dtd'><martif>{body}</martif>".encode(), "en", "es")
    assert found.terms == (Term("one&c;", "uno"),)


def test_too_many_terms_are_counted():
    table = "".join(f"term {number},{number}\n" for number in range(MAX_TERMS + 7))
    with pytest.raises(GlossaryTooLarge, match="50,007 terms; 50,000 is the most"):
        read("terms.csv", table.encode())


def test_of_many_problems_a_thousand_are_told_and_the_rest_counted():
    found = read("terms.csv", b"a,b\n" + b",c\n" * 5_000)
    assert len(found.problems) == MOST_PROBLEMS + 1
    assert found.problems[-1] == Problem(5_001, "more", "4,000 more rows have problems; mend these first.")


@pytest.mark.parametrize("kind", [*FORMATS, "xlsx"])
def test_reading_is_linear(kind):
    def data(number):
        terms = [Term(f"term {place}", f"译名{place}", True, "n") for place in range(number)]
        if kind == "xlsx":
            return workbook([["source", "target"], *((term.source, term.target) for term in terms)])
        return write(kind, terms, "en", "zh")

    small, large = data(200), data(1_600)
    assert times_as_long(lambda: read(f"a.{kind}", large), lambda: read(f"a.{kind}", small)) < 20  # a square: 64


@pytest.mark.parametrize("line", ['x","y\n', '"\n', '"a\n', '"""\n', "\"a,'\n"])
def test_quotation_marks_that_never_close_take_seconds(line):
    with cpu_at_most(5), pytest.raises(GlossaryError):
        read("a.csv", line.encode() * 50_000)
