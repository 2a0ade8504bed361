"""What the user chose, from flags and YIWEN_* variables. Knows what a value may be, not what is done with it."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Any, NoReturn

from engine.errors import ConfigError
from engine.version import VERSION

PREFIX = "YIWEN_"
# Of Python's collector. A document is hundreds of thousands of small values, none of them garbage: with Python's own
# thresholds (700, 10, 10) ten times the document took twelve to thirteen times as long to read, with these ten.
GC_THRESHOLD = 100_000, 50, 100


@dataclass(frozen=True, slots=True)
class Config:
    model: str = "embedded"
    accept_licence: bool = False  # of the model, which is downloaded then without a question
    backend: str = "auto"
    remote_url: tuple[str, ...] = ()  # servers that have the model
    remote_key: str | None = None
    devices: str = "auto"
    split: str = "auto"
    precision: str = "auto"
    max_vram_gb: float | None = None  # of 10⁹ bytes, all that we take of a card; None: nearly all that is free
    max_ram_gb: float | None = None  # the same of this machine's memory; None: most of what is free
    kv_dtype: str = "auto"
    kv_window: int | None = None  # tokens kept in the KV cache besides the first page; None: all
    deterministic: bool = False
    max_concurrent: int | None = None  # None: as many as suit the device
    max_waiting: int = 256
    max_text_tokens: int = 200_000
    max_upload_mb: int = 50
    data_dir: str = "~/.local/share/yiwen"
    api_keys: str | None = None  # a file; None: nobody needs a key
    requests_per_minute: int | None = None  # of one key or address; None: as many as it likes, as below
    tokens_per_minute: int | None = None
    max_per_client: int | None = None  # requests of one key or address under way at once
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks whose X-Forwarded-For is believed
    allowed_hosts: tuple[str, ...] = ()  # names under which we may be asked; none: see `server.origin`
    allowed_origins: tuple[str, ...] = ()  # pages of others that may ask us from inside a browser
    grace_seconds: int = 10  # after Ctrl-C, for translations under way
    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    provider: str | None = None  # who offers this to others, in full
    log_level: str = "info"
    log_format: str = "text"

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str]) -> "Config":
        """A flag beats its variable, which beats the default. Raises `ConfigError` for anything unknown or unfit."""
        by_flag, by_variable = _read_flags(argv), _read_variables(environ)
        chosen = _in_a_space(environ)
        for name, option in _OPTIONS.items():
            if name in by_flag:
                chosen[name] = _parse(_flag(name), by_flag[name], option)
            elif by_variable.get(name):  # an empty variable is an unset one, as compose files write it
                chosen[name] = _parse(_variable(name), by_variable[name], option)
        return cls(**chosen)


@dataclass(frozen=True, slots=True)
class _Option:
    parse: Callable[[str], object]  # raises ValueError, whose text says what is allowed
    help: str
    none: str = ""  # how a value of None is written
    alone: str | None = None  # what the flag means without a value, where it may stand so


def _any(value: str) -> str:
    if not value:
        raise ValueError("it may not be empty")
    return value


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"choose one of: {', '.join(allowed)}")
        return value

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not least <= int(value) <= most:
            raise ValueError(f"it must be a whole number from {least} to {most}")
        return int(value)

    return parse


def _or_none(none: str, parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_or_none(value: str) -> object:
        try:
            return None if value == none else parse(value)
        except ValueError as error:
            raise ValueError(str(error).replace("it must be", f"it must be {none} or", 1)) from None

    return parse_or_none


def _gigabytes(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value) or not float(value):
        raise ValueError("it must be a number of gigabytes such as 24 or 7.5")
    return float(value)


def _yes_or_no(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("it must be true or false")
    return value == "true"


def _list_of(pattern: str, allowed: str) -> Callable[[str], tuple[str, ...]]:
    """Parted by commas; `allowed` says in words what each may be."""

    def parse(value: str) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if not parts or not all(re.fullmatch(pattern, part) for part in parts):
            raise ValueError(f"it must be {allowed}, several parted by commas")
        return parts

    return parse


def _networks(value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(part.strip(), strict=False)) for part in value.split(","))
    except ValueError:
        raise ValueError(
            "it must be an address such as 127.0.0.1 or a network such as 10.0.0.0/8, several parted by commas"
        ) from None


def _devices(value: str) -> str:
    """Parted by commas, each a device or several cards joined by +; a card once, since its memory is given away once,
    the CPU as often as one likes."""
    names = re.split("[,+]", value)
    cards = [name for name in names if name != "cpu"]
    card = "cuda:(0|[1-9][0-9]?)"
    each = rf"cpu|{card}(\+{card})*"
    if value not in ("auto", "all") and not all(re.fullmatch(each, group) for group in value.split(",")):
        raise ValueError(
            "it must be auto, all, cpu, a card such as cuda:0, several such as cuda:0,cuda:1, or cards joined by + for "
            "one model on all of them"
        )
    if len(set(cards)) < len(cards):
        raise ValueError("it must name each card once")
    return value


def _path_prefix(value: str) -> str:
    if value and not re.fullmatch(r"(/[\w.~-]+)+/?", value):
        raise ValueError("it must be a path such as /yiwen")
    return value.rstrip("/")


_OPTIONS = {
    "model": _Option(_any, "embedded (ships with Yiwen), a folder, or a hub id"),
    "accept_licence": _Option(
        _yes_or_no, "the model's licence is accepted, where it has to be before a download", alone="true"
    ),
    "backend": _Option(
        _one_of("auto", "local", "onnx", "remote", "echo"),
        "auto, local (our engine), onnx, remote (see --remote-url), or echo (says the source back)",
    ),
    "remote_url": _Option(
        _list_of(r"https?://[^\s,/]+(/[^\s,]*)?", "an address such as http://localhost:8000"),
        "server that speaks OpenAI's API and has the model: vLLM, SGLang, llama.cpp; several work as one",
    ),
    "remote_key": _Option(_any, "key of these servers"),
    "devices": _Option(
        _devices,
        "auto (the best), cpu, cuda:0; several such as cuda:0,cuda:1, or all cards: a model on each, in a process; "
        "cuda:0+cuda:1: one model on both",
    ),
    "split": _Option(
        _one_of("auto", "layers", "tensor"),
        "how a model is divided over cards joined by +: layers (more memory) or tensor (a faster answer)",
    ),
    "precision": _Option(
        _one_of("auto", "fp32", "bf16", "fp16", "int8", "int4"), "auto, fp32, bf16, fp16, int8 or int4"
    ),
    "max_vram_gb": _Option(
        _or_none("auto", _gigabytes), "gigabytes of a card, past which nothing is taken: weights, cache and all", "auto"
    ),
    "max_ram_gb": _Option(
        _or_none("auto", _gigabytes),
        "gigabytes of this machine's memory to plan with for a model on the CPU: weights, cache and the program",
        "auto",
    ),
    "kv_dtype": _Option(_one_of("auto", "bf16", "fp8"), "numbers of a card's KV cache: auto, bf16 or fp8 (half of it)"),
    "kv_window": _Option(
        _or_none("off", _number(64, 262_144)),
        "tokens that a sequence keeps in the KV cache besides its first ones; less memory, worse translations",
        "off",
    ),
    "deterministic": _Option(
        _yes_or_no, "the same seed, the same text, whatever else is translated; slower", alone="true"
    ),
    "max_concurrent": _Option(
        _or_none("auto", _number(1, 1024)), "segments translated at once: auto or a number", "auto"
    ),
    "max_waiting": _Option(_number(1, 1_000_000), "requests admitted before the rest are refused with 503"),
    "max_text_tokens": _Option(_number(1, 1_000_000_000), "tokens in one text, past which it is refused with 413"),
    "max_upload_mb": _Option(_number(1, 4_096), "megabytes of one document, past which it is refused with 413"),
    "data_dir": _Option(_any, "folder for documents under way and glossaries, which outlive a restart there"),
    "api_keys": _Option(
        _any, "file of keys; with it nobody gets in without one (python -m engine.tools.keys makes them)"
    ),
    "requests_per_minute": _Option(
        _or_none("off", _number(1, 1_000_000)), "requests a minute of one key or address, then 429", "off"
    ),
    "tokens_per_minute": _Option(
        _or_none("off", _number(1, 1_000_000_000)), "tokens a minute of one key or address, in and out, then 429", "off"
    ),
    "max_per_client": _Option(
        _or_none("off", _number(1, 1_000_000)), "requests of one key or address under way at once, then 429", "off"
    ),
    "trusted_proxies": _Option(
        _networks, "addresses or networks of proxies whose X-Forwarded-For is believed, parted by commas"
    ),
    "allowed_hosts": _Option(
        _list_of(r"\*|(\*\.)?[\w.-]+|\[[0-9a-fA-F:]+\]", "a host's name such as yiwen.example.com, or *"),
        "names we may be asked by, parted by commas; on 127.0.0.1 no others are answered",
    ),
    "allowed_origins": _Option(
        _list_of(r"\*|[a-z][a-z0-9+.-]*://[^\s,/]+", "an origin such as https://example.com, or *"),
        "pages of others that may ask us from inside a browser, parted by commas",
    ),
    "grace_seconds": _Option(_number(0, 3_600), "after Ctrl-C, for translations under way"),
    "host": _Option(_any, "address to listen on; 0.0.0.0 lets other machines in"),
    "port": _Option(_number(0, 65_535), "port to listen on; 0 takes a free one"),
    "root_path": _Option(_path_prefix, "path before ours when a proxy serves Yiwen below one, such as /yiwen"),
    "provider": _Option(_any, "full name of who offers this to others, for the page; HY-MT1.5's licence asks for it"),
    "log_level": _Option(_one_of("debug", "info", "warning", "error"), "debug, info, warning or error"),
    "log_format": _Option(_one_of("text", "json"), "text, or json: an object a line"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see --help.")


def _read_flags(argv: Sequence[str]) -> dict[str, str]:
    parser = _Parser(
        prog="python app.py",
        usage="python app.py [flags]",
        description="Yiwen, a translation studio on your own machine: a web page, a REST API and a WebSocket.",
        epilog=f"Each flag can also be set as a variable: --log-level is {PREFIX}LOG_LEVEL. A flag beats its variable. "
        "`python app.py models` lists the models that Yiwen knows, and downloads them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"yiwen {VERSION}", help="show the version and end")
    for field in fields(Config):
        option = _OPTIONS[field.name]
        default = option.none if field.default in (None, ()) else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        parser.add_argument(
            _flag(field.name),
            metavar="…",
            action="append" if isinstance(field.default, tuple) else "store",
            nargs="?" if option.alone else None,
            const=option.alone,
            default=argparse.SUPPRESS,
            help=f"{option.help} (default: {default})" if default else option.help,
        )
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        raise ConfigError(f"Unknown flag {name}{_nearest(name, map(_flag, _OPTIONS))}; see --help.")
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in vars(known).items()}


def _read_variables(environ: Mapping[str, str]) -> dict[str, str]:
    names = {_variable(name): name for name in _OPTIONS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in names:
            raise ConfigError(f"Unknown variable {variable}{_nearest(variable, names)}; see --help.")
    return {name: environ[variable] for variable, name in names.items() if variable in environ}


def _parse(said_as: str, value: str, option: _Option) -> object:
    try:
        return option.parse(value)
    except ValueError as error:
        raise ConfigError(f"{said_as} is {value[:80]!r}; {error}.") from error


def _in_a_space(environ: Mapping[str, str]) -> dict[str, Any]:
    """What holds in a Space of Hugging Face where nothing else is said: its page stands in a frame of theirs, and is
    asked through proxies of their own network."""
    host = environ.get("SPACE_HOST")
    if not host:
        return {}
    return {"allowed_origins": ("https://huggingface.co", f"https://{host}"), "trusted_proxies": ("10.0.0.0/8",)}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"
