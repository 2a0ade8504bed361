"""What a segment is shown of the text before it. Knows no prompt and no model; a tokenizer comes in as a function."""

import re
from collections import deque
from collections.abc import Sequence

from engine.types import CountTokens

CONTEXT_TOKENS = 128  # the names and pronouns of the last few sentences; more slows every segment for little
LONG_TOKEN_CHARACTERS = 8  # what has more characters than this to each token of the budget is cut before it is counted

_SENTENCE_START = re.compile(r"(?:[.!?…]\s+|[。！？।۔]\s*|\n\s*)(?=\S)")
_WORD_START = re.compile(r"\s+(?=\S)")


def windows(
    texts: Sequence[str],
    user_context: str,
    rolling: bool,
    count_tokens: CountTokens,
    max_tokens: int = CONTEXT_TOKENS,
) -> list[str]:
    """What to show each of the segments whose `texts`, with the gaps before them, follow one another.

    That is the end of the user's own context and, if `rolling`, of the source text before the segment, at most
    `max_tokens` of each. All is known before anything is translated, so segments stay independent.
    """
    given, _ = _end_of(user_context.strip(), count_tokens, max_tokens)
    if not rolling:
        return [given] * len(texts)
    shown = []
    before: deque[tuple[str, int]] = deque()  # whole texts that fit together, or the end of one that does not fit
    size = 0
    for text in texts:
        shown.append("\n".join(filter(None, (given, "".join(earlier for earlier, _ in before).strip()))))
        end, tokens = _end_of(text, count_tokens, max_tokens)
        if end != text:
            before.clear()
            size = 0
        before.append((end, tokens))
        size += tokens
        while size > max_tokens:
            size -= before.popleft()[1]
    return shown


def _end_of(text: str, count_tokens: CountTokens, max_tokens: int) -> tuple[str, int]:
    """The last `max_tokens` or fewer, from where a sentence begins or else a word; and how many those are at most."""
    end = text[-max_tokens * LONG_TOKEN_CHARACTERS :]
    while (tokens := count_tokens(end)) > max_tokens and len(end) > 1:
        end = end[-min(max(1, len(end) * max_tokens // tokens), len(end) - 1) :]
    if len(end) == len(text):
        return text, tokens
    for start in (_SENTENCE_START, _WORD_START):
        if match := start.search(end, 0, len(end) // 2 + 1):
            return end[match.end() :], tokens
    return end, tokens
