"""Chooses the next token of every row: greedy or by temperature, top-k, top-p and repetition penalty, each row its own.

Same order as transformers' `generate`: penalty, temperature, top-k, top-p. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.types import Sampling

COLDEST = 1e-5  # a temperature; below it only the best is left, and far below it divisions overflow
LARGEST = 1e30  # a score; a penalty near zero would make it infinite, and one row's NaN fails the whole batch
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


def resolve(asked: Sampling, recommended: Sampling) -> Sampling:
    """What the caller left open is taken from the checkpoint, and greedy where that is silent too."""
    named = {}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed"):
        values = (getattr(each, name) for each in (asked, recommended, GREEDY))
        named[name] = next((value for value in values if value is not None), None)
    return Sampling(**named)


@dataclass(slots=True)
class Chooser:
    """The state of one row: its sampling (resolved), its random generator, and the tokens seen so far."""

    sampling: Sampling
    seen: Tensor | None = None  # bool [vocab_size]; only with a repetition penalty
    generator: torch.Generator = field(default_factory=torch.Generator)

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int], vocab_size: int, device: str) -> "Chooser":
        chooser = cls(sampling)
        if sampling.seed is not None:
            chooser.generator.manual_seed(sampling.seed)
        else:
            chooser.generator.seed()
        if sampling.repetition_penalty != 1:
            chooser.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            chooser.seen[torch.tensor(prompt, device=device)] = True
        return chooser


def choose(scores: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """Scores [rows, vocab_size] → one token id a row."""
    penalised = [row for row, chooser in enumerate(choosers) if chooser.seen is not None]
    if penalised:
        scores = scores.to(torch.float32, copy=True)  # in bf16 a penalty of 1.05 would round to ties
        seen = torch.stack([seen for chooser in choosers if (seen := chooser.seen) is not None])
        factor = torch.tensor([choosers[row].sampling.repetition_penalty for row in penalised], device=scores.device)
        rows = scores[penalised]
        punished = torch.where(rows > 0, rows / factor[:, None], rows * factor[:, None]).clamp(-LARGEST, LARGEST)
        scores[penalised] = torch.where(seen, punished, rows)
    tokens: list[int] = scores.argmax(-1).tolist()
    for row, chooser in enumerate(choosers):
        if chooser.sampling.temperature:
            tokens[row] = _sample(scores[row].float(), chooser)
        if chooser.seen is not None:
            chooser.seen[tokens[row]] = True
    return tokens


def distribution(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Scores of one row, [vocab_size] → (shares, ids) of the tokens it may be, best first; shares are not brought
    to a sum of one. After the penalty; a temperature of zero is not for here."""
    count = min(sampling.top_k or 0, len(scores))
    kept, ids = scores.topk(count) if count > 0 else scores.sort(descending=True)
    assert sampling.temperature is not None
    assert sampling.top_p is not None
    shares = torch.softmax((kept - kept[0]) / max(sampling.temperature, COLDEST), -1).cpu()
    before = shares.cumsum(-1) - shares
    before[0] = -1  # the first always stays
    return torch.where(before < sampling.top_p, shares, 0), ids


def _sample(scores: Tensor, chooser: Chooser) -> int:
    shares, ids = distribution(scores, chooser.sampling)
    place = torch.multinomial(shares, 1, generator=chooser.generator)
    return int(ids[int(place)])
