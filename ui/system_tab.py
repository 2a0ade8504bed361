"""The machine, the model and how fast they are. The figures come by static/system.js; here is the benchmark only."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import gradio as gr

from engine.benchmark import MOST_SECONDS, Point
from engine.errors import YiwenError
from engine.translator import Translator
from ui.i18n import label
from ui.template import template

# What the handler says goes to the page's own words and table; nothing is drawn in this element.
_SAY = """
const page = () => import(new URL("studio/system.js", document.baseURI));
watch("value", () => page().then(({ showPoints }) => showPoints(props.value)));
"""
Shown = tuple[Any, ...]  # what was said, the two plots, the two buttons


def system_tab(translator: Translator) -> None:
    async def measure() -> AsyncGenerator[Shown, None]:
        """A point at a time. To stop it closes this generator, and with it what it measures."""
        measured: list[Point] = []
        try:
            with translator.benchmark.begun(MOST_SECONDS) as points:
                yield _shown(measured, said="bench_running")
                async with aclosing(points):
                    async for point in points:
                        measured.append(point)
                        yield _shown(measured, said="bench_running")
            yield _shown(measured, said="bench_done")
        except YiwenError as error:
            yield _shown(measured, trouble=str(error))

    template("system")
    with gr.Row():
        start = gr.Button(label("bench_start"), variant="primary", elem_id="yw-bench-start", scale=0, min_width=210)
        stop = gr.Button(label("bench_stop"), interactive=False, elem_id="yw-bench-stop", scale=0, min_width=210)
    template("benchmark")
    with gr.Row():
        # not visible until there is something to see: only then the browser fetches what draws them, 300 kB
        plots = [_plot(name) for name in ("rate", "first")]
    said = gr.HTML(html_template="<span></span>", js_on_load=_SAY, apply_default_css=False, padding=False)
    # no limit: who comes second is told at once that one is running
    running = start.click(
        measure,
        None,
        [said, *plots, start, stop],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(
        lambda: ({"said": "bench_stopped"}, gr.Button(interactive=True), gr.Button(interactive=False)),
        None,
        [said, start, stop],
        cancels=running,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _plot(name: str) -> gr.BarPlot:
    return gr.BarPlot(
        x="streams",
        y=name,
        x_title=" ",
        y_title=" ",
        label=label(f"bench_{name}_plot"),
        y_lim=[0, None],
        tooltip="none",  # the table says it, in the reader's language
        visible=False,
        buttons=[],
        min_width=320,
        elem_id=f"yw-bench-{name}",
    )


def _shown(measured: list[Point], said: str = "", trouble: str = "") -> Shown:
    words = {"points": [asdict(point) for point in measured], "said": said, "trouble": trouble}
    runs = said == "bench_running"
    return (
        words,
        _bars("rate", measured, [point.tokens_per_second for point in measured]),
        _bars("first", measured, [point.first_token_ms for point in measured]),
        gr.Button(interactive=not runs),
        gr.Button(interactive=runs),
    )


def _bars(name: str, points: list[Point], heights: Sequence[float | None]) -> Any:
    """The data as gradio makes them of a data frame, of which we want no more."""
    streams = [str(point.streams) for point in points]
    data = {
        "columns": ["streams", name],
        "data": [list(row) for row in zip(streams, heights, strict=True)],
        "datatypes": {"streams": "nominal", name: "quantitative"},
        "mark": "bar",
    }
    return gr.BarPlot(data, visible=bool(points), sort=streams)  # unsorted, 16 comes before 2
