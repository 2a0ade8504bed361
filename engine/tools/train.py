"""Trains a HunYuanDense translator, on one GPU or several, in bf16 by `accelerate`.

    python -m engine.tools.train --recipe engine/tools/recipes/yiwen-mini.toml --corpus CORPUS --test TEST \\
        --tokenizer FOLDER --out FOLDER --minutes 20
    accelerate launch --num_processes 8 -m engine.tools.train …          # data parallel
    python -m engine.tools.train --recipe engine/tools/recipes/yiwen-mini-int4.toml --start MODEL --int4 128 …

It begins from scratch, or with `--start` from the weights of a checkpoint in any precision. With `--int4` weights are
rounded in the forward pass as the CPU engines serve them (and so judged), and written in INT4 with an INT8 embedding.

Examples are packed into rows with document masks, the loss is on target tokens only. Stops by `--steps`, or by
`--minutes`: after the first steps the number that fits is fixed, so that the learning rate ends at zero. `--resume`
goes on from the last checkpoint in `--out` (weights, optimizers, step; the examples that follow are drawn afresh).
"""

import argparse
import json
import math
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.data import DataLoader

from engine.errors import BackendError, ConfigError, YiwenError
from engine.inference import checkpoint
from engine.inference.batcher import Batcher, Generation
from engine.inference.kv_cache import pages_of
from engine.inference.model import HunYuanDense, ModelConfig
from engine.inference.runner import TorchRunner
from engine.inference.sampler import GREEDY
from engine.tools import corpus, int4
from engine.tools.asked import amount, count
from engine.tools.training.muon import Muon
from engine.tools.training.packing import IGNORED, Encoder, Packed, batches
from engine.types import FinishReason

TIMING_STEPS = 100  # after these the steps that fit into --minutes are counted
FIRST_TIMED_STEP = 30  # compilation is over
PEAK_BF16_FLOPS = 790e12  # one H200, an 8192³ product of random bf16 as measured; for the printed share only


# ---------------------------------------------------------------------------------------------------------------------
# the model in training


class PackedAttention:
    """Causal attention within each document of a row: flex attention on a GPU, a dense mask on the CPU."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.documents = torch.zeros(rows, width, dtype=torch.int64, device=device)
        self.mask: BlockMask | None = None
        self._make: Callable[[], BlockMask] | None = None
        if device.type == "cuda":
            documents = self.documents

            def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (documents[row, query] == documents[row, key]) & (query >= key)

            self._make = torch.compile(lambda: create_block_mask(seen, rows, None, width, width, device="cuda"))

    def set(self, documents: Tensor) -> None:
        self.documents.copy_(documents)
        if self._make is not None:
            self.mask = self._make()

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if self.mask is not None:
            seen = flex_attention(query, key, value, block_mask=self.mask, enable_gqa=True)
            assert isinstance(seen, Tensor)
        else:
            width = query.shape[2]
            mask = (self.documents[:, :, None] == self.documents[:, None, :]).tril()[:, None, :width, :width]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return seen.transpose(1, 2)


class Trainee(nn.Module):
    """The model with its loss, so that data parallelism sees one forward."""

    def __init__(self, model: HunYuanDense, attend: PackedAttention, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.attend, self.label_smoothing = model, attend, label_smoothing
        self.loss_of: Callable[..., tuple[Tensor, Tensor]] = head_loss
        if attend.documents.is_cuda:
            for layer in model.layers:
                layer.compile(dynamic=False)
            self.loss_of = torch.compile(head_loss, dynamic=False)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(smoothed loss to descend, plain loss), means in nats a target token."""
        dtype = torch.bfloat16 if batch["ids"].is_cuda else None  # of the residual stream; weights stay fp32
        hidden = self.model(batch["ids"], batch["positions"], self.attend, dtype)
        hidden = hidden.flatten(0, 1).index_select(0, batch["places"])
        return self.loss_of(self.model, hidden, batch["labels"], self.label_smoothing)


def head_loss(model: HunYuanDense, hidden: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    scores = model.logits(hidden).float()
    counted = labels != IGNORED
    wanted = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    total = torch.logsumexp(scores, -1)
    plain = torch.where(counted, total - wanted, 0).sum() / counted.sum()
    spread = torch.where(counted, total - scores.mean(-1), 0).sum() / counted.sum()
    return (1 - smoothing) * plain + smoothing * spread, plain.detach()


def initialise(model: HunYuanDense, seed: int) -> None:
    """Normal(0, 0.02); what adds to the residual stream is scaled down by √(2·layers), as in GPT-2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
                if name.endswith(("output.weight", "down.weight")):
                    parameter.div_(math.sqrt(2 * model.config.layers))


def start_from(model: HunYuanDense, folder: Path) -> None:
    """The weights of a checkpoint, widened. Raises `ModelNotFound`, `UnsupportedModel`, and `ConfigError`."""
    start = checkpoint.load_model(folder, checkpoint.read_config(folder), torch.float32, "cpu")
    wanted = asdict(model.config)
    differing = [
        f"{name} {has}, not {wanted[name]}" for name, has in asdict(start.config).items() if has != wanted[name]
    ]
    if differing:
        raise ConfigError(
            f"{str(folder)!r} is not of the recipe's shape ({'; '.join(differing)}); give the recipe of that model."
        )
    model.load_state_dict(start.state_dict())


def optimizers_for(model: HunYuanDense, settings: dict[str, Any], fused: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embedding and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("layers.")]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("layers.")]
    muon = Muon(matrices, settings["muon_lr"], settings["muon_weight_decay"])
    adam = torch.optim.AdamW(rest, lr=settings["adam_lr"], betas=settings["adam_betas"], weight_decay=0.0, fused=fused)
    return [muon, adam]


def learning_rate(step: int, steps: int, settings: dict[str, Any]) -> float:
    """The factor on the peak learning rate at `step` of `steps`."""
    warm, done = min(1.0, (step + 1) / float(settings["warmup_steps"])), step / steps
    if settings["schedule"] == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return warm * min(1.0, max(0.0, 1 - done) / (1 - float(settings["decay_from"])))


# ---------------------------------------------------------------------------------------------------------------------
# judging on the way


def development_batches(pairs: list[corpus.Pair], encode: Encoder, data: dict[str, Any]) -> list[dict[str, Tensor]]:
    """Both directions of the first pairs of each language, packed: two batches at most, always the same."""
    each = len(pairs) // len(data["langs"])
    chosen = [pair for start in range(0, len(pairs), each) for pair in pairs[start : start + each : 4]]
    examples = [encode(corpus.plain(pair, way)) for pair in chosen for way in (True, False)]
    fitting = (example for example in examples if len(example.ids) <= data["longest_example"])
    return list(batches(fitting, data))[:2]


def inference_copy(model: HunYuanDense) -> HunYuanDense:
    """The weights as they will be written, in a model that nothing compiles or rounds."""
    dtype = torch.bfloat16 if model.norm.weight.is_cuda else torch.float32
    config, weights = int4.served(model)
    copy = HunYuanDense(config).to(model.norm.weight.device, dtype)
    copy.load_state_dict(weights)
    copy.reset_rotation()
    return copy.to(model.norm.weight.device).eval()


def greedy(model: HunYuanDense, encode: Encoder, prompts: list[str], max_new_tokens: int = 160) -> list[str]:
    """Greedy answers to all prompts as one batch."""
    encoded = [encode(corpus.Example("plain", prompt, "")).ids[:-1] for prompt in prompts]
    pages = sum(pages_of(len(ids) + max_new_tokens) for ids in encoded)
    ended: SimpleQueue[BackendError | None] = SimpleQueue()

    def tell(token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
        if finish or error:
            ended.put(error)

    answers = [Generation(ids, max_new_tokens, GREEDY, tell) for ids in encoded]
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


def development_chrf(model: HunYuanDense, encode: Encoder, pairs: list[corpus.Pair]) -> float:
    """chrF2 over a fixed sample, both directions of every language together."""
    from sacrebleu.metrics.chrf import CHRF  # of the tools only

    examples = [corpus.plain(pair, way) for pair in pairs[:: max(1, len(pairs) // 180)] for way in (True, False)]
    examples = [example for example in examples if len(example.prompt) < 600]
    answers = greedy(model, encode, [example.prompt for example in examples])
    return float(CHRF().corpus_score(answers, [[example.answer for example in examples]]).score)


# ---------------------------------------------------------------------------------------------------------------------
# the run


def run(recipe: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, writes the checkpoint to `arguments.out`, and returns what happened."""
    accelerator = Accelerator(mixed_precision="bf16")
    device, main_rank = accelerator.device, accelerator.is_main_process
    torch.manual_seed(arguments.seed)
    settings, data = recipe["optimizer"], recipe["data"]

    shape = dict(recipe["model"])
    dropout = shape.pop("dropout")
    config = ModelConfig(**shape, tied_head=True)
    model = HunYuanDense(config, dropout)
    if arguments.int4:
        int4.round_in_training(model, arguments.int4)
    if arguments.start:
        start_from(model, arguments.start)
    else:
        initialise(model, arguments.seed)
    model.to(device)
    attend = PackedAttention(data["rows"], data["row_tokens"], device)
    optimizers = optimizers_for(model, settings, fused=device.type == "cuda")
    trainee, *optimizers = accelerator.prepare(Trainee(model, attend, settings["label_smoothing"]), *optimizers)
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    adam_parameters = optimizers[1].param_groups[0]["params"]

    encode = Encoder(arguments.tokenizer)
    pairs = [pair for lang in data["langs"] for pair in corpus.test_pairs(arguments.test, corpus.DEVELOPMENT_SET, lang)]
    development = [_moved(batch, device) for batch in development_batches(pairs, encode, data)] if main_rank else []

    state = arguments.out / "state"
    step, tokens_before, curve = 0, 0, list[dict[str, float]]()
    if arguments.resume and (state / "progress.json").exists():
        accelerator.load_state(str(state))
        saved = json.loads((state / "progress.json").read_text())
        step, tokens_before, curve = saved["step"], saved["tokens"], saved["curve"]
        accelerator.print(f"resumed at step {step}", file=sys.stderr)
    arguments.seed += step  # other examples than before

    source = DataLoader(
        Packed(recipe, arguments, accelerator.process_index, accelerator.num_processes),
        batch_size=None,
        num_workers=arguments.workers,
        prefetch_factor=4 if arguments.workers else None,
        pin_memory=device.type == "cuda",
    )
    stream = iter(source)

    def judge(with_chrf: bool) -> dict[str, float]:
        model.eval()
        losses = []
        for batch in development:
            attend.set(batch["documents"])
            with torch.no_grad(), accelerator.autocast():
                losses.append(accelerator.unwrap_model(trainee)(batch)[1].item())
        scores = {"dev_loss": sum(losses) / len(losses)} if losses else {}
        if with_chrf:
            scores["dev_chrf"] = development_chrf(inference_copy(model), encode, pairs)
        model.train()
        return scores

    steps = arguments.steps
    began = timed = saved_at = time.time()
    tokens = timed_tokens = trained_tokens = 0
    recent: list[Tensor] = []
    while steps is None or step < steps:
        batch = _moved(next(stream), device)
        if not tokens:
            began = saved_at = time.time()  # the clock starts with the first batch, not with reading the corpus
        factor = learning_rate(step, steps or 10**9, settings)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * factor
        attend.set(batch["documents"])
        loss, plain = trainee(batch)
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(adam_parameters, settings["clip_norm"])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        recent.append(plain)
        tokens += data["rows"] * data["row_tokens"] * accelerator.num_processes

        if tokens and len(recent) == FIRST_TIMED_STEP and timed_tokens == 0:
            timed, timed_tokens = _now(device), tokens
        if steps is None and len(recent) == FIRST_TIMED_STEP + TIMING_STEPS:
            spent = _now(device)
            left = arguments.minutes * 60 - (spent - began)
            fits = step + int(left / ((spent - timed) / TIMING_STEPS))
            steps = int(broadcast(torch.tensor(fits, device=device)).item())
            accelerator.print(f"{steps} steps fit into {arguments.minutes} minutes", file=sys.stderr)
        last = steps is not None and step >= steps
        if step % arguments.log_every == 0 or last:
            mean = torch.stack(recent[-arguments.log_every :]).mean()
            now, point = _now(device), {"step": step, "tokens": tokens_before + tokens, "train_loss": mean.item()}
            if not math.isfinite(point["train_loss"]):
                raise SystemExit(f"the loss is {point['train_loss']} at step {step}: lower the learning rate")
            if main_rank and (step % arguments.judge_every == 0 or last):
                point |= judge(with_chrf=last or step % (4 * arguments.judge_every) == 0)
            trained_tokens = tokens - timed_tokens
            speed = trained_tokens / max(now - timed, 1e-9)
            curve.append({name: round(value, 4) for name, value in point.items()})
            if main_rank:
                figures = " ".join(f"{name} {value:.4g}" for name, value in point.items())
                share = speed / accelerator.num_processes * flops_a_token(config, data) / PEAK_BF16_FLOPS
                pace = f"{speed / 1e3:.0f}k tokens/s ({share:.0%} of peak)"
                print(f"{now - began:6.0f} s {figures} {pace} of {steps} steps", file=sys.stderr, flush=True)
            timed += time.time() - now  # judging is not training
        if arguments.save_minutes and time.time() - saved_at > arguments.save_minutes * 60 and not last:
            accelerator.save_state(str(state))
            if main_rank:
                progress = {"step": step, "tokens": tokens_before + tokens, "curve": curve}
                (state / "progress.json").write_text(json.dumps(progress))
                save(model, encode, recipe, arguments)
            saved_at = time.time()
        if len(recent) > 1000:
            del recent[: -arguments.log_every]

    summary = {
        "steps": step,
        "tokens": tokens_before + tokens,
        "seconds": round(time.time() - began, 1),
        "tokens_a_second": round(trained_tokens / max(_now(device) - timed, 1e-9)),
        "gpus": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device.type == "cuda" else 0,
        "curve": curve,
    }
    if main_rank:
        save(model, encode, recipe, arguments)
        (arguments.out / "training.json").write_text(json.dumps(summary, indent=1))
    accelerator.end_training()
    return summary


def save(model: HunYuanDense, encode: Encoder, recipe: dict[str, Any], arguments: argparse.Namespace) -> None:
    """A checkpoint folder: weights in bf16 (then transformers loads it) or INT4, tokenizer, and what the engine reads
    beside them."""
    ids = {"bos_token_id": encode.begin, "eos_token_id": encode.end, "pad_token_id": encode.pad}
    yiwen = {"family": corpus.FAMILY, "languages": ["en", *recipe["data"]["langs"]], "hub": "en", **recipe["card"]}
    extra, shard_bytes = ids | {"yiwen": yiwen}, int(arguments.shard_mb * 1e6)
    if arguments.int4:
        int4.save_model(model, arguments.out, arguments.int4, extra, shard_bytes)
    else:
        checkpoint.save_model(model, arguments.out, torch.bfloat16, extra, shard_bytes)
    generation = ids | {"do_sample": False, "max_new_tokens": 512}
    (arguments.out / "generation_config.json").write_text(json.dumps(generation, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(arguments.tokenizer / name, arguments.out / name)


def flops_a_token(config: ModelConfig, data: dict[str, Any]) -> float:
    """Forward and backward, multiply and add: 6 a weight; the head only where there is something to learn.
    Attention within documents of ~70 tokens is left out (under 2 %)."""
    label_share: float = data["label_share"]
    return 6 * (config.body_parameters + label_share * config.vocab_size * config.hidden_size)


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.time()


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe; where it names a `base`, the recipe of that name beside it, with only what differs in its place."""
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    if "base" not in recipe:
        return recipe
    base = read_recipe(path.parent / recipe.pop("base"))
    return base | {section: base.get(section, {}) | values for section, values in recipe.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a HunYuanDense translator.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of train.en-XX.tsv.zst")
    parser.add_argument("--test", type=Path, required=True, help="folder of test files: judged on, never trained on")
    parser.add_argument("--tokenizer", type=Path, help="folder made by engine.tools.tokenizer (default: --start's)")
    parser.add_argument("--start", metavar="MODEL", type=Path, help="go on from the weights of this folder")
    parser.add_argument("--int4", metavar="GROUP", type=int, choices=int4.GROUPS, help="inputs that share a scale")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shard-mb", type=amount, default=checkpoint.WHOLE_BYTES / 1e6, help="largest file, in MB")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=amount)
    length.add_argument("--steps", type=count)
    parser.add_argument("--workers", type=int, default=14, help="processes that make examples, for each GPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--log-every", type=count, default=100, help="steps")
    parser.add_argument("--judge-every", type=count, default=500, help="steps; a multiple of --log-every")
    parser.add_argument("--save-minutes", type=float, default=4)
    arguments = parser.parse_args()
    arguments.tokenizer = arguments.tokenizer or arguments.start
    if arguments.tokenizer is None:
        parser.error("give --tokenizer, or --start with a model that has one.")
    if arguments.start and arguments.start.resolve() == arguments.out.resolve():
        parser.error("--out is --start: keep the original and name another folder.")
    try:
        summary = run(read_recipe(arguments.recipe), arguments)
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    del summary["curve"]
    print(json.dumps({"out": str(arguments.out), **summary}))


if __name__ == "__main__":
    main()
