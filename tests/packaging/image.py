"""The image without Docker: takes the steps of the Dockerfile's `slim` in a clean Debian, one by one and word for word,
then runs what came of it as `docker run --read-only --network none` would, and looks whether it is well.

apt-get install debootstrap iproute2
python -m tests.packaging.image --work /var/tmp/yiwen
python -m tests.packaging.image --work /var/tmp/yiwen --build-arg TORCH_INDEX_URL=https://mirror.example/whl/cpu

Where a wheel cannot be had from an index, `--wheels FOLDER` has it; it must have the hash of the lock all the same.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.packaging.dockerfile import ROOT, Stage, Step, context, filled, stages
from tests.packaging.root import PATH, Index, Mount, Root

READY_SECONDS = 15.0  # at the most, with the embedded model
STOP_SECONDS = 10.0  # that Docker waits
ASK = """
import http.client, json, sys
asked = http.client.HTTPConnection("127.0.0.1", 7860, timeout=60)
asked.request(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
answer = asked.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""


class Build:
    """Makes a root for each stage that the wanted one needs."""

    def __init__(self, work: Path, arguments: Mapping[str, str], index: Index) -> None:
        self._work, self._arguments, self._index = work, arguments, index
        self._stages = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
        self._roots: dict[str, Root] = {}

    def root(self, name: str) -> Root:
        if name in self._roots:
            return self._roots[name]
        stage = self._stages.get(name)
        if stage is None:
            image, _, tag = name.partition(":")
            assert image == "debian", (
                f"there is no {name} without Docker; only stages that begin with Debian can be made"
            )
            return Root.debian(self._work / tag, tag.removesuffix("-slim"))
        made = self.root(stage.base).copied(self._work / name)
        self._take(stage, made)
        self._roots[name] = made
        return made

    def environ(self, stage: Stage) -> dict[str, str]:
        """Of what runs, with the bases' own."""
        values = self.environ(self._stages[stage.base]) if stage.base in self._stages else {"PATH": PATH}
        for step in stage.all("ENV"):
            values |= {name: filled(value, self._arguments | values) for name, value in step.pairs().items()}
        return values

    def _take(self, stage: Stage, root: Root) -> None:
        environ, at = self.environ(stage), "/"
        for step in stage.steps:
            print(f"[{stage.name}] {step.keyword} {step.value[:110]}", file=sys.stderr)
            match step.keyword:
                case "ARG":
                    name, _, default = step.value.partition("=")
                    if value := self._arguments.get(name, default):
                        environ[name] = value
                case "WORKDIR":
                    at = step.value
                    (root.folder / at[1:]).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(step, root, at)
                case "RUN":
                    root.run(
                        ["/bin/sh", "-c", step.value], {**environ, **self._index.environ}, self._mounts(step), at=at
                    )

    def _copy(self, step: Step, root: Root, at: str) -> None:
        *what, where = step.words()
        target = root.folder / Path(at, where).relative_to("/")
        if (other := step.flag("from")) is not None:
            for place in what:
                made = self.root(other).folder / place[1:]
                shutil.copytree(made, target, symlinks=True, dirs_exist_ok=True)
                if owner := step.flag("chown"):
                    root.run(["chown", "--recursive", f"{owner}:", where], {})
            return
        for place in context():
            if any(place.is_relative_to(one) for one in what):
                to = target / place
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / place, to)

    def _mounts(self, step: Step) -> list[Mount]:
        """The cache of a step, and what this machine needs to reach an index."""
        mounts = []
        for flag, value in step.flags:
            options = dict(option.split("=", 1) for option in value.split(","))
            if flag == "mount" and options["type"] == "cache":
                cache = self._work / "cache" / options["target"].strip("/").replace("/", "-")
                cache.mkdir(parents=True, exist_ok=True)
                mounts.append(Mount(options["target"], cache))
        return [*mounts, *self._index.mounts]


def try_it(root: Root, stage: Stage, environ: Mapping[str, str], work: Path) -> dict[str, Any]:
    """Runs it with nothing to write to but /data and /tmp, and no network. Raises `AssertionError`."""
    health = json.loads(stage.last("HEALTHCHECK").value.removeprefix("CMD "))
    command, at, user = stage.last("ENTRYPOINT").words(), stage.last("WORKDIR").value, stage.last("USER").value
    with tempfile.TemporaryDirectory(dir=work) as data:
        os.chown(data, *map(int, user.split(":")))
        mounts, log = [Mount("/data", Path(data)), Mount("/tmp")], work / "log"
        began = time.monotonic()
        with root.serving(command, environ, mounts, log, at=at, user=user) as inside:
            while inside.ask(health).returncode != 0:
                seconds = time.monotonic() - began
                assert inside.outer.poll() is None, log.read_text()
                assert seconds < 4 * READY_SECONDS, f"not ready after {seconds:.0f} s: {log.read_text()}"
                time.sleep(1)  # each look takes a fifth of a second of a core that the program wants
            ready_seconds = time.monotonic() - began
            assert inside.user_ids() == {"1000"}
            assert inside.ask(["touch", "/app/x"]).returncode != 0
            assert re.findall(r"^ *(\w+):", inside.ask(["cat", "/proc/net/dev"]).stdout, re.MULTILINE) == ["lo"]
            page = _asked(inside.ask(["python", "-c", ASK, "GET", "/"]).stdout)
            _asked(inside.ask(["python", "-c", ASK, "GET", "/docs"]).stdout)
            body = json.dumps({"text": "The river is wide.", "source_lang": "en", "target_lang": "zh"})
            answer = _asked(inside.ask(["python", "-c", ASK, "POST", "/translate", body]).stdout)
            translation = json.loads(answer)["translation"]
            assert "Yiwen" in page
            assert translation
            status = inside.stop(STOP_SECONDS)
        assert status == 0, f"it ended with {status}: {log.read_text()[-2000:]}"
        wrote = sorted({str(path.relative_to(data)) for path in Path(data).rglob("*")})
    assert ready_seconds <= READY_SECONDS, f"ready after {ready_seconds:.1f} s"
    return {"ready_seconds": round(ready_seconds, 1), "translation": translation, "wrote": wrote}


def _asked(said: str) -> str:
    status, text = json.loads(said)
    assert status == 200, text
    return str(text)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/yiwen"), help="folder for the roots and caches")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build has it")
    parser.add_argument("--wheels", type=Path, help="folder of wheels")
    parser.add_argument("--built", action="store_true", help="try what was built last")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    build = Build(chosen.work, dict(one.split("=", 1) for one in chosen.build_arg), Index(chosen.wheels))
    stage = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))["slim"]
    began = time.monotonic()
    root = Root(chosen.work / "slim") if chosen.built else build.root("slim")
    seconds = time.monotonic() - began
    found = try_it(root, stage, build.environ(stage), chosen.work)
    load = round(os.getloadavg()[0], 1)  # on a busy machine it takes longer
    built = {"build_seconds": round(seconds), "megabytes": root.megabytes(), "load": load}
    print(json.dumps(built | found, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
