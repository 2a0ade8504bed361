"""The README's two commands, word for word, on a machine that has Python 3.11 and nothing else: a clean Debian, a user
with a checkout, a new virtual environment. First as it is, then with all packages on the disk, as a warm cache has it.

apt-get install debootstrap
python -m tests.packaging.commands --work /var/tmp/yiwen
PYTEST_ADDOPTS=tests/test_config.py python -m tests.packaging.commands --work /var/tmp/yiwen --only second
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.packaging.dockerfile import ROOT
from tests.packaging.root import Index, Mount, Root

PAGE_SECONDS = 180.0  # at the most until the first page is there, with a warm cache
COLD_SECONDS = 1800.0
USER = "1000:1000"
HOME = "/home/user"
CHECKOUT = f"{HOME}/yiwen"


def commands() -> tuple[str, str]:
    """Those in the README that begin with pip and go on with Python."""
    found = re.findall(r"^(pip install -r .*requirements\.txt && python \S+(?: \S+)*?)(?: +#.*)?$", _readme(), re.M)
    first = next(one for one in found if one.endswith("python app.py"))
    second = next(one for one in found if one.endswith("python -m pytest"))
    return first, second


def machine(work: Path, index: Index) -> Root:
    """With the files of this checkout, as git has them or would."""
    root = Root.debian(work / "bookworm-slim", "bookworm").copied(work / "machine")
    install = "apt-get update -qq && apt-get install -qq --no-install-recommends python3 python3-venv"
    root.run(["sh", "-c", f"{install} && useradd --create-home --uid 1000 user"], index.environ, index.mounts)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for place in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if place and (ROOT / place).is_file():
            to = root.folder / CHECKOUT[1:] / place
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, to)
    root.run(["chown", "--recursive", USER, HOME], {})
    return root


def first_page(root: Root, line: str, work: Path, index: Index, most_seconds: float) -> dict[str, Any]:
    """Seconds from the command to its page and to a model that answers. Raises `AssertionError`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", work / "log"
    environ = {**_environ(index), "YIWEN_PORT": str(port)}
    began = time.monotonic()
    with root.serving(
        ["sh", "-c", line], environ, _mounts(work, index), log, at=CHECKOUT, user=USER, alone=False
    ) as it:
        page = _wait(f"{url}/", it.outer, log, began + most_seconds) - began
        ready = _wait(f"{url}/readyz", it.outer, log, began + most_seconds) - began
        asks = {"text": "The river is wide.", "source_lang": "en", "target_lang": "zh"}
        translation = httpx.post(f"{url}/translate", json=asks, timeout=60).json()["translation"]
    return {"page_seconds": round(page), "ready_seconds": round(ready), "translation": translation}


def tests(root: Root, line: str, work: Path, index: Index) -> int:
    """Seconds. PYTEST_ADDOPTS may choose among them. Raises `CalledProcessError`."""
    browser = ["chromium", "libatomic1", "libgomp1"]  # what Playwright's driver and llama.cpp want of the system, too
    root.run(["apt-get", "install", "-qq", "--no-install-recommends", *browser], index.environ, index.mounts)
    environ = _environ(index) | {"PYTEST_ADDOPTS": os.environ.get("PYTEST_ADDOPTS", "")}
    began = time.monotonic()
    root.run(["sh", "-c", line], environ, _mounts(work, index), at=CHECKOUT, user=USER)
    return round(time.monotonic() - began)


def fresh(root: Root, work: Path, index: Index) -> None:
    root.run(["rm", "--recursive", "--force", f"{CHECKOUT}/.venv"], {})
    made = ["python3", "-m", "venv", f"{CHECKOUT}/.venv"]
    root.run(made, {**index.environ, "HOME": HOME}, _mounts(work, index), user=USER)


def kept(root: Root, work: Path, index: Index) -> Index:
    """All that the first command asks for, in a folder."""
    wheels = work / "wheels"
    wheels.mkdir(exist_ok=True)
    os.chown(wheels, *map(int, USER.split(":")))
    mounts = [*_mounts(work, index), Mount("/srv", wheels)]
    download = ["pip", "download", "--quiet", "--dest", "/srv", "--requirement", "requirements.txt"]
    root.run(download, _environ(index), mounts, at=CHECKOUT, user=USER)
    return Index(wheels)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, deadline: float) -> float:
    while True:
        try:
            if httpx.get(url, timeout=10).status_code == 200:
                return time.monotonic()
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


def _environ(index: Index) -> dict[str, str]:
    inside = f"{CHECKOUT}/.venv/bin:/usr/local/bin:/usr/bin:/bin"  # as `source .venv/bin/activate` has it
    return {**index.environ, "HOME": HOME, "PATH": inside, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _mounts(work: Path, index: Index) -> list[Mount]:
    cache = work / "cache" / "user"
    cache.mkdir(parents=True, exist_ok=True)
    os.chown(cache, *map(int, USER.split(":")))
    return [*index.mounts, Mount(f"{HOME}/.cache", cache)]


def _readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/yiwen"), help="folder for the root and its cache")
    parser.add_argument("--wheels", type=Path, help="folder of wheels beside the index")
    parser.add_argument("--only", choices=("first", "second"), help="one of the two commands")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    index, (first, second) = Index(chosen.wheels), commands()
    root = machine(chosen.work, index)
    found: dict[str, Any] = {}
    if chosen.only != "second":
        found["command"] = first
        fresh(root, chosen.work, index)
        found["cold"] = first_page(root, first, chosen.work, index, COLD_SECONDS)
        fresh(root, chosen.work, index)
        there = kept(root, chosen.work, index)  # since an index may forbid pip to keep what it sends
        found["warm"] = first_page(root, first, chosen.work, there, PAGE_SECONDS)
    if chosen.only != "first":
        fresh(root, chosen.work, index)
        found["tests_seconds"] = tests(root, second, chosen.work, index)
    print(json.dumps({**found, "load": round(os.getloadavg()[0], 1)}, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
