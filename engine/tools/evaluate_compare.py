"""Is one model better than another, or was it luck? Paired bootstrap resampling of sacreBLEU, of the same questions.

1,000 times as many lines are drawn, with repeats, as there are, and both models are scored on them. `p` is the chance
of a difference like theirs where there is none; `interval` is how far a score lies around, up or down, in 95 of 100.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from engine.tools.evaluate_questions import Answer, Question
from engine.tools.scoring import metrics, tokenizer_of

SIGNIFICANT_P = 0.05
SEED = 7
MOST_LINES = 4_000  # of a test; sacreBLEU holds 1,000 times their counts at once, which is 0.4 GB

Line = tuple[Question, Answer, Answer]  # what the one and the other model says


def compared(lines: Sequence[Line]) -> tuple[dict[str, Any], dict[str, str]]:
    """Of each metric both scores, their intervals, the difference and its p; and the signatures.

    Of more than `MOST_LINES` so many are drawn. Lines of several languages are cut into words by the tokenizer of each,
    before BLEU counts them.
    """
    if len(lines) > MOST_LINES:
        lines = random.Random(SEED).sample(lines, MOST_LINES)
    columns = [[our.text for _, our, _ in lines], [their.text for *_, their in lines]]
    columns.append([question.reference for question, *_ in lines])
    targets = [question.target for question, *_ in lines]
    tokenizers = {*map(tokenizer_of, targets)}
    tokenizer = "none" if len(tokenizers) > 1 else next(iter(tokenizers))
    scores: dict[str, Any] = {"lines": len(lines)}
    signatures = {}
    for name, metric in metrics(tokenizer).items():
        if name == "bleu" and tokenizer == "none":
            columns = [[_cut(target)(text) for target, text in zip(targets, texts, strict=True)] for texts in columns]
        scores[name], signature = _compared(metric, *columns)
        signatures[f"{name} {' and '.join(sorted(tokenizers))}" if name == "bleu" else name] = signature
    return scores, signatures


def _compared(metric: Metric, ours: list[str], theirs: list[str], references: list[str]) -> tuple[dict[str, Any], str]:
    test = PairedTest([("theirs", theirs), ("ours", ours)], {"": metric}, [references], test_type="bs")
    signatures, by_name = test()
    # of a test of one metric, beside the names of the systems; they are typed as if they might be names
    their, our = next(cast(list[Any], results) for name, results in by_name.items() if name != "System")
    p = our.p_value if ours != theirs else 1.0  # of what is the same, sacreBLEU says 0.001
    numbers = {"score": our.score, "interval": our.ci, "against": their.score, "against_interval": their.ci}
    scores = {name: round(float(number), 2) for name, number in numbers.items()}
    difference = round(float(our.score - their.score), 2)
    scores |= {"difference": difference, "p": round(float(p), 4), "significant": bool(p < SIGNIFICANT_P)}
    return scores, str(*signatures.values())


@cache
def _cut(target: str) -> Callable[[str], str]:
    tokenizer: Callable[[str], str] = BLEU(tokenize=tokenizer_of(target)).tokenizer
    return tokenizer
