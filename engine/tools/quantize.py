"""A checkpoint in GPTQ INT4, four bits a weight in the layers; embeddings, head and norms stay bf16. With
`--int8-embedding` the embedding is in INT8, a scale a row: much of a small model, and then only Yiwen reads it.

    python -m engine.tools.quantize MODEL OUT --group 128
    python -m engine.tools.quantize MODEL OUT --calibration PAIRS.tsv --evaluate TEST

Reads what `engine.tools.convert` reads but INT4. What it writes, Yiwen, transformers, vLLM and SGLang load. The work is
GPTQModel's, which takes an environment of its own (see requirements.txt beside this file) and only there is needed.

GPTQ fits what it rounds to the inputs of each layer: they come from translating the calibration pairs, in our prompts
and with their true answers. INT8 is widened to bf16 first and so loses a little twice: begin with bf16 if there is any.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from engine import prompts
from engine.errors import ConfigError, UnsupportedModel, YiwenError
from engine.inference import checkpoint
from engine.inference.loader import family_of
from engine.inference.tokenizer import ChatTokenizer
from engine.languages import LANGUAGES
from engine.tools import convert, int4
from engine.tools.asked import count
from engine.types import Family

FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "tatoeba.tsv"  # 180 short pairs: for a try, not for good
BATCH = 8  # calibration texts in one forward pass
SETS = "tatoeba,flores200.devtest"
_AS_IT_IS = ("float16", "bfloat16")  # weights GPTQModel reads without a copy
_SETTINGS = {  # of GPTQModel 7.6.0, read when it is imported
    "GPTQMODEL_CPU_WORKERS": "2",  # with two cores or fewer it asks its pool of one for two, and stops
    "GPTQMODEL_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
}
# What readers of the format need; GPTQModel adds the folder it worked in, and settings of no use after
_KEPT_SETTINGS = ("bits", "group_size", "desc_act", "static_groups", "sym", "true_sequential", "lm_head")


def quantize(
    source: Path, target: Path, group: int, calibration: Path, act_order: bool = False, int8_embedding: bool = False
) -> dict[str, Any]:
    """Writes the folder `target` and returns the sizes.

    Raises `ModelNotFound`, `UnsupportedModel`, and `ConfigError` for what is missing or wrong beside the model.
    """
    config = checkpoint.read_config(source)
    _check(config, group)
    family = family_of(str(source), config)
    texts = calibration_texts(calibration, family, source)
    # GPTQModel prints its progress; our output is one line of JSON
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as work:
        gptqmodel = _gptqmodel()
        wide = source
        if config.get("quantization_config") or (config.get("dtype") or config.get("torch_dtype")) not in _AS_IT_IS:
            wide = Path(work) / "bf16"
            convert.convert(source, wide, "bf16")
        settings = gptqmodel.QuantizeConfig(
            bits=4, group_size=group, sym=True, desc_act=act_order, offload_to_disk_path=str(Path(work) / "offload")
        )
        model = gptqmodel.GPTQModel.load(str(wide), settings)
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in texts], batch_size=BATCH)
        model.save(str(Path(work) / "int4"))
        _write(Path(work) / "int4", wide, target, int8_embedding)
    return {
        "out": str(target),
        "group": group,
        "act_order": act_order,
        "calibration_texts": len(texts),
        "calibration_tokens": sum(map(len, texts)),
        "bytes_before": convert.weight_bytes(source),
        "bytes_after": convert.weight_bytes(target),
    }


def calibration_texts(file: Path, family: Family, model: Path) -> list[list[int]]:
    """Ids of prompt and true answer, both directions of each line of `code<TAB>English<TAB>other side`; lines that
    begin with # are comments. Raises `ConfigError`, and what `ChatTokenizer` raises."""
    chat = ChatTokenizer(model)
    plain = PreTrainedTokenizerFast.from_pretrained(model, local_files_only=True)  # for answers, which have no layout
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The calibration text {str(file)!r} cannot be read ({error}).") from error
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        lang, *pair = line.split("\t")
        if lang not in LANGUAGES or len(pair) != 2:
            raise ConfigError(
                f"Line {number} of {str(file)!r} is not a language code, an English text and the same in that "
                "language, parted by tabs."
            )
        english, other = pair
        for origin, to, text, answer in (("en", lang, english, other), (lang, "en", other, english)):
            prompt = chat.prompt(prompts.plain(family, origin, to, text))
            texts.append([*prompt, *plain.encode(answer, add_special_tokens=False), plain.eos_token_id])
    if not texts:
        raise ConfigError(f"The calibration text {str(file)!r} holds no lines.")
    return texts


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


def _check(config: Mapping[str, Any], group: int) -> None:
    if (config.get("quantization_config") or {}).get("quant_method") == checkpoint.GPTQ_METHOD:
        raise UnsupportedModel("This model is in INT4 already; begin with its bf16, fp16 or INT8 weights.")
    int4.check_groups(checkpoint.model_config(config), group)


def _gptqmodel() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import gptqmodel  # here, since most who run a tool have no need of it
    except ImportError as error:
        raise ConfigError(
            f"GPTQModel cannot be imported ({error}); make an environment of its own, and there "
            "pip install gptqmodel==7.6.0 (engine/tools/requirements.txt says why)."
        ) from error
    return gptqmodel


def _write(made: Path, wide: Path, target: Path, int8_embedding: bool) -> None:
    """What GPTQModel made, with our config.json: it leaves out what it does not know and adds where it worked."""
    config = checkpoint.read_json(wide / "config.json")
    settings = checkpoint.read_json(made / "config.json")["quantization_config"]
    kept = {name: settings[name] for name in _KEPT_SETTINGS if name in settings}
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(made.glob("*.safetensors")):
        tensors |= load_file(file)
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    int4.write(tensors, config, kept, target, int8_embedding)
    convert.copy_companions(wide, target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint in GPTQ INT4.")
    parser.add_argument("source", metavar="MODEL", type=Path, help="folder of a HunYuanDense checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write; it may not be MODEL")
    parser.add_argument("--group", type=int, choices=int4.GROUPS, default=128, help="weights a scale (-1: a row)")
    parser.add_argument("--calibration", type=Path, default=FIXTURE, help="lines of code, English, other side, by tabs")
    parser.add_argument("--act-order", action="store_true", help="columns by their weight: groups in any order")
    parser.add_argument("--int8-embedding", action="store_true", help="half the embedding, which only Yiwen reads then")
    parser.add_argument("--evaluate", metavar="TEST", type=Path, help="folder of SET.en-XX.tsv: chrF2 before and after")
    parser.add_argument("--sets", default=SETS, help="of --evaluate")
    parser.add_argument("--langs", help="of --evaluate (default: all of the model that have tests)")
    parser.add_argument("--limit", type=count, default=100, help="lines of each file of --evaluate")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if source.resolve() == target.resolve():
        parser.error("OUT is MODEL: INT4 loses precision, so keep the original and name another folder.")
    if arguments.evaluate and not arguments.evaluate.is_dir():
        parser.error(f"There is no folder {str(arguments.evaluate)!r} of tests to evaluate with.")
    try:
        chosen = (arguments.group, arguments.calibration, arguments.act_order, arguments.int8_embedding)
        result = quantize(source, target, *chosen)
        before, after = result["bytes_before"] / 1e6, result["bytes_after"] / 1e6
        print(f"{before:.1f} MB → {after:.1f} MB", file=sys.stderr)
        if arguments.evaluate:
            asked = (arguments.evaluate, arguments.limit, arguments.sets, arguments.langs)
            result["chrf2"] = {"before": scores_of(source, *asked), "after": scores_of(target, *asked)}
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
