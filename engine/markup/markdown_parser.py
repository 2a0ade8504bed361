"""markdown-it-py with our dialect, whose tokens also say where they stand. Knows no positions in a document.

Its public tokens have no offsets within a line, so this uses its internals: a new version must be looked at first.
Inline tokens get a `span` in the content of their block; block tokens with content the `lines` it stands in, without
what lists and quotes put before them. It is told which rules can match at a letter: trying all takes most of its time.
Dialect: CommonMark with GFM's tables, `~` and task boxes, `$` math, footnotes, alerts, `:::` containers, `!!!` boxes,
definition lists, and template expressions as single things.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markdown_it import MarkdownIt
from markdown_it.helpers import parseLinkLabel
from markdown_it.parser_block import ParserBlock, RuleFuncBlockType
from markdown_it.parser_inline import ParserInline, RuleFuncInlineType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline, image
from markdown_it.rules_inline.strikethrough import tokenize as strikethrough
from markdown_it.token import Token
from markdown_it.utils import EnvType
from mdit_py_plugins.admon import admon_plugin
from mdit_py_plugins.admon.index import admonition
from mdit_py_plugins.container import container_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin

from engine.markup.templates import IN_MARKDOWN, STARTS_IN_MARKDOWN

MOST_NESTED = 60  # lists and quotes; each takes some frames of Python's thousand
BOX = re.compile(r"(?:!!!|\?\?\?\+?)[ \t]+[\w-]++(?:[ \t]++[\w-]++)*(?:[ \t]+\"(?P<title>[^\"]+)\")?[ \t]*$")
INLINE_START = re.compile(r"[\n\\`~*_$\[]|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])|!(?=\[)|\^(?=\[)|" + STARTS_IN_MARKDOWN)


class _State(StateInline):
    pending_start = 0

    def pushPending(self) -> Token:
        token = super().pushPending()
        token.meta["span"] = (self.pending_start, self.pending_start + len(token.content))
        return token

    def push(self, ttype: str, tag: str, nesting: Literal[-1, 0, 1]) -> Token:
        token = super().push(ttype, tag, nesting)
        token.meta["at"] = self.pos
        return token


class _Inline(ParserInline):
    def tokenize(self, state: StateInline) -> None:
        assert isinstance(state, _State)
        (any_rule,) = self.ruler.getRules("")
        most, end = state.md.options["maxNesting"], state.posMax
        while state.pos < end:
            start = state.pos
            if not state.pending:
                state.pending_start = start
            begun = INLINE_START.search(state.src, start, end)
            if begun is None or begun.start() > start:
                state.pos = begun.start() if begun else end
                state.append_pending(state.src[start : state.pos])
                continue
            known = len(state.tokens)
            if state.level < most and any_rule(state, False):
                if len(state.tokens) > known:
                    _stamp(state.tokens[known:], start, state.pos)
                continue
            state.append_pending(state.src[start])
            state.pos = start + 1
        if state.pending:
            state.pushPending()

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


def _stamp(tokens: Sequence[Token], start: int, end: int) -> None:
    """Give the tokens that one rule made of `start` to `end` their spans."""
    new = [token for token in tokens if "span" not in token.meta] if len(tokens) > 1 else tokens
    if new and new[0].info == "auto":  # <https://…>: three tokens, and one thing
        for token in new:
            token.meta["span"] = (start, end)
    elif new and all(token.type == "text" for token in new):  # delimiters, each its own token
        for token in new:
            token.meta["span"] = (start, start + len(token.content))
            start += len(token.content)
    else:
        for token in new:
            opening, closing = token.nesting == 1, token.nesting == -1
            token.meta["span"] = (token.meta["at"] if closing else start, token.meta["at"] if opening else end)


def _template(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "{" or state.html_terminator_last("}") < state.pos:
        return False
    match = IN_MARKDOWN.match(state.src, state.pos, state.posMax)
    if match is None:
        return False
    if not silent:
        state.push("template", "", 0)
    state.pos = match.end()
    return True


def _strikethrough(state: StateInline, silent: bool) -> bool:
    """As the parser's own rule, but one `~` between letters is none: H~2~O is what other dialects write for H₂O."""
    at, source = state.pos, state.src
    if source[at] == "~" and at and source[at - 1].isalnum() and source[at + 1 : at + 2].isalnum():
        return False
    return strikethrough(state, silent)


def _image(state: StateInline, silent: bool) -> bool:
    """As the parser's own rule, but the text is parsed as a link's is: that one's tokens have no places."""
    start, end = state.pos, state.posMax
    if not image(state, True):
        return False
    after = state.pos
    if not silent:
        state.pos = start
        label_end = parseLinkLabel(state, start + 1)
        state.pos, state.posMax = start + 2, label_end
        if start + 2 == label_end:
            state.push("image", "", 0)
        else:
            state.push("image_open", "", 1)
            state.md.inline.tokenize(state)
            state.push("image_close", "", -1)
    state.pos, state.posMax = after, end
    return True


def _inline_footnote(state: StateInline, silent: bool) -> bool:
    """The plugin's own rule moves the text of `^[…]` out of the paragraph."""
    start, end = state.pos, state.posMax
    if not state.src.startswith("^[", start):
        return False
    label_end = parseLinkLabel(state, start + 1)
    if label_end < 0:
        return False
    if not silent:
        state.pos, state.posMax = start + 2, label_end
        state.push("footnote_inline_open", "", 1)
        state.md.inline.tokenize(state)
        state.push("footnote_inline_close", "", -1)
    state.pos, state.posMax = label_end + 1, end
    return True


def _box(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The plugin's rule, only where what follows is indented and the line is MkDocs': `!!! note "Title"`."""
    line = start + 1 + (start + 1 < end and state.isEmpty(start + 1))
    if line >= end or state.sCount[line] < state.blkIndent + 4:
        return False
    if not BOX.match(state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]):
        return False
    return admonition(state, start, end, silent)


_BLOCK_STARTS = {  # the letters a rule's block can begin with; of one that is not here, any
    "math_block": "$",
    "container_any": ":",
    "admonition": "!?",
    "fence": "`~",
    "blockquote": ">",
    "hr": "*-_",
    "list": "*-+0123456789",
    "footnote_def": "[",
    "reference": "[",
    "html_block": "<",
    "heading": "#",
}
_INLINE_STARTS = {
    "newline": "\n",
    "math_inline": "$",
    "template": "{",
    "escape": "\\",
    "backticks": "`",
    "strikethrough": "~",
    "emphasis": "*_",
    "link": "[",
    "image": "!",
    "inline_footnote": "^",
    "footnote_ref": "[",
    "autolink": "<",
    "html_inline": "<",
    "entity": "&",
}


def _by_start(rules: Sequence[Any], starts: Mapping[str, str]) -> tuple[dict[str, list[Any]], list[Any]]:
    """The rules to be tried at each letter, in their order, and those at all others."""
    letters = sorted(set("".join(starts.values())))
    tried = {letter: [rule.fn for rule in rules if letter in starts.get(rule.name, letter)] for letter in letters}
    return tried, [rule.fn for rule in rules if rule.name not in starts]


def _block_rule(rules: Sequence[Any]) -> RuleFuncBlockType:
    """The rules as one, which tries only those that can match: the parser spends most of its time on the others."""
    tried, others = _by_start(rules, _BLOCK_STARTS)

    def first_that_matches(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        at = state.bMarks[start] + state.tShift[start]
        for rule in tried.get(state.src[at : at + 1], others):  # noqa: SIM110 - `any` costs a generator for each line
            if rule(state, start, end, silent):
                return True
        return False

    return first_that_matches


def _inline_rule(rules: Sequence[Any]) -> RuleFuncInlineType:
    tried, others = _by_start(rules, _INLINE_STARTS)

    def first_that_matches(state: StateInline, silent: bool) -> bool:
        for rule in tried.get(state.src[state.pos], others):  # noqa: SIM110
            if rule(state, silent):
                return True
        return False

    return first_that_matches


_WITH_CONTENT = {
    "table",
    "container_any",
    "admonition",
    "reference",
    "html_block",
    "heading",
    "lheading",
    "deflist",
    "paragraph",
}
_CONTENT = {"inline", "html_block", "definition", "container_any_open"}


def _with_lines(name: str, rule: RuleFuncBlockType) -> RuleFuncBlockType:
    """The rule, which now also notes where the lines of new content start and end, past the marks of lists and quotes.

    Only while the rule runs do the state's offsets say so; of nested rules the innermost comes first, and counts.
    """

    def stamping(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        known = len(state.tokens)
        matched = rule(state, start, end, silent)
        if matched and not silent:
            for token in state.tokens[known:]:
                if token.type in _CONTENT and token.map and "lines" not in token.meta:
                    first, last = token.map
                    if token.type == "container_any_open":
                        last = first
                    token.meta["rule"] = name
                    token.meta["lines"] = [
                        (state.bMarks[line] + state.tShift[line], state.eMarks[line])
                        for line in range(first, max(first + 1, min(last, len(state.bMarks) - 1)))
                    ]
        return matched

    return stamping


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return True  # `javascript:` too makes a link by the specification; to make it harmless is the reader's task

    def normalizeLink(self, url: str) -> str:
        return url  # nobody asks where links lead


def _enabled(parser: ParserBlock | ParserInline) -> list[Any]:
    return [rule for rule in parser.ruler.__rules__ if rule.enabled]


def _parser() -> MarkdownIt:
    options = {
        "maxNesting": MOST_NESTED,
        "alerts": True,
        "tasklists": True,
        "inline_definitions": True,
        "strikethrough_single_tilde": True,
    }
    md = _Markdown("commonmark", options).enable(["table", "strikethrough"])
    dollarmath_plugin(md, allow_space=False, allow_digits=False, double_inline=True)
    footnote_plugin(md, inline=False, move_to_end=False)
    container_plugin(md, "any", validate=lambda _params, _markup: True)
    deflist_plugin(md)
    admon_plugin(md)
    md.block.ruler.at("admonition", _box, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    inline = _Inline()
    inline.ruler, inline.ruler2, inline.terminator_re = md.inline.ruler, md.inline.ruler2, md.inline.terminator_re
    md.inline = inline
    md.inline.ruler.before("escape", "template", _template)
    md.inline.ruler.at("image", _image)
    md.inline.ruler.at("strikethrough", _strikethrough)
    md.inline.ruler.after("image", "inline_footnote", _inline_footnote)
    md.inline.ruler2.disable("fragments_join")
    md.core.ruler.enableOnly(["normalize", "block"])  # the content of blocks is parsed one by one, see `pieces`
    for rule in md.block.ruler.__rules__:
        if rule.name in _WITH_CONTENT:
            rule.fn = _with_lines(rule.name, rule.fn)
    chains = {chain for rule in md.block.ruler.__rules__ for chain in rule.alt}
    md.block.ruler.__cache__ = {
        chain: [_block_rule([rule for rule in _enabled(md.block) if not chain or chain in rule.alt])]
        for chain in ("", *chains)
    }
    md.inline.ruler.__cache__ = {"": [_inline_rule(_enabled(md.inline))]}
    return md


PARSER = _parser()
