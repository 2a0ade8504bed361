"""Files of rows: CSV and TSV in any dialect, Excel's XLSX. Knows cells and rows; `columns` says what they mean."""

import csv
import datetime
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from engine.documents.package import Package, unpack
from engine.errors import GlossaryError, GlossaryTooLarge
from engine.termbase.columns import MOST_COLUMNS, Cells, imported, named
from engine.termbase.entries import MAX_TERMS, Imported, Problem, shown

MOST_LINES = 500_000  # ends of lines, of which CR LF are two
MOST_LINES_IN_CELL = 20  # a quotation mark that no other closes within so many is a stray one
SAMPLE_LINES = 200  # that the delimiter is judged by
SAMPLE_CHARACTERS = 100_000
EXCEL_ROWS = 1_048_576  # a sheet has no more
MOST_ROW_CHARACTERS = 100_000  # below 131,072, at which the csv module gives up a cell
MOST_XML_MB = 100  # of all XML in a workbook, unpacked; 50,000 terms have 20
MOST_XML_TAGS = 2_000_000  # likewise; 50,000 terms with case and note have 1,000,000

_MB = 1_000_000
_DELIMITERS = "\t,;|，"  # the likelier first, where two fit a file equally well
_SEPARATOR_LINE = re.compile(r'"?sep=(\t|[^\w\s"])"?\s*', re.IGNORECASE)  # Excel's own, which is no row to it
_UNCLOSED = "\0unclosed"  # put after a row, it is swallowed by a cell that does not end
_GUARDED = re.compile("'+[=+\\-@＝＋－＠]")
_FORMULA = re.compile("'*[=+\\-@＝＋－＠]")
_ASIDE = re.compile(r"^docProps/|/styles\.xml$|/(theme|drawings|charts|tables|pivot\w+|externalLinks)/", re.IGNORECASE)
_CELL_ERRORS = frozenset(  # as Excel writes them; what it cannot compute is no term
    "#REF! #N/A #NAME? #VALUE! #DIV/0! #NULL! #NUM! #SPILL! #CALC! #FIELD! #BLOCKED! #CONNECT!".split()
)
_EMPTY_CELL = re.compile(rb'<c r="[A-Z]{1,3}[0-9]{1,7}"(?: s="[0-9]{1,6}")?/>')  # only formatted
_EMPTY_ROW = re.compile(rb'<row r="[0-9]{1,7}"[^<>]*(?:/>|></row>)')
_CELLS_END = b"</sheetData>"
_OPENPYXL_ERRORS = (  # what it raises for a damaged workbook; it has no class of its own for that
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,  # of both XML parsers
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def read_delimited(text: str, suffix: str, source_lang: str, target_lang: str) -> Imported:
    """The terms of a CSV or TSV, with what `guarded` put before a cell taken off again. Raises `GlossaryError`."""
    breaks = text.count("\n") + text.count("\r")
    if breaks > MOST_LINES:
        raise GlossaryTooLarge(f"The file has some {breaks:,} lines; {MAX_TERMS:,} terms are the most for a glossary.")
    lines = list(io.StringIO(text, newline=""))
    if lines and (separator := _SEPARATOR_LINE.fullmatch(lines[0])):
        return imported(_records(lines[1:], separator[1]), source_lang, target_lang)
    return imported(_records(lines, _delimiter(lines, suffix)), source_lang, target_lang)


def read_xlsx(data: bytes, source_lang: str, target_lang: str) -> Imported:
    """The terms of the first sheet that is shown and has two cells in a row. A formula is the text that it is typed as;
    nothing is computed.

    Raises `GlossaryError`, and `BadDocument` for what is no zip within bounds.
    """
    safe = _checked(unpack(data, ".xlsx"))
    try:
        rows, passed_over = _sheet(safe)
    except _OPENPYXL_ERRORS as error:
        raise GlossaryError(
            f"The workbook is damaged ({type(error).__name__}: {str(error)[:100]}); open it in Excel, save it anew and "
            "send that."
        ) from error
    width = max((len(cells) for _, cells in rows), default=0)
    padded = (_sound(number, [*cells, *[""] * (width - len(cells))]) for number, cells in rows)
    found = imported(padded, source_lang, target_lang)
    if not passed_over:
        return found
    what = "Of the workbook one sheet is read; these have cells too, and are left out: " + ", ".join(passed_over)
    return replace(found, problems=(Problem(0, "other_sheets", f"{what}. Send each by itself."), *found.problems))


def _sound(number: int, cells: Sequence[str]) -> Cells | Problem:
    if wrong := _CELL_ERRORS.intersection(cells):
        return Problem(number, "cell_error", f"A cell holds the error {min(wrong)}; mend it in the spreadsheet.")
    return number, cells


def guarded(cell: str) -> str:
    """The cell as text to a spreadsheet: what would start a formula there has an apostrophe put before it.

    https://owasp.org/www-community/attacks/CSV_Injection. What starts so with apostrophes of its own gets one more.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if _GUARDED.match(cell) else cell


def _delimiter(lines: Sequence[str], suffix: str) -> str:
    """The one that parts the first lines into the most even rows; one under which they start with a header, first."""
    sample = "".join(lines[:SAMPLE_LINES])[:SAMPLE_CHARACTERS]
    lines = list(io.StringIO(sample, newline=""))

    def fitness(delimiter: str) -> tuple[bool, bool, float, bool]:
        rows = [
            cells for record in _records(lines, delimiter) if not isinstance(record, Problem) and (cells := record[1])
        ]
        width, even = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        header = bool(rows) and _is_header(rows[0])
        tabs = delimiter == "\t" and suffix in (".tsv", ".tab") and width > 1
        return header, tabs, even / len(rows) if width > 1 else 0.0, width == 2

    return max(_DELIMITERS, key=fitness)


def _is_header(cells: Sequence[str]) -> bool:
    try:
        return named(cells) is not None
    except GlossaryError:  # of more than two languages: a header it is
        return True


def _records(lines: Sequence[str], delimiter: str) -> Iterator[Cells | Problem]:
    """Rows of cells. A quotation mark that nothing closes costs its own row, and none of the others."""
    at = number = 0
    while at < len(lines):
        number += 1
        if len(lines[at]) > MOST_ROW_CHARACTERS:
            yield Problem(
                number, "too_long", f"The row has {len(lines[at]):,} characters; {MOST_ROW_CHARACTERS:,} are the most."
            )
            at += 1
            continue
        ahead = lines[at : at + MOST_LINES_IN_CELL] if '"' in lines[at] else lines[at : at + 1]
        if sum(map(len, ahead)) > MOST_ROW_CHARACTERS:
            ahead = ahead[:1]
        cells, taken = _record(ahead, delimiter)
        if cells and cells[-1].endswith(_UNCLOSED):
            yield Problem(
                number, "quotes", "The row has a quotation mark that is never closed; close it, or write it twice."
            )
        else:
            yield number, [_unguarded(cell) for cell in cells]
        at += taken


def _record(lines: Sequence[str], delimiter: str) -> tuple[list[str], int]:
    """(cells, lines taken) of the first record. Over several lines it must be strictly well formed; where it is not,
    the first line is read alone, as Excel would, and ends with `_UNCLOSED` if a quotation mark is open there."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return next(csv.reader([lines[0], _UNCLOSED], delimiter=delimiter)), 1


def _checked(package: Package) -> bytes:
    """The workbook's cells as a new zip, once they are known to be within bounds and to declare nothing.

    What does not bear on a cell's text is left behind: openpyxl gives up at a style or a rule that it does not know.
    """
    names = [name for name in package.members if name.lower().endswith((".xml", ".rels")) and not _ASIDE.search(name)]
    if not any(name.lower().startswith("xl/") for name in names):
        raise GlossaryError("This is a zip, but no Excel workbook; send the .xlsx, or the file inside by itself.")
    size = sum(package.members[name].size for name in names)
    if size > MOST_XML_MB * _MB:
        raise GlossaryTooLarge(f"The workbook unpacks to {size / _MB:,.0f} MB of XML; {MOST_XML_MB} MB is the most.")
    tags = 0
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as safe:
        for name in names:
            content = package.read(name)
            if b"<!DOCTYPE" in content or b"\0" in content:
                raise GlossaryError(
                    f"The part {name} has a DOCTYPE, or is no UTF-8; no Excel writes such. Save it anew."
                )
            if (end := content.find(_CELLS_END)) >= 0:
                content = content[: end + len(_CELLS_END)] + b"</worksheet>"
                content = _EMPTY_ROW.sub(b"", _EMPTY_CELL.sub(b"", content))
            tags += content.count(b"<")
            safe.writestr(name, content)
    if tags > MOST_XML_TAGS:
        raise GlossaryTooLarge(
            f"The workbook has some {tags // 4:,} cells, with those that are empty and only formatted; {MAX_TERMS:,} "
            "terms are the most. Copy the columns of terms alone into a new one."
        )
    return out.getvalue()


def _sheet(data: bytes) -> tuple[list[Cells], list[str]]:
    """The rows of the sheet that is read, and the names of others that are shown and not empty.

    That sheet is the first that is shown and has two cells in a row: a cover has one. Else the first that has any.
    """
    from openpyxl import load_workbook  # here, since it costs a start 0.1 s and few ever need it

    book = load_workbook(io.BytesIO(data), read_only=True, keep_links=False)
    try:
        visible = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
        sheets = [(sheet.title, rows) for sheet in visible if (rows := list(_filled_rows(sheet)))]
    finally:
        book.close()
    if not sheets:
        return [], []
    read = next((place for place, (_, rows) in enumerate(sheets) if any(_has_two(cells) for _, cells in rows)), 0)
    others = [shown(title) for place, (title, _) in enumerate(sheets) if place != read]
    return sheets[read][1], others


def _filled_rows(sheet: Any) -> Iterator[Cells]:
    """Without the empty cells at their ends."""
    for number, values in enumerate(sheet.iter_rows(1, EXCEL_ROWS, 1, MOST_COLUMNS, values_only=True), 1):
        if values.count(None) == MOST_COLUMNS:
            continue
        filled = MOST_COLUMNS
        while values[filled - 1] is None:
            filled -= 1
        yield number, [_text(value) for value in values[:filled]]


def _has_two(cells: Sequence[str]) -> bool:
    return sum(map(bool, map(str.strip, cells))) > 1


def _text(value: object) -> str:
    """A cell's value as Excel keeps it, whatever its format shows: a date is a number of days."""
    if value is None:
        return ""
    if hasattr(value, "ref") and hasattr(value, "text"):  # openpyxl's formula for several cells
        return str(value.text)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
