"""What an instruction to translate says of languages, in English or Chinese. Knows nothing of where it stands.

A language is found or not found, never guessed: "to it" is no Italian.
"""

import re
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from engine.languages import CJK_LETTERS, resolve_any

MAX_CHARACTERS = 4_000  # of rules that are looked at
MOST_PLACES = 8  # of one line, where a language may be named

_resolve = lru_cache(4096)(resolve_any)  # the same few words come again and again, and each takes 10 µs to look up

_END_OF_WORD = re.compile(rf"(?<=[{CJK_LETTERS}])|(?<=\S)(?<![^\W_])|(?<=[^\W_])(?![^\W_])")
_TRANSLATES = re.compile(r"\btranslat", re.IGNORECASE)
_TO = re.compile(r"\b(?:into|to)\s+", re.IGNORECASE)
_IN = re.compile(r"\bin\s+", re.IGNORECASE)
_FROM = re.compile(r"\bfrom\s+", re.IGNORECASE)
_OF = re.compile(r"\b(?:following|this|these|below|given|translates?)\s+", re.IGNORECASE)
_INTO_CHINESE = re.compile(r"(?:翻译|翻譯|译|譯|翻)[^，。：:\n]{0,12}?(?:成|为|為|到|至|作)\s*")
_FROM_CHINESE = re.compile(r"(?:从|從|由|(?:以下|下面|下列|下述)的?|[将將把])\s*")
_LABEL = re.compile(
    r"\b(?P<what>source|target)[ _]lang(?:uage)?\s*[:=]\s*|(?P<chinese>源|目标)语言\s*[:：]\s*", re.IGNORECASE
)
_BETWEEN = re.compile(r"(?<![\w-])([^\W\d_]{2,20})(?:-to-|\s?(?:→|->|=>)\s?)([^\W\d_]{2,20})")
_SHORT = re.compile(r"([中英日韩法德俄])[译翻譯]([中英日韩法德俄])")
_OPENING = re.compile(
    r"[\s\"'“‘「『【\[(（*_`<]*(?:(?:the|fluent|natural|native|idiomatic|professional|formal|colloquial|standard|authentic"
    r"|language|target language|地道的?|流畅的?|流暢的?|标准的?)[\s,:：]+){0,3}[\"'“‘「『【\[(（*_`<]*",
    re.IGNORECASE,
)
_CODE = re.compile(r"[a-z]{2,3}", re.IGNORECASE)
_TAG = re.compile(r"[a-z]{2,3}(?:[-_][a-z]{4})?(?:[-_](?:[a-z]{2}|\d{3}))?", re.IGNORECASE)
_AFTER_CODE = re.compile(r"\s*(?:\Z|[^\w\s])|\s+(?:to|into|text|language|format)\b", re.IGNORECASE)
_OTHER_FORMS = frozenset({"classical", "ancient", "old", "middle", "literary"})  # of a language, which are another one
_LONGEST_NAME = 40  # characters
_UNKNOWN = re.compile(
    r"\b[Tt]ranslate\b[^\n.]*?\b(?:into|to)\s+(?P<name>[A-Z][\w-]*(?: [A-Z][\w-]*)*|[a-z]{2,3}(?=\s*[:.,]))"
    r"|(?:翻译|翻譯)(?:成|为|為)\s*(?P<chinese>\w{1,10})"
)


class Said(NamedTuple):
    """Codes of languages, and where the name of the target ends."""

    target: str
    source: str | None
    end: int


def in_rules(rules: str) -> Said | None:
    """The first line of them that names a target, or what stands there as a target language."""
    return _in_rules(rules[:MAX_CHARACTERS])


@lru_cache(128)  # those of a program are the same each time
def _in_rules(rules: str) -> Said | None:
    return next(filter(None, map(in_line, rules.split("\n"))), None) or _labelled(rules)


def _labelled(rules: str) -> Said | None:
    found: dict[str, tuple[str, int]] = {}
    for label in islice(_LABEL.finditer(rules), MOST_PLACES):
        if name := _language(rules, label.end()):
            is_source = label["chinese"] == "源" or (label["what"] or "").lower() == "source"
            found.setdefault("source" if is_source else "target", name)
    if "target" not in found:
        return None
    return Said(found["target"][0], found["source"][0] if "source" in found else None, found["target"][1])


def in_line(line: str) -> Said | None:
    """What a line says of languages, if it is about translating."""
    if verb := _TRANSLATES.search(line):
        for preposition in (_TO, _IN):
            for place in islice(preposition.finditer(line, verb.start()), MOST_PLACES):
                if name := _language(line, place.end(), is_code=preposition is _TO):
                    source = _source(line, place.start(), _FROM) or _source(line, place.start(), _OF, is_code=False)
                    return Said(name[0], source, name[1])
    for place in islice(_INTO_CHINESE.finditer(line), MOST_PLACES):
        if name := _language(line, place.end()):
            return Said(name[0], _source(line, place.start(), _FROM_CHINESE), name[1])
    if verb or "译" in line or "譯" in line or "翻" in line:
        for pair in (*islice(_BETWEEN.finditer(line), MOST_PLACES), *islice(_SHORT.finditer(line), MOST_PLACES)):
            source, target = (_resolve(name) or _resolve(f"{name}文") for name in pair.groups())
            if source and target:
                return Said(target, source, pair.end())
    return None


def unknown_target(rules: str) -> str | None:
    """What seems to be meant for a language where none was found."""
    found = _UNKNOWN.search(rules[:MAX_CHARACTERS])
    name = (found["name"] or found["chinese"]) if found else None
    return None if name is None or _resolve(name) else name


def _source(line: str, end: int, opening: re.Pattern[str], *, is_code: bool = True) -> str | None:
    for place in islice(opening.finditer(line, 0, end), MOST_PLACES):
        if name := _language(line, place.end(), is_code=is_code):
            return name[0]
    return None


def _language(line: str, start: int, *, is_code: bool = True) -> tuple[str, int] | None:
    """The language that is named at `start`, and where its name ends. Where it may be a code, that must stand alone,
    since many are words."""
    opening = _OPENING.match(line, start)
    first = opening.end() if opening else start
    if found := _name(line[first : first + _LONGEST_NAME], is_code=is_code):
        return found[0], first + found[1]
    kind, _, rest = line[first : first + _LONGEST_NAME].partition(" ")  # such as Canadian English
    if kind.istitle() and kind.isalpha() and kind.casefold() not in _OTHER_FORMS and rest[:1].isupper():
        found = _name(rest, is_code=False)
        return (found[0], first + len(kind) + 1 + found[1]) if found else None
    return None


def _name(head: str, *, is_code: bool) -> tuple[str, int] | None:
    """The longest name of a language that `head` begins with."""
    for place in reversed(list(_END_OF_WORD.finditer(head, 2))):
        end = place.end()
        name = head[:end]
        if (code := _resolve(name)) and (
            not _TAG.fullmatch(name) or (is_code and (not _CODE.fullmatch(name) or _AFTER_CODE.match(head, end)))
        ):
            return code, end
    return None
