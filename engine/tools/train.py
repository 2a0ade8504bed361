"""Trains a HunYuanDense translator from scratch, or a checkpoint further: all of it, or LoRA adapters beside it.

    python -m engine.tools.train --recipe engine/tools/recipes/yiwen-mini.toml --corpus CORPUS --test TEST \\
        --tokenizer FOLDER --out FOLDER --minutes 20
    python -m engine.tools.train --start MODEL --corpus PAIRS.tsv --dev DEV.tsv --out ADAPTER --lora 16 --steps 500
    accelerate launch --num_processes 8 -m engine.tools.train …          # data parallel

`--precision` says in which numbers (auto: bf16 where the card has it), `--compare` runs several in turn on the same
data and prints them side by side. `--lora` trains adapters of that rank, beside weights in the precision's 16 bits, or
in INT4 where the checkpoint is or `--qlora` makes it so; `engine.tools.convert --lora` merges them. With `--int4` all
weights are rounded in the forward pass as the CPU engines serve them (and so judged), and written in INT4 with an INT8
embedding. With `--teacher` a model learns that one's probabilities instead of the texts alone: so it stays closest to
what it was before its weights were rounded.

Examples are packed into rows with document masks, the loss is on target tokens only. Stops by `--steps`, or by
`--minutes`: after the first steps the number that fits is fixed, so that the learning rate ends at zero; or earlier,
where `--patience` runs out. `--resume` goes on from the last state in `--out`, exactly: the same examples, the same
random numbers. TensorBoard reads `--out`/events; curve.png is drawn at the end.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import YiwenError
from engine.inference import checkpoint
from engine.tools import int4
from engine.tools.asked import amount, amount_or_none, count, seed, whole
from engine.tools.training import compare
from engine.tools.training.precision import PRECISIONS
from engine.tools.training.recipe import read_recipe
from engine.tools.training.run import run

RECIPES = Path(__file__).parent / "recipes"
ADVICE = (
    "Nothing was written of it. Use --precision bf16, or a lower learning rate; --resume goes on from the last state "
    "that was saved."
)


def parser_of() -> argparse.ArgumentParser:
    description = "Train a HunYuanDense translator, or fine-tune one."
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)  # see `_without`
    parser.add_argument("--recipe", type=Path, help="TOML (default with --start: finetune.toml, with --lora lora.toml)")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="pairs: TSV, JSONL, TMX, each also .zst")
    parser.add_argument("--dev", type=Path, nargs="+", help="pairs to judge by, in the same formats; never trained on")
    parser.add_argument("--test", type=Path, help="folder of test files, never trained on; its dev.in-domain judges")
    parser.add_argument("--tokenizer", type=Path, help="folder made by engine.tools.tokenizer (default: --start's)")
    parser.add_argument("--start", metavar="MODEL", type=Path, help="go on from the weights of this folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto")
    parser.add_argument("--compare", metavar="PRECISIONS", type=_precisions, help="run these in turn: fp32,bf16,…")
    parser.add_argument("--lora", metavar="RANK", type=count, help="train adapters only")
    parser.add_argument("--qlora", action="store_true", help="hold what --lora does not train in INT4")
    parser.add_argument("--int4", metavar="GROUP", type=int, choices=int4.GROUPS, help="inputs that share a scale")
    parser.add_argument("--teacher", metavar="MODEL", type=Path, help="learn this one's probabilities of the texts")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--accumulate", metavar="BATCHES", type=count, default=1, help="batches in one update")
    parser.add_argument("--rows", type=count, help="packed rows in a batch (default: the recipe's)")
    parser.add_argument("--row-tokens", type=count, help="tokens in a row (default: the recipe's)")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=amount)
    length.add_argument("--steps", type=count)
    parser.add_argument("--patience", metavar="TIMES", type=count, help="stop when dev chrF2 has not risen so often")
    parser.add_argument("--workers", type=whole, default=4, help="processes that make examples, for each GPU")
    parser.add_argument("--seed", type=seed, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--log-every", metavar="STEPS", type=count, default=100)
    parser.add_argument("--judge-every", metavar="STEPS", type=count, default=500, help="a multiple of --log-every")
    parser.add_argument("--save-minutes", type=amount_or_none, default=4, help="between states to resume; 0: never")
    parser.add_argument("--shard-mb", type=amount, default=checkpoint.WHOLE_BYTES / 1e6, help="largest file, in MB")
    return parser


def _precisions(given: str) -> list[str]:
    chosen = given.split(",")
    if unknown := [name for name in chosen if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no precision; there are {', '.join(PRECISIONS)}")
    return chosen


def _checked(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_args(words)
    arguments.tokenizer = arguments.tokenizer or arguments.start
    if arguments.tokenizer is None:
        parser.error("give --tokenizer, or --start with a model that has one.")
    if arguments.recipe is None:
        if arguments.start is None:
            parser.error("give --recipe, which says how large the model is, or --start with a model.")
        arguments.recipe = RECIPES / ("lora.toml" if arguments.lora else "finetune.toml")
    if not (arguments.dev or arguments.test):
        parser.error("give --dev, pairs to judge by.")
    if arguments.start and arguments.start.resolve() == arguments.out.resolve():
        parser.error("--out is --start: keep the original and name another folder.")
    if arguments.lora and arguments.start is None:
        parser.error("--lora trains beside the weights of a checkpoint; name one with --start.")
    if arguments.qlora and not arguments.lora:
        parser.error("--qlora holds what --lora does not train; give --lora too.")
    if arguments.compare and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parser.error("--compare runs one process after another; launch each --precision by itself for several GPUs.")
    if arguments.compare and arguments.minutes:
        parser.error("--compare takes the same steps in each precision, however long they are; give --steps.")
    if arguments.int4 and arguments.lora:
        parser.error("--int4 trains all weights, --lora none of them; give one of the two.")
    if arguments.judge_every % arguments.log_every:
        parser.error(f"--judge-every {arguments.judge_every} is no multiple of --log-every {arguments.log_every}.")
    return arguments


def train(words: Sequence[str]) -> dict[str, Any]:
    """What a command line asks for; the result, with the curve. Raises `YiwenError`, `FileNotFoundError`."""
    arguments = _checked(parser_of(), words)
    if arguments.compare:
        shared = _without(words, ("--compare", "--precision", "--out"))
        return compare.compare(arguments.compare, shared, arguments.out)
    recipe = read_recipe(arguments.recipe)
    given = {"rows": arguments.rows, "row_tokens": arguments.row_tokens}
    recipe["data"] |= {name: value for name, value in given.items() if value}
    return {"out": str(arguments.out), **run(recipe, arguments)}


def main() -> None:
    try:
        result = train(sys.argv[1:])
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(f"What was to be written could not be ({files.why(error)}); the last state stays.") from error
    if "runs" in result:
        print(compare.table(result["runs"]), file=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"  # of several processes one tells
    if first:
        print(json.dumps({name: value for name, value in result.items() if name != "curve"}))
    if result.get("diverged"):
        said = f"Training stopped at step {result['steps'] + 1}: {result['stopped']}. {ADVICE}"
        raise SystemExit(said if first else 1)


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command line without these options and their values."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


if __name__ == "__main__":
    main()
