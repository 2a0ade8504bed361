"""`/login` and `/logout`: a key becomes a cookie, for the studio. Knows keys, and nothing of what they are for.

The cookie is a name and a mark of its key, signed and dated: it ends with the key, after a week, or when its reader
signs out; the server keeps nothing of it. The page needs no script.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.types import Scope

from engine import files
from engine.server.clients import client_of
from engine.server.keys import Key, Keys
from engine.server.throttle import Bucket

PATH = "/login"
LEAVE = "/logout"
WEEK_SECONDS = 7 * 24 * 3600
SECRET_BYTES = 32
MOST_FORM_BYTES = 4096
WRONG_PER_MINUTE = 10  # keys from one address, before it must wait

_PAGE = Template((Path(__file__).parent / "login.html").read_text(encoding="utf-8"))
_STYLE = re.search("<style>(.*)</style>", _PAGE.template, re.DOTALL)
assert _STYLE
_POLICY = (
    "default-src 'none'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'self'; "
    f"style-src 'sha256-{b64encode(hashlib.sha256(_STYLE[1].encode()).digest()).decode()}'"
)
_WORDS = {
    "en": {
        "title": "Sign in",
        "about": "This translation studio asks for a key. Whoever runs it gives you one.",
        "label": "Your key",
        "button": "Sign in",
        "wrong": "This key is not known here. Check that it is whole, with no space, and try again.",
        "many": "Too many wrong keys came from your address. Try again in {seconds} s.",
    },
    "zh-CN": {
        "title": "登录",
        "about": "使用这个翻译工作室需要密钥，请向管理者索取。",
        "label": "您的密钥",
        "button": "登录",
        "wrong": "密钥无效。请检查是否完整、有无空格，然后重试。",
        "many": "您的地址输错密钥的次数过多，请在 {seconds} 秒后重试。",
    },
}
_INSIDE = re.compile(r"/(?![/\\])[^\\\x00-\x20]*")  # a path of ours: two slashes would be another host

log = logging.getLogger(__name__)


class Sessions:
    """Signs cookies with a secret that lies in the data folder, so that they outlive a restart."""

    def __init__(self, keys: Keys, data_dir: Path) -> None:
        self._keys = keys
        secret = _secret(data_dir.expanduser() / "session-secret")
        self._signer = URLSafeTimedSerializer(
            secret, salt="yiwen-session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._secret = secret
        # Cookies know no ports, and on this machine may be another Yiwen.
        self.cookie = f"yiwen-{hashlib.sha256(secret).hexdigest()[:8]}"
        self._sent = re.compile(rf"(?:^|;)\s*{self.cookie}=([^;]*)")

    def begin(self, key: Key) -> str:
        return str(self._signer.dumps([key.name, self._mark(key)]))

    def read(self, header: str) -> Key | None:
        """Whose cookie is in the header, if it is ours and its key counts still."""
        if (sent := self._sent.search(header)) is None:
            return None
        try:
            name, mark = self._signer.loads(sent[1], max_age=WEEK_SECONDS)
        except BadData:
            return None
        key = self._keys.named(name)
        return key if key and hmac.compare_digest(mark, self._mark(key)) else None

    def _mark(self, key: Key) -> str:
        """Another key under the same name has another one."""
        return hmac.digest(self._secret, key.digest, "sha256").hex()[:32]


def where(scope: Scope) -> str:
    """The login page, which leads back to what was asked for."""
    path, query = scope["path"].removeprefix(scope.get("root_path", "")), scope["query_string"].decode("latin-1")
    back = quote(f"{quote(path)}?{query}" if query else quote(path), safe="")
    return f"{scope.get('root_path', '')}{PATH}?next={back}"


def router(keys: Keys, sessions: Sessions, clock: Callable[[], float] = time.monotonic) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    wrong = Bucket(clock)

    @api.get(PATH)
    async def ask(request: Request) -> Response:
        return _page(request)

    @api.post(PATH)
    async def sign_in(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_FORM_BYTES:
                return _page(request, 413, "wrong")
        given = parse_qs(body.decode(errors="replace")).get("key", [""])[0].strip()
        who = client_of(request.scope).id
        if wait := wrong.wait_seconds(who, 1, WRONG_PER_MINUTE):
            seconds = int(wait) + 1
            return _page(request, 429, "many", {"Retry-After": str(seconds)}, seconds)
        if (key := keys.find(given)) is None:
            wrong.take(who, 1, WRONG_PER_MINUTE)
            return _page(request, 401, "wrong")
        answer = RedirectResponse(
            f"{request.scope.get('root_path', '')}{_next(request)}", 303, {"Cache-Control": "no-store"}
        )
        _set_cookie(answer, request, sessions.cookie, sessions.begin(key), WEEK_SECONDS)
        return answer

    @api.post(LEAVE)
    async def sign_out(request: Request) -> Response:
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}{PATH}", 303, {"Cache-Control": "no-store"})
        _set_cookie(answer, request, sessions.cookie, "", 0)
        return answer

    return api


def _set_cookie(answer: Response, request: Request, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=seconds,
        path=request.scope.get("root_path", "") or "/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="lax",
    )


def _page(
    request: Request, status: int = 200, trouble: str = "", headers: dict[str, str] | None = None, seconds: int = 0
) -> Response:
    lang = "zh-CN" if _prefers_chinese(request.headers.get("Accept-Language", "")) else "en"
    words = _WORDS[lang]
    said = words[trouble].format(seconds=seconds) if trouble else ""
    page = _PAGE.substitute(
        {name: escape(text) for name, text in words.items() if name not in ("wrong", "many")},
        lang=lang,
        action=escape(f"{request.scope.get('root_path', '')}{PATH}?next={quote(_next(request), safe='')}"),
        wrong=f'<p id="wrong" role="alert">{escape(said)}</p>\n' if said else "",
        described=' aria-describedby="wrong" aria-invalid="true"' if said else "",
    )
    kept = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Vary": "Accept-Language"}
    return HTMLResponse(page, status, {**kept, **(headers or {})})


def _next(request: Request) -> str:
    asked = request.query_params.get("next", "/")
    return quote(asked, safe="/?&=%:@+,;~!$'()*#") if _INSIDE.fullmatch(asked) else "/"


def _prefers_chinese(languages: str) -> bool:
    """By the first of those that we speak, as browsers list them: the liked best first."""
    said = (part.strip().lower() for part in languages.split(","))
    return next((one for one in said if one.startswith(("zh", "en"))), "en").startswith("zh")


def _secret(path: Path) -> bytes:
    """Made once; a passing one where it cannot be kept."""
    try:
        if len(found := path.read_bytes()) >= SECRET_BYTES:
            return found
    except OSError:
        pass
    made = secrets.token_bytes(SECRET_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_whole(path, made, 0o600)
    except OSError as error:
        log.warning("%s cannot be written (%s): a restart signs everybody out", path, error.strerror)
    return made
