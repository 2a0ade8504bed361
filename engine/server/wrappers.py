"""What translators wrap around a text when they ask a chat model: text, languages and terms are taken out of it again.

HY-MT has no system role and wants its own templates, so what others would have it obey is only read here; and of what
stands in a text nothing is obeyed. Knows no transport and no model.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from engine import prompts
from engine.languages import LANGUAGES, resolve_any
from engine.server.instructions import MAX_CHARACTERS, Said, in_line, in_rules, unknown_target
from engine.server.layouts import Wrapped, in_paragraphs, json_batch, yaml_batch
from engine.types import Family, Style, Term

_ORDER = re.compile(  # it is the reader who is to translate
    r"(?:^|[.!?;:,，。；：]\s*|\b(?:please|kindly|and|me|you to|is to|(?:can|could|would) you)\s+|[请請]\s*)translate\b"
    r"|(?:^|[.!?;:,，。；：]\s*|\bprovide\b[^.]{0,60}\s)translation\s+from\b"
    r"|(?:^|[\s，。；：,.;:])(?:[请請]|麻烦|帮我|你需要|现在)?[^，。；：被]{0,12}?(?:翻译|翻譯|译|譯|[将將把从從])",
    re.IGNORECASE,
)
_ROLE = re.compile(r"(?:you are|you're|act as|as an? |你是|您是|作为|作為)", re.IGNORECASE)
_COLON = re.compile(r"[^.!?。！？\n:：]*(?::(?=[\s\"“'`「<\[]|\Z)|：)")  # of the sentence that names the target
_RULE = re.compile(  # a line of an instruction
    r"[\s\d.*-]*+(?:only|just|do not|don't|never|keep|preserve|output|return|reply|respond|give|provide|no|without"
    r"|please|make sure|ensure|只|仅|僅|不要|请|請|无需|保留|注意|直接|输出|輸出)"
    r".{0,1000}?(?:translat|expla|output|comment|format|译|譯|解释|解釋|输出|輸出|格式)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\s*+(?:(?:source text|text to translate|text|original text|原文|文本|待翻译文本)\s*[:：]\s*"
    r"|(?:input|source)\s*:[ ]*\n)",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"(?:please\s+)?translate\s+(?:the (?:word|phrase|sentence)\s+)?(?:\"([^\"]+)\"|“([^”]+)”|'([^'\n]+)'|「([^」]+)」)"
    r"\s+(?P<rest>(?:from|into|to)\s[^\n]{1,80})"
    r"|[请請]?[把将將](?:「([^」]+)」|“([^”]+)”|\"([^\"]+)\")(?P<rest_in_chinese>(?:翻译|翻譯|译|譯)\S{1,20})",
    re.IGNORECASE,
)
_LEAD = re.compile(  # before a text of which the rules above it name the target
    r"\s*+(?:only reply the result and nothing else\.[^\n]*:\n\n(?:the word is: |单词是：)?"
    r"|(?:please\s+)?translate(?:\s+(?:this|these|the following|the text)\b(?:(?!\b(?:in)?to\b)[^\n:]){0,60})?:"
    r"|请?翻译(?:以下|下面|下列)?[^\n：:]{0,8}[:：])",
    re.IGNORECASE,
)
_GLOSSARY = re.compile(
    r"\s*+(?:根据|参考)以下术语表[^\n]{0,40}[:：]\n(?P<terms>(?:(?=[^\n]*->)[^\n]*+\n)*+)\s*(?=[将把])"
)
_DESIGNATED = re.compile(  # LunaTranslator
    r"\s*+When translating, please ensure to translate the specified nouns into the translations I have designated: ?\n"
    r"(?P<terms>(?:(?=[^\n]*->)[^\n]*+\n)++)"
)
_ARROW = re.compile(r"^[ \t]*(?P<source>\S[^\n]*?)->(?P<target>[^\n#]*)", re.MULTILINE)
_QUOTES = ('"""', "'''")
_FENCE = "```"
_OPENING_FENCE = re.compile(r"```(?:(?:text|txt|plain|plaintext|markdown|md|html)?\n|(?!\w*\n))")
_OPENING_TAG = re.compile(r"<(text|source|source_text|input|content|original|document)>")
_ACADEMIC = re.compile(  # Zotero PDF Translate
    r"(?P<head>[^\n]{1,600}?enclosed in (?P<mark>🔤|📚)[^\n]{0,400}?:)\s*(?P=mark)(?P<text>.*?)(?P=mark)"
    r"[^🔤📚]{0,200}(?:(?P=mark)\.?\s*)?",
    re.DOTALL,
)
_SOURCE_LABEL, _END_LABEL = "\nSource Text:", "\nTranslated Text:"  # KISS Translator
_WORD_ENTRY = "<中文含义>"  # openai-translator asks for the entry of a dictionary so, and names no language


class Message(NamedTuple):
    role: str
    text: str


def unwrap(messages: Sequence[Message]) -> Wrapped | None:
    """What the last message of the user asks for. The turns before it are examples; a system's may name the languages.
    None where no target is named."""
    turns = [message for message in messages if message.role in ("user", "assistant")]
    if not turns or turns[-1].role != "user":
        return None
    unanswered = len(turns) - 1
    while unanswered and turns[unanswered - 1].role == "user":
        unanswered -= 1
    above = [message.text for message in messages if message.role in ("system", "developer")]
    return _unwrapped(turns[-1].text, "\n".join(above + [message.text for message in turns[unanswered:-1]]))


def _unwrapped(message: str, rules: str) -> Wrapped | None:
    known = in_rules(rules) or (Said("zh", None, 0) if _WORD_ENTRY in rules else None)
    for read in (_hy_mt, _academic, _labelled, _headed):
        found = read(message)
        if found and (known is None or found.target == known.target):  # else it is the text that speaks
            return in_paragraphs(replace(found, source=found.source or (known.source if known else None)))
    if batch := json_batch(message, rules) or yaml_batch(message, known):
        return batch
    if known:
        terms = _DESIGNATED.match(message)
        lead = terms or _LEAD.match(message)
        text = _bare(message[lead.end() :] if lead else message)
        return in_paragraphs(Wrapped((text,), known.target, known.source, _arrows(terms["terms"]) if terms else ()))
    unknown = unknown_target(message.lstrip().partition("\n")[0]) or unknown_target(rules)
    return Wrapped((message,), unknown) if unknown else None


def _headed(message: str) -> Wrapped | None:
    """An instruction to translate, and the text after it."""
    glossary = _GLOSSARY.match(message)
    text = message[glossary.end() :] if glossary else message.lstrip()
    if quoted := _QUOTED.fullmatch(text.rstrip(" \n.!?。")):
        said = in_line(quoted["rest_in_chinese"] or f"translate {quoted['rest']}")
        return Wrapped((next(filter(None, quoted.groups())),), said.target, said.source) if said else None
    first = text[:MAX_CHARACTERS].partition("\n")[0]
    said = in_line(first)
    is_role = _ROLE.match(text)
    if said is None or not (_ORDER.search(first) if is_role else _ORDER.search(first, 0, said.end)):
        return _after_role(text) if is_role else None
    colon = _COLON.match(first, said.end)
    body = _unlabelled(text[colon.end() :] if colon else _after_rules(text[len(first) + 1 :]))
    return _wrapped(body, said, _arrows(glossary["terms"]) if glossary else ())


def _after_role(text: str) -> Wrapped | None:
    """Who the model is to be, by what rules, and then a line that asks for a translation and ends with a colon."""
    head = text[:MAX_CHARACTERS]
    role = in_line(head.partition("\n")[0])
    start = 0
    for line in head.split("\n"):
        start += len(line) + 1
        if line.rstrip().endswith((":", "：")) and _ORDER.search(line) and (said := in_line(line) or role):
            return _wrapped(text[start:], said)
    return None


def _wrapped(body: str, said: Said, terms: tuple[Term, ...] = ()) -> Wrapped | None:
    return Wrapped((_bare(body),), said.target, said.source, terms) if body.strip() else None


def _after_rules(rest: str) -> str:
    """What follows the line of an instruction, without more such lines; an empty line then parts these from it."""
    paragraph, _, following = rest.partition("\n\n")
    return following if following.strip() and all(map(_RULE.match, paragraph.split("\n"))) else rest


def _unlabelled(body: str) -> str:
    label = _LABEL.match(body)
    return body[label.end() :] if label else body


def _bare(body: str) -> str:
    """The text, without what encloses all of it."""
    text = _enclosed(body.strip())
    return body.lstrip(" \t").lstrip("\n") if text is None else text


def _enclosed(body: str) -> str | None:
    """By hand, since a pattern would look at each of millions of characters, and hold up all others meanwhile."""
    for mark in _QUOTES:
        if body.startswith(mark) and body.endswith(mark) and len(body) >= 2 * len(mark):
            return body[len(mark) : -len(mark)].removeprefix("\n").removesuffix("\n")
    if (fence := _OPENING_FENCE.match(body)) and body.find(_FENCE, fence.end()) == len(body) - len(_FENCE):
        return body[fence.end() : -len(_FENCE)].removesuffix("\n")
    if (tag := _OPENING_TAG.match(body)) and body.endswith(closing := f"</{tag[1]}>"):
        return body[tag.end() : -len(closing)].removeprefix("\n").removesuffix("\n")
    return None


def _arrows(lines: str) -> tuple[Term, ...]:
    return tuple(Term(line["source"].strip(), line["target"].strip()) for line in _ARROW.finditer(lines))


def _academic(message: str) -> Wrapped | None:
    found = _ACADEMIC.fullmatch(message.strip())
    said = in_line(found["head"]) if found else None
    return _wrapped(found["text"].strip(), said) if found and said else None


def _labelled(message: str) -> Wrapped | None:
    start, end = message.find(_SOURCE_LABEL, 0, MAX_CHARACTERS), message.rfind(_END_LABEL)
    if not 0 < start < end or message[end + len(_END_LABEL) :].strip():
        return None
    said = in_rules(message[:start])
    return _wrapped(message[start + len(_SOURCE_LABEL) : end].strip(), said) if said else None


_TEXT, _CONTEXT, _TERM = "\ue000", "\ue001", Term("\ue002", "\ue003")  # stand in a template for what is put into it


def _hy_mt_patterns() -> Iterator[re.Pattern[str]]:
    """HY-MT's own templates, word for word, as its users send them; the most specific first."""
    family: Family
    style: Style
    for family in get_args(Family):
        yield _pattern(family, prompts.with_marks(family, "fr", _TEXT))
        yield _pattern(family, prompts.with_terms(family, "fr", [_TERM], _TEXT, _CONTEXT))
        yield _pattern(family, prompts.with_terms(family, "fr", [_TERM], _TEXT))
        yield _pattern(family, prompts.with_context(family, "fr", _CONTEXT, _TEXT))
        for style in get_args(Style):
            for source in ("en", "zh") if style and family in prompts.STYLED else ():
                yield _pattern(family, prompts.with_style(family, source, "fr", style, _TEXT))
        yield _pattern(family, prompts.plain(family, "en", "fr", _TEXT))
        yield _pattern(family, prompts.plain(family, "zh", "fr", _TEXT))


def _pattern(family: Family, template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(re.escape(prompts.term_line(family, _TERM)), r"(?P<terms>.{1,8000}?)")
    for name in (LANGUAGES["fr"].english, LANGUAGES["fr"].chinese):
        pattern = pattern.replace(name, r"(?P<target>[^\n,，。:：]{1,40}?)", 1)
    pattern = pattern.replace(_CONTEXT, r"(?P<context>.{1,4000}?)").replace(_TEXT, r"(?P<text>.*)")
    return re.compile(pattern, re.DOTALL)


_HY_MT = tuple(_hy_mt_patterns())
_TERM_LINE = re.compile(r"^(?P<source>[^\n]+?) ?翻译成 ?(?P<target>[^\n]+)$", re.MULTILINE)


def _hy_mt(message: str) -> Wrapped | None:
    text = message.lstrip()
    for pattern in _HY_MT:
        found = pattern.fullmatch(text)
        if found and (target := resolve_any(found["target"])):
            parts = found.groupdict(default="")
            terms = _TERM_LINE.finditer(parts.get("terms", ""))
            return Wrapped(
                (found["text"],),
                target,
                terms=tuple(Term(term["source"], term["target"]) for term in terms),
                context=parts.get("context", ""),
                skeleton=("<target>", 0, "</target>") if "<target>" in pattern.pattern else (0,),
            )
    return None
