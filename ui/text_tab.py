"""Text in, translation out. The words travel by `static/stream.js`, not through Gradio: its events here only hand the
values of the components to `window.yiwen`."""

from typing import get_args

import gradio as gr

from engine.documents.read import KINDS
from engine.termbase.read import KINDS as GLOSSARY_KINDS
from engine.translator import Translator
from engine.types import Format
from ui.i18n import label
from ui.pickers import pickers

SOURCE_LINES = 12
TERM_ROWS = 3  # empty ones, to begin with

# The box has no value, ever: giving a gr.HTML a value draws it anew and would wipe what was streamed into it.
_OUTPUT = '<div id="yw-output-box" role="region" tabindex="0" aria-busy="false"></div>'
_OPTIONS = "".join(f'<option value="{name}"></option>' for name in get_args(Format))
_COUNTS = f"""
<p class="yw-counts"><select id="yw-format">{_OPTIONS}</select>
<span id="yw-characters"></span> <span id="yw-tokens"></span></p>
"""
_STATUS = """
<p class="yw-status"><span id="yw-status" role="status" aria-live="polite"></span>
<span id="yw-rate" aria-hidden="true"></span></p>
"""
# An accordion's inside comes into the page when it is opened first, so these are filled then.
_DROP = '<label class="yw-drop"></label>'
_USE_DROP = f"""window.yiwen.documents.useZone(element.querySelector("label"), "{",".join(KINDS)}")"""
_USE_LIST = "window.yiwen.documents.useList(element)"
_KEEP_HINT = "element.firstElementChild.textContent = window.yiwen.say('keep_hint')"
_USE_GLOSSARIES = f"""window.yiwen.useGlossaries(element, "{",".join(GLOSSARY_KINDS)}")"""
_NOTES = '<ul id="yw-notes" role="alert"></ul>'


def text_tab(translator: Translator) -> tuple[gr.Dropdown, gr.Dataframe]:
    """The target's picker and the terms come back: what they show first depends on the reader's browser."""
    source_language, swap, target_language = pickers(translator.info.languages)
    with gr.Row(elem_id="yw-panes"):
        with gr.Column(min_width=320):
            source = gr.Textbox(
                label=label("source_text"),
                show_label=False,
                placeholder=label("source_hint"),
                lines=SOURCE_LINES,
                max_lines=SOURCE_LINES,
                elem_id="yw-source",
            )
            with gr.Row(elem_classes="yw-under yw-actions"):
                _counts(translator)
                stop = gr.Button(label("stop"), elem_id="yw-stop", size="md", min_width=0, scale=0)
                translate = gr.Button(
                    label("translate"), variant="primary", elem_id="yw-translate", size="md", min_width=0, scale=0
                )
        with gr.Column(min_width=320):
            gr.HTML(html_template=_OUTPUT, js_on_load=None, elem_id="yw-output", apply_default_css=False)
            with gr.Row(elem_classes="yw-under"):
                gr.HTML(html_template=_STATUS, js_on_load=None, apply_default_css=False)
                copy = gr.Button(label("copy"), elem_id="yw-copy", size="md", min_width=0, scale=0)
            gr.HTML(html_template=_NOTES, js_on_load=None, apply_default_css=False)
    with gr.Row(elem_id="yw-extras"):
        with gr.Accordion(label("context"), open=False):
            context = gr.Textbox(
                label=label("context_text"),
                placeholder=label("context_hint"),
                lines=4,
                max_lines=8,
                elem_id="yw-context",
            )
        with gr.Accordion(label("terms"), open=False, elem_id="yw-glossaries"):
            gr.HTML(html_template='<p class="yw-hint"></p>', js_on_load=_KEEP_HINT, apply_default_css=False)
            terms = gr.Dataframe(
                value=[["", ""] for _ in range(TERM_ROWS)],
                column_count=2,
                column_widths=["50%", "50%"],
                type="array",
                label=label("terms_table"),
                show_label=False,
                elem_id="yw-terms",
                interactive=True,
                wrap=True,
                buttons=[],
            )
            add_row = gr.Button(label("add_row"), elem_id="yw-add-row", size="sm", min_width=0)
            gr.HTML(html_template="<div></div>", js_on_load=_USE_GLOSSARIES, apply_default_css=False)
        with gr.Accordion(label("document"), open=False, elem_id="yw-document"):
            gr.HTML(html_template=_DROP, js_on_load=_USE_DROP, apply_default_css=False)
            translate_document = gr.Button(
                label("translate_document"), elem_id="yw-translate-document", size="sm", min_width=0
            )
            gr.HTML(html_template="<div></div>", js_on_load=_USE_LIST, apply_default_css=False)
    texts = [source_language, target_language, source]
    translate.click(None, [*texts, context, terms], js="(...values) => { window.yiwen.start(...values) }")
    translate_document.click(
        None,
        [source_language, target_language, context, terms],
        js="(...values) => { window.yiwen.startDocument(...values) }",
    )
    add_row.click(None, [terms], [terms], js="(terms) => window.yiwen.addRow(terms)")
    stop.click(None, js="() => { window.yiwen.stop() }")
    copy.click(None, js="() => { window.yiwen.copy() }")
    swap.click(None, texts, texts, js="(...values) => window.yiwen.swap(...values)")
    chosen = [source_language, target_language]
    for picker in chosen:
        picker.change(None, chosen, js="(...codes) => { window.yiwen.choosePair(...codes) }")
    source.change(None, [source], js="(text) => { window.yiwen.count(text) }")
    return target_language, terms


def _counts(translator: Translator) -> None:
    def count_tokens(text: str) -> int:
        return translator.count_tokens(text)

    gr.HTML(
        html_template=_COUNTS,
        js_on_load="window.yiwen.useServer(server)",
        server_functions=[count_tokens],
        apply_default_css=False,
    )
