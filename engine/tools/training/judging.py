"""What a model in training is judged by: loss, chrF2 and BLEU on a development set, greedy, as it is at that moment."""

from collections.abc import Mapping, Sequence
from itertools import islice
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.errors import BackendError, ConfigError
from engine.inference.batcher import Batcher, Generation
from engine.inference.kv_cache import pages_of
from engine.inference.model import Attend, HunYuanDense, ModelConfig
from engine.inference.runner import TorchRunner
from engine.inference.sampler import GREEDY
from engine.tools import corpus
from engine.tools.pairs import Pair
from engine.tools.training.packing import IGNORED, Encoder, batches
from engine.tools.training.precision import Precision
from engine.tools.training.trainee import Trainee
from engine.types import Family, FinishReason

SAMPLE = 180  # pairs that are translated both ways
LONGEST_PROMPT = 600  # characters
LOSS_PAIR_TOKENS = 120  # about as many has a pair, both ways; for how many of them fit into the batches of the loss
LOSS_BATCHES = 2


class Judge:
    """A development set, and what a model in training is worth on it, always by the same sample."""

    def __init__(
        self, trainee: Trainee, encode: Encoder, pairs: Sequence[Pair], data: Mapping[str, Any], family: Family
    ) -> None:
        """`data`: the recipe's section. Raises `ConfigError` where no pair is short enough."""
        self._trainee, self._encode, self._pairs, self._family = trainee, encode, pairs, family
        room = LOSS_BATCHES * data["rows"] * data["row_tokens"]
        examples = (
            encode(corpus.plain(pair, backwards, family))
            for pair in pairs[:: max(1, len(pairs) * LOSS_PAIR_TOKENS // room)]
            for backwards in (True, False)
        )
        fitting = (example for example in examples if len(example.ids) <= data["longest_example"])
        self._batches = list(islice(batches(fitting, data, last=True), LOSS_BATCHES))
        if not self._batches:
            raise ConfigError(
                f"All development pairs are longer than {data['longest_example']} tokens or a row; give shorter ones, "
                "or raise longest_example and --row-tokens."
            )

    def __call__(self, precision: Precision, with_scores: bool) -> dict[str, float]:
        """`dev_loss` in nats a target token, and with scores `dev_chrf` and `dev_bleu`."""
        trainee, device = self._trainee, self._trainee.attend.documents.device
        trainee.eval()
        losses, counts = 0.0, 0
        for batch in self._batches:
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            trainee.attend.set(moved["documents"])
            with torch.no_grad(), precision.autocast(device):
                losses += trainee(moved)[1].item()
            counts += int((batch["labels"] != IGNORED).sum())
        found = {"dev_loss": losses / counts}
        if with_scores:
            found |= scores(Speaking(trainee.model, precision), self._encode, self._pairs, self._family)
        trainee.train()
        return found


class Speaking:
    """The model in training, as a runner wants one: in its precision, with nothing compiled."""

    def __init__(self, model: HunYuanDense, precision: Precision) -> None:
        self.config: ModelConfig = model.config
        self.norm = SimpleNamespace(weight=model.norm.weight.to(precision.compute))
        self._model, self._precision, self._device = model, precision, model.norm.weight.device

    def __call__(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        with torch.compiler.set_stance("force_eager"), self._precision.autocast(self._device):
            hidden: Tensor = self._model(ids, positions, attend, self._precision.compute)
            return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        with self._precision.autocast(self._device):
            return self._model.logits(hidden)

    def parameters(self) -> Sequence[Tensor]:
        return ()

    buffers = parameters


def greedy(model: Any, encode: Encoder, examples: Sequence[corpus.Example]) -> list[str]:
    """Greedy answers to the prompts as one batch, of no more than twice the true answer's tokens. `model`: `Speaking`,
    or a plain one."""
    encoded = [encode(example) for example in examples]
    prompts = [each.ids[: each.first_label + 1] for each in encoded]
    most = [2 * (len(each.ids) - len(prompt)) + 8 for each, prompt in zip(encoded, prompts, strict=True)]
    pages = sum(pages_of(len(prompt) + tokens) for prompt, tokens in zip(prompts, most, strict=True))
    ended: SimpleQueue[BackendError | None] = SimpleQueue()

    def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
        if finish or error:
            ended.put(error)

    answers = [Generation(prompt, tokens, GREEDY, tell) for prompt, tokens in zip(prompts, most, strict=True)]
    batcher = Batcher(TorchRunner(model, len(prompts), pages), frozenset({encode.end}))
    try:
        for answer in answers:
            batcher.submit(answer)
        for _ in answers:
            if (error := ended.get()) is not None:
                raise error
    finally:
        batcher.close()
    return [encode.tokenizer.decode([token for token in answer.made if token != encode.end]) for answer in answers]


def scores(model: Any, encode: Encoder, pairs: Sequence[Pair], family: Family) -> dict[str, float]:
    """`dev_chrf` (chrF2) and `dev_bleu` over a fixed sample, both directions of every language together; BLEU is the
    mean over target languages, since each is cut into words in its own way."""
    from engine.tools import scoring  # sacreBLEU, which converting does without

    chosen = [
        (example, pair.first_lang if backwards else pair.lang)
        for pair in pairs[:: max(1, len(pairs) // SAMPLE)]
        for backwards in (True, False)
        if len((example := corpus.plain(pair, backwards, family)).prompt) < LONGEST_PROMPT
    ]
    if not chosen:
        return {}
    answers = greedy(model, encode, [example for example, _ in chosen])
    chrf = scoring.metrics()["chrf2"].corpus_score(answers, [[example.answer for example, _ in chosen]]).score
    by_target: dict[str, list[tuple[str, str]]] = {}
    for (example, target), answer in zip(chosen, answers, strict=True):
        by_target.setdefault(target, []).append((answer, example.answer))
    bleus = []
    for target, lines in by_target.items():
        said, wanted = zip(*lines, strict=True)
        bleu = scoring.metrics(scoring.tokenizer_of(target))["bleu"]
        bleus.append(bleu.corpus_score(list(said), [list(wanted)]).score)
    return {"dev_chrf": float(chrf), "dev_bleu": sum(bleus) / len(bleus)}
