"""A checkpoint in GPTQ: four (or eight) bits a weight in the layers; embeddings, head and norms stay in 16 bits. With
`--int8-embedding` the embedding is in INT8, a scale a row: much of a small model, and then only Yiwen reads it.

    python -m engine.tools.quantize MODEL OUT --calibration CORPUS
    python -m engine.tools.quantize MODEL OUT --calibration PAIRS.en-zh.tsv --group 64 --evaluate TEST

Reads what `engine.tools.convert` reads but GPTQ. What it writes, Yiwen, transformers, vLLM and SGLang load. The work is
GPTQModel's (`gptq_run`), which takes an environment of its own and only there is needed.

GPTQ fits what it rounds to the inputs of each layer: they come from translating the calibration pairs, in our prompts
and with their true answers. INT8 is widened to bf16 first and so loses a little twice: begin with bf16 if there is any.
What it costs is measured on pairs that were kept out of that, and stands in OUT/quantization.json. OUT is written at
the end, whole or not at all. What is done is kept in OUT.partial meanwhile: after a kill the same command goes on.
"""

import argparse
import hashlib
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast

from engine import inventory, prompts
from engine.errors import ConfigError, UnsupportedModel, YiwenError
from engine.files import write_whole
from engine.inference import checkpoint, weight_files
from engine.inference.loader import family_of
from engine.inference.tokenizer import ChatTokenizer
from engine.shape import ModelShape
from engine.tools import convert, gptq_run, int4, pairs, perplexity
from engine.tools.asked import count
from engine.tools.gptq_run import Settings
from engine.tools.pairs import Pair
from engine.tools.perplexity import Text
from engine.types import Family

FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "tatoeba.tsv"  # 180 short pairs: for a try, not for good
CALIBRATION_TEXTS = 256  # GPTQModel warns below; four times as many cost yiwen-mini as much on FLORES
HELD_OUT_TEXTS = 64
LONGEST_TOKENS = 1_024  # of a text; a longer one would take the card's memory for itself
SETS = "tatoeba,flores200.devtest"
CARD = "cuda:0"  # GPTQModel begins there, whichever is asked for
WORST = 5  # matrices that are told
REPORT = "quantization.json"
RUN = "quantize-run.json"  # in the work folder: what it is of
_AS_IT_IS = ("float16", "bfloat16")  # weights GPTQModel reads without a copy
_SEED = 0

# What a run takes, in bytes, with some room: a 7B at the peak; see engine/README.md
_PROCESS_BYTES = 2_500_000_000  # Python, torch and GPTQModel
_CONTEXT_BYTES = 1_000_000_000  # of CUDA and its libraries
_SQUARES = 5  # fp32 matrices [inputs, inputs] at once: the Hessian, damped, its Cholesky factor and its inverse
_LAYERS_AT_ONCE = 3  # in 16 bits: as it is, in fp32


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a checkpoint is fitted to and what it is judged by; no pair is in both."""

    calibration: tuple[Text, ...]
    held_out: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What a run takes, in bytes."""

    card: int
    ram: int
    disk: int


def quantize(
    source: Path, target: Path, settings: Settings, drawn: Drawn, device: str = "cpu", int8_embedding: bool = False
) -> dict[str, Any]:
    """Writes the folder `target` and returns what it cost: sizes, perplexity, the error of each matrix, memory, time.

    Raises `ModelNotFound`, `UnsupportedModel`, and `ConfigError` for what is missing or wrong beside the model.
    """
    began = time.monotonic()
    config = checkpoint.read_config(source)
    check(config, settings)
    texts = [text.ids for text in drawn.calibration]
    work = _work(target)
    run = {"settings": asdict(settings), "model": convert.state(source), "calibration": _digest(drawn)}
    _open_work(work, run)
    before = _once(work / "before.json", lambda: _measured(source, drawn.held_out, device, "before"))
    wide = source
    if config.get("quantization_config") or (config.get("dtype") or config.get("torch_dtype")) not in _AS_IT_IS:
        wide = work / "bf16"
        if not (wide / "config.json").exists():
            convert.convert(source, wide, "bf16")
    modules = _once(
        work / "modules.json", lambda: gptq_run.run(wide.resolve(), texts, settings, device, work.resolve())
    )
    peak = memory(device)
    _write(work / gptq_run.MADE, wide, target, settings, int8_embedding)
    after = _measured(target, drawn.held_out, device, "after")
    with tqdm(total=config["num_hidden_layers"], unit="layer", desc="weights compared") as bar:
        found = perplexity.weight_errors(source, target, device, bar.update)
        errors = {(layer, name): value for layer, name, value in found}
    for module in modules:
        module["weight_error"] = round(errors[module["layer"], module["module"]], 5)
    result = {
        "model": source.name,
        **asdict(settings),
        "int8_embedding": int8_embedding,
        "calibration_texts": len(texts),
        "calibration_tokens": sum(map(len, texts)),
        "held_out_tokens": after["tokens"],
        "perplexity": {"before": before["perplexity"], "after": after["perplexity"]},
        "nats_a_token": {"before": before["nats"], "after": after["nats"]},
        "bytes_before": convert.weight_bytes(source),
        "bytes_after": convert.weight_bytes(target),
        "weight_error": round(statistics.fmean(errors.values()), 5),
        "peak": peak,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_whole(target / REPORT, json.dumps(result | {"modules": modules}, indent=1).encode())
    shutil.rmtree(work)
    return {"out": str(target), **result, "worst": worst(modules)}


def worst(modules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The matrices whose outputs are furthest from what they were, by GPTQ's own loss."""
    kept = ("layer", "module", "loss", "weight_error")
    ordered = sorted(modules, key=lambda module: -(module["loss"] or 0))
    return [{name: module[name] for name in kept} for module in ordered[:WORST]]


# ---------------------------------------------------------------------------------------------------------------------
# texts


def draw(found: Iterable[Pair], wanted: int) -> list[Pair]:
    """As many, at random and of each pair of languages alike; the same ones each time."""
    dice = random.Random(_SEED)
    shelves: dict[tuple[str, str], list[Pair]] = {}
    seen: dict[tuple[str, str], int] = {}
    for pair in found:
        langs = (pair.first_lang, pair.lang)
        shelf = shelves.setdefault(langs, [])
        seen[langs] = seen.get(langs, 0) + 1
        if len(shelf) < wanted:
            shelf.append(pair)
        elif (place := dice.randrange(seen[langs])) < wanted:
            shelf[place] = pair
    for shelf in shelves.values():
        dice.shuffle(shelf)
    return list(islice(_in_turn(shelves.values()), wanted))


def texts_of(found: Iterable[Pair], family: Family, model: Path, calibration: int, held_out: int) -> Drawn:
    """Prompts with their true answers, both directions in turn; a tenth of the pairs at most is kept out. Raises
    `ConfigError` for too few, and what `ChatTokenizer` raises."""
    chat = ChatTokenizer(model)
    plain = PreTrainedTokenizerFast.from_pretrained(model, local_files_only=True)  # for answers, which have no layout
    drawn = draw(found, calibration + held_out)

    def texts(some: Sequence[Pair]) -> Iterator[Text]:
        for turn in (0, 1):
            for number, pair in enumerate(some):
                sides = [(pair.first_lang, pair.first), (pair.lang, pair.second)]
                (origin, said), (to, answer) = sides if (number + turn) % 2 == 0 else reversed(sides)
                prompt = chat.prompt(prompts.plain(family, origin, to, said))
                ids = (*prompt, *plain.encode(answer, add_special_tokens=False), plain.eos_token_id)
                if len(ids) <= LONGEST_TOKENS:
                    yield Text(ids, len(prompt))

    kept_out = min(held_out, max(1, len(drawn) // 10))
    parts = Drawn(
        calibration=tuple(islice(texts(drawn[kept_out:]), calibration)),
        held_out=tuple(islice(texts(drawn[:kept_out]), held_out)),
    )
    if not parts.calibration or not parts.held_out:
        raise ConfigError(
            f"Calibration takes pairs of texts of at most {LONGEST_TOKENS:,} tokens, and some more to measure by; "
            f"{len(drawn)} were found."
        )
    return parts


def fixture_pairs() -> Iterator[Pair]:
    """Of lines of language, English, and the same in that language."""
    for line in FIXTURE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            lang, english, other = line.split("\t")
            yield Pair("tatoeba", english, other, lang)


def _in_turn(shelves: Iterable[Sequence[Pair]]) -> Iterator[Pair]:
    return (pair for pair in chain.from_iterable(zip_longest(*shelves)) if pair is not None)


# ---------------------------------------------------------------------------------------------------------------------
# what it takes, what it costs


def check(config: Mapping[str, Any], settings: Settings) -> None:
    if (config.get("quantization_config") or {}).get("quant_method") == checkpoint.GPTQ_METHOD:
        raise UnsupportedModel("This model is in GPTQ already; begin with its bf16, fp16 or INT8 weights.")
    int4.check_groups(checkpoint.model_config(config), settings.group)


def room(shape: ModelShape, settings: Settings, tokens: int, copied: bool, on_card: bool) -> Room:
    """`tokens` of all calibration texts; `copied`: whether the weights are widened to bf16 first."""
    outside = (1 if shape.tied_head else 2) * shape.vocab_size * shape.hidden_size
    body = shape.parameters - outside
    group = settings.group if settings.group > 0 else shape.hidden_size
    made = body * settings.bits // 8 + body * 5 // (2 * group) + 2 * outside
    widest = max(shape.intermediate_size, shape.heads * shape.head_dim, shape.hidden_size)
    streams = 4 * tokens * shape.hidden_size  # in 16 bits, of the layer under way and of the one before
    work = 4 * _SQUARES * widest**2 + _LAYERS_AT_ONCE * 2 * body // shape.layers + 4 * outside + streams
    return Room(
        card=_CONTEXT_BYTES + work if on_card else 0,
        ram=_PROCESS_BYTES + made + 4 * outside + (streams if on_card else work),
        disk=(2 * shape.parameters if copied else 0) + 4 * made + 3 * (2 * outside + streams),
    )


def check_room(needed: Room, machine: inventory.Machine, device: str, target: Path) -> None:
    """Raises `ConfigError` where the machine has not what a run takes."""
    card = next((card for card in machine.cards if card.device == device), None)
    if card and card.free_bytes is not None and card.free_bytes < needed.card:
        raise ConfigError(
            f"Quantising this model takes {_gb(needed.card)} of GPU memory and {device} has {_gb(card.free_bytes)} "
            f"free; free some, give fewer --calibration-texts, or use --device cpu, which takes long."
        )
    if machine.ram_free_bytes < needed.ram:
        raise ConfigError(
            f"Quantising this model takes {_gb(needed.ram)} of memory and {_gb(machine.ram_free_bytes)} are free; "
            "close other programs, give fewer --calibration-texts, or use a larger machine."
        )
    above = next(folder for folder in target.resolve().parents if folder.exists())
    free = shutil.disk_usage(above).free
    if free < needed.disk:
        raise ConfigError(
            f"Quantising this model takes {_gb(needed.disk)} of disk beside {str(target)!r} and {_gb(free)} are free "
            "there; make room, or name a folder on another disk."
        )


def memory(device: str) -> dict[str, int]:
    """The most this process has taken so far, in bytes; Windows tells it of cards alone."""
    peak = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1_024
        peak["ram_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device != "cpu":
        peak["gpu_bytes"] = torch.cuda.max_memory_allocated(device)
        peak["gpu_reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return peak


def scores_of(model: Path, test: Path, limit: int, sets: str, langs: str | None) -> dict[str, Any]:
    """chrF2 of every set and direction by name, and their mean, greedy, through the real backend."""
    from engine.tools import evaluate_quality  # here, since it takes sacreBLEU, which quantising does not need

    parser = argparse.ArgumentParser()
    evaluate_quality.add_arguments(parser)
    asked = [f"--model={model}", f"--test={test}", f"--limit={limit}", f"--sets={sets}"]
    asked += [f"--langs={langs}"] if langs else []
    scores = evaluate_quality.run(parser.parse_args(asked))["scores"]
    chrf = {
        f"{name} {direction}": score["chrf2"]
        for name, by_direction in scores.items()
        for direction, score in by_direction.items()
    }
    return {"mean": round(statistics.fmean(chrf.values()), 2), **chrf}


def _measured(folder: Path, texts: Sequence[Text], device: str, when: str) -> dict[str, Any]:
    config = checkpoint.read_config(folder)
    with tqdm(total=config["num_hidden_layers"], unit="layer", desc=f"perplexity {when}") as bar:
        sure = perplexity.measure(folder, config, texts, device, bar.update)
    return {"tokens": sure.tokens, "nats": round(sure.nats, 5), "perplexity": round(sure.perplexity, 4)}


def _gb(size: int) -> str:
    return f"{size / inventory.GB:.1f} GB"


# ---------------------------------------------------------------------------------------------------------------------
# the work folder, and OUT


def _work(target: Path) -> Path:
    whole = target.resolve()  # "." has no name
    return whole.with_name(f"{whole.name}.partial")


def _open_work(work: Path, run: Mapping[str, Any]) -> None:
    """The folder of an equal run that was cut short, or a fresh one in the place of another run's."""
    said = json.dumps(run, sort_keys=True).encode()
    whose = work / RUN
    held = [work] if work.is_file() else [*work.glob("*")]
    if held and not whose.exists():
        raise ConfigError(
            f"{str(work)!r}, where the work for OUT is kept, is there already and not of this tool; move it away, or "
            "name another OUT."
        )
    if whose.exists() and whose.read_bytes() == said:
        print(f"going on with what is in {work}", file=sys.stderr)
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_whole(whose, said)


def _once(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave, now or in an earlier run."""
    if not file.exists():
        write_whole(file, json.dumps(make()).encode())
    return json.loads(file.read_text(encoding="utf-8"))


def _digest(drawn: Drawn) -> str:
    return hashlib.sha256(repr((drawn.calibration, drawn.held_out)).encode()).hexdigest()


def _write(made: Path, wide: Path, target: Path, settings: Settings, int8_embedding: bool) -> None:
    """What GPTQModel made, with our config.json: it leaves out what it does not know and adds where it worked."""
    config = checkpoint.read_json(wide / "config.json")
    said = checkpoint.read_json(made / "config.json")["quantization_config"]
    kept = {name: said[name] for name in gptq_run.KEPT_SETTINGS if name in said}
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(made.glob("*.safetensors")):
        tensors |= load_file(file)
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    int4.write(tensors, config, kept, target, int8_embedding)
    convert.copy_companions(wide, target)


@contextmanager
def _no_room(target: Path) -> Iterator[None]:
    """A full disk, wherever in the work it is met, in a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{str(error.filename or target)!r} cannot be written ({error.strerror or error}); make room, or name a "
            f"folder on another disk. What is done so far is kept in {_work(target).name}."
        ) from error


# ---------------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a checkpoint in GPTQ.")
    parser.add_argument("source", metavar="MODEL", type=Path, help="folder of a HunYuanDense checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write; it may not be MODEL")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="8: Yiwen widens them to 16 as it loads")
    parser.add_argument("--group", type=int, choices=int4.GROUPS, default=128, help="weights a scale (-1: a row)")
    parser.add_argument("--act-order", action="store_true", help="columns by their weight: groups in any order")
    parser.add_argument("--asym", action="store_true", help="a zero point a group; without, all lie in the middle")
    parser.add_argument("--int8-embedding", action="store_true", help="half the embedding, which only Yiwen reads then")
    parser.add_argument(
        "--calibration", type=Path, help="pairs: TSV, JSON Lines, TMX, or a folder (default: 180 pairs)"
    )
    parser.add_argument("--calibration-texts", type=count, default=CALIBRATION_TEXTS, help="drawn of them")
    parser.add_argument("--held-out-texts", type=count, default=HELD_OUT_TEXTS, help="drawn beside, for the perplexity")
    parser.add_argument("--device", default="auto", help="auto, cpu, or cuda:0: the first visible card")
    parser.add_argument("--evaluate", metavar="TEST", type=Path, help="folder of SET.en-XX.tsv: chrF2 before and after")
    parser.add_argument("--sets", default=SETS, help="of --evaluate")
    parser.add_argument("--langs", help="of --evaluate (default: all of the model that have tests)")
    parser.add_argument("--limit", type=count, default=100, help="lines of each file of --evaluate")
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if source.resolve() == target.resolve():
        parser.error("OUT is MODEL: quantised weights lose precision, so keep the original and name another folder.")
    if arguments.evaluate and not arguments.evaluate.is_dir():
        parser.error(f"There is no folder {str(arguments.evaluate)!r} of tests to evaluate with.")
    settings = Settings(arguments.bits, arguments.group, not arguments.asym, arguments.act_order)
    try:
        with _no_room(target):
            result = _run(arguments, settings)
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(result, ensure_ascii=False))


def _run(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    source, target = arguments.source, arguments.target
    config = checkpoint.read_config(source)
    check(config, settings)
    gptq_run.imported()  # before the minutes that texts and perplexity may take
    langs = (config.get("yiwen") or {}).get("languages")
    found = pairs.read(arguments.calibration, langs) if arguments.calibration else fixture_pairs()
    found = tqdm(found, unit="pair", desc="calibration", mininterval=1)
    wanted = (arguments.calibration_texts, arguments.held_out_texts)
    drawn = texts_of(found, family_of(str(source), config), source, *wanted)
    machine = inventory.survey(arguments.device if arguments.device == "cpu" else CARD)
    device = _device(arguments.device, machine)
    shape = ModelShape.read(config, source)
    tokens = sum(len(text.ids) for text in drawn.calibration)
    copied = shape.stored not in ("bf16", "fp16")
    check_room(room(shape, settings, tokens, copied, device != "cpu"), machine, device, target)
    with weight_files.alone(target.resolve(), beside=True):
        result = quantize(source, target, settings, drawn, device, arguments.int8_embedding)
    print(_table(result), file=sys.stderr)
    if arguments.evaluate:
        asked = (arguments.evaluate, arguments.limit, arguments.sets, arguments.langs)
        result["chrf2"] = {"before": scores_of(source, *asked), "after": scores_of(target, *asked)}
        report = json.loads((target / REPORT).read_text(encoding="utf-8")) | {"chrf2": result["chrf2"]}
        write_whole(target / REPORT, json.dumps(report, indent=1).encode())
    return result


def _device(asked: str, machine: inventory.Machine) -> str:
    there = ["cpu", *(card.device for card in machine.cards if card.device == CARD)]
    if asked not in ("auto", *there):
        raise ConfigError(
            f"{asked!r} is no device to quantise on here; take {' or '.join(there)} (CUDA_VISIBLE_DEVICES says which "
            f"card {CARD} is)."
        )
    return there[-1] if asked == "auto" else asked


def _table(result: Mapping[str, Any]) -> str:
    """The result to read."""
    before, after = result["bytes_before"] / 1e6, result["bytes_after"] / 1e6
    lines = [
        f"{before:,.1f} MB → {after:,.1f} MB in {result['seconds']:,.0f} s",
        f"perplexity {result['perplexity']['before']} → {result['perplexity']['after']}",
        f"{'the largest losses':30}{'loss':>12}{'weight error':>14}",
    ]
    for module in result["worst"]:
        name = f"{module['layer']} {module['module']}"
        loss = "–" if module["loss"] is None else f"{module['loss']:.6f}"  # where GPTQModel took another way
        lines.append(f"{name:30}{loss:>12}{module['weight_error']:>14.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
