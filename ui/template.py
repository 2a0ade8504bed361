"""What is plain HTML of the page: files in `templates/`, dressed with words by `static/base.js`."""

from pathlib import Path
from string import Template

import gradio as gr

_FOLDER = Path(__file__).parent / "templates"


def template(name: str, **constants: str) -> gr.HTML:
    """A file with its `$constants` filled in.

    It has no value, ever: giving a gr.HTML a value draws it anew, and would wipe what was written into it. gr.HTML runs
    ${…} and {{…}} in a template, so none of them may hold such.
    """
    html = Template((_FOLDER / f"{name}.html").read_text("utf-8")).substitute(constants)
    return gr.HTML(html_template=html, js_on_load=None, apply_default_css=False, padding=False)
