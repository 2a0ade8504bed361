"""From a fresh checkout to an open studio, for start.sh and start.bat: looks at the machine, makes an environment,
installs what is missing, chooses a model, starts app.py, says where the page is, and passes signals on.

Any Python from 3.11 on runs it, with nothing installed: of ours it uses what needs no package. What a model takes of
which card is `engine.hardware`'s to say, which models there are `engine.known_models`'. It downloads none unasked.
"""

import contextlib
import errno
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from assets.start_words import TEXTS  # noqa: E402
from engine.config import Config  # noqa: E402
from engine.errors import ConfigError, UnsupportedModel  # noqa: E402
from engine.footprint import LoadPlan  # noqa: E402
from engine.hardware import plan  # noqa: E402
from engine.inventory import CONTEXT_BYTES, Card, Machine, cores_within, ram_within  # noqa: E402
from engine.known_models import KNOWN, KnownModel  # noqa: E402
from engine.shape import ModelShape  # noqa: E402

REQUIREMENTS = ROOT / "requirements.txt"
EMBEDDED = ROOT / "assets" / "models" / "yiwen-mini"
STAMP = "yiwen-installed"  # in the environment, once all is installed: the digest of what was asked for
# Wheels, and what becomes of them: 2.97 and 5.44 GB with the CUDA of torch 2.13, 0.43 and 1.42 GB without (2026-11-22)
INSTALL_BYTES = {True: 8_500_000_000, False: 1_900_000_000}
# On PyPI torch has CUDA on Linux, and is for the CPU elsewhere
CPU_TORCH, WINDOWS_TORCH = "https://download.pytorch.org/whl/cpu", "https://download.pytorch.org/whl/cu130"
INDEX, MIRROR = "https://pypi.org/simple", "https://pypi.tuna.tsinghua.edu.cn/simple"
HUB_MIRROR = "https://hf-mirror.com"
SOURCES = {"hf": "Hugging Face", "modelscope": "ModelScope"}
ANSWER_SECONDS = 5.0  # for an index
SLOW_SECONDS = 2.0
LOOK_SECONDS = 0.3  # between two looks at whether the page is up
CUDA_FROM = {13: (7, 5)}  # compute capabilities: CUDA 13 has left Maxwell, Pascal and Volta
LOST = 75  # app.py's exit status when its card is lost to this process
REST_SECONDS = 1.0  # before it is started again
UNKNOWN_BYTES = 1 << 60  # of memory, where the system does not say
SLOW_BYTES = 4_000_000_000  # of a model that is not, or not all, on a card
TAKEN = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE), errno.EACCES if os.name == "nt" else -1)


class Stop(Exception):
    """Nothing can be started; it says why."""


@dataclass(frozen=True, slots=True)
class Words:
    """What is said, in the user's language."""

    chinese: bool

    def __call__(self, key: str, **values: object) -> str:
        return TEXTS[key][self.chinese].format(**values)

    def say(self, key: str, **values: object) -> None:
        print(self(key, **values), flush=True)


@dataclass(frozen=True, slots=True)
class Driver:
    version: str
    cuda: str  # the newest that it knows: "12.4"


@dataclass(frozen=True, slots=True)
class Environment:
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def look(self) -> dict[str, str] | None:
        """Where which package is, of those we look for and that are there whole: pip writes `dist-info` last. None:
        there is no environment that works."""
        code = (
            "import json; from importlib.util import find_spec; "
            "print(json.dumps({name: spec.origin for name in ('pip', 'torch') if (spec := find_spec(name))}))"
        )
        try:
            said = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout
            packages: dict[str, str] = json.loads(said)
        except (OSError, subprocess.CalledProcessError, ValueError):
            return None
        return {
            name: origin
            for name, origin in packages.items()
            if any(Path(origin).parents[1].glob(f"{name}-*.dist-info"))
        }


@dataclass(frozen=True, slots=True)
class Found:
    """Weights that are here."""

    model: str  # as --model takes it
    name: str
    plan: LoadPlan | None
    why: str  # not
    in_cache: bool


def main(argv: Sequence[str]) -> int:
    environ = dict(os.environ)
    words = Words(_is_chinese(environ))
    folder = environ.pop("YIWEN_VENV", "")  # app.py takes no variable that it does not know
    environ.pop("YIWEN_LANG", None)
    flags = [flag for flag in argv if flag != "--download"]
    if {"-h", "--help"} & set(flags):
        print(words("help"))
        flags = ["--help"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # pip ends with us
    try:
        config = Config.load(flags, environ)
        if address := _running(config, words):
            words.say("running", address=address)
            return 0
        words.say("python", version=".".join(map(str, sys.version_info[:3])), path=sys.executable)
        machine, driver = _survey(words, environ)
        environment = Environment(_environment_folder(folder))
        new = _prepare(environment, machine, words)
        machine = _without_useless_cards(machine, driver, environment, words)
        if _is_chosen(config, flags, environ):
            model = "echo" if config.backend == "echo" else ", ".join(config.remote_url) or config.model
            words.say("model_asked", model=model)
        elif best := _best(config, environ, machine, words):
            flags += ["--model", best.model]
            environ |= {"HF_HUB_OFFLINE": "1"} if best.in_cache else {}
        elif known := _wanted(config, machine, "--download" in argv, new, words):
            _download(known, environ, environment, words)
            flags += ["--model", known.hub]
        else:
            words.say("model_embedded", plan=_planned(_plan(config, _shape(EMBEDDED), machine), machine, words))
    except (ConfigError, Stop) as error:
        print(f"yiwen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        words.say("interrupted")
        return 130
    return _serve([str(environment.python), str(ROOT / "app.py"), *flags], environ, config, words)


def _is_chinese(environ: dict[str, str]) -> bool:
    names = ("YIWEN_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    language = next((environ[name] for name in names if environ.get(name)), "")
    if not language and sys.platform == "win32":
        import ctypes
        import locale

        language = locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "")
    return language.lower().startswith("zh")


# ---------------------------------------------------------------------------------------------------------- the port


def _running(config: Config, words: Words) -> str:
    """The address of a Yiwen that has the port already, or nothing. Raises `Stop` where something else has it."""
    if not config.port or (trouble := _trouble(config.host, config.port)) is None:
        return ""
    if trouble.errno not in TAKEN:
        raise Stop(words("no_listen", host=config.host, port=config.port, why=trouble.strerror))
    if _asked(config, "/healthz")[1] == {"status": "ok"} and "status" in _asked(config, "/readyz")[1]:
        return _address(config, _local(config.host))
    free = next((port for port in range(config.port + 1, 65_536) if _trouble(config.host, port) is None), 0)
    raise Stop(words("port_taken", port=config.port, free=free))


def _trouble(host: str, port: int) -> OSError | None:
    """Why app.py could not listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return error
    return None


def _asked(config: Config, path: str) -> tuple[int, dict[str, object]]:
    """(status, JSON); (0, {}) where nothing like that comes. No proxy is asked."""
    connection = http.client.HTTPConnection(_local(config.host), config.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = json.loads(answer.read(10_000))
        return (answer.status, said) if isinstance(said, dict) else (0, {})
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def _local(host: str) -> str:
    """The name of this machine under which a server that listens to `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _address(config: Config, host: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}{config.root_path}/"


# ------------------------------------------------------------------------------------------------------- the machine


def _survey(words: Words, environ: dict[str, str]) -> tuple[Machine, Driver | None]:
    cards, driver = _cards(words, environ)
    total = free = UNKNOWN_BYTES
    with contextlib.suppress(OSError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kilobytes = {line[0]: int(line[1]) for line in lines}
        total, free = ram_within(Path("/"), kilobytes["MemTotal:"] * 1024, kilobytes["MemAvailable:"] * 1024)
        words.say("memory", total=_gb(total), free=_gb(free))
    cores = cores_within(Path("/"), os.cpu_count() or 1)
    machine = Machine(ram_bytes=total, ram_free_bytes=free, cores=cores, bf16=False, cards=cards)
    try:
        plan(Config(devices="cpu"), _shape(EMBEDDED), machine)
    except ConfigError as error:
        raise Stop(words("too_small", why=error)) from error
    return machine, driver


def _cards(words: Words, environ: dict[str, str]) -> tuple[tuple[Card, ...], Driver | None]:
    """As nvidia-smi lists them, of which this process may use those in CUDA_VISIBLE_DEVICES."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    try:
        status, header = _said("nvidia-smi")
    except OSError:
        words.say("no_card")
        return (), None
    if status:
        words.say("smi_failed", why=" ".join(header.split())[:120].rstrip("."))
        return (), None
    version = re.search(r"(?:Driver|KMD) Version: *([\d.]+)", header)
    cuda = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", header)  # UMD from driver 610 on
    driver = Driver(version[1] if version else "?", cuda[1] if cuda else "0.0")
    fields = "index,name,memory.total,memory.free,compute_cap"
    status, rows = _said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    found: list[Card] = []
    for index, name, total, free, capability in re.findall(
        r"^(\d+), *(.+?), *(\d+), *(\d+), *(\d+\.\d+)$", rows, re.MULTILINE
    ):
        if visible is not None and re.fullmatch(r"-1|[\d, ]*", visible) and index not in re.split(" *, *", visible):
            continue
        major, minor = map(int, capability.split("."))
        total_bytes, free_bytes = int(total) << 20, int(free) << 20
        card = Card(f"cuda:{len(found)}", name, total_bytes, (major, minor), max(0, free_bytes - CONTEXT_BYTES))
        words.say("card", name=name, device=card.device, total=_gb(total_bytes), free=_gb(free_bytes),
                  driver=driver.version, cuda=driver.cuda)  # fmt: skip
        found.append(card)
    if not found:
        words.say("smi_unread" if status else "no_card", driver=driver.version)
    return tuple(found), driver


def _said(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


def _without_useless_cards(machine: Machine, driver: Driver | None, environment: Environment, words: Words) -> Machine:
    """Those that the torch which is installed cannot use are left alone, and it is said why."""
    if not (machine.cards and driver):
        return machine
    torch = (environment.look() or {}).get("torch", "")
    if not torch:
        return machine
    version = Path(torch).with_name("version.py").read_text(encoding="utf-8")
    needs = re.search(r"^cuda\b.*= '([\d.]+)'", version, re.MULTILINE)
    if not needs:
        words.say("cpu_torch", folder=environment.folder)
        return replace(machine, cards=())
    major = int(needs[1].split(".")[0])
    if major > int(driver.cuda.split(".")[0]):  # of one major version any minor will do
        words.say("old_driver", driver=driver.version, has=driver.cuda, needs=needs[1], major=major)
        return replace(machine, cards=())
    cards = tuple(card for card in machine.cards if card.capability >= CUDA_FROM.get(major, (0, 0)))
    for card in machine.cards:
        if card not in cards:
            words.say("old_card", name=card.name, needs=needs[1])
    return replace(machine, cards=cards)


def _gb(count: float) -> str:
    return f"{count // 10**8 / 10:.1f}"


# --------------------------------------------------------------------------------------------------- the environment


def _environment_folder(asked: str) -> Path:
    if asked:
        return Path(asked).expanduser().absolute()
    beside = ROOT / ".venv"
    if beside.exists() or os.access(ROOT, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "yiwen" / "venv"


def _prepare(environment: Environment, machine: Machine, words: Words) -> bool:
    """Whether anything was installed. What was cut off in the middle is done again. Raises `Stop`."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    with _alone(words):
        packages = environment.look()
        stamp = environment.folder / STAMP
        with contextlib.suppress(OSError):
            if packages is not None and stamp.read_text() == digest:
                return False
        if "torch" not in (packages or {}):
            _check_disk(environment.folder, bool(machine.cards), words)
        if "pip" not in (packages or {}):
            _make(environment.folder, words)
        _install(environment, bool(machine.cards), "torch" not in (packages or {}), words)
        with contextlib.suppress(OSError):  # of an image that nobody may write to: then pip looks each time
            stamp.write_text(digest)
    return True


@contextlib.contextmanager
def _alone(words: Words) -> Iterator[None]:
    """A second start waits until the first has installed all: two pips would spoil each other's work."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with Path(__file__).open() as file:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                words.say("waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_disk(folder: Path, cuda: bool, words: Words) -> None:
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    free, needed = shutil.disk_usage(there).free, INSTALL_BYTES[cuda]
    words.say("disk", folder=there, free=_gb(free))
    if free < needed:
        raise Stop(words("disk_full", needed=_gb(needed), folder=there, free=_gb(free)))


def _make(folder: Path, words: Words) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise Stop(words("not_a_venv", folder=folder))
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise Stop(words("no_venv", path=sys.executable, module=module, version=version)) from None
    words.say("venv", folder=folder)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", folder]).returncode:
        raise Stop(words("venv_failed", folder=folder))


def _install(environment: Environment, cuda: bool, first: bool, words: Words) -> None:
    pip = [str(environment.python), "-m", "pip"]
    command = [*pip, "install", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    wheels = ROOT / "wheels"
    if wheels.is_dir():
        words.say("wheels", folder=wheels)
        command += ["--no-index", "--find-links", str(wheels)]
    else:
        words.say("install" if first else "install_more", size=_gb(INSTALL_BYTES[cuda]))
        command += [] if first else ["--quiet"]
        command += _indexes(_said(*pip, "config", "list")[1], cuda, first, words)
    if status := subprocess.run(command).returncode:
        raise Stop(words("install_failed", status=status))


def _indexes(settings: str, cuda: bool, first: bool, words: Words) -> list[str]:
    """What pip is told besides, after a look at whether its index answers. `settings`: as `pip config list` says them,
    those of the environment too."""
    said = dict(re.findall(r"([\w-]+)='(.*)'$", settings, re.MULTILINE))
    if {"no-index", "proxy"} & set(said):
        return []
    index, flags = said.get("index-url", INDEX).rstrip("/"), []
    seconds = _answers_within(f"{index}/pip/")
    if seconds is None:
        words.say("index_away", index=index, mirror=MIRROR)
        flags += ["--retries", "1"]
    elif seconds > SLOW_SECONDS:
        words.say("index_slow", index=index, seconds=f"{seconds:.0f}", mirror=MIRROR)
    other = WINDOWS_TORCH if cuda and os.name == "nt" else CPU_TORCH if not cuda and sys.platform == "linux" else ""
    if first and other and "extra-index-url" not in said and _answers_within(f"{other}/torch/") is not None:
        flags += ["--extra-index-url", other]  # its versions end in +cpu, +cu130: newer to pip than those without
    return flags


def _answers_within(url: str) -> float | None:
    """Seconds; None where nothing comes. Whatever comes is an answer: pip may have a key or a certificate for it."""
    if not url.startswith("http"):
        return 0.0
    start = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        return 0.0 if "CERTIFICATE" in str(error) else None
    return time.monotonic() - start


# --------------------------------------------------------------------------------------------------------- the model
def _is_chosen(config: Config, flags: Sequence[str], environ: dict[str, str]) -> bool:
    """Whether the user has said which model, or that there is none."""
    said = environ.get("YIWEN_MODEL") or any(re.match("--model(=|$)", flag) for flag in flags)
    return bool(said or config.remote_url or config.backend not in ("auto", "local", "onnx"))


def _best(config: Config, environ: dict[str, str], machine: Machine, words: Words) -> Found | None:
    """Of the models whose weights are here and that fit, told with its reason, and so are those that do not fit."""
    found = sorted(_found(config, environ, machine), key=_worth, reverse=True)
    best = found[0] if found and found[0].plan else None
    if best and best.plan:
        words.say("model_found", model=best.name, plan=_planned(best.plan, machine, words))
    for each in found:
        if each.plan is None:
            words.say("model_unfit", model=each.name, why=each.why)
    return best


def _shape(folder: Path) -> ModelShape:
    """Raises `ValueError`, `KeyError`, `UnsupportedModel` for what is no model of ours."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if settings.get("model_type") != "hunyuan_v1_dense":
        raise UnsupportedModel(f"{folder} holds another kind of model.")
    return ModelShape.read(settings, folder)


def _found(config: Config, environ: dict[str, str], machine: Machine) -> Iterator[Found]:
    for place in (ROOT / "models", Path("/models")):
        for settings in sorted(each for depth in ("", "*/", "*/*/") for each in place.glob(f"{depth}config.json")):
            if found := _tried(config, machine, settings.parent, str(settings.parent), settings.parent.name):
                yield found
    hub_cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = Path(hub_cache or f"{home}/hub").expanduser()
    for known in KNOWN:
        snapshots = cache / f"models--{known.hub.replace('/', '--')}" / "snapshots"
        for folder in (*snapshots.glob("*"), known.folder(config.data_dir)):
            found = _tried(config, machine, folder, known.hub, known.name, in_cache=folder.parent == snapshots)
            if found and found.plan and _is_fast(found.plan):  # it may be there for another program, on a slow machine
                yield found
                break


def _tried(
    config: Config, machine: Machine, folder: Path, model: str, name: str, *, in_cache: bool = False
) -> Found | None:
    """None: it is no model of ours, or not all of it is there."""
    graph = (folder / "model.onnx").is_file()
    if not graph and not _is_whole(folder):
        return None
    chosen = replace(config, backend="onnx") if graph else config
    try:
        return Found(model, name, _plan(chosen, _shape(folder), machine), "", in_cache)
    except ConfigError as error:
        return Found(model, name, None, str(error), in_cache)
    except (OSError, ValueError, KeyError, TypeError, UnsupportedModel):
        return None


def _is_whole(folder: Path) -> bool:
    files = ["model.safetensors"]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        files = list(json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"].values())
    return all((folder / name).is_file() for name in {"config.json", *files})


def _plan(config: Config, shape: ModelShape, machine: Machine) -> LoadPlan:
    """Of several models side by side that of the best card."""
    one = re.fullmatch(r"auto|cpu|cuda:\d+(\+cuda:\d+)*", config.devices)
    return plan(config if one else replace(config, devices="auto"), shape, machine)


def _is_fast(made: LoadPlan) -> bool:
    """Whether cards hold all of it."""
    return made.device != "cpu" and not {"cpu", "disk"} & set(made.layers)


def _worth(found: Found) -> tuple[bool, bool, int, int]:
    """Cards alone before the CPU, a newer model before an older, a larger before a smaller, 16 bits before 4."""
    if not found.plan:
        return False, False, 0, 0
    newer = "mt2" in found.name.lower().replace("-", "")
    return _is_fast(found.plan), newer, _bytes(found.plan), found.plan.slots


def _planned(made: LoadPlan, machine: Machine, words: Words) -> str:
    card = next((card.name for card in machine.cards if card.device == made.device), "")
    said = words("plan", weights=made.weights, device=f"{card} ({made.device})" if card else "CPU",
                 total=_gb(_bytes(made)), slots=made.slots)  # fmt: skip
    return said + (words("slow") if not _is_fast(made) and _bytes(made) > SLOW_BYTES else "")


def _bytes(made: LoadPlan) -> int:
    return made.bytes.total + sum(each.total for each in made.elsewhere.values())


def _suggested(config: Config, machine: Machine) -> KnownModel | None:
    """The largest that fits a card of this machine, of those that anybody may use."""
    for known in sorted(KNOWN, key=lambda known: known.gigabytes, reverse=True):
        if known.runs and not known.licence.limits:
            with contextlib.suppress(ConfigError, UnsupportedModel):
                if _is_fast(_plan(config, ModelShape.read(known.config), machine)):
                    return known
    return None


def _wanted(config: Config, machine: Machine, download: bool, new: bool, words: Words) -> KnownModel | None:
    """What is to be fetched. Asked on a terminal, and only when something was installed: who said no is not asked each
    time. Raises `Stop` where there is nothing to fetch."""
    known = _suggested(config, machine)
    if known is None and download:
        raise Stop(words("nothing_suits"))
    if known is None or download:
        return known
    words.say("suggest", model=known.name, licence=known.licence.name, size=f"{known.gigabytes:.1f}")
    asked = new and sys.stdin is not None and sys.stdin.isatty()
    return known if asked and input(words("ask")).strip().lower() in ("y", "yes", "是") else None


def _download(known: KnownModel, environ: dict[str, str], environment: Environment, words: Words) -> None:
    """From ModelScope where that answers and Hugging Face, or its mirror, does not. Raises `Stop`."""
    away = _answers_within(environ.get("HF_ENDPOINT") or "https://huggingface.co") is None
    source = "modelscope" if away and _answers_within("https://www.modelscope.cn") is not None else "hf"
    words.say("download", model=known.name, size=f"{known.gigabytes:.1f}", source=SOURCES[source])
    command = [str(environment.python), str(ROOT / "app.py"), "models", "download", known.hub, "--from", source]
    if subprocess.run(command, env=environ).returncode:
        raise Stop(words("download_failed", mirror=HUB_MIRROR))


# ------------------------------------------------------------------------------------------------------------- serving


def _serve(command: Sequence[str], environ: dict[str, str], config: Config, words: Words) -> int:
    """Until it ends; its exit status."""
    from_terminal = os.name == "nt" or (sys.stdin is not None and sys.stdin.isatty())
    while True:
        with subprocess.Popen(command, env=environ) as app:

            def pass_on(number: int, _: FrameType | None, app: subprocess.Popen[bytes] = app) -> None:
                if app.poll() is not None:
                    sys.exit(128 + number)
                if number == signal.SIGTERM or not from_terminal:  # of a terminal's own the app has been told by it
                    app.send_signal(number)

            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), pass_on)
            if config.port:
                _announce(app, config, environ, words)
            status = app.wait()
        if status != LOST:
            return status if status >= 0 else 128 - status
        words.say("lost")
        time.sleep(REST_SECONDS)


def _announce(app: subprocess.Popen[bytes], config: Config, environ: dict[str, str], words: Words) -> None:
    """The address, once there is a page, and once more when the model translates."""
    address, ready = _address(config, _local(config.host)), False
    while app.poll() is None and not _asked(config, "/healthz")[0]:
        time.sleep(LOOK_SECONDS)
    if app.poll() is None:
        words.say("up", address=address)
        _tell_others(config, environ, words)
        if sys.platform == "win32":
            webbrowser.open(address)
    while app.poll() is None and not ready:
        time.sleep(LOOK_SECONDS)
        ready = _asked(config, "/readyz")[0] == 200
    if ready:
        words.say("ready", address=address)


def _tell_others(config: Config, environ: dict[str, str], words: Words) -> None:
    """How the page is reached from elsewhere."""
    if config.host in ("0.0.0.0", "::", ""):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(("192.0.2.1", 9))  # nothing is sent: the system chooses the address it would send from
            words.say("up_outside", address=_address(config, asking.getsockname()[0]))
        if not config.api_keys:
            words.say("up_keys")
    elif any(name.startswith(("JPY_", "JUPYTER")) for name in environ):
        words.say("jupyter", port=config.port, prefix=environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
        sys.stderr.reconfigure(encoding="utf-8")
    sys.exit(main(sys.argv[1:]))
