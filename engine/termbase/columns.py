"""What the columns of a table of terms mean, and so its rows as terms. Knows no file: rows of cells come in."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from engine.errors import GlossaryError
from engine.termbase.entries import MOST_LABEL_CHARACTERS, Imported, Problem, Row, language_of, pair_of, shown, sound
from engine.types import Term

SAMPLE_ROWS = 100  # that columns without names are judged by
MOST_COLUMNS = 64  # EU's termbase has 24 languages; what a header names beyond is not looked at
MOST_ROLE_WORDS = 3  # of what a column is, before its language: "Source term (English)"
HEADER_ROWS = 5  # among which the header is looked for: a title may stand above it

Cells = tuple[int, Sequence[str]]  # a row as a person counts, and its cells

_WORD = re.compile(r"[^\W_]+")
_ROW_NUMBER = re.compile(r"([0-9]{1,7})[.)]?")
_NAMES = {
    "source": """source src sourcestring sourceterm sourcetext sourceword term original phrase
        源 原文 源文 源文本 源术语 术语 原词 词条 原語 用語 원문 용어 quelle quelltext quellbegriff begriff ausgangstext
        terme termesource término origen términoorigen términodeorigen termine origine terminediorigine termo origem
        termodeorigem источник термин bron źródło zdroj kaynak оригінал джерело المصدر مصدر مبدأ מקור स्रोत nguồn""",
    "target": """target tgt trg dst dest targetstring targetterm targettext targetword translation translated
        translatedterm translatedtext 译 译文 目标 目标文本 目标术语 翻译 译词 译名 譯文 訳 訳文 訳語 번역 번역문 번역어
        ziel zieltext zielbegriff übersetzung cible termecible traduction traducción destino términodestino
        términodedestino traduzione destinazione terminedidestinazione tradução termodedestino перевод vertaling doel
        cel tłumaczenie cíl překlad hedef çeviri переклад الهدف هدف الترجمة ترجمة مقصد ترجمه יעד תרגום अनुवाद bảndịch
        terjemahan""",
    "case": """case casesensitive matchcase exactcase 区分大小写 大小写 大小写敏感 大文字小文字 großkleinschreibung
        casse respecterlacasse mayúsculas регистр""",
    "note": """note notes comment comments remark remarks description definition 备注 注释 说明 描述 定义 備考 비고 설명
        anmerkung bemerkung kommentar beschreibung remarque commentaire nota notas comentario descripción descrizione
        descrição примечание описание комментарий""",
    "source_label": """sourcelang sourcelanguage sourcelng srclang srclng 源语言 源语 原文语言 quellsprache
        ausgangssprache languesource idiomaorigen""",
    "target_label": """targetlang targetlanguage targetlng tgtlang tgtlng dstlang 目标语言 目标语 译文语言 zielsprache
        languecible idiomadestino""",
}
_A_TERM = "term terms begriff benennung terme término termine termo термин 术语 術語 用語 용어"  # beside a language
_YES = "yes y true 1 x ✓ ✔ case-sensitive sensitive exact 是 对 区分 区分大小写 はい 예 ja wahr oui vrai sí si да"
_NO = "no n false 0 - case-insensitive insensitive permissive 否 不 不区分 不区分大小写 いいえ 아니요 nein non faux нет"
_JOINTS = " ()[]_-:/"  # between the words of a label
_ID = "id"  # above a column, more often the number of a row than Indonesian


def _plain(label: str) -> str:
    """A label without letter case, width, spaces and signs: "Source-Term" and "source_term" are one."""
    return "".join(_WORD.findall(unicodedata.normalize("NFKC", label).casefold()))


_ROLES = {_plain(name): role for role, names in _NAMES.items() for name in names.split()}
_TERM_WORDS = frozenset(map(_plain, _A_TERM.split()))
_REGION = re.compile(  # behind a language: "(Germany)", memoQ's "_Germany"
    r"\s*[(\[][^()\[\]]*[)\]]$|(?<=[^\W_]{4})_[^\W_]+(?:_[^\W_]+)*$"
)
_FLAGS = {"": False, "-": False, "✓": True, "✔": True}
_FLAGS |= {
    _plain(word): value for words, value in ((_YES, True), (_NO, False)) for word in words.split() if _plain(word)
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row what stands; -1 for what the table lacks. Languages are our codes, where a header names them."""

    width: int
    source: int
    target: int
    case: int = -1
    note: int = -1
    source_label: int = -1  # the columns that name the languages row by row
    target_label: int = -1
    source_lang: str = ""
    target_lang: str = ""


class Pair:
    """The two languages that rows must be of: those that are wanted, else what the first row that says so says."""

    def __init__(self, source_lang: str, target_lang: str) -> None:
        self._meant = [source_lang, target_lang]
        self.said = ["", ""]  # by the file, of the rows that are taken

    def refusal(self, row: int, labels: Sequence[str]) -> Problem | None:
        """None where the row's languages, as the file calls them, are those meant; an empty label fits all. What was
        left open before is then meant from here on."""
        codes = [language_of(label) if label.strip() else "" for label in labels]
        for label, code, meant in zip(labels, codes, self._meant, strict=True):
            if label.strip() and not code:
                return Problem(row, "language", f"{shown(label)} is no language that is spoken here.")
            if code and meant and code != meant:
                return Problem(
                    row, "other_language", f"The row is in {code}, not {meant}; choose that pair to have it."
                )
        for side, code in enumerate(codes):
            self._meant[side] = self._meant[side] or code
            self.said[side] = self.said[side] or code
        return None


def imported(rows: Iterable[Cells | Problem], source_lang: str, target_lang: str) -> Imported:
    """The terms of a table; its header is found, where it has one. Raises `GlossaryError`."""
    following = (row for row in rows if isinstance(row, Problem) or any(map(str.strip, row[1])))
    sample = list(islice(following, SAMPLE_ROWS))
    table = [row for row in sample if not isinstance(row, Problem)]
    columns = None
    for place, (number, cells) in enumerate(table[:HEADER_ROWS]):
        following_row = [cells for _, cells in table[place + 1 : place + 2]]
        if all(map(_ends_in_languages, [cells, *following_row])) and not any(any(_meaning(cell)) for cell in cells[:2]):
            break  # a row of DeepL's, no header
        if columns := named(cells, source_lang, target_lang):
            sample = [_above(row, number) for row in sample if _number(row) != number]
            break
        if sum(map(bool, map(str.strip, cells))) > 1:  # no title, so the header would stand above it
            break
    if columns is None:
        columns = _unnamed([cells for _, cells in table])
    pair = Pair(source_lang, target_lang)
    terms, problems = sound(_terms(chain(sample, following), columns, pair))
    return Imported(terms, problems, *pair.said)


def named(cells: Sequence[str], source_lang: str = "", target_lang: str = "") -> Columns | None:
    """The columns as these cells name them, or None where they are no header: they name no source, or no target.

    Languages name columns too; of more than two the wanted ones are meant. Raises `GlossaryError` where they are not
    among them.
    """
    width = len(cells)
    cells = cells[:MOST_COLUMNS]
    roles: dict[str, int] = {}
    languages: dict[int, str] = {}
    for place, cell in enumerate(cells):
        role, language = _meaning(cell)
        if role and role not in roles:
            roles[role] = place
        if language and (not role or roles[role] == place):
            languages[place] = language
    if not {"source", "target"} & roles.keys() and {"source_label", "target_label"} <= roles.keys():
        roles = {"source": roles.pop("source_label"), "target": roles.pop("target_label"), **roles}
    alone = {place: code for place, code in languages.items() if place not in roles.values()}
    if len(alone) > 2 and min(alone) == 0 and _plain(cells[0]) == _ID and _ID not in (source_lang, target_lang):
        del alone[0]
    if "source" not in roles and "target" not in roles:
        if len(set(alone.values())) < 2:
            return None
        pair = pair_of(alone.values(), source_lang, target_lang)
        for role, code in zip(("source", "target"), pair, strict=True):
            roles[role] = next(place for place, language in alone.items() if language == code)
    elif missing := {"source", "target"} - roles.keys():
        if not alone:
            return None
        roles |= _filled_in(missing.pop(), alone, source_lang, target_lang)
    codes = [languages.get(roles[role], "") for role in ("source", "target")]
    return Columns(width, **roles, source_lang=codes[0], target_lang=codes[1])


def _filled_in(missing: str, languages: dict[int, str], source_lang: str, target_lang: str) -> dict[str, int]:
    """The column for the missing role, by its language; of several the wanted one, or both that are wanted."""
    places = {code: place for place, code in reversed(languages.items())}
    if len(places) == 1:
        return {missing: min(languages)}
    if source_lang in places and target_lang in places:
        return {"source": places[source_lang], "target": places[target_lang]}
    if (wanted := source_lang if missing == "source" else target_lang) in places:
        return {missing: places[wanted]}
    raise GlossaryError(
        f"Beside the column of the {'target' if missing == 'source' else 'source'} the file has columns in "
        f"{', '.join(reversed(places))}; say which of them is meant as the {missing} language."
    )


def _meaning(label: str) -> tuple[str, str]:
    """(role, language) of a column: "source", "de" also of "Term (German)", or both in "Source (German)"."""
    if role := _ROLES.get(_plain(label)):
        return role, ""
    if language := language_of(label):
        return "", language
    label = label[:MOST_LABEL_CHARACTERS]
    words = _WORD.findall(label)
    if len(words) < 2:
        return "", ""
    if _plain(words[0]) in _TERM_WORDS:
        return "", language_of(label[label.index(words[0]) + len(words[0]) :].strip(_JOINTS))
    if _plain(words[-1]) in _TERM_WORDS:
        return "", language_of(label[: label.rindex(words[-1])].strip(_JOINTS))
    for word in islice(_WORD.finditer(label), MOST_ROLE_WORDS):
        role = _ROLES.get(_plain(label[: word.end()]), "")
        if role in ("source", "target") and (language := language_of(label[word.end() :].strip(_JOINTS))):
            return role, language
    return "", language_of(_REGION.sub("", label))


def _unnamed(rows: Sequence[Sequence[str]]) -> Columns:
    """Source, target, and then what the sampled rows hold: DeepL's two languages, a case, a note. What stands before
    is passed over where it is empty or numbers the rows."""
    widths = Counter(len(cells) for cells in rows)
    width = max(widths, key=lambda size: (widths[size], size), default=0)
    if rows and width < 2:
        raise GlossaryError(
            "The file has one column; a glossary needs two, the term and its translation, parted by a comma, a "
            "semicolon or a tab."
        )
    if 2 * sum(map(_ends_in_languages, rows)) > len(rows):
        return Columns(width, 0, 1, source_label=2, target_label=3)
    whole = [cells for cells in rows if len(cells) == width]
    first = 0
    while first + 2 < width and _is_aside([cells[first : first + 3] for cells in whole]):
        first += 1
    source, target, third, fourth = (place if place < width else -1 for place in range(first, first + 4))
    flags = [cells[third] for cells in whole if third > 0]
    if any(map(str.strip, flags)) and all(_plain(cell) in _FLAGS for cell in flags):
        return Columns(width, source, target, case=third, note=fourth)
    return Columns(width, source, target, note=third)


def _is_aside(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of three columns is empty, or numbers rows whose other two are full; a header may lack one."""
    if not any(cells[0].strip() for cells in rows):
        return True
    numbers = [int(found[1]) for cells in rows[1:] if (found := _ROW_NUMBER.fullmatch(cells[0].strip()))]
    rising = all(one < next_one for one, next_one in pairwise(numbers))
    return len(numbers) == len(rows) - 1 > 1 and rising and all(all(map(str.strip, cells)) for cells in rows)


def _ends_in_languages(cells: Sequence[str]) -> bool:
    """Whether it may be a row as DeepL takes them: source, target, and the language of each."""
    return len(cells) == 4 and all(map(language_of, cells[2:]))


def _terms(rows: Iterable[Cells | Problem], columns: Columns, pair: Pair) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, Problem):
            yield row
        else:
            yield from terms_of(*row, columns, pair)


def terms_of(number: int, cells: Sequence[str], columns: Columns, pair: Pair) -> Iterator[Row]:
    """A row's term, or what is wrong with the row; a case that says neither yes nor no is told besides. None of an
    empty row."""
    if len(cells) > columns.width and any(map(str.strip, cells[columns.width :])):
        yield Problem(
            number,
            "columns",
            f"The row has {len(cells)} columns and the table {columns.width}; put a cell that holds a delimiter in "
            "quotation marks.",
        )
        return
    if len(cells) <= max(columns.source, columns.target):
        yield Problem(number, "columns", f"The row has {_columns(len(cells))} and the table {columns.width}.")
        return

    def cell(place: int) -> str:
        return cells[place] if 0 <= place < len(cells) else ""

    if not any(cell(place).strip() for place in (columns.source, columns.target, columns.note)):
        return  # an empty row, whatever was filled down in the columns beside

    labels = (cell(columns.source_label) or columns.source_lang, cell(columns.target_label) or columns.target_lang)
    if any(labels) and (refusal := pair.refusal(number, labels)):
        yield refusal
        return
    flag = cell(columns.case).strip()
    case = _FLAGS.get(flag if flag in _FLAGS else _plain(flag))
    if case is None:
        yield Problem(number, "case", f"The case {shown(flag)} is neither yes nor no; it is taken as no.")
    yield number, Term(cells[columns.source], cells[columns.target], bool(case), cell(columns.note))


def _above(row: Cells | Problem, header: int) -> Cells | Problem:
    number = _number(row)
    return (
        row if number > header else Problem(number, "above_header", f"The row stands above the header, row {header}.")
    )


def _number(row: Cells | Problem) -> int:
    return row.row if isinstance(row, Problem) else row[0]


def _columns(number: int) -> str:
    return "1 column" if number == 1 else f"{number} columns"
