"""The same run in several precisions, one process after another, side by side."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.tools.training import curves

# heading → where the figure is in a run's summary, and its format
_COLUMNS = {
    "memory, GiB": ("peak_memory_gib", ".2f"),
    "step, ms": ("step_ms", ".1f"),
    "train loss": ("train_loss", ".4f"),
    "dev loss": ("dev_loss", ".4f"),
    "chrF2": ("dev_chrf", ".2f"),
    "BLEU": ("dev_bleu", ".2f"),
    "skipped": ("skipped_steps", "d"),
    "gradients lost in fp16": ("lost", ".2%"),
    "with the loss scaled": ("lost_scaled", ".2%"),
    "their squares": ("squares_lost", ".1%"),
}


def compare(precisions: Sequence[str], words: Sequence[str], out: Path) -> dict[str, Any]:
    """Runs `train` with `words` once in each precision, into folders of `out`; gives their summaries by precision.
    Raises `ConfigError` where a run could not even begin."""
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Any] = {}
    for precision in precisions:
        print(f"--- {precision}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "engine.tools.train", *words, f"--precision={precision}"]
        done = subprocess.run([*command, f"--out={out / precision}"], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        if not lines:
            raise ConfigError(f"The run in {precision} ended with status {done.returncode} and no result; see above.")
        runs[precision] = json.loads(lines[-1])
        (out / "compare.md").write_text(table(runs) + "\n", encoding="utf-8")  # there should the next one never end
    summaries = {name: json.loads((out / name / "training.json").read_text(encoding="utf-8")) for name in runs}
    curves.draw({name: summary["curve"] for name, summary in summaries.items()}, out / "curve.png")
    return {"out": str(out), "runs": runs}


def table(runs: dict[str, Any]) -> str:
    """Markdown; ratios are against the first run."""
    first = next(iter(runs.values()))
    lines = ["| precision | " + " | ".join(_COLUMNS) + " | memory | speed | |", "|---" * (len(_COLUMNS) + 4) + "|"]
    for name, run in runs.items():
        cells = [format(run[key], form) if run.get(key) is not None else "–" for key, form in _COLUMNS.values()]
        memory = run["peak_memory_gib"] / first["peak_memory_gib"] - 1 if first["peak_memory_gib"] else 0.0
        speed = first["step_ms"] / run["step_ms"] if run["step_ms"] else 0.0
        stopped = f"stopped at step {run['steps'] + 1}: {run['stopped']}" if run.get("stopped") else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {memory:+.0%} | {speed:.2f} × | {stopped} |")
    return "\n".join(lines)
