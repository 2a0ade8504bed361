"""sacreBLEU's metrics as all of our tools take them, and how BLEU cuts a language into words."""

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

_TOKENIZERS = {"zh": "zh", "zh-Hant": "zh", "ja": "char", "ko": "char"}  # by target; 13a for the rest


def metrics(tokenizer: str = "13a") -> dict[str, Metric]:
    """By the names they have in results."""
    return {"chrf2": CHRF(), "chrf++": CHRF(word_order=2), "bleu": BLEU(tokenize=tokenizer, force=tokenizer == "none")}


def tokenizer_of(target: str) -> str:
    return _TOKENIZERS.get(target, "13a")
