"""What a server of OpenAI's shape is: which model it has, what of a request it understands, how it is asked.

Asked once, before the first translation, on a thread that may wait. Knows nothing of streams, see `remote`.

Servers differ: all take a chat's turn, most a prompt of ids, which is exact; a temperature all know, a top-k and a
penalty most, and some refuse a request for a name that they do not know. So the fullest way to ask is tried first.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson

from engine.backends.counting import counter
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, NotThereYet, StartupError, TextTooLong
from engine.inference.checkpoint import read_config
from engine.inference.loader import Described, describe, family_of, licence_of
from engine.languages import LANGUAGES
from engine.progress import Progress
from engine.shape import HY_MT_SEGMENT_TOKENS
from engine.types import CountTokens, ModelInfo, Prompt, Sampling

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0  # for one token, behind all that it was asked before
REACH_SECONDS = 3.0  # in which a server is to be there; who loads it tries again later
AGAIN_SECONDS = 1.0  # before it is asked again within these
BUSY = frozenset({429, 502, 503, 504})
MOST_WAIT_SECONDS = 30.0  # however long a server says
SLOTS = 64  # of a server that does not say how many it has; vLLM takes 256 at once, on a large card
CONTEXT_TOKENS = 2_048  # of one that does not say, and has no folder here
QUOTED = 200  # characters of what it says
RAW = ":raw"  # another Yiwen's name for the model itself, which takes a prompt word for word
HY_MT_SAMPLING = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05)  # the READMEs of both families
TRIED = Prompt("Hello", "Hello", 1, replace(HY_MT_SAMPLING, seed=1))

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """What a server says of a request that it refuses."""

    said: str  # in its words, which may quote ours
    code: str  # ", " and its name for what is wrong, a word; or empty
    too_long: bool


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    headers: Mapping[str, str] = field(repr=False)  # the key is in them
    model: str  # as the server calls it
    kind: str  # "vllm", "sglang", "llamacpp", "yiwen", …, as it says
    info: ModelInfo
    slots: int
    described: Described | None  # of the folder, where there is one
    count: CountTokens
    probe: str  # a path that answers while it is there
    raw: bool = False  # takes the ids of a prompt
    extras: bool = True  # takes more than OpenAI's own fields

    @property
    def path(self) -> str:
        return "/v1/completions" if self.raw else "/v1/chat/completions"

    def body(self, prompt: Prompt) -> tuple[dict[str, Any], int]:
        """What is sent, and how many tokens the answer may have. Raises `TextTooLong`."""
        asked: dict[str, Any]
        if self.raw and self.described:
            ids = self.described.tokenizer.prompt(prompt.text)
            asked, size = {"prompt": ids}, len(ids)
        else:
            asked, size = {"messages": [{"role": "user", "content": prompt.text}]}, self.count(prompt.text)
        room = self.info.max_context_tokens - size
        if room < 1:
            raise TextTooLong(
                f"A prompt of {size} tokens does not fit the model's {self.info.max_context_tokens}; "
                "shorten the context or the terms."
            )
        most = min(prompt.max_new_tokens, room)
        named = {"model": self.model, "max_tokens": most, "stream": True, "stream_options": {"include_usage": True}}
        return named | asked | dict(self._sampling(prompt.sampling)), most

    def _sampling(self, asked: Sampling) -> Iterator[tuple[str, Any]]:
        """What nobody chose is as the model's folder recommends, or its makers: llama.cpp has numbers of its own, made
        for chats, and vLLM takes a model that says "no sampling" at a temperature of 1. Another Yiwen knows best."""
        recommended = Sampling() if self.kind == "yiwen" else HY_MT_SAMPLING
        if self.described:
            recommended = self.described.sampling
        temperature = _first(asked.temperature, recommended.temperature)
        top_p, top_k = _first(asked.top_p, recommended.top_p), _first(asked.top_k, recommended.top_k)
        penalty = _first(asked.repetition_penalty, recommended.repetition_penalty)
        yield from _named(temperature=temperature, seed=asked.seed)
        if temperature != 0:
            yield from _named(top_p=top_p)
        if not self.extras:
            return
        if temperature != 0 and top_k is not None:
            yield "top_k", top_k or (0 if self.kind == "yiwen" else -1)  # -1: all, to vLLM and SGLang of any age
        yield from _named(repetition_penalty=penalty)
        if self.kind == "llamacpp":
            yield from _named(repeat_penalty=penalty)
            yield from _named(repeat_last_n=self.info.max_context_tokens, min_p=0)  # as others do without a word
        elif self.raw and self.described:
            yield "stop_token_ids", sorted(self.described.tokenizer.stop_ids)


def find(config: Config, progress: Progress) -> Served:
    """The server at the one address of `config.remote_url`.

    Raises `ConfigError` for an address or a key that is wrong, `ModelNotFound`, `NotThereYet`.
    """
    url = _address(config.remote_url[0])
    key = config.remote_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it tells every request
    with httpx.Client(
        base_url=url, headers=headers, timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    ) as client:
        asking = _Asking(client, url, progress)
        folder = Path(config.model).expanduser()
        described = _described(config.model, folder, url) if _is_named(config) and folder.is_dir() else None
        listed = asking.models()
        entry = _chosen(config, listed, url, described)
        kind = str(entry.get("owned_by") or "")
        served = Served(
            url=url,
            headers=headers,
            model=str(entry["id"]) + (RAW if kind == "yiwen" else ""),
            kind=kind,
            info=asking.info(entry, described, url),
            slots=config.max_concurrent or asking.slots(kind),
            described=described,
            count=described.tokenizer.count if described else counter(lambda _: 0),
            probe="/health" if asking.get("/health") is not None else "/v1/models",
        )
        progress.report("test")
        served = asking.agreed(served, listed)
        if not described:
            served = replace(served, count=counter(asking.counts(served)))
    told = "prompts as ids" if served.raw else "chat turns"
    left_out = "" if served.extras else "; it knows neither top_k nor repetition_penalty, and takes its model's own"
    plan = f"{served.info.name} on {url} ({kind or 'a server'}), which takes {told}{left_out}"
    log.info("remote: %s", plan)
    return replace(served, info=replace(served.info, plan=plan))


def refusal(body: bytes) -> Refusal:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = {}
    said = said if isinstance(said, dict) else {}
    inner = said.get("error")
    told: Any = inner if isinstance(inner, dict) else said
    message = next((told[name] for name in ("message", "detail", "error") if isinstance(told.get(name), str)), "")
    names = [told[name] for name in ("code", "type") if isinstance(told.get(name), str)]
    code = next((f", {name}" for name in names if re.fullmatch(r"[\w.-]{1,40}", name)), "")
    return Refusal(" ".join(message.split())[:QUOTED], code, bool(re.search(r"context|too.long", f"{message} {code}")))


def wait_of(response: httpx.Response) -> float | None:
    """Seconds after which a server that is busy is to be asked again, 0 where it does not say; None: it is not busy."""
    if response.status_code not in BUSY:
        return None
    said = response.headers.get("Retry-After", "")
    return min(float(said), MOST_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,6}", said) else 0.0


class _Asking:
    def __init__(self, client: httpx.Client, url: str, progress: Progress) -> None:
        self._client, self._url, self._progress = client, url, progress

    def models(self) -> list[dict[str, Any]]:
        """What it has, once it is there; none where it does not say: that of transformers fails where it has no
        cache, and answers all the same."""
        response = self._patiently("GET", "/v1/models")
        self._check_key(response)
        said = _json(response)
        listed = said.get("data") if isinstance(said, dict) else None
        return [each for each in listed or [] if isinstance(each, dict) and isinstance(each.get("id"), str)]

    def get(self, path: str) -> Any:
        """JSON, or an empty text for what is none; None where there is nothing."""
        try:
            response = self._client.get(path, timeout=CONNECT_SECONDS)
        except httpx.HTTPError:
            return None
        return _json(response) if response.is_success else None

    def info(self, entry: Mapping[str, Any], described: Described | None, url: str) -> ModelInfo:
        name, address = str(entry["id"]), url.partition("://")[2]
        system = self.get("/system") if entry.get("owned_by") == "yiwen" else None
        context = _number(entry.get("max_model_len")) or self._context_of_llama()
        if described:
            info = described.info
        elif isinstance(system, dict) and (found := _of_yiwen(system.get("model"))):
            info = found
        else:
            family = family_of(name, {})
            info = ModelInfo(
                name=name,
                family=family,
                languages=tuple(LANGUAGES),
                precision="as served",
                device=address,
                max_context_tokens=context or CONTEXT_TOKENS,
                segment_tokens=min(HY_MT_SEGMENT_TOKENS, (context or CONTEXT_TOKENS) // 4),
                licence=licence_of(name, {}),
            )
        return replace(info, device=address, max_context_tokens=min(info.max_context_tokens, context or 2**31))

    def slots(self, kind: str) -> int:
        if kind == "yiwen":
            system = self.get("/system")
            scheduler = system.get("scheduler") if isinstance(system, dict) else None
            said = scheduler.get("slots") if isinstance(scheduler, dict) else None
        else:
            props = self.get("/props")
            said = props.get("total_slots") if isinstance(props, dict) else None
        return _number(said) or SLOTS

    def agreed(self, served: Served, listed: Iterable[Mapping[str, Any]]) -> Served:
        """With the fullest way to ask that the server understands."""
        ways = [(True, True), (True, False)] if served.described else []
        for raw, extras in [*ways, (False, True), (False, False)]:
            way = replace(served, raw=raw, extras=extras)
            response = self._patiently("POST", way.path, way.body(TRIED)[0])
            if response.is_success and b'"choices"' in response.content:
                return way
            self._check_key(response)
        said = refusal(response.content).said
        names = ", ".join(str(entry["id"]) for entry in listed)
        if response.status_code == httpx.codes.NOT_FOUND and not names:  # as Ray Serve answers until all is deployed
            raise NotThereYet(f"{self._url} has nothing to chat with (404); start it, or see to --remote-url.")
        if response.status_code == httpx.codes.NOT_FOUND or "model" in said.lower():
            raise ModelNotFound(
                f"{self._url} has no model {served.model!r} to chat with; name one of its own with --model: "
                f"{names or 'it lists none'}."
            )
        raise StartupError(
            f"{self._url} refuses to translate: it answers {response.status_code} ({said or 'no words'})."
        )

    def counts(self, served: Served) -> Callable[[str], int]:
        """Tokens of a text, as vLLM, SGLang and llama.cpp count them when asked, others after an answer."""
        around = self._spent(served, "a") - 1  # what the chat's layout has

        def tokens(text: str) -> int:
            asked = {"model": served.model, "prompt": text, "content": text}
            alone = {"add_special_tokens": False, "add_special": False}
            try:
                said = _json(self._client.post("/tokenize", json=asked | alone, timeout=CONNECT_SECONDS))
            except httpx.HTTPError:
                return 0
            match said:
                case {"tokens": [*ids]}:
                    return len(ids)
            return max(self._spent(served, text) - around, 0) if around >= 0 else 0

        return tokens

    def _spent(self, served: Served, text: str) -> int:
        body = replace(served, raw=False).body(replace(TRIED, text=text))[0] | {"stream": False}
        del body["stream_options"]
        said = _json(self._patiently("POST", "/v1/chat/completions", body))
        match said:
            case {"usage": {"prompt_tokens": int(tokens)}}:
                return tokens
        return 0

    def _context_of_llama(self) -> int:
        """Of one slot."""
        props = self.get("/props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        return _number(settings.get("n_ctx")) if isinstance(settings, dict) else 0

    def _patiently(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """The answer of a server that is there, or is soon. Raises `Stopped`, and `NotThereYet` where it is not."""
        until = time.monotonic() + REACH_SECONDS
        while True:
            self._progress.report("libraries" if method == "GET" else "test")
            try:
                response = self._client.request(method, path, json=body)
                if response.status_code not in BUSY:
                    return response
                why = f"The server {self._url} is not ready ({response.status_code})"
            except httpx.HTTPError as error:
                why = f"The server {self._url} cannot be reached ({type(error).__name__})"
            if time.monotonic() > until:
                raise NotThereYet(f"{why}; start it, or see to --remote-url.")
            time.sleep(AGAIN_SECONDS)

    def _check_key(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            given = (
                "does not take the key of --remote-key" if self._client.headers.get("Authorization") else "needs a key"
            )
            raise ConfigError(
                f"{self._url} {given} ({response.status_code}); give the one that it knows with --remote-key."
            )


def _address(said: str) -> str:
    """Without /v1, which stands in every path."""
    try:
        url = httpx.URL(said)
    except httpx.InvalidURL as error:
        raise ConfigError(f"--remote-url is no address ({error}); give one such as http://127.0.0.1:8000.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"--remote-url is {said[:80]!r}; give an address such as http://127.0.0.1:8000.")
    if url.userinfo or url.query:
        raise ConfigError(f"--remote-url for {url.host} holds a password or a query; give the key with --remote-key.")
    return str(url).rstrip("/").removesuffix("/v1")


def _is_named(config: Config) -> bool:
    return config.model != "embedded"  # the default, which says nothing of a server


def _described(name: str, folder: Path, url: str) -> Described:
    return describe(name, folder, read_config(folder), "as served", url.partition("://")[2])


def _chosen(
    config: Config, listed: Iterable[Mapping[str, Any]], url: str, described: Described | None
) -> Mapping[str, Any]:
    """The entry of the model that is to be asked for."""
    entries = {str(entry["id"]): entry for entry in listed}
    own = {
        name: entry
        for name, entry in entries.items()
        if name.removesuffix(RAW) == name or name.removesuffix(RAW) not in entries
    }
    names = [config.model, Path(config.model).name, *([described.info.name] if described else [])]
    for name in names if _is_named(config) else []:
        if name in own:
            return own[name]
    if len(own) == 1 and (described or not _is_named(config)):
        return next(iter(own.values()))
    if _is_named(config):
        return {"id": config.model}  # not every server lists what it has
    if not own:
        raise NotThereYet(f"{url}/v1/models lists no models; see to --remote-url, or name the model with --model.")
    raise ConfigError(f"{url} has {len(own)} models ({', '.join(own)}); name one with --model.")


def _of_yiwen(model: object) -> ModelInfo | None:
    """What another Yiwen says of its model; None where it is loading."""
    if not isinstance(model, dict):
        return None
    try:
        return ModelInfo(
            name=str(model["name"]),
            family=family_of("", {"yiwen": {"family": model["family"]}}),
            languages=tuple(code for code in model["languages"] if code in LANGUAGES),
            precision=str(model["precision"]),
            device=str(model["device"]),
            max_context_tokens=int(model["max_context_tokens"]),
            segment_tokens=int(model["segment_tokens"]),
            licence=str(model["licence"]),
            hub=model["hub"] if model["hub"] in LANGUAGES else None,
            translates=bool(model["translates"]),
            marks=bool(model["marks"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _first(*values: float | None) -> Any:
    return next((value for value in values if value is not None), None)


def _named(**values: Any) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in values.items() if value is not None)


def _number(said: object) -> int:
    return said if isinstance(said, int) and said > 0 else 0


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return ""
