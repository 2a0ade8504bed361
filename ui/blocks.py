"""The page: header, the text tab, the memory line and the footer; and how it is hung into the server."""

import json
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from engine.config import Config
from engine.languages import LANGUAGES
from engine.metrics import Metrics
from engine.translator import Translator
from engine.types import ModelInfo
from ui.i18n import CHINESE_LOCALES, I18N, PAGE
from ui.meter import meter
from ui.text_tab import text_tab
from ui.theme import theme

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("stream.js", "files.js", "documents.js", "glossaries.js", "page.js")

# gr.HTML runs ${…} in a template, even in what it has just filled in: only constants may stand in one.
_HEADER = """
<header class="yw-header">
  <span class="yw-seal" lang="zh" aria-hidden="true">译</span>
  <h1><span lang="zh">译文</span> Yiwen</h1>
  <p data-say="tagline"></p>
</header>
"""
_FOOTER = """
<footer class="yw-footer">
  <span><span data-say="model"></span>: <span id="yw-model"></span></span>
  <span><span data-say="licence"></span>: <span id="yw-licence"></span></span>
  <span data-say="private"></span>
</footer>
"""


def build(translator: Translator, metrics: Metrics) -> gr.Blocks:
    page = gr.Blocks(title="译文 Yiwen", analytics_enabled=False)  # or gradio asks other hosts about itself
    with page:
        _html(_HEADER)
        shown_first = list(text_tab(translator))
        meter(metrics)
        _html(_FOOTER)
        page.load(None, shown_first, shown_first, js="(...values) => window.yiwen.boot(...values)")
    return page


def mount(app: FastAPI, translator: Translator, config: Config, metrics: Metrics) -> FastAPI:
    """Hang the page at `/`. Routes added to `app` after this are never reached."""
    gr.mount_gradio_app(
        app,
        build(translator, metrics),
        path="/",
        root_path=config.root_path or None,
        theme=theme(),
        css_paths=[STATIC / "yiwen.css"],
        head=_head(translator.info, config.max_text_tokens),
        i18n=I18N,
        footer_links=[],  # gradio's settings speak of recording screens and of launch()
        max_file_size=1,  # gradio would keep for ever what anybody uploads, and our page uploads nothing
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    return app


def _html(template: str) -> None:
    gr.HTML(html_template=template, js_on_load=None, apply_default_css=False)


def _head(model: ModelInfo, max_text_tokens: int) -> str:
    """Our scripts, inline: the page then works below any path, and needs no route of its own."""
    languages = [LANGUAGES[code] for code in model.languages]
    data = {
        "text": PAGE,
        "chineseLocales": CHINESE_LOCALES,
        "languages": {
            language.code: {"english": language.english, "chinese": language.chinese, "direction": language.direction}
            for language in languages
        },
        "maxTextTokens": max_text_tokens,
        "model": model.name,
        "licence": model.licence,
    }
    as_script = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # a name cannot end the script
    scripts = [f"window.YIWEN = {as_script};", *((STATIC / name).read_text("utf-8") for name in SCRIPTS)]
    return "\n".join(f"<script>{script}</script>" for script in scripts)
