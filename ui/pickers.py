"""The two language pickers and the button between them. Knows only the languages' names."""

from collections.abc import Iterable

import gradio as gr

from engine.languages import LANGUAGES, Language
from ui.i18n import label

DETECT = "auto"


def pickers(codes: Iterable[str]) -> tuple[gr.Dropdown, gr.Button, gr.Dropdown]:
    """Source, swap and target, for the languages a model speaks. The source may also be `DETECT`."""
    choices = [(_name(LANGUAGES[code]), code) for code in codes]
    with gr.Row(elem_id="yw-languages"):
        source = gr.Dropdown(
            [(label("detect_language"), DETECT), *choices],
            value=DETECT,
            label=label("source_language"),
            elem_id="yw-from",
            min_width=0,
        )
        swap = gr.Button("⇄", elem_id="yw-swap", min_width=0, scale=0)
        target = gr.Dropdown(choices, value=choices[0][1], label=label("target_language"), elem_id="yw-to", min_width=0)
    return source, swap, target


def _name(language: Language) -> str:
    """In its own script for those who read it, in English for those who look for it."""
    if language.own == language.english:
        return language.own
    return f"{language.own} · {language.english}"
