"""HY-MT's prompt templates, word for word. Knows no tokenizer: the chat layout around a prompt is the checkpoint's.

Sources: the READMEs of Tencent-Hunyuan/HY-MT (1.5) and Tencent-Hunyuan/Hy-MT2. Full language names, Chinese ones in
Chinese prompts. The marks template is published for a Chinese target only; other target names are our extension.
Each template is kept whole. The user's context comes before that of terms; the small model obeys 94 % of them then, and
97 % without, but 87 % where a blank line parts the two.
"""

from collections.abc import Sequence

from engine.languages import CHINESE, LANGUAGES
from engine.types import Family, Style, Term

MARKS_PUBLISHED: frozenset[Family] = frozenset({"hy-mt1.5"})  # Hy-MT2's README has no template for marks any more
STYLED: frozenset[Family] = frozenset({"hy-mt2"})  # HY-MT1.5's README has none for a style
_STYLES: dict[Style, tuple[str, str]] = {  # what stands in the template of Chinese and of others; our words
    "formal": ("正式、礼貌（使用敬称）", "formal and polite (formal forms of address)"),
    "informal": ("非正式、口语化（不用敬称）", "informal and casual (informal forms of address)"),
}
_MARKS = (
    "将以下<source></source>之间的文本翻译为{chinese}，注意只需要输出翻译后的结果，不要额外解释，"
    "原文中的<sn></sn>标签表示标签内文本包含格式信息，需要在译文中相应的位置尽量保留该标签。"
    "输出格式为：<target>str</target>\n\n<source>{text}</source>"
)
_TEMPLATES: dict[Family, dict[str, str]] = {
    "hy-mt1.5": {
        "plain": "Translate the following segment into {english}, without additional explanation.\n\n{text}",
        "plain_zh": "将以下文本翻译为{chinese}，注意只需要输出翻译后的结果，不要额外解释：\n\n{text}",
        "term_line": "{source} 翻译成 {target}",
        "terms": "参考下面的翻译：\n{terms}\n\n"
        "将以下文本翻译为{chinese}，注意只需要输出翻译后的结果，不要额外解释：\n{text}",
        "before_terms": "{context}\n",
        "context": "{context}\n"
        "参考上面的信息，把下面的文本翻译成{chinese}，注意不需要翻译上文，也不要额外解释：\n{text}",
        "marks": _MARKS,
    },
    "hy-mt2": {
        "plain": "Translate the following text into {english}. Note that you should only output the translated result "
        "without any additional explanation:\n\n{text}",
        "plain_zh": "将以下文本翻译为{chinese}，注意只需要输出翻译后的结果，不要额外解释：\n\n{text}",
        "term_line": "{source} 翻译成 {target}",
        "terms": "参考下面的翻译：\n{terms}\n"
        "将以下文本翻译为{chinese}，注意只需要输出翻译后的结果，不要额外解释：\n\n{text}",
        "before_terms": "【背景信息】\n{context}\n\n",
        "context": "【背景信息】\n{context}\n\n请结合背景信息将以下文本翻译为{chinese}。\n\n【待翻译文本】\n{text}",
        "style": "Please translate the following text into {english}. Note that the translation style must strictly "
        "conform to [{style}]:\n\n{text}",
        "style_zh": "请将以下文本翻译为{chinese}。\n注意翻译的风格要严格符合【{style}】\n\n{text}",
        "marks": _MARKS,
    },
}


def plain(family: Family, source: str, target: str, text: str, *, other: bool = False) -> str:
    """`source` and `target` are codes; the Chinese template when either side is Chinese, the English one else, and
    where `other` just the other way about."""
    chinese = source in CHINESE or target in CHINESE
    return _fill(family, "plain_zh" if chinese is not other else "plain", target, text)


def with_terms(family: Family, target: str, terms: Sequence[Term], text: str, context: str = "") -> str:
    """One line a term. The template is Chinese for every pair of languages, as published; that it may follow a
    `context` is our extension."""
    whole = _fill(family, "terms", target, text, terms="\n".join(term_line(family, term) for term in terms))
    return _TEMPLATES[family]["before_terms"].format(context=context) + whole if context else whole


def with_style(family: Family, source: str, target: str, style: Style, text: str) -> str:
    """For a family of `STYLED`; Chinese or not as in `plain`."""
    chinese = source in CHINESE or target in CHINESE
    in_chinese, in_english = _STYLES[style]
    name, said = ("style_zh", in_chinese) if chinese else ("style", in_english)
    return _fill(family, name, target, text, style=said)


def term_line(family: Family, term: Term) -> str:
    return _TEMPLATES[family]["term_line"].format(source=term.source, target=term.target)


def with_context(family: Family, target: str, context: str, text: str) -> str:
    return _fill(family, "context", target, text, context=context)


def with_marks(family: Family, target: str, text: str) -> str:
    """`text` holds inline marks `<s1>…</s1>`; the answer comes as `<target>…</target>`."""
    return _fill(family, "marks", target, text)


def _fill(family: Family, name: str, target: str, text: str, **more: str) -> str:
    language = LANGUAGES[target]
    return _TEMPLATES[family][name].format(english=language.english, chinese=language.chinese, text=text, **more)
