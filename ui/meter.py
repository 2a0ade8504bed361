"""The memory line: what the program holds and how fast it goes, refreshed every two seconds."""

import gradio as gr

from engine.metrics import Metrics

REFRESH_SECONDS = 2.0
GIGABYTE = 1e9  # as card makers and disks count it
MEGABYTE = 1e6

Reading = dict[str, str | float | None]

_DRAW = """
const draw = () => window.yiwen.meter(element.querySelector(".yw-meter"), props.value);
draw();
watch("value", draw);
"""


def meter(metrics: Metrics) -> None:
    line = gr.HTML(
        value=readings(metrics),
        html_template='<div class="yw-meter"></div>',
        js_on_load=_DRAW,
        elem_id="yw-meter",
        apply_default_css=False,
    )
    gr.Timer(REFRESH_SECONDS).tick(
        lambda: readings(metrics),
        None,
        line,
        queue=False,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )


def readings(metrics: Metrics) -> list[Reading]:
    """What the line shows, in order; `name` is a key of `ui.i18n`, `share` fills a bar from 0 to 1."""
    now = metrics.snapshot()
    memory = now.memory
    shown = [_reading("process", _size(memory.process))]
    if memory.weights:
        shown.append(_reading("weights", _size(memory.weights)))
    if memory.kv_total:
        shown.append(_full("kv_cache", memory.kv_used, memory.kv_total))
    if memory.device_used is not None and memory.device_total:
        shown.append(_full("gpu", memory.device_used, memory.device_total))
    shown.append(_reading("speed", f"{now.tokens_per_second:.0f} tok/s"))
    shown.append(_reading("running", str(now.running)))
    return shown


def _reading(name: str, value: str, share: float | None = None) -> Reading:
    return {"name": name, "value": value, "share": share}


def _full(name: str, used: int, total: int) -> Reading:
    return _reading(name, f"{_size(used)} / {_size(total)}", used / total)


def _size(size_bytes: int) -> str:
    if size_bytes < GIGABYTE:
        return f"{size_bytes / MEGABYTE:.0f} MB"
    return f"{size_bytes / GIGABYTE:.1f} GB"
