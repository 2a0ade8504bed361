"""Times a part of Yiwen on this machine and prints one line of JSON last. Each part is a file.

    python -m engine.tools.bench engine --model embedded --batch 1,8 --greedy --compare transformers,llama.cpp
    python -m engine.tools.bench engine --synthetic 7b --compare vllm --png chart.png
    python -m engine.tools.bench cards --devices cpu,cpu
    python -m engine.tools.bench kernels --synthetic 7b
    python -m engine.tools.bench markup
    python -m engine.tools.bench onnx
    python -m engine.tools.bench plan --users 10000 --words-per-minute 30 --curve engine/tools/curves/7b-int4-h200.json
    python -m engine.tools.bench remote --url http://gpu1:8000
    python -m engine.tools.bench serve
    python -m engine.tools.bench split --model FOLDER --devices cuda:0,cuda:1

`python -m engine.tools.bench PART --help` says more.
"""

import argparse
import json
import sys

from engine.errors import YiwenError
from engine.tools import (
    bench_cards,
    bench_engine,
    bench_kernels,
    bench_markup,
    bench_onnx,
    bench_plan,
    bench_remote,
    bench_serve,
    bench_split,
)
from engine.tools.machine import machine

PARTS = {
    "cards": bench_cards,
    "engine": bench_engine,
    "kernels": bench_kernels,
    "markup": bench_markup,
    "onnx": bench_onnx,
    "plan": bench_plan,
    "remote": bench_remote,
    "serve": bench_serve,
    "split": bench_split,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a part of Yiwen, and peers beside it in turns.")
    parts = parser.add_subparsers(dest="part", required=True)
    for name, part in PARTS.items():
        part.add_arguments(parts.add_parser(name, help=part.ABOUT))
    arguments = parser.parse_args()
    part = PARTS[arguments.part]
    try:
        result = part.run(arguments)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    print(part.show(result), file=sys.stderr)
    print(json.dumps(result | {"machine": machine()}))


if __name__ == "__main__":
    main()
