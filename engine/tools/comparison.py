"""Two checkpoints of one model, side by side: how long each takes to load, and what they say of the same sentences.

Prompts and answers are the same for both: the greedy translations of the first. Their scores after each token of these
are held against each other, in fp32, whatever the weights are stored in.
"""

import statistics
import sys
import time
from collections.abc import Container
from dataclasses import replace
from operator import eq
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import inventory, prompts
from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference import checkpoint
from engine.inference.int8 import Int8Rows
from engine.inference.loader import family_of
from engine.inference.model import HunYuanDense
from engine.languages import LANGUAGES
from engine.shape import ModelShape
from engine.tools import corpus
from engine.tools.perplexity import attend_within
from engine.tools.training.judging import greedy
from engine.tools.training.packing import Encoded, Encoder

SENTENCES = Path(__file__).parents[2] / "tests" / "fixtures" / "tatoeba.tsv"  # lines of code, English, other side
COMPARED = 4  # sentences, half of them from English
LONGEST = 60  # characters of a sentence
QUICK_BYTES = 500_000_000  # of weights, that are loaded three times for a median
_SPARE = 1.15  # memory beside the weights: activations, scores, the larger matrix twice
_SPARE_BYTES = 300_000_000
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def compare(before: Path, after: Path) -> dict[str, Any]:
    """`load_seconds` and `outputs`, or in place of one that is missing `not_compared`, which says why."""
    shapes = [ModelShape.read(checkpoint.read_config(folder), folder) for folder in (before, after)]
    free = inventory.survey("cpu").ram_free_bytes
    result: dict[str, Any] = {}
    held = max(shape.parameters * _held_bytes(shape) for shape in shapes)
    wide = max(shape.parameters * 4 for shape in shapes)
    if _fits(held, free):
        result["load_seconds"] = {"before": _load_seconds(before), "after": _load_seconds(after)}
        print(f"loaded in {' → '.join(f'{each} s' for each in result['load_seconds'].values())}", file=sys.stderr)
    if _fits(wide, free):
        print("translating a few sentences with each, in fp32 (--no-compare leaves it out)", file=sys.stderr)
        try:
            result["outputs"] = _outputs(before, after)
            _say(result["outputs"])
        except (ModelNotFound, UnsupportedModel) as error:  # of a tokenizer, which a conversion can do without
            result["not_compared"] = str(error)
    else:
        result["not_compared"] = (
            f"{wide / 1e9:.1f} GB of weights in fp32 do not fit into {free / 1e9:.1f} GB of free memory."
        )
    if "not_compared" in result:
        print(f"Outputs are not compared: {result['not_compared']}", file=sys.stderr)
    return result


def _fits(weights: int, free: int) -> bool:
    return weights * _SPARE + _SPARE_BYTES < free


def _held_bytes(shape: ModelShape) -> int:
    """Of a weight, as `_load_seconds` holds it."""
    return {"fp32": 4, "int8": 1}.get(shape.stored, 2)


def _load_seconds(folder: Path) -> float:
    """As it is stored, on the CPU, INT4 widened to bf16; the median of three for small ones. What was read or written
    just before comes from memory, not from the disk."""
    config = checkpoint.read_config(folder)
    shape = ModelShape.read(config)
    dtype = _DTYPES.get(shape.stored, torch.bfloat16)
    taken = []
    for _ in range(3 if shape.parameters * _held_bytes(shape) < QUICK_BYTES else 1):
        began = time.perf_counter()
        checkpoint.load_model(folder, config, dtype, "cpu", int8=Int8Rows)
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken), 3)


@torch.inference_mode()
def _outputs(before: Path, after: Path) -> dict[str, Any]:
    encode = Encoder(before)
    config = checkpoint.read_config(before)
    family = family_of(str(before), config)
    questions = _questions((config.get("yiwen") or {}).get("languages") or LANGUAGES)
    asked = [
        corpus.Example("plain", prompts.plain(family, source, target, text), answer)
        for source, target, text, answer in questions
    ]
    model = _wide(before)
    said = greedy(model, encode, asked)
    answers = [encode(replace(example, answer=answer)) for example, answer in zip(asked, said, strict=True)]
    first = torch.cat([_scores(model, answer) for answer in answers])
    del model
    model = _wide(after)
    said_after = greedy(model, encode, asked)
    second = torch.cat([_scores(model, answer) for answer in answers])
    off = (first - second).abs()
    divergence = F.kl_div(second.log_softmax(-1), first.log_softmax(-1), log_target=True, reduction="batchmean")
    return {
        "sentences": len(questions),
        "tokens": len(first),
        "max_logit_change": float(off.max()),
        "mean_logit_change": float(off.mean()),
        "same_best": float((first.argmax(-1) == second.argmax(-1)).float().mean()),
        "kl_nats": max(0.0, float(divergence)),
        "same_text": sum(map(eq, said, said_after)),
        "texts": [
            {"source": text, "to": to, "before": one, "after": other}
            for (_, to, text, _), one, other in zip(questions, said, said_after, strict=True)
        ],
    }


def _questions(langs: Container[str]) -> list[tuple[str, str, str, str]]:
    """(from, to, text, true answer): short sentences of different languages, in turn from English and into it."""
    lines = [line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    by_lang = {lang: (english, other) for lang, english, other in lines if lang in langs and len(english) < LONGEST}
    pairs = list(by_lang.items())[:COMPARED]
    return [
        ("en", lang, english, other) if number % 2 else (lang, "en", other, english)
        for number, (lang, (english, other)) in enumerate(pairs)
    ]


def _wide(folder: Path) -> HunYuanDense:
    return checkpoint.load_model(folder, checkpoint.read_config(folder), torch.float32, "cpu")


def _scores(model: HunYuanDense, answer: Encoded) -> Tensor:
    """After each token of prompt and answer that has one of the answer behind it: [tokens, vocab_size]."""
    ids = torch.tensor([answer.ids])
    hidden = model(ids, torch.arange(ids.shape[1])[None], attend_within([ids.shape[1]]))
    return model.logits(hidden[0, answer.first_label : -1])


def _say(outputs: dict[str, Any]) -> None:
    print(
        f"{outputs['tokens']} tokens of {outputs['sentences']} answers: scores off by "
        f"{outputs['mean_logit_change']:.2g} in the mean and {outputs['max_logit_change']:.2g} at most, "
        f"the same best token {outputs['same_best']:.1%}, "
        f"KL {outputs['kl_nats']:.2g} nats; {outputs['same_text']} answers word for word the same",
        file=sys.stderr,
    )
    for text in outputs["texts"]:
        print(f"  {text['source']}\n    before: {text['before']!r}\n    after:  {text['after']!r}", file=sys.stderr)
