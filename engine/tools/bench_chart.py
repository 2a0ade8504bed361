"""Draws what the bench of the engine measured: ours, the peers, and what the memory's bandwidth allows."""

from pathlib import Path
from textwrap import fill
from typing import Any

OURS = "#b3261e"
OTHERS = ("#33608c", "#5b8c5a", "#8a6fb0")
LIMIT = "#8a8a8a"


def draw(result: dict[str, Any], where: str, path: Path) -> None:
    """`result` is what `bench_engine.run` returns, `where` the name of the card or processor; `path` ends in .png."""
    from matplotlib.figure import Figure  # a second, and only for who wants a chart

    figure = Figure(figsize=(13, 9), layout="constrained")
    speed, waiting, gaps, memory = figure.subplots(2, 2).flat
    title = (
        f"{result['model']}, {result['precision']}, {where}: {result['prompt_tokens']} tokens in, "
        f"{result['new_tokens']} out, {result['sampling']}"
    )
    figure.suptitle(fill(title, 130))
    _speed(speed, result)
    _waiting(waiting, result)
    _gaps(gaps, result)
    _memory(memory, result)
    for axes in (speed, waiting, gaps, memory):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _colours(sides: list[str]) -> dict[str, str]:
    others = [side for side in sides if side != "ours"]
    return {"ours": OURS} | {side: OTHERS[place % len(OTHERS)] for place, side in enumerate(others)}


def _speed(axes: Any, result: dict[str, Any]) -> None:
    batches = result["batches"]
    sizes = list(map(int, batches))
    limits = [batches[size]["limit_tokens_a_second"] for size in batches]
    axes.plot(sizes, limits, "--", color=LIMIT, label=f"limit: weights and cache at {result['copy_gb_a_second']} GB/s")
    sides = list(next(iter(batches.values()))["tokens_a_second"])
    for side, colour in _colours(sides).items():
        speeds = [batches[size]["tokens_a_second"][side] for size in batches]
        ours = side == "ours"
        axes.plot(sizes, speeds, "o-", color=colour, label=side, zorder=3 if ours else 2)
        if ours:
            for size, value in zip(sizes, speeds, strict=True):
                above = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "size": 8, "color": OURS}
                axes.annotate(f"{value:,.0f}", (size, value), **above)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set(title="Tokens a second", xlabel="streams at once", ylabel="tokens/s, all streams")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _waiting(axes: Any, result: dict[str, Any]) -> None:
    alone, at_once = result["first_token_ms"], result["first_token_at_once"]
    groups = {"one, idle": alone, f"the last of {at_once['prompts']} at once": at_once["last_ms"]}
    _bars(axes, groups, _colours(list(alone)))
    axes.set(title="Time to the first token", ylabel="ms")


def _gaps(axes: Any, result: dict[str, Any]) -> None:
    groups = {size: figures["inter_token_ms"] for size, figures in result["batches"].items()}
    for lines, figures in result.get("long_prompt", {}).items():
        groups[f"{lines}, {figures['prompt_tokens']} come"] = figures["inter_token_beside_ms"]
    if "mixed" in result:
        groups["mixed"] = result["mixed"]["inter_token_ms"]
    shown = {name: {"median": each["p50"], "99th percentile": each["p99"]} for name, each in groups.items()}
    _bars(axes, shown, {"median": OURS, "99th percentile": "#e2a09c"})
    for label in axes.get_xticklabels():
        label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set(title="Time between tokens, ours", xlabel="streams at once, and what comes beside them", ylabel="ms")


def _memory(axes: Any, result: dict[str, Any]) -> None:
    kinds = {name: value for name, value in result["memory_mb"].items() if value}
    names = [name.replace("_", " ") for name in kinds]
    bars = axes.barh(names, [value / 1000 for value in kinds.values()], color=OURS)
    axes.bar_label(bars, fmt="%.2f", padding=3, size=8)
    axes.invert_yaxis()
    axes.set(title="Memory, ours", xlabel="GB (10⁹ bytes)")


def _bars(axes: Any, groups: dict[str, dict[str, float]], colours: dict[str, str]) -> None:
    """Groups of bars side by side, a colour each."""
    width = 0.8 / len(colours)
    for place, (side, colour) in enumerate(colours.items()):
        at = [number + place * width for number in range(len(groups))]
        bars = axes.bar(at, [figures[side] for figures in groups.values()], width, color=colour, label=side)
        axes.bar_label(bars, fmt="%.1f", size=7)
    middle = 0.4 - width / 2
    axes.set_xticks([number + middle for number in range(len(groups))], list(groups))
    axes.legend(frameon=False)
