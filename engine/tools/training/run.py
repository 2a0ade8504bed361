"""One run of training, from its recipe to what is written: the loop, judging on the way, what is kept to resume from.

Knows the command's arguments (`engine.tools.train`), and puts the other files of this folder together. Of several
processes each does the same steps; what hangs on a clock or on the judge, the first decides for all (`_agreed`), since
they wait for each other in every step.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.errors import ConfigError
from engine.inference import checkpoint
from engine.inference.loader import family_of
from engine.shape import ModelShape
from engine.tools import corpus
from engine.tools.pairs import Pair, read
from engine.tools.training import curves, models, state
from engine.tools.training.clock import FIRST_STEPS, TIMED_STEPS, Clock
from engine.tools.training.judging import Judge
from engine.tools.training.optimizers import learning_rate, optimizers_for
from engine.tools.training.packing import Batches, Encoder, Source
from engine.tools.training.precision import PRECISIONS, Precision, best_for
from engine.tools.training.recipe import Recipe
from engine.tools.training.stepper import Diverged, Stepped, Stepper
from engine.tools.training.trainee import PackedAttention, Trainee

LEAST_TIMED_STEPS = 10  # where steps are slow, these are enough to count those that fit into --minutes,
TIMING_SHARE = 0.25  # once so much of the time is over
LONGEST_WAIT = timedelta(hours=2)  # of the other processes, while the first judges and writes


@dataclass(slots=True)
class Progress:
    """Where a run is; with the state it is all that a later process has to know."""

    step: int = 0
    steps: int | None = None  # the last; None while those that fit into --minutes are not counted yet
    tokens: int = 0
    seconds: float = 0.0  # that processes before this one took
    skipped: int = 0  # steps without an update
    stale: int = 0  # judgements since the best
    best: dict[str, float] | None = None
    recent: list[float] = field(default_factory=list)  # losses since the last point of the curve
    curve: list[dict[str, float]] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)  # what fp16 would lose, when last looked at


class Training:
    """A run, from its recipe to what is written. `arguments` are the command's."""

    def __init__(self, recipe: Recipe, arguments: argparse.Namespace) -> None:
        self.recipe, self.asked = recipe, arguments
        self.settings, self.data = recipe["optimizer"], recipe["data"]
        self.accelerator = Accelerator(
            mixed_precision="no",  # autocast and the loss scale are ours, see `precision`
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=LONGEST_WAIT),
                # buffers never change, and the INT4 ones are gigabytes; gradients are not held twice
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
        self.device, self.main_process = self.accelerator.device, self.accelerator.is_main_process
        self.precision = self._chosen(arguments.precision)
        torch.backends.cuda.matmul.allow_tf32 = self.precision.tf32

        self.start = checkpoint.read_config(arguments.start) if arguments.start else None
        if self.start:
            ModelShape.read(self.start)
        self.family = family_of(str(arguments.start), self.start) if self.start else corpus.FAMILY
        self.encode = Encoder(arguments.tokenizer)
        development = self._development_pairs()
        saved = self._saved() if arguments.resume else None
        # its processes read the corpus while the model is loaded
        self.source = self._source(development, state.place_of(arguments.out, self.accelerator) if saved else None)
        described = (recipe, arguments, self.start, self.encode, self.precision, self.device)
        teacher = models.teacher(*described)
        self.model = models.begin(*described)
        attend = PackedAttention(self.data["rows"], self.data["row_tokens"], self.device)
        smoothing, anew = self.settings["label_smoothing"], arguments.gradient_checkpointing
        trainee = Trainee(self.model, attend, smoothing, self.precision.compute, anew, teacher)
        self.optimizers = optimizers_for(self.model.named_parameters(), self.settings)
        self.peaks = [group["lr"] for group in self._groups]
        prepared = self.accelerator.prepare(trainee)
        clip_norm = self.settings["clip_norm"]
        self.stepper = Stepper(self.accelerator, prepared, self.optimizers, self.precision, clip_norm)
        self.judge = Judge(trainee, self.encode, development, self.data, self.family) if self.main_process else None
        torch.manual_seed(arguments.seed + self.accelerator.process_index)  # each drops out other values

        self.at = Progress(steps=arguments.steps)
        if saved:
            state.load(arguments.out, self.accelerator, self.model, self._parts)
            self.at = Progress(**saved)
            self.at.steps = arguments.steps or self.at.steps
            self._say(f"resumed at step {self.at.step}")
        self.clock = Clock(self.at.seconds)
        self.peak_bytes = 0
        self.curves = curves.Curves(arguments.out, self.at.step) if self.main_process else None

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

    def _source(self, development: list[Pair], place: Any) -> Batches:
        held_out = corpus.test_sentences(self.asked.test) if self.asked.test else frozenset[str]()
        held_out |= {side for pair in development for side in (pair.first, pair.second)}
        source = Source(
            tuple(self.asked.corpus), self.asked.tokenizer, self.data, self.recipe["mix"], self.family, held_out
        )
        ranks = self.accelerator.num_processes
        rank, on_gpu = self.accelerator.process_index, self.device.type == "cuda"
        return Batches(source, self.asked.seed, rank, ranks, self.asked.workers, place, pin=on_gpu)

    # --------------------------------------------------------------------------------------------------------- the run

    def run(self) -> dict[str, Any]:
        """Trains, writes the model to `out`, and returns what happened."""
        at, stopped, diverged = self.at, None, False
        self.clock = Clock(at.seconds)
        bar = tqdm(total=at.steps, initial=at.step, unit="step", mininterval=1, disable=not self.main_process)
        try:
            while at.steps is None or at.step < at.steps:
                self._one_step()
                bar.total = at.steps
                bar.update()
                if self.asked.patience and at.stale >= self.asked.patience:
                    stopped = f"chrF2 has not risen for {at.stale} judgements"
                    break
        except Diverged as error:
            stopped, diverged = str(error), True
        finally:
            bar.close()
        return self._finished(stopped, diverged)

    def _one_step(self) -> None:
        at = self.at
        gathered = [self._moved(next(self.source)) for _ in range(self.asked.accumulate)]
        factor = learning_rate(at.step, at.steps or 10**9, self.settings)
        for group, peak in zip(self._groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        told = (at.step + 1) % self.asked.log_every == 0
        stepped = self.stepper(gathered, look_closer=told or at.step in (0, (at.steps or 0) - 1))
        if stepped.underflow:
            at.shares = stepped.underflow | {"unchanged": stepped.unchanged or 0.0}
        at.step += 1
        at.tokens += self._tokens_a_step
        if stepped.applied:
            at.recent.append(stepped.loss)
        else:
            at.skipped += 1
        self.clock.stepped()
        if at.steps is None:
            self._count_steps()
        last = at.step == at.steps
        if told or last:
            self._tell(stepped, factor, last)
        if self.asked.save_minutes and not last:
            due = self.clock.seconds_since_saved > self.asked.save_minutes * 60
            if self._agreed(due):
                self._save_state()

    def _count_steps(self) -> None:
        """Those that fit into --minutes, as soon as it is known how long one takes."""
        clock, seconds = self.clock, self.asked.minutes * 60
        enough = (
            clock.steps >= FIRST_STEPS + TIMED_STEPS
            or (clock.steps >= LEAST_TIMED_STEPS and clock.seconds_here > TIMING_SHARE * seconds)
            or clock.seconds > seconds
        )
        left = max(0.0, seconds - clock.seconds)
        fitting = self._agreed(self.at.step + int(left / clock.seconds_a_step) if enough else 0)
        if fitting:
            self.at.steps = int(fitting)
            self._say(f"{self.at.steps} steps fit into {self.asked.minutes} minutes")

    def _tell(self, stepped: Stepped, factor: float, last: bool) -> None:
        """A point of the curve; every so often with what the model is worth."""
        at = self.at
        point: dict[str, float] = {"step": at.step, "tokens": at.tokens, "rate": factor}
        if at.recent:
            point["train_loss"] = sum(at.recent) / len(at.recent)
            at.recent.clear()
        if stepped.applied:
            point["norm"] = stepped.norm
        with self.clock.standing():
            if last or at.step % self.asked.judge_every == 0:
                patient = bool(self.asked.patience)
                point |= self._judged(last or patient or at.step % (4 * self.asked.judge_every) == 0)
                if patient:
                    self._keep_the_best(point)
        at.curve.append({name: round(value, 5) for name, value in point.items()})
        if self.curves:
            self.curves.add(point | at.shares | {"loss_scale": self.stepper.scaler.get_scale()})
            figures = " ".join(f"{name} {value:.4g}" for name, value in point.items())
            of = f"of {at.steps} steps" if at.steps else ""
            self._say(f"{self.clock.seconds:6.0f} s {figures} {self._tokens_a_second / 1e3:.1f}k tokens/s {of}")

    def _judged(self, with_scores: bool) -> dict[str, float]:
        """By the first process; of the others nothing."""
        if self.judge is None:
            return {}
        self._note_peak()
        found = self.judge(self.precision, with_scores)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        return found

    def _keep_the_best(self, point: Mapping[str, float]) -> None:
        """Writes it, and counts judgements since."""
        at, chrf = self.at, self._agreed(point.get("dev_chrf", 0.0))
        at.stale += 1
        if at.best is None or chrf > at.best["dev_chrf"]:
            at.best, at.stale = {"step": at.step, "dev_chrf": chrf}, 0
            self._write()

    def _finished(self, stopped: str | None, diverged: bool) -> dict[str, Any]:
        self._note_peak()
        at, last = self.at, dict[str, float]()
        for point in at.curve:
            last |= point
        summary: dict[str, Any] = {
            "precision": self.precision.name,
            "steps": at.step,
            "tokens": at.tokens,
            "seconds": round(self.clock.seconds, 1),
            "step_ms": round(1e3 * self.clock.seconds_a_step, 2),
            "tokens_a_second": round(self._tokens_a_second),
            "processes": self.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "peak_memory_gib": round(self.peak_bytes / 2**30, 2),
            "trained_parameters": sum(each.numel() for each in self.model.parameters() if each.requires_grad),
            "skipped_steps": at.skipped,
            "loss_scale": self.stepper.scaler.get_scale(),
            **{name: last[name] for name in ("train_loss", "dev_loss", "dev_chrf", "dev_bleu") if name in last},
            **at.shares,
            "best": at.best,
            "stopped": stopped,
            "diverged": diverged,
            "curve": at.curve,
        }
        if at.best is None and not diverged:
            self._write()
        if self.curves:
            self.curves.close()
            self.asked.out.mkdir(parents=True, exist_ok=True)
            curves.draw({"": at.curve}, self.asked.out / "curve.png")
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
        self.at.seconds = self.clock.seconds
        progress = {"at": asdict(self.at), "of": self._identity}
        state.save(self.asked.out, self.accelerator, self.model, self._parts, progress, self.source.state())
        if not self.asked.patience:  # else the best stays
            self._write()
        self.clock.saved()

    def _saved(self) -> dict[str, Any] | None:
        """The fields of `Progress` of the last state; None where there is none."""
        progress = state.progress_of(self.asked.out)
        if progress is None:
            self._say("there is no state to go on from; the run begins at its beginning")
            return None
        if differing := [name for name, value in self._identity.items() if progress["of"].get(name) != value]:
            raise ConfigError(
                f"The state in {str(self.asked.out)!r} is of a run with another {' and '.join(differing)}; "
                "give what it had, or another --out."
            )
        found: dict[str, Any] = progress["at"]
        return found

    def _chosen(self, name: str) -> Precision:
        if name != "auto":
            return PRECISIONS[name]
        chosen, reason = best_for(self.device)
        self._say(f"precision {chosen.name}: {reason}")
        return chosen

    @property
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        names = ("lora", "qlora", "int4", "seed", "accumulate", "workers")
        same = {name: getattr(self.asked, name) for name in names}
        same["teacher"] = str(self.asked.teacher)
        same |= {
            "precision": self.precision.name,
            "recipe": self.recipe,
            "start": self.start,
            "processes": self.accelerator.num_processes,
        }
        decoded: dict[str, Any] = json.loads(json.dumps(same))
        return decoded

    def _write(self) -> None:
        if self.main_process:
            models.write(self.model, self.recipe, self.asked, self.start, self.encode, self.family)

    # --------------------------------------------------------------------------------------------------------- figures

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """Of parameters that share a learning rate."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def _tokens_a_step(self) -> int:
        batches: int = self.asked.accumulate * self.accelerator.num_processes
        return batches * int(self.data["rows"]) * int(self.data["row_tokens"])

    @property
    def _tokens_a_second(self) -> float:
        return self._tokens_a_step / self.clock.seconds_a_step if self.clock.steps else 0.0

    def _agreed(self, number: float) -> float:
        """What the first process says."""
        if self.accelerator.num_processes == 1:
            return number
        said: Any = broadcast(torch.tensor(number, dtype=torch.float64, device=self.device))
        return float(said.item())

    def _note_peak(self) -> None:
        if self.device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self.device))

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _say(self, words: str) -> None:
        if self.main_process:
            tqdm.write(words, file=sys.stderr)


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
