"""A model hub on this machine: the addresses of Hugging Face and ModelScope that a download needs, and what goes wrong.

It has one folder, whatever model is asked for; safetensors are its large files, as at the real ones.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.folder = folder
        self.asked: list[tuple[str, str]] = []  # files that were sent, and which range of each
        self.knows_ranges = True
        self.damaged: dict[str, int] = {}  # how many times a file is sent with a byte flipped
        self.cut: dict[str, int] = {}  # how many bytes come before the line stands still, …
        self.goes_on = threading.Event()  # … until the connection is closed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def a_hub(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield hub
    hub.goes_on.set()
    hub.shutdown()
    hub.server_close()


def point_to(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT, HF_HUB_CACHE and MODELSCOPE_DOMAIN do, which are read when the library is imported."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Asked(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"(?:/models)?/[\w.-]+/[\w.-]+/resolve/\w+/(.+)", path):
            self._file(found[1])
        elif re.fullmatch(r"/api/v1/models/[\w.-]+/[\w.-]+/repo/files", path):
            self._json({"Code": 200, "Data": {"Files": [self._of_modelscope(file) for file in self._files()]}})
        elif re.fullmatch(r"/api/models/[\w.-]+/[\w.-]+/tree/\w+", path):
            self._json([self._of_hugging_face(file) for file in self._files()])
        elif re.fullmatch(r"/api/models/[\w.-]+/[\w.-]+(/revision/\w+)?", path):
            self._json({"id": "/".join(path.split("/")[3:5]), "sha": COMMIT, "siblings": []})
        else:
            self.send_error(404)

    def _files(self) -> list[Path]:
        return [path for path in self.server.folder.iterdir() if path.is_file()]

    def _of_hugging_face(self, file: Path) -> dict[str, Any]:
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        large = {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}}
        entry = {"type": "file", "path": file.name, "size": len(data), "oid": git}
        return entry | (large if file.suffix == ".safetensors" else {})

    def _of_modelscope(self, file: Path) -> dict[str, Any]:
        data = file.read_bytes()
        return {"Type": "blob", "Path": file.name, "Size": len(data), "Sha256": sha256(data)}

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {})

    def _file(self, name: str) -> None:
        data, said = (self.server.folder / name).read_bytes(), self._of_hugging_face(self.server.folder / name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{said.get("lfs", said)["oid"]}"'}
        asked = self.headers.get("Range", "") if self.server.knows_ranges else ""
        if self.command == "GET":
            self.server.asked.append((name, asked))
            if self.server.damaged.get(name):
                self.server.damaged[name] -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
        begin = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._send(206 if begin else 200, data[begin:], headers, self.server.cut.get(name))

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if self.command == "GET" and cut is not None:
            self.server.goes_on.wait(50)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
