"""Gettext's catalogues, PO and POT: each msgid is translated into its msgstr, all else stays byte for byte.

What is translated already stays, unless asked for. A fuzzy entry is translated anew and loses its flag: to gettext it
is a guess, which no program shows. The header stays, but for its Language where the target is named; so do obsolete
entries, and those with octal or hexadecimal escapes, which gettext itself never writes.

A translation that is the msgid again (OK → OK) leaves the entry as it was: what no program can tell from it, unless it
is one of several plural forms. Knows nothing of how many forms a language has: it fills those that are there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from engine.documents.file import Options
from engine.errors import BadDocument
from engine.markup import marks, plain
from engine.markup.spans import cut
from engine.types import Block, Document

_NO_OPTIONS = Options()
_TOKEN = re.compile(
    r"""
      (?P<space>   [\s\ufeff]++ )
    | (?P<comment> \#[^\r\n]*+ )
    | (?P<string>  "(?:[^"\\\r\n]|\\[^\r\n])*+" )
    | (?P<keyword> (?:msgctxt|msgid_plural|msgid|msgstr|domain)(?![\w-]) (?:\[\s{0,9}\d{1,9}\s{0,9}\])? )
    """,
    re.VERBOSE,
)
_HEADER = re.compile(r'(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n?|\n)|\ufeff)*msgid\s+""\s+msgstr\s+(?:"(?:[^"\\\r\n]|\\.)*"\s*)+')
_LANGUAGE = re.compile(r'("(?:[^"\\]*\\n)?Language:)[^"\\]*(\\n)')
_REGIONS = {"zh": "zh_CN", "zh-Hant": "zh_TW", "yue": "zh_HK"}  # gettext names these by where they are spoken
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", '"': '"', "\\": "\\"}
_ESCAPED = str.maketrans({character: f"\\{letter}" for letter, character in _ESCAPES.items()} | {"\0": None})
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NOTE = re.compile(r"^[ \t]*#([,|])([^\r\n]*)(\r\n|\r|\n)", re.MULTILINE)  # flags, and the msgid that a guess is for


@dataclass(slots=True)
class _Field:
    """A keyword's strings, which are read as one."""

    start: int = 0
    end: int = 0
    strings: list[str] = field(default_factory=list)

    def add(self, string: re.Match[str]) -> None:
        if not self.strings:
            self.start = string.start()
        self.end = string.end()
        self.strings.append(string.group()[1:-1])

    def text(self) -> str | None:
        """None where it has an escape that gettext does not write."""
        escaped = "".join(self.strings)
        if not all(found[1] in _ESCAPES for found in _ESCAPE.finditer(escaped)):
            return None
        return _ESCAPE.sub(lambda found: _ESCAPES[found[1]], escaped)


@dataclass(slots=True)
class _Entry:
    fields: dict[str, _Field] = field(default_factory=dict)  # by their keywords
    notes: int | None = None  # where its flags begin
    fuzzy: bool = False

    def forms(self) -> list[_Field]:
        return [strings for keyword, strings in self.fields.items() if keyword.startswith("msgstr")]

    def note(self, comment: re.Match[str]) -> None:
        text = comment.group()
        if text.startswith(("#,", "#|")):
            self.notes = comment.start() if self.notes is None else self.notes
            self.fuzzy |= text.startswith("#,") and "fuzzy" in re.split(r"[,\s]+", text)


def parse_po(source: str, options: Options = _NO_OPTIONS) -> Document:
    """A block for each msgstr that lacks its translation; with `retranslate`, for each. Raises `BadDocument`."""
    if options.target:
        language = _REGIONS.get(options.target, options.target.replace("-", "_"))
        if header := _HEADER.match(source):
            source = _LANGUAGE.sub(rf"\g<1> {language}\g<2>", header[0], count=1) + source[header.end() :]
    form = "po-crlf" if "\r\n" in source else "po"
    entries = [*_entries(source)]
    if not entries:
        raise BadDocument("The file holds no msgid: it is no PO catalogue, or an empty one. Export it again.")
    return cut(source, (placed for entry in entries for placed in _placed(source, entry, form, options.retranslate)))


def write_po(block: Block, text: str) -> str:
    if text == block.text:
        return block.source
    newline = "\r\n" if block.form == "po-crlf" else "\n"
    msgstr = marks.restore(block, _with_edges_of(block.text, text), str)
    lines = [f'"{line.translate(_ESCAPED)}"' for line in _LINE.findall(msgstr)] or ['""']
    strings = newline.join(['""', *lines] if len(lines) > 1 else lines)  # after each \n, as gettext does
    return _NOTE.sub(_trusted, block.source[: _strings_start(block.source)]) + strings


def _entries(source: str) -> Iterator[_Entry]:
    """Those that have a msgid and its msgstr, obsolete ones left out."""
    entry, strings = _Entry(), None
    for token in _tokens(source):
        text = token.group()
        if token.lastgroup == "string":
            if strings is None:
                raise _damaged(source, token.start(), f"the string {text[:40]} belongs to no keyword")
            strings.add(token)
            continue
        keyword = text.split("[")[0]
        if entry.forms() and keyword != "msgstr":
            yield _checked(source, token.start(), entry)
            entry = _Entry()
        if token.lastgroup == "comment":
            entry, strings = (_Entry() if text.startswith("#~") else entry), None
            entry.note(token)
        elif text in entry.fields:
            raise _damaged(source, token.start(), f"{text} comes a second time")
        else:
            strings = _Field()
            if keyword != "domain":
                entry.fields[text] = strings
    if entry.fields:
        yield _checked(source, len(source), entry)


def _tokens(source: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            raise _damaged(
                source, at, f"{source[at : at + 40].splitlines()[0]!r} is neither a keyword nor a whole string"
            )
        if token.lastgroup != "space":
            yield token
        at = token.end()


def _checked(source: str, at: int, entry: _Entry) -> _Entry:
    if "msgid" not in entry.fields or not entry.forms():
        raise _damaged(source, at, "the entry before it lacks its msgid or msgstr")
    if not all(strings.strings for strings in entry.fields.values()):
        raise _damaged(source, at, "a keyword before it has no string")
    return entry


def _damaged(source: str, at: int, what: str) -> BadDocument:
    line = source.count("\n", 0, at) + 1
    return BadDocument(f"The PO file is damaged at line {line:,}: {what}. Mend it (msgfmt --check shows where).")


def _placed(source: str, entry: _Entry, form: str, retranslate: bool) -> Iterator[tuple[int, Block]]:
    forms = entry.forms()
    one = entry.fields["msgid"]
    many = entry.fields.get("msgid_plural", one)
    notes = entry.notes if entry.fuzzy else None
    if not one.text():  # the header
        return
    for number, msgstr in enumerate(forms):
        if msgstr.text() != "" and not entry.fuzzy and not retranslate:
            continue
        msgid = (many if number or len(forms) == 1 else one).text()  # a language with one form says it of all numbers
        if msgid and (block := plain.block_of(msgid, form)):
            start = msgstr.start if notes is None else notes
            yield start, replace(block, source=source[start : msgstr.end])
            notes = None  # the first block takes the flag away


def _strings_start(source: str) -> int:
    """Where the strings of the last keyword begin."""
    start, after_keyword = 0, False
    for token in _tokens(source):
        if token.lastgroup == "keyword":
            after_keyword = True
        elif token.lastgroup == "string" and after_keyword:
            start, after_keyword = token.start(), False
    return start


def _with_edges_of(msgid: str, text: str) -> str:
    """Gettext asks that both begin with a line break, or neither; and so at the end."""
    before = msgid[: len(msgid) - len(msgid.lstrip("\n"))]
    after = msgid[len(msgid.rstrip("\n")) :]
    return before + text.strip("\r\n") + after


def _trusted(note: re.Match[str]) -> str:
    kind, words, line_break = note.groups()
    flags = [flag for flag in words.split(",") if flag.strip() != "fuzzy"] if kind == "," else []
    return f"#,{','.join(flags)}{line_break}" if flags else ""
