"""One run of training, from its recipe to what is written: the loop, judging on the way, what is kept to resume from.

Knows the command's arguments (`engine.tools.train`), and puts the other files of this folder together.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.errors import ConfigError
from engine.inference import checkpoint
from engine.inference.loader import family_of
from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import convert, corpus, int4
from engine.tools.pairs import Pair, read
from engine.tools.training import curves, judging, lora, memory, state
from engine.tools.training.optimizers import learning_rate, optimizers_for
from engine.tools.training.packing import Batches, Encoder, Source, batches
from engine.tools.training.precision import PRECISIONS
from engine.tools.training.recipe import Recipe, shape_of
from engine.tools.training.stepper import Diverged, Stepped, Stepper
from engine.tools.training.trainee import PackedAttention, Trainee, initialise

TIMING_STEPS = 100  # after these the steps that fit into --minutes are counted
FIRST_TIMED_STEPS = 30  # after these compilation is over


class Training:
    """A run, from its recipe to what is written. `arguments` are the command's."""

    def __init__(self, recipe: Recipe, arguments: argparse.Namespace) -> None:
        self.recipe, self.asked = recipe, arguments
        self.settings, self.data = recipe["optimizer"], recipe["data"]
        self.precision = PRECISIONS[arguments.precision]
        self.accelerator = Accelerator(mixed_precision="no")  # autocast and the loss scale are ours, see `precision`
        self.device, self.main_process = self.accelerator.device, self.accelerator.is_main_process
        torch.backends.cuda.matmul.allow_tf32 = self.precision.tf32
        torch.manual_seed(arguments.seed)

        self.start = checkpoint.read_config(arguments.start) if arguments.start else None
        self.family = family_of(str(arguments.start), self.start) if self.start else corpus.FAMILY
        self.encode = Encoder(arguments.tokenizer)
        self.development = self._development_pairs()
        progress = self._progress() if arguments.resume else None
        # its processes read the corpus while the model is loaded
        self.source = self._source(state.place_of(arguments.out, self.accelerator) if progress else None)
        self.model = self._model()
        attend = PackedAttention(self.data["rows"], self.data["row_tokens"], self.device)
        smoothing, anew = self.settings["label_smoothing"], arguments.gradient_checkpointing
        self.trainee = Trainee(self.model, attend, smoothing, self.precision.compute, anew)
        self.optimizers = optimizers_for(self.model.named_parameters(), self.settings)
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        prepared = self.accelerator.prepare(self.trainee)
        clip_norm = self.settings["clip_norm"]
        self.stepper = Stepper(self.accelerator, prepared, self.optimizers, self.precision, clip_norm)
        self.judged_batches = self._judged_batches() if self.main_process else []

        self.step = self.tokens = self.skipped = self.stale = 0
        self.steps: int | None = arguments.steps
        self.best: dict[str, float] | None = None
        self.curve: list[dict[str, float]] = []
        self.recent: list[float] = []  # losses since the last point of the curve
        self.shares: dict[str, float] = {}  # what fp16 would lose, when last looked at
        self.peak_bytes = 0
        self.clock = Clock()
        self.diverged = False
        if progress:
            self._resume(progress)
        self.curves = curves.Curves(arguments.out, self.step) if self.main_process else None

    # ---------------------------------------------------------------------------------------------- what it is made of

    def _model(self) -> HunYuanDense:
        """On the device, with what is trained wanting gradients. Raises `ConfigError` where it will not fit."""
        asked, precision, shape = self.asked, self.precision, shape_of(self.recipe)
        if not (shape or self.start):
            raise ConfigError("The recipe says nothing of a model's shape; name a checkpoint to begin with, --start.")
        config = checkpoint.model_config(self.start) if self.start else ModelConfig(**shape, tied_head=True)
        if shape and self.start:
            _check_shape(asked.start, config, shape)
        in_int4 = bool(self.start and (self.start.get("quantization_config") or {}).get("bits") == 4)
        if asked.lora and self.start is None:
            raise ConfigError("--lora trains beside the weights of a checkpoint; name one with --start.")
        self._check_memory(config, held_in_int4=bool(asked.lora) and (asked.qlora or in_int4))
        if self.start is None:
            model = HunYuanDense(config)
            initialise(model, asked.seed)
            model.to(self.device, precision.weights)
        else:
            dtype = precision.frozen if asked.lora else torch.float32
            kept = lora.FrozenInt4 if asked.lora and in_int4 else None
            model = checkpoint.load_model(asked.start, self.start, dtype, str(self.device), kept)
            model.to(dtype if asked.lora else precision.weights)
        for layer in model.layers:
            layer.dropout = self.recipe["model"].get("dropout", 0.0)
        if asked.lora:
            if asked.qlora:
                lora.hold_in_int4(model)
            lora.add(model, asked.lora, self._alpha, self._lora_dropout, precision.weights, asked.seed)
        else:
            model.requires_grad_(True)
            if asked.int4:
                int4.round_in_training(model, asked.int4)
        model.reset_rotation()
        return model.to(self.device).train()

    @property
    def _alpha(self) -> float:
        return float(self.settings.get("lora_alpha", 2.0)) * float(self.asked.lora)

    @property
    def _lora_dropout(self) -> float:
        return float(self.settings.get("lora_dropout", 0.0))

    def _check_memory(self, config: ModelConfig, held_in_int4: bool) -> None:
        if self.device.type != "cuda":
            return
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        kind, rank, anew = self.settings["kind"], self.asked.lora, self.asked.gradient_checkpointing
        batch = (self.data["rows"], self.data["row_tokens"], self.data["label_share"])
        memory.check(memory.Asked(config, self.precision, rank, held_in_int4, anew, kind, *batch), free_bytes)

    def _development_pairs(self) -> list[Pair]:
        if self.asked.dev:
            pairs = [pair for place in self.asked.dev for pair in read(place)]
        else:
            langs = self.data.get("langs") or []
            pairs = [
                pair for lang in langs for pair in corpus.test_pairs(self.asked.test, corpus.DEVELOPMENT_SET, lang)
            ]
        if not pairs:
            raise ConfigError("There is nothing to judge the model by; give --dev a file of pairs.")
        return pairs

    def _judged_batches(self) -> list[dict[str, Tensor]]:
        """Both directions of a fixed sample of the pairs, packed: two batches at most, always the same."""
        room = 2 * self.data["rows"] * self.data["row_tokens"]
        examples = [
            self.encode(corpus.plain(pair, backwards, self.family))
            for pair in self.development[:: max(1, len(self.development) * 120 // room)]
            for backwards in (True, False)
        ]
        fitting = (example for example in examples if len(example.ids) <= self.data["longest_example"])
        return [self._moved(batch) for batch in list(batches(fitting, self.data, last=True))[:2]]

    def _source(self, place: Any) -> Batches:
        held_out = corpus.test_sentences(self.asked.test) if self.asked.test else frozenset[str]()
        held_out |= {side for pair in self.development for side in (pair.first, pair.second)}
        source = Source(
            tuple(self.asked.corpus), self.asked.tokenizer, self.data, self.recipe["mix"], self.family, held_out
        )
        ranks = self.accelerator.num_processes
        rank, on_gpu = self.accelerator.process_index, self.device.type == "cuda"
        return Batches(source, self.asked.seed, rank, ranks, self.asked.workers, place, pin=on_gpu)

    # --------------------------------------------------------------------------------------------------------- the run

    def run(self) -> dict[str, Any]:
        """Trains, writes the model to `out`, and returns what happened."""
        stopped: str | None = None
        self.clock.begin()
        bar = tqdm(total=self.steps, initial=self.step, unit="step", mininterval=1, disable=not self.main_process)
        try:
            while self.steps is None or self.step < self.steps:
                self._one_step()
                bar.total = self.steps
                bar.update()
                if self.asked.patience and self.stale >= self.asked.patience:
                    stopped = f"chrF2 has not risen for {self.stale} judgements"
                    break
        except Diverged as error:
            stopped, self.diverged = str(error), True
        finally:
            bar.close()
        return self._finished(stopped)

    def _one_step(self) -> None:
        gathered = [self._moved(next(self.source)) for _ in range(self.asked.accumulate)]
        factor = learning_rate(self.step, self.steps or 10**9, self.settings)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        told = (self.step + 1) % self.asked.log_every == 0
        stepped = self.stepper(gathered, look_closer=told or self.step in (0, (self.steps or 0) - 1))
        if stepped.underflow:
            self.shares = stepped.underflow | {"unchanged": stepped.unchanged or 0.0}
        self.step += 1
        self.tokens += gathered[0]["ids"].numel() * len(gathered) * self.accelerator.num_processes
        self.recent.append(stepped.loss)
        self.skipped += not stepped.applied
        self.clock.stepped()
        if self.steps is None and self.clock.timed >= TIMING_STEPS:
            left = self.asked.minutes * 60 - self.clock.seconds
            fits = self.step + int(left / self.clock.seconds_a_step)
            self.steps = int(broadcast(torch.tensor(fits, device=self.device)).item())
            self._say(f"{self.steps} steps fit into {self.asked.minutes} minutes")
        last = self.step == self.steps
        if told or last:
            self._tell(stepped, factor, last)
        if self.clock.since_saved > self.asked.save_minutes * 60 > 0 and not last:
            self._save_state()

    def _tell(self, stepped: Stepped, factor: float, last: bool) -> None:
        """A point of the curve; every so often with what the model is worth."""
        mean = sum(self.recent) / len(self.recent)
        self.recent.clear()
        point = {"step": self.step, "tokens": self.tokens, "train_loss": mean, "rate": factor, "norm": stepped.norm}
        with self.clock.standing():
            if self.main_process and (last or self.step % self.asked.judge_every == 0):
                patient = bool(self.asked.patience)
                point |= self._judged(last or patient or self.step % (4 * self.asked.judge_every) == 0)
            if self.asked.patience:
                self._wait_or_not(point)
        self.curve.append({name: round(value, 5) for name, value in point.items()})
        if self.curves:
            self.curves.add(point | self.shares | {"loss_scale": self.stepper.scaler.get_scale()})
            figures = " ".join(f"{name} {value:.4g}" for name, value in point.items())
            pace = f"{self.tokens_a_second / 1e3:.1f}k tokens/s" if self.clock.seconds_a_step else "starting"
            of = f"of {self.steps} steps" if self.steps else ""
            self._say(f"{self.clock.seconds:6.0f} s {figures} {pace} {of}")

    def _judged(self, with_scores: bool) -> dict[str, float]:
        self._note_peak()
        self.model.eval()
        losses, counts = 0.0, 0
        for batch in self.judged_batches:
            self.trainee.attend.set(batch["documents"])
            with torch.no_grad(), self.precision.autocast(self.device):
                losses += self.trainee(batch)[1].item()
            counts += int((batch["labels"] >= 0).sum())
        found = {"dev_loss": losses / counts} if counts else {}
        if with_scores:
            speaking = judging.Speaking(self.model, self.precision)
            found |= judging.scores(speaking, self.encode, self.development, self.family)
        self.model.train()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        return found

    def _wait_or_not(self, point: Mapping[str, float]) -> None:
        """Keeps the best model, and counts judgements since."""
        chrf = broadcast(torch.tensor(point.get("dev_chrf", -1.0), device=self.device)).item()
        if chrf < 0:
            return
        self.stale += 1
        if self.best is None or chrf > self.best["dev_chrf"]:
            self.best, self.stale = {"step": self.step, "dev_chrf": chrf}, 0
            if self.main_process:
                self._write()

    def _finished(self, stopped: str | None) -> dict[str, Any]:
        self._note_peak()
        last: dict[str, float] = {}
        for point in self.curve:
            last |= point
        summary: dict[str, Any] = {
            "precision": self.precision.name,
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.clock.seconds, 1),
            "step_ms": round(1e3 * self.clock.seconds_a_step, 2),
            "tokens_a_second": round(self.tokens_a_second),
            "processes": self.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "peak_memory_gib": round(self.peak_bytes / 2**30, 2),
            "trained_parameters": sum(each.numel() for each in self.model.parameters() if each.requires_grad),
            "skipped_steps": self.skipped,
            "loss_scale": self.stepper.scaler.get_scale(),
            **{name: last[name] for name in ("train_loss", "dev_loss", "dev_chrf", "dev_bleu") if name in last},
            **self.shares,
            "best": self.best,
            "stopped": stopped,
            "diverged": self.diverged,
            "curve": self.curve,
        }
        if self.main_process:
            if self.best is None and not self.diverged:
                self._write()
            assert self.curves is not None
            self.curves.close()
            self.asked.out.mkdir(parents=True, exist_ok=True)
            curves.draw({"": self.curve}, self.asked.out / "curve.png")
            (self.asked.out / "training.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return summary

    # ---------------------------------------------------------------------------------------------------- what is kept

    @property
    def _parts(self) -> dict[str, Any]:
        """What has a state beside the weights."""
        named = {f"optimizer {number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        return named | {"scaler": self.stepper.scaler}

    def _save_state(self) -> None:
        kept = ("step", "tokens", "skipped", "stale", "steps", "best", "curve", "recent", "shares")
        progress = {name: getattr(self, name) for name in kept} | {"of": self._identity}
        state.save(self.asked.out, self.accelerator, self.model, self._parts, progress, self.source.state())
        if self.main_process and not self.asked.patience:
            self._write()
        self.clock.saved()

    def _progress(self) -> dict[str, Any] | None:
        """Of the last state; None where there is none."""
        progress = state.progress_of(self.asked.out)
        if progress is None:
            self._say("there is no state to go on from; the run begins at its beginning")
            return None
        if differing := [name for name, value in self._identity.items() if progress["of"].get(name) != value]:
            raise ConfigError(
                f"The state in {str(self.asked.out)!r} is of a run with another {' and '.join(differing)}; "
                "give what it had, or another --out."
            )
        return progress

    def _resume(self, progress: Mapping[str, Any]) -> None:
        state.load(self.asked.out, self.accelerator, self.model, self._parts)
        for name in progress.keys() - {"of"}:
            setattr(self, name, progress[name])
        self.steps = self.asked.steps or self.steps
        self._say(f"resumed at step {self.step}")

    @property
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        asked = self.asked
        same = {"precision": asked.precision, "lora": asked.lora, "int4": asked.int4, "seed": asked.seed}
        same |= {"accumulate": asked.accumulate, "workers": asked.workers, "recipe": self.recipe}
        same |= {"processes": self.accelerator.num_processes}
        decoded: dict[str, Any] = json.loads(json.dumps(same))
        return decoded

    def _write(self) -> None:
        """The model as it is: an adapter, or a checkpoint folder with tokenizer and what the engine reads beside."""
        asked = self.asked
        if asked.lora:
            lora.save(self.model, asked.out, str(asked.start), self._alpha, self._lora_dropout)
            return
        card = self.recipe.get("card", {})
        if self.start:
            ours = checkpoint.transformers_config(self.model.config).keys() | convert.FORM
            extra = {name: value for name, value in self.start.items() if name not in ours}
            extra["yiwen"] = {"family": self.family, **extra.get("yiwen", {}), **card}
        else:
            ids = {"bos_token_id": self.encode.begin, "eos_token_id": self.encode.end, "pad_token_id": self.encode.pad}
            languages = ["en", *self.data["langs"]]
            extra = ids | {"yiwen": {"family": self.family, "languages": languages, "hub": "en", **card}}
        shard_bytes = int(asked.shard_mb * 1e6)
        if asked.int4:
            int4.save_model(self.model, asked.out, asked.int4, extra, shard_bytes)
        else:
            checkpoint.save_model(self.model, asked.out, torch.bfloat16, extra, shard_bytes)
        convert.copy_companions(asked.start or asked.tokenizer, asked.out)
        if asked.tokenizer != asked.start:
            convert.copy_companions(asked.tokenizer, asked.out)
        if not self.start:
            generation = ids | {"do_sample": False, "max_new_tokens": 512}
            (asked.out / "generation_config.json").write_text(json.dumps(generation, indent=1), encoding="utf-8")

    def _note_peak(self) -> None:
        if self.device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self.device))

    @property
    def tokens_a_second(self) -> float:
        a_step = self.data["rows"] * self.data["row_tokens"] * self.asked.accumulate * self.accelerator.num_processes
        return a_step / self.clock.seconds_a_step if self.clock.seconds_a_step else 0.0

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _say(self, words: str) -> None:
        if self.main_process:
            tqdm.write(words, file=sys.stderr)


class Clock:
    """Time that training takes, without that in which models are judged. A step has ended when it is told of."""

    def __init__(self) -> None:
        self._began = self._step_began = self._saved_at = time.perf_counter()
        self._durations: list[float] = []

    def begin(self) -> None:
        self.__init__()  # type: ignore[misc]

    def stepped(self) -> None:
        now = time.perf_counter()
        self._durations.append(now - self._step_began)
        self._step_began = now

    @contextmanager
    def standing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._step_began = time.perf_counter()

    def saved(self) -> None:
        self._saved_at = self._step_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def since_saved(self) -> float:
        return time.perf_counter() - self._saved_at

    @property
    def timed(self) -> int:
        """Steps since the first ones, in which things are compiled."""
        return max(0, len(self._durations) - FIRST_TIMED_STEPS)

    @property
    def seconds_a_step(self) -> float:
        """The median of the last hundred; of the later half, where there were fewer than twice the first ones."""
        skipped = min(FIRST_TIMED_STEPS, len(self._durations) // 2)
        return statistics.median(self._durations[skipped:][-TIMING_STEPS:]) if self._durations else 0.0


def _check_shape(start: Path, found: ModelConfig, wanted: Mapping[str, Any]) -> None:
    differing = [
        f"{name} {has}, not {wanted[name]}" for name, has in asdict(found).items() if wanted.get(name, has) != has
    ]
    if differing:
        raise ConfigError(
            f"{str(start)!r} is not of the recipe's shape ({'; '.join(differing)}); give the recipe of that model."
        )


def run(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains as `arguments` say and returns the summary. Raises `YiwenError`, `FileNotFoundError`."""
    try:
        training = Training(recipe, arguments)
        try:
            return training.run()
        finally:
            training.source.close()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "The GPU's memory was too small for a step; use --gradient-checkpointing, fewer --rows, --lora, or --qlora."
        ) from error
