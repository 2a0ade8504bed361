"""Word, PowerPoint and Excel: other programs see other words in the same places, and nothing else that is new."""

import io
import re
import time
from collections import Counter

import docx
import openpyxl
import pptx
import pytest
import xlsxwriter
from docx.shared import RGBColor
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from openpyxl.worksheet.table import Table
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from engine.documents.file import Options
from engine.documents.office import read_office
from engine.errors import BadDocument
from tests.archives import ACCENTS, PSEUDO, changed, pseudo, texts, unzipped, zipped
from tests.timing import cpu_at_most

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    + "1f15c4890000000d49444154789c6360606060000000050001a5"
    "f645400000000049454e44ae426082"
)
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
W_TEXT = f"{{{W}}}t"
BOX = (
    '<w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><mc:Choice '
    'Requires="wps"><w:drawing><w:txbxContent><w:p><w:r><w:t>In a box</w:t></w:r></w:p></w:txbxContent></w:drawing>'
    "</mc:Choice><mc:Fallback><w:pict><w:txbxContent><w:p><w:r><w:t>In a box</w:t></w:r></w:p></w:txbxContent></w:pict>"
    "</mc:Fallback></mc:AlternateContent></w:r>"
)
TYPES = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType=
"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""


def read(data, kind="docx"):
    return read_office(kind, data, Options())


def saved(make):
    made = io.BytesIO()
    make.save(made)
    return made.getvalue()


def word(body, namespace=W, prefix="w"):
    """A file of Word with this body; tags are written with `w:`."""
    body = f'<w:document xmlns:w="{namespace}"><w:body>{body}</w:body></w:document>'
    if prefix != "w":
        body = re.sub(r"(</?|\s)w:", rf"\g<1>{prefix}:" if prefix else r"\1", body)
        body = body.replace("xmlns:w=", f"xmlns:{prefix}=" if prefix else "xmlns=")
    return zipped({"[Content_Types].xml": TYPES, "word/document.xml": body})


def body(data):
    return unzipped(data)["word/document.xml"].decode()


def run(text, look=""):
    return f'<w:r>{f"<w:rPr>{look}</w:rPr>" if look else ""}<w:t xml:space="preserve">{text}</w:t></w:r>'


def of_word(content):
    """The one block's text of a paragraph."""
    [text] = texts(read(word(f"<w:p>{content}</w:p>")))
    return text


def link(*content):
    return f"<w:hyperlink>{''.join(content)}</w:hyperlink>"


def control(kind, content):
    return f"<w:sdt><w:sdtPr><w:{kind}/></w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def code(kind):
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def field(instruction, result):
    return (
        f"{code('begin')}<w:r><w:instrText> {instruction} </w:instrText></w:r>{code('separate')}{result}{code('end')}"
    )


def a_report():
    document = docx.Document()
    document.core_properties.title = "Report of the year"
    document.add_heading("The first heading", 1)
    paragraph = document.add_paragraph("Some plain words, ")
    paragraph.add_run("bold ones").bold = True
    paragraph.add_run(" and ")
    red = paragraph.add_run("red")
    red.font.color.rgb = RGBColor(255, 0, 0)
    paragraph.add_run(" ones.").add_break()
    paragraph.add_run("After\ta break.").italic = True
    document.add_picture(io.BytesIO(PNG))
    table = document.add_table(2, 2, style="Table Grid")
    for index, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"Cell number {index}"
    table.cell(0, 0).add_paragraph("A second paragraph", style="List Bullet")
    document.sections[0].header.paragraphs[0].text = "A header"
    document.sections[0].footer.paragraphs[0].text = "A footer"
    document.add_comment(paragraph.runs, "A comment", author="Ann")
    return saved(document)


def slides():
    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "A title"
    frame = slide.placeholders[1].text_frame
    frame.text = "First point "
    bold = frame.paragraphs[0].add_run()
    bold.text, bold.font.bold = "in bold", True
    frame.add_paragraph().text = "Second point"
    slide.notes_slide.notes_text_frame.text = "A note to the speaker"
    table = slide.shapes.add_table(1, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Left cell", "Right cell"
    data = CategoryChartData()
    data.categories = ["North", "South"]
    data.add_series("Sales", (1, 2))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.BAR_CLUSTERED, Inches(1), Inches(2), Inches(4), Inches(3), data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "A chart title"
    second = show.slides.add_slide(show.slide_layouts[5])
    second.shapes.title.text = "The last slide"
    order = show.slides._sldIdLst
    order.insert(0, order[1])  # now the first
    return saved(show)


def a_workbook():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Data"
    sheet.append(["Region", "Amount in euros"])
    sheet.append(["The north", 12])
    sheet.append(["The south", 30])
    sheet["D1"] = "A plain cell"
    sheet["D2"] = CellRichText("some ", TextBlock(InlineFont(b=True), "bold"), " words")
    sheet["D3"] = '=IF(B2>1,"many","few")'
    sheet["D4"] = "Two\nlines"
    sheet["D1"].comment = Comment("A remark", "Ann")
    sheet.add_table(Table(displayName="Regions", ref="A1:B3"))
    sheet.oddHeader.left.text = "The R&&D report"
    sheet.oddHeader.center.text, sheet.oddHeader.center.font = "Page &P of &N", "Arial,Bold"
    sheet.oddFooter.right.text = "Draft"
    chart = BarChart()
    chart.title = "A chart title"
    chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=3), titles_from_data=True)
    sheet.add_chart(chart, "F1")
    return saved(book)


def shared_strings():
    made = io.BytesIO()
    book = xlsxwriter.Workbook(made)
    sheet = book.add_worksheet("Data")
    bold = book.add_format({"bold": True})
    sheet.write("A1", "Twice used")
    sheet.write("A2", "Twice used")
    sheet.write_rich_string("A3", "Plain and ", bold, "bold", " words")
    sheet.add_table("C1:D3", {"columns": [{"header": "Name"}, {"header": "A & B"}]})
    sheet.write("C2", "name")
    sheet.insert_textbox("F1", "In a text box")
    sheet.set_footer('&L&"Arial,Bold"&12Left foot&RRight &D')
    book.close()
    return made.getvalue()


MADE = {"docx": a_report(), "pptx": slides(), "xlsx": a_workbook()}
SHARED = shared_strings()


# ---------------------------------------------------------------------------------------------------------------------
# all three


@pytest.mark.parametrize("kind", MADE)
def test_a_file_without_a_change_comes_back_byte_for_byte(kind):
    file = read(MADE[kind], kind)
    assert len(file.blocks) >= 9
    assert file.save(texts(file)) == MADE[kind]


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("name", PSEUDO)
def test_parts_without_a_text_stay_and_the_others_are_read_again(kind, name):
    new = pseudo(read(MADE[kind], kind), name)
    before, after = unzipped(MADE[kind]), unzipped(new)
    assert list(before) == list(after)
    assert all(
        before[part] == after[part] for part in before if re.search(r"(styles|theme|\.rels|\.png|\.xlsx|Types)", part)
    )
    again = texts(read(new, kind))
    assert len(again) == len(read(MADE[kind], kind).blocks)
    assert sum(map(str.isalpha, "".join(again))) >= 30


@pytest.mark.parametrize("kind", MADE)
def test_one_new_text_changes_one_part(kind):
    file = read(MADE[kind], kind)
    new = unzipped(file.save(["New", *texts(file)[1:]]))
    assert len([name for name, content in unzipped(MADE[kind]).items() if new[name] != content]) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Word


def test_word_reads_every_kind_of_text():
    assert texts(read(MADE["docx"])) == [
        "The first heading",
        "Some plain words, <s1>bold ones</s1> and <s2>red</s2> ones.<s3></s3><s4>After</s4><s5></s5><s6>a break.</s6>",
        "Cell number 0",
        "A second paragraph",
        "Cell number 1",
        "Cell number 2",
        "Cell number 3",
        "A header",
        "A footer",
        "A comment",
        "Report of the year",
        "generated by python-docx",
    ]


def test_another_reader_sees_the_new_words_in_the_old_looks():
    before, after = docx.Document(io.BytesIO(MADE["docx"])), docx.Document(io.BytesIO(pseudo(read(MADE["docx"]))))

    def seen(document, change):
        for paragraph in document.paragraphs:
            for one in paragraph.runs:
                color = one.font.color.rgb if one.font.color else None
                for character in change(one.text):
                    yield paragraph.style.name, character, one.bold, one.italic, color
            yield "end"

    assert [*seen(after, str)] == [*seen(before, lambda text: text.translate(ACCENTS))]
    cells = [cell.text for row in after.tables[0].rows for cell in row.cells]
    assert cells[0] == "Ćéll ńúmbér 0\nÁ śéćóńd párágráph"
    assert after.sections[0].header.paragraphs[0].text == "Á héádér"
    assert after.core_properties.title == "Répórt óf thé ýéár"
    assert next(iter(after.comments)).text == "Á ćómméńt"


def test_hostile_text_is_text():
    file = read(word(f"<w:p>{run('x')}</w:p>"))
    new = file.save(['<b>&amp; ]]> <w:p> \0\x1b\ud800\ufffe é 𝄞 "'])
    assert docx.oxml.parse_xml(body(new)).xpath("string(.)") == '<b>&amp; ]]> <w:p>  é 𝄞 "'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (run("Hel") + run("lo ") + run("you"), "Hello you"),
        (run("a ", '<w:lang w:val="de"/>') + '<w:proofErr w:type="x"/>' + run("b", "<w:noProof/>"), "a b"),
        (run("译", '<w:rFonts w:hint="eastAsia"/>') + run("文"), "译文"),
        (run("All bold", "<w:b/>"), "All bold"),
        (
            run("Long and ") + run("bold", "<w:b/>") + run(" ") + run("cut", "<w:i/>"),
            "Long and <s1>bold</s1> <s2>cut</s2>",
        ),
        (run("Very bold", "<w:b/>") + run(" ") + run("words", "<w:b/>"), "Very bold words"),
        (run("Name:") + run("    ", '<w:u w:val="single"/>') + run("Date:"), "Name:<s1></s1>Date:"),
        (run("see ") + link(run("here", "<w:i/>")) + run("."), "see <s1>here</s1>."),
        (run("see ") + link(run("right "), run("here", "<w:i/>")), "see <s1>right <s2>here</s2></s1>"),
        (link(run("All a link", "<w:i/>")), "All a link"),
        (run("old") + f"<w:ins>{run(' new')}</w:ins>" + run(" x"), "old<s1> new</s1> x"),
        (run("a ") + "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>" + run("x"), "a <s1></s1>x"),
        (run("note") + '<w:r><w:footnoteReference w:id="1"/></w:r>' + run(" it"), "note<s1></s1> it"),
        ("<w:r><w:tab/><w:t>Tab first</w:t><w:br/></w:r>", "Tab first"),
        ("<w:r><w:t>non</w:t><w:noBreakHyphen/><w:t>break</w:t></w:r>", "non‑break"),
        ("<w:r><w:t>soft</w:t><w:softHyphen/><w:t>ly</w:t></w:r>", "softly"),
        (run("Seen") + run(" unseen", "<w:vanish/>") + run(" seen"), "Seen<s1></s1> seen"),
        (run("Page ") + field("PAGE", run("1")) + run(" of it"), "Page <s1></s1> of it"),
        (run("See ") + field('HYPERLINK "x"', run("the page", "<w:u/>")), "See <s1>the page</s1>"),
        (field('HYPERLINK "x"', run("Only a link")), "Only a link"),
        (
            run("A ") + field("REF x", run("part ") + field("PAGEREF y", run("7"))) + run("z"),
            "A <s1>part <s2></s2></s1>z",
        ),
        (run("open ") + code("begin") + run("end"), "open <s1></s1>end"),
        (f'{run("No ")}<w:fldSimple w:instr=" DATE ">{run("1 May")}</w:fldSimple>', "No <s1></s1>"),
        (run("in ") + control("text", run("it")), "in <s1>it</s1>"),
        (run("one of ") + control("dropDownList", run("it")), "one of <s1></s1>"),
        (run("a &lt;s1&gt; b ") + run("c", "<w:b/>"), "a <s1> b <s2>c</s2>"),
        ("<w:r><w:t><![CDATA[<x> & ]]>y&#233;</w:t></w:r>", "<x> & yé"),
    ],
)
def test_runs_become_marks(content, text):
    assert of_word(content) == text


@pytest.mark.parametrize(
    "content", [field("PAGE", run("x")), run("12.5 %"), run("hidden", "<w:vanish/>"), BOX[:5] + "</w:r>"]
)
def test_what_nobody_translates_is_no_block(content):
    assert texts(read(word(f"<w:p>{content}</w:p>"))) == []


def test_what_stands_in_the_run_of_the_first_and_last_words_stays():
    data = word("<w:p><w:r><w:rPr><w:b/></w:rPr><w:tab/><w:t>Word</w:t><w:br/></w:r></w:p>")
    assert "<w:tab/></w:r><w:r><w:rPr><w:b/></w:rPr><w:t" in body(pseudo(read(data)))
    assert "</w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:br/></w:r></w:p>" in body(pseudo(read(data)))


def test_a_run_that_names_its_namespaces_keeps_them():
    own = run("Some ").replace("<w:r>", '<w:r xmlns:v="urn:x">') + '<v:r xmlns:v="' + W + '"><v:t>words</v:t></v:r>'
    assert texts(read(pseudo(read(word(f"<w:p>{own}</w:p>"))))) == ["Śómé wórdś"]


def test_macros_stay():
    macros = TYPES.replace(
        "openxmlformats-officedocument.wordprocessingml.document.main", "ms-word.document.macroEnabled.main"
    )
    body = f'<w:document xmlns:w="{W}"><w:p>{run("Text")}</w:p></w:document>'
    data = zipped({"[Content_Types].xml": macros, "word/vbaProject.bin": bytes(99), "word/document.xml": body})
    assert unzipped(pseudo(read(data)))["word/vbaProject.bin"] == bytes(99)


def test_text_boxes_have_their_own_blocks_in_both_of_their_forms():
    data = word(f"<w:p>{run('Before ')}{BOX}{run('after')}</w:p><w:p>{BOX}</w:p>")
    assert texts(read(data)) == ["Before ", "In a box", "In a box", "after", "In a box", "In a box"]
    assert body(pseudo(read(data))).count("Íń á bóx") == 4
    assert read(pseudo(read(data))).blocks


@pytest.mark.parametrize("namespace", [W, "http://purl.oclc.org/ooxml/wordprocessingml/main"])
@pytest.mark.parametrize("prefix", ["w", "ns0", ""])
def test_the_prefix_is_the_documents_own(namespace, prefix):
    data = word(f"<w:p>{run('Some ')}{run('words', '<w:b/>')}</w:p>", namespace, prefix).replace(b"x", b"x")
    new = read(pseudo(read(data)))
    assert texts(new) == ["Śómé <s1>wórdś</s1>"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "ascii"])
def test_parts_keep_their_encoding(encoding):
    name = encoding.replace("-sig", "")
    source = f'<?xml version="1.0" encoding="{name}"?><w:document xmlns:w="{W}"><w:p>{run("Text")}</w:p></w:document>'
    data = zipped({"[Content_Types].xml": TYPES, "word/document.xml": source.encode(encoding)})
    new = unzipped(read(data).save(["Tëxt 译"]))["word/document.xml"]
    assert docx.oxml.parse_xml(new).xpath("string(.)") == "Tëxt 译"
    assert new.startswith(source.encode(encoding)[:40])


LOOKS = st.sampled_from(["", "<w:b/>", '<w:u w:val="single"/>', '<w:lang w:val="de"/>'])
VOIDS = ["<w:br/>", "<w:tab/>", "<w:drawing/>", '<w:footnoteReference w:id="1"/>', BOX[5:-6]]
AROUND = [
    ("<w:hyperlink>", "</w:hyperlink>"),
    ("<w:ins>", "</w:ins>"),
    ("<w:sdt><w:sdtContent>", "</w:sdtContent></w:sdt>"),
    ("<w:del>", "</w:del>"),
    (code("begin") + code("separate"), code("end")),
    ("<w:r><w:br/><w:t>a</w:t>", "<w:t>b</w:t></w:r>"),  # in which other runs are no runs
    ("", ""),
]
PARAGRAPHS = st.recursive(
    st.builds(run, st.text(st.sampled_from("abé译 "), max_size=5), LOOKS)
    | st.sampled_from([f"<w:r><w:rPr><w:i/></w:rPr>{void}</w:r>" for void in VOIDS])
    | st.sampled_from([f"<w:r>{before}<w:t>c</w:t>{after}</w:r>" for before in VOIDS for after in VOIDS])
    | st.sampled_from(["<w:bookmarkStart/>", code("begin"), code("separate"), code("end")]),
    lambda inner: st.builds(
        lambda around, parts: "".join([around[0], *parts, around[1]]),
        st.sampled_from(AROUND),
        st.lists(inner, max_size=6),
    ),
    max_leaves=15,
)


def elements(document):
    """How many there are of each, but for those that runs are made of."""
    return Counter(one.tag for one in document.iter() if not re.search(r"}(?:r|rPr|t|b|i|u|lang)$", one.tag))


@given(PARAGRAPHS)
@settings(max_examples=300, deadline=None)
def test_no_shape_of_a_paragraph_loses_a_character_or_an_element(content):
    data = word(f"<w:p><w:pPr/>{content}</w:p>")
    file = read(data)
    assert file.save(texts(file)) == data
    new = pseudo(file)
    before, after = docx.oxml.parse_xml(body(data)), docx.oxml.parse_xml(body(new))
    assert after.xpath("string(.)").translate(ACCENTS) == before.xpath("string(.)").translate(ACCENTS)
    assert elements(before) == elements(after)
    assert [text.translate(ACCENTS) for text in texts(file)] == [text.translate(ACCENTS) for text in texts(read(new))]


# ---------------------------------------------------------------------------------------------------------------------
# PowerPoint


def test_slides_are_read_in_the_order_in_which_they_are_shown():
    assert texts(read(MADE["pptx"], "pptx")) == [
        "The last slide",
        "A title",
        "First point <s1>in bold</s1>",
        "Second point",
        "Left cell",
        "Right cell",
        "A chart title",
        "Sales",
        "North",
        "South",
        "A note to the speaker",
        "generated using python-pptx",
    ]


def test_another_reader_sees_the_new_words_on_the_slides():
    slide = pptx.Presentation(io.BytesIO(pseudo(read(MADE["pptx"], "pptx")))).slides[1]
    runs = slide.placeholders[1].text_frame.paragraphs[0].runs
    assert [(one.text, one.font.bold) for one in runs] == [("Fírśt póíńt ", None), ("íń bóld", True)]
    assert slide.notes_slide.notes_text_frame.text == "Á ńóté tó thé śpéákér"
    chart = next(shape.chart for shape in slide.shapes if shape.has_chart)
    assert chart.chart_title.text_frame.text == "Á ćhárt títlé"
    assert [*chart.plots[0].categories] == ["Ńórth", "Śóúth"]


def test_prompts_of_placeholders_are_no_text_and_other_words_of_a_layout_are():
    def fixed(source):
        return re.sub("<p:ph[^>]*>", "", source, count=1)

    assert not any("Click" in text for text in texts(read(MADE["pptx"], "pptx")))
    assert "Click to edit Master title style" in texts(read(changed(MADE["pptx"], slideLayout1=fixed), "pptx"))


def test_smart_art_is_read_in_both_of_its_parts():
    a = "http://schemas.openxmlformats.org/drawingml/2006/main"
    art = f'<x xmlns:a="{a}"><a:p><a:r><a:t>A step</a:t></a:r><a:endParaRPr/></a:p></x>'
    override = '<Override PartName="/ppt/diagrams/{0}1.xml" ContentType="application/vnd.{1}+xml"/>'
    types = override.format("data", "openxmlformats-officedocument.drawingml.diagramData")
    types += override.format("drawing", "ms-office.drawingml.diagramDrawing") + "</Types>"
    parts = unzipped(MADE["pptx"])
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(b"</Types>", types.encode())
    data = zipped(parts | {"ppt/diagrams/data1.xml": art, "ppt/diagrams/drawing1.xml": art})
    assert texts(read(data, "pptx")).count("A step") == 2
    assert (
        "<a:t>Á śtép</a:t></a:r><a:endParaRPr/>"
        in unzipped(pseudo(read(data, "pptx")))["ppt/diagrams/data1.xml"].decode()
    )


# ---------------------------------------------------------------------------------------------------------------------
# Excel


def test_excel_reads_cells_headers_comments_and_charts_but_no_names():
    assert texts(read(MADE["xlsx"], "xlsx")) == [
        "A plain cell",
        "The north",
        "some <s1>bold</s1> words",
        "The south",
        "Two\nlines",
        "The R<s1></s1>D report",
        "Page <s1></s1> of <s2></s2>",
        "Draft",
        "A chart title",
        "A remark",
    ]


def test_another_reader_sees_the_new_words_in_the_sheet():
    new = read(MADE["xlsx"], "xlsx")
    book = openpyxl.load_workbook(io.BytesIO(pseudo(new)), rich_text=True)
    sheet = book["Data"]
    assert [cell.value for cell in sheet[1][:2]] == ["Region", "Amount in euros"]
    assert [column.name for column in sheet.tables["Regions"].tableColumns] == ["Region", "Amount in euros"]
    assert sheet["A2"].value == "Thé ńórth"
    assert sheet["D2"].value[1].font.b
    assert str(sheet["D2"].value) == "śómé bóld wórdś"
    assert sheet["D3"].value == '=IF(B2>1,"many","few")'
    assert sheet["D4"].value == "Twó\nlíńéś"
    assert sheet["D1"].comment.text == "Á rémárk"
    assert sheet.oddHeader.center.text == "Págé &P óf &N"
    assert sheet.oddHeader.center.font == "Arial,Bold"
    assert sheet.oddHeader.left.text == "Thé R&&D répórt"


def test_shared_strings_are_translated_once_but_those_that_name_columns():
    assert texts(read(SHARED, "xlsx")) == [
        "Twice used",
        "Plain and <s1>bold</s1><s2> words</s2>",  # whose font is that of the cell, but spelt out
        "Left foot",
        "Right <s1></s1>",
        "In a text box",
    ]
    new = pseudo(read(SHARED, "xlsx"))
    sheet = openpyxl.load_workbook(io.BytesIO(new), rich_text=True)["Data"]
    assert [sheet["A1"].value, sheet["A2"].value] == ["Twíćé úśéd"] * 2
    assert [sheet["C1"].value, sheet["D1"].value, sheet["C2"].value] == ["Name", "A & B", "name"]
    assert "Íń á téxt bóx" in unzipped(new)["xl/drawings/drawing1.xml"].decode()


def test_an_ampersand_in_a_header_is_no_code():
    file = read(MADE["xlsx"], "xlsx")
    new = file.save([text.replace("Draft", "Q&A") for text in texts(file)])
    assert "&amp;RQ&amp;&amp;A<" in unzipped(new)["xl/worksheets/sheet1.xml"].decode()


def test_inline_strings_and_readings_in_kana():
    def inline(source):
        cell = '<c t="inlineStr"><is><t>Inline</t><rPh sb="0" eb="1"><t>かな</t></rPh></is></c>'
        return source.replace("</row>", f"{cell}</row>", 1)

    data = changed(MADE["xlsx"], sheet1=inline)
    assert "Inline" in texts(read(data, "xlsx"))
    assert (
        '<is><t xml:space="preserve">Íńlíńé</t><rPh'
        in unzipped(pseudo(read(data, "xlsx")))["xl/worksheets/sheet1.xml"].decode()
    )


# ---------------------------------------------------------------------------------------------------------------------
# bad files


DOCTYPE = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (MADE["xlsx"], "docx", "This is a .xlsx named .docx"),
        (MADE["docx"], "pptx", "This is a .docx named .pptx"),
        (zipped({"a.txt": "x"}), "docx", "This is a zip named .docx"),
        (zipped({"mimetype": "application/epub+zip"}), "docx", "an e-book"),
        (zipped({"[Content_Types].xml": TYPES}), "docx", "no part word/document.xml"),
        (zipped({"[Content_Types].xml": "<Types/>"}), "docx", "no main part"),
        (changed(MADE["docx"], document=lambda source: source[:-20]), "docx", "word/document.xml is damaged: "),
        (changed(MADE["docx"], document=lambda source: DOCTYPE + source.partition("?>")[2]), "docx", "has a DOCTYPE"),
        (changed(SHARED, sharedStrings=lambda source: DOCTYPE + source), "xlsx", "has a DOCTYPE"),
        (word("<w:p>" * 100_000 + "</w:p>" * 100_000), "docx", "is nested 257 deep"),
        (MADE["docx"][:-100], "docx", "cut off"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(data, kind, said):
    with cpu_at_most(2):
        with pytest.raises(BadDocument) as caught:
            read(data, kind)
        assert said in str(caught.value)


def test_what_is_nested_deep_but_not_too_deep_is_read():
    data = word("<w:p>" + "<w:hyperlink>" * 250 + run("Deep ") + "</w:hyperlink>" * 250 + run("down") + "</w:p>")
    assert pseudo(read(data)) != data


def test_time_is_in_proportion_to_size():
    paragraph = "<w:p>" + "".join(run(f"some words and more {n} ", "<w:b/>" * (n % 2)) for n in range(4)) + "</w:p>"

    def seconds(content):
        data = word(content)
        started = time.process_time()
        pseudo(read(data))
        return time.process_time() - started

    assert seconds(paragraph * 8_000) < 20 * seconds(paragraph * 800)
    assert seconds(f"<w:p>{''.join(run(f'a{n}', '<w:b/>' * (n % 2)) for n in range(20_000))}</w:p>") < 5
    assert seconds(f"<w:p>{code('begin') * 20_000}{run('x')}{code('end') * 20_000}</w:p>") < 5
