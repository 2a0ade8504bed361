"""What a segment is shown besides its own text: the user's context, and the sentences before it. Knows no prompt and no
model; a tokenizer comes in as a function."""

import re
from collections import deque
from collections.abc import Sequence

from engine.segmenter import sentences
from engine.types import CountTokens

USER_TOKENS = 512  # of the user's own context: a page; more would outweigh the segment and slow every one
WINDOW_TOKENS = 128  # of the text before: the names and pronouns of the last few sentences
LONG_TOKEN_CHARACTERS = 8  # what has more characters than this to each token of the budget is cut before it is counted

_WORD_START = re.compile(r"\s+(?=\S)")


def fitted(context: str, count_tokens: CountTokens, max_tokens: int = USER_TOKENS) -> str:
    """The user's `context`, or as many of its last sentences as fit; of a sentence that does not, its last words."""
    context = context.strip()
    end = context[-max_tokens * LONG_TOKEN_CHARACTERS :]
    if len(end) == len(context) and count_tokens(context) <= max_tokens:
        return context
    start, size = len(end), 0
    for first, last in reversed([*sentences(end)]):
        size += count_tokens(end[first:last])
        if size > max_tokens or (first == 0 and len(end) < len(context)):
            break
        start = first
    return end[start:] or _last_words(end, count_tokens, max_tokens)


def windows(texts: Sequence[str], count_tokens: CountTokens, max_tokens: int = WINDOW_TOKENS) -> list[str]:
    """What each of the segments whose `texts`, with the gaps before them, follow one another is shown of those before
    it: whole sentences of the source, the nearest, of at most `max_tokens` together.

    All of it is known before anything is translated, so segments stay independent and share a batch.
    """
    shown = []
    before: deque[tuple[str, int]] = deque()  # sentences with the gaps before them, and their tokens
    size = 0
    for number, text in enumerate(texts, 1):
        shown.append("".join(sentence for sentence, _ in before).strip())
        if number == len(texts):
            break
        end = 0
        for _, last in sentences(text):
            sentence, end = text[end:last], last
            long = len(sentence) > max_tokens * LONG_TOKEN_CHARACTERS
            tokens = max_tokens + 1 if long else count_tokens(sentence)
            before.append((sentence, tokens))
            size += tokens
            while size > max_tokens:
                size -= before.popleft()[1]
    return shown


def _last_words(text: str, count_tokens: CountTokens, max_tokens: int) -> str:
    while (tokens := count_tokens(text)) > max_tokens and len(text) > 1:
        text = text[-min(max(1, len(text) * max_tokens // tokens), len(text) - 1) :]
    word = _WORD_START.search(text, 0, len(text) // 2 + 1)
    return text[word.end() :] if word else text
