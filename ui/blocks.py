"""The page: header, languages, the four tabs and the footer; and how it is hung into the server."""

import json
import re
import secrets
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, HTTPException, Response
from starlette.datastructures import MutableHeaders
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from engine.config import Config
from engine.languages import LANGUAGES
from engine.translator import Translator
from ui.document_tab import document_tab
from ui.examples import EXAMPLES
from ui.i18n import I18N, PAGE
from ui.system_tab import system_tab
from ui.template import template
from ui.terms_tab import terms_tab
from ui.text_tab import text_tab
from ui.theme import theme

STATIC = Path(__file__).parent / "static"
PATH = "/studio"  # where the browser finds our scripts
_MODULES = sorted(path.name for path in STATIC.glob("*.js"))  # fetched at once, not each when another asks for it
SHEETS = ("page.css", "terms.css", "documents.css", "system.css")

# Gradio, and our page with it, speaks the language that the browser says it prefers: that is the one chosen here.
_LANGUAGE = """
let chosen = navigator.language;
try { chosen = localStorage.getItem("yiwen-language") ?? chosen; } catch {}
Object.defineProperty(navigator, "language", { value: /^"?zh/.test(chosen) ? "zh-CN" : "en" });
"""
# Gradio makes functions of strings for `js`, `js_on_load` and its plots, and writes styles into elements.
_POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; frame-src 'self'; worker-src 'none'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'self'{framing}"
)
# Gradio answers to far more: uploads that it keeps, files, proxies, streams without an end. Our page needs these alone:
# what it is made of, the benchmark, and its count of tokens.
_PARTS = re.compile(
    r"(?:GET|HEAD) /(?:theme\.css|favicon\.ico|robots\.txt|(?:assets|static)/.+|gradio_api/queue/data)?"
    r"|POST /gradio_api/(?:queue/join|run/predict|cancel|reset|component_server/?)"
)
_SCRIPT = re.compile(rb"<script(?=[ >])")
_BOOT = f"() => import(new URL('{PATH[1:]}/page.js', document.baseURI)).then((page) => page.boot())"


def build(translator: Translator) -> gr.Blocks:
    page = gr.Blocks(title="译文 Yiwen", analytics_enabled=False)  # or gradio asks other hosts about itself
    with page:
        template("header")
        # no gr.Tabs, which brings a tab into the page when it is opened first: what is on one counts for the others
        with _panel("text", "yw-open"):
            text_tab(translator)
        with _panel("terms"):
            terms_tab()
        with _panel("documents"):
            document_tab()
        with _panel("system"):
            system_tab(translator)
        template("footer")
        page.load(None, js=_BOOT)
    return page


def mount(app: FastAPI, translator: Translator, config: Config) -> FastAPI:
    """Hang the page at `/`. Routes added to `app` after this are never reached."""
    app.mount(PATH, _Fresh(directory=STATIC))
    gr.mount_gradio_app(  # the last route
        app,
        build(translator),
        path="/",
        root_path=config.root_path or None,
        theme=theme(),
        css_paths=[STATIC / sheet for sheet in SHEETS],
        i18n=I18N,
        footer_links=[],  # gradio's settings speak of recording screens and of launch()
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    framing = "".join(f" {origin}" for origin in config.allowed_origins)
    mounted.app = _OnlyThePage(_OurScriptFirst(mounted.app, _LANGUAGE + _data(config), framing))
    return app


class _OnlyThePage:
    """To whatever else is asked for, nothing is there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await WebSocketClose()(scope, receive, send)
        if not _PARTS.fullmatch(f"{scope['method']} {_path(scope)}"):
            raise HTTPException(404)
        await self._app(scope, receive, send)


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", "")) or "/"


class _OurScriptFirst:
    """Puts a script before all of Gradio's, which runs what it has as `head` only after it has chosen its language; and
    tells the browser to run no script but those that are in the page now, or come from us as files."""

    def __init__(self, app: ASGIApp, script: str, framing: str) -> None:
        self._app, self._framing = app, framing
        ours = "".join(f'<link rel="modulepreload" href="{PATH[1:]}/{one}">' for one in _MODULES)
        self._first = f"<head><script>{script}</script>{ours}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _path(scope) != "/":
            return await self._app(scope, receive, send)
        start: Message = {}
        body = b""

        async def changed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                nonce = secrets.token_urlsafe(16)
                named = f'<script nonce="{nonce}"'.encode()
                whole = _SCRIPT.sub(named, body.replace(b"<head>", self._first, 1))
                headers = MutableHeaders(raw=start["headers"])
                headers["Content-Security-Policy"] = _POLICY.format(nonce=nonce, framing=self._framing)
                headers["Content-Length"] = str(len(whole))
                await send(start)
                await send({"type": "http.response.body", "body": whole})

        await self._app(scope, receive, changed)


def _panel(name: str, *classes: str) -> gr.Column:
    """What a tab of templates/header.html opens; static/page.js shows one at a time."""
    return gr.Column(elem_id=f"yw-panel-{name}", elem_classes=["yw-panel", *classes])


class _Fresh(StaticFiles):
    """A browser asks each time whether a file is still the same: after an update no old script meets a new page."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def _data(config: Config) -> str:
    data = {
        "text": PAGE,
        "languages": {
            language.code: {
                "english": language.english,
                "chinese": language.chinese,
                "own": language.own,
                "direction": language.direction,
                "aliases": language.aliases,
            }
            for language in LANGUAGES.values()
        },
        "maxTextTokens": config.max_text_tokens,
        "hasKeys": config.api_keys is not None,
        "goesTo": "private_elsewhere" if config.remote_url else None,  # what the footer says of the reader's text
        "examples": EXAMPLES,
    }
    as_script = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # a name cannot end the script
    return f"window.YIWEN = {as_script};"
