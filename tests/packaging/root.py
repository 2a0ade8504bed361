"""A clean Debian in a folder, in which commands run as they do in a container: with a file system, processes and, where
asked, a network of their own. For Linux and its root user, with debootstrap, iproute2 and util-linux."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTED = 'mount --types proc proc "$ROOT/proc"; mount --rbind /dev "$ROOT/dev"; mount --rbind /sys "$ROOT/sys"'


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine at a path inside; without one a folder in memory."""

    inside: str
    outside: Path | None = None

    def command(self) -> str:
        place = f'"$ROOT"{shlex.quote(self.inside)}'
        if self.outside is None:
            return f"mount --types tmpfs --options mode=1777 tmpfs {place}"
        made = f"mkdir --parents {place}" if self.outside.is_dir() else f"touch {place}"
        return f"{made}; mount --bind {shlex.quote(str(self.outside))} {place}"


@dataclass(frozen=True, slots=True)
class Index:
    """How pip gets its packages inside: as on this machine, which may have a certificate of its own for that."""

    wheels: Path | None = None  # a folder of those that no index has

    @property
    def mounts(self) -> list[Mount]:
        certificate = os.environ.get("PIP_CERT")
        mounts = [Mount("/run/certificates", Path(certificate))] if certificate else []
        return [*mounts, Mount("/mnt", self.wheels)] if self.wheels else mounts

    @property
    def environ(self) -> dict[str, str]:
        environ = {"DEBIAN_FRONTEND": "noninteractive"}
        environ |= {"PIP_CERT": "/run/certificates"} if "PIP_CERT" in os.environ else {}
        return environ | {"PIP_FIND_LINKS": "/mnt"} if self.wheels else environ


@dataclass(frozen=True, slots=True)
class Root:
    folder: Path

    @classmethod
    def debian(cls, folder: Path, suite: str) -> "Root":
        """Kept for the next run: a minute's work."""
        if not (folder / "etc" / "debian_version").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run(["debootstrap", "--variant=minbase", suite, str(folder), MIRROR], check=True, stdout=2)
        return cls(folder)

    def copied(self, folder: Path) -> "Root":
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["cp", "--archive", "--reflink=auto", str(self.folder), str(folder)], check=True)
        return Root(folder)

    def megabytes(self) -> int:
        said = subprocess.run(
            ["du", "--summarize", "--block-size=1M", str(self.folder)], check=True, capture_output=True
        )
        return int(said.stdout.split()[0])

    def run(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        mounts: Sequence[Mount] = (),
        *,
        at: str = "/",
        user: str = "0:0",
    ) -> None:
        """With this machine's network. Raises `CalledProcessError`."""
        line = self._line(command, environ, mounts, at, user, alone=False)
        subprocess.run(["unshare", "--mount", "sh", "-ec", line], check=True, env=self._environ, stdout=2)

    @contextmanager
    def serving(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        mounts: Sequence[Mount],
        log: Path,
        *,
        at: str = "/",
        user: str = "0:0",
        alone: bool = True,
    ) -> Iterator["Inside"]:
        """`alone`: without any network but its own, and with files that nobody may write but in the mounts."""
        line = self._line(command, environ, mounts, at, user, alone=alone)
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *(["--net"] if alone else [])]
        with log.open("wb") as writing:
            outer = subprocess.Popen([*apart, "sh", "-ec", line], env=self._environ, stdout=writing, stderr=writing)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        while not (child := children.read_text().split()) and outer.poll() is None:
            time.sleep(0.01)
        try:
            yield Inside(self, int(child[0]), outer, dict(environ), at, user)
        finally:
            outer.kill()
            outer.wait()

    def _line(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        mounts: Sequence[Mount],
        at: str,
        user: str,
        *,
        alone: bool,
    ) -> str:
        before = [mount.command() for mount in mounts]
        if alone:
            shut = ['mount --bind "$ROOT" "$ROOT"', 'mount --options remount,ro,bind,nosuid "$ROOT"']
            before = ["ip link set lo up", *shut, *before]
        else:
            before = [*(Mount(name, Path(name)).command() for name in ("/etc/resolv.conf", "/etc/hosts")), *before]
        return "; ".join([*before, _MOUNTED, f"exec {_entered(command, environ, at, user)}"])

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": f"{PATH}:{os.environ['PATH']}", "ROOT": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Inside:
    """A command that runs in a root of its own, and what can be asked beside it."""

    root: Root
    pid: int
    outer: subprocess.Popen[bytes]
    environ: Mapping[str, str]
    at: str
    user: str

    def ask(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `docker exec` does, by the same user."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid"]
        line = f"ROOT={shlex.quote(str(self.root.folder))}; exec {_entered(command, self.environ, self.at, self.user)}"
        return subprocess.run([*enter, "sh", "-c", line], capture_output=True, text=True, check=False)

    def user_ids(self) -> set[str]:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return {word for line in status.splitlines() if line.startswith(("Uid:", "Gid:")) for word in line.split()[1:]}

    def stop(self, seconds: float) -> int:
        """SIGTERM, as `docker stop`. Its exit status; raises `TimeoutExpired`."""
        os.kill(self.pid, signal.SIGTERM)
        return self.outer.wait(seconds)


def _entered(command: Sequence[str], environ: Mapping[str, str], at: str, user: str) -> str:
    named = [f"{name}={value}" for name, value in {"PATH": PATH, **environ}.items()]
    inner = shlex.join(["env", "--ignore-environment", f"--chdir={at}", *named, *command])
    return f'chroot --userspec={user} --groups= "$ROOT" {inner}'
