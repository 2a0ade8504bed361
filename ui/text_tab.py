"""Text in, translation out. The words travel by static/stream.js, not by Gradio; what the tab does, static/text.js."""

from typing import get_args

import gradio as gr

from engine.translator import Translator
from engine.types import Format
from ui.i18n import label
from ui.template import template

SOURCE_LINES = 12
FORMATS = "".join(f'<option value="{name}"></option>' for name in get_args(Format))


def text_tab(translator: Translator) -> None:
    with gr.Row(elem_id="yw-panes"):
        with gr.Column(min_width=320):
            gr.Textbox(
                label=label("source_text"),
                show_label=False,
                placeholder=label("source_hint"),
                lines=SOURCE_LINES,
                max_lines=SOURCE_LINES,
                elem_id="yw-source",
            )
            with gr.Row(elem_classes="yw-actions"):
                gr.Button(label("translate"), variant="primary", elem_id="yw-translate", min_width=0, scale=2)
                gr.Button(label("stop"), elem_id="yw-stop", min_width=0, scale=1)
            template("under_source", formats=FORMATS)
        with gr.Column(min_width=320):
            template("output")
        with gr.Column(min_width=320):
            template("preview")
    with gr.Row(elem_id="yw-extras"):
        with gr.Column(min_width=320, elem_id="yw-context-column"):
            gr.Textbox(
                label=label("context_text"),
                placeholder=label("context_hint"),
                lines=3,
                max_lines=8,
                elem_id="yw-context",
            )
            template("seen")
        with gr.Column(min_width=320):
            template("history")
    _counts(translator)


def _counts(translator: Translator) -> None:
    """Hands the browser a function that counts tokens as the model does."""

    def count_tokens(text: str) -> int:
        return translator.count_tokens(text)

    gr.HTML(
        html_template="<span></span>",
        js_on_load="window.yiwenServer = server",
        server_functions=[count_tokens],
        elem_id="yw-server",
        apply_default_css=False,
    )
