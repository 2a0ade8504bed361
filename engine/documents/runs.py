"""A paragraph of Word, DrawingML or Excel → items: its words, what stands alone among them, and pairs around both.

Links, insertions, controls and fields around runs are pairs; breaks, pictures, notes and formulas stand alone. Where
two looks differ only in language, spelling state or the id of an editing session, they are the same. It knows no block.

Limits: deleted text, hidden text, ruby, code of fields and texts that Word computes (page numbers, dates, names) stand
alone too, and so stay as they are; a soft hyphen is no item, and is gone with the old text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Literal, NamedTuple

from engine.documents.xml import Node, Part, attributes, escaped, text_of

MOST_FIELDS_NESTED = 20  # Word's own limit

_RUNS = {"w:r", "a:r", "s:r"}
_PROPERTIES = {"w:rPr", "a:rPr", "s:rPr"}
_TEXTS = {"w:t", "a:t", "s:t"}
_WRAPPERS = {"w:hyperlink", "w:ins", "w:moveTo", "w:smartTag", "w:customXml", "w:dir", "w:bdo", "w:sdt", "w:fldSimple"}
_DROPPED = {"w:pPr", "a:pPr", "w:proofErr", "w:softHyphen", "w:lastRenderedPageBreak"}
_WORDS = {"m:oMath", "a:fld", "w:ruby"}  # which nobody translates, but which are read as a part of the sentence
_COMPUTED = re.compile(
    r"""\s*(?:PAGE|NUMPAGES|SECTIONPAGES|SECTION|PAGEREF|NOTEREF|DATE|TIME|CREATEDATE|SAVEDATE|PRINTDATE|EDITTIME|SEQ
    |NUMWORDS|NUMCHARS|AUTHOR|LASTSAVEDBY|USERNAME|USERINITIALS|FILENAME|FILESIZE|MERGEFIELD|DOCPROPERTY|DOCVARIABLE
    |REVNUM|LISTNUM|AUTONUM\w*|SYMBOL|EQ|FORMDROPDOWN|FORMCHECKBOX|ADDIN|CITATION|BIBLIOGRAPHY|(?==))(?!\w)""",
    re.VERBOSE | re.IGNORECASE,
)
_CHOSEN = re.compile(r"<(?:\w+:)?(?:dropDownList|comboBox|date|checkbox)[\s/>]")  # controls whose text is one of a list
_HIDDEN = re.compile(r'<(?:\w+:)?vanish(?=[\s/>])(?![^>]*="(?:0|false|off)")')
_NO_LOOK = re.compile(
    r'<(?:\w+:)?(?:lang|noProof)(?=[\s/>])[^>]*/>|\s(?:\w+:)?(?:hint|rsid\w*|lang|altLang|dirty|err|smtClean|noProof)="[^"]*"'
)
_EMPTY = re.compile(r"<(?:\w+:)?(?:rFonts|rPr)\s*/>|<((?:\w+:)?rPr)\s*></\1>")
_BOX = "txbxContent"  # what holds the paragraphs of a text box


class Item(NamedTuple):
    """A part of a paragraph. `opening` and `closing` are what stands around its words, for a void all it is.

    Where it begins or ends inside a run, `before` ends that run and `after` begins it again.
    """

    kind: Literal["text", "void", "pair"]
    start: int
    end: int
    opening: str
    closing: str = ""
    before: str = ""
    after: str = ""
    text: str = ""
    look: str = ""
    inner: tuple["Item", ...] = ()
    shown: bool = False  # of a void: whether it is read as a word
    box: bool = False
    field: str = ""  # begin, separate, end: of the characters that make a field of Word; code: what it computes


def items_of(part: Part, parent: Node) -> list[Item]:
    items: list[Item] = []
    for node in parent.inner:
        if node.name in _DROPPED:
            continue
        if node.name in _RUNS:
            items += _of_run(part, node)
        elif node.name in _WRAPPERS:
            items.append(_wrapper(part, node))
        elif node.name in _TEXTS:
            items.append(_text(part, node, "", "", ""))
        else:
            items.append(_void(part, node))
    return _with_fields(items)


def _of_run(part: Part, run: Node) -> Iterator[Item]:
    properties = next((child for child in run.inner if child.name in _PROPERTIES), None)
    look = part.source[properties.start : properties.end] if properties else ""
    opening, closing = f"{_tag(part, run)}{look}", f"</{run.tag}>"
    shown = [child for child in run.inner if child is not properties and child.name not in _DROPPED]
    hidden = "vanish" in look and _HIDDEN.search(look)
    for index, child in enumerate(shown):
        if child.name in _TEXTS and not hidden:
            item = _text(part, child, opening, closing, _look(look))
        elif child.name == "w:noBreakHyphen" and not hidden:
            tag = run.tag.removesuffix("r") + "t"
            item = Item("text", 0, 0, f"{opening}<{tag}>", f"</{tag}>{closing}", text="\u2011", look=_look(look))
        else:
            item = _void(part, child)
            item = item._replace(opening=f"{opening}{item.opening}{closing}")
        yield item._replace(
            start=child.start if index else run.start,
            end=child.end if index < len(shown) - 1 else run.end,
            before=closing if index else "",
            after=opening if index < len(shown) - 1 else "",
        )


def _text(part: Part, node: Node, opening: str, closing: str, look: str) -> Item:
    tag = _tag(part, node, "" if node.name == "a:t" else ' xml:space="preserve"')
    opening, closing = f"{opening}{tag}", f"</{node.tag}>{closing}"
    return Item("text", node.start, node.end, opening, closing, text=text_of(part, node), look=look)


def _tag(part: Part, node: Node, attribute: str = "") -> str:
    """The start tag anew: without ids of editing sessions, but as it is where it names namespaces."""
    old = part.source[node.start : node.inside]
    return old if "xmlns" in old and node.inside < node.end else f"<{node.tag}{attribute}>"


def _void(part: Part, node: Node) -> Item:
    field = text = ""
    if node.name == "w:fldChar":
        field = attributes(part, node).get("fldCharType", "")
    elif node.name == "w:instrText":
        field, text = "code", text_of(part, node)
    return Item(
        "void",
        node.start,
        node.end,
        part.source[node.start : node.end],
        text=text,
        shown=node.name in _WORDS,
        box=part.source.find(_BOX, node.start, node.end) >= 0,
        field=field,
    )


def _wrapper(part: Part, node: Node) -> Item:
    content = node
    if node.name == "w:sdt":
        content = next((child for child in node.inner if child.name == "w:sdtContent"), node)
        kept = content is node or _CHOSEN.search(part.source, node.inside, content.start) is not None
    else:
        kept = node.name == "w:fldSimple" and _COMPUTED.match(attributes(part, node).get("instr", "")) is not None
    if kept:
        return _void(part, node)._replace(shown=True)
    opening, closing = part.source[node.start : content.inside], part.source[content.rest : node.end]
    return Item("pair", node.start, node.end, opening, closing, inner=tuple(items_of(part, content)))


def _with_fields(items: Sequence[Item]) -> list[Item]:
    """Items from the beginning of a field to its end as one; one that ends in another paragraph is not seen."""
    levels: list[list[Item]] = [[]]
    for item in items:
        if item.field == "begin" and len(levels) <= MOST_FIELDS_NESTED:
            levels.append([item])
            continue
        levels[-1].append(item)
        if item.field == "end" and len(levels) > 1:
            whole = _field(levels.pop())
            levels[-1].append(whole)
    return [*chain.from_iterable(levels)]


def _field(items: Sequence[Item]) -> Item:
    first, last = items[0], items[-1]
    split = next((index for index, item in enumerate(items) if item.field == "separate"), len(items) - 2) + 1
    code, result = items[:split], tuple(items[split:-1])
    whole = last._replace(start=first.start, before=first.before, field="")
    if _COMPUTED.match("".join(item.text for item in code if item.field == "code")) or not result:
        shown = any(item.kind != "void" for item in result)
        return whole._replace(opening=written(items), shown=shown, box=any(map(has_box, items)))
    return whole._replace(kind="pair", opening=written(code), closing=last.opening, inner=result)


@lru_cache(maxsize=10_000)
def _look(properties: str) -> str:
    """What of a run's properties a reader can see."""
    return _EMPTY.sub("", _EMPTY.sub("", _NO_LOOK.sub("", properties)))


def has_box(item: Item) -> bool:
    return item.box or any(map(has_box, item.inner))


def written(items: Sequence[Item]) -> str:
    """The source of items that do not change."""
    return "".join(item.opening + written(item.inner) + _content(item) + item.closing for item in items)


def _content(item: Item) -> str:
    return escaped(item.text) if item.kind == "text" else ""
