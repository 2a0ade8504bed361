"""schemathesis with all its checks on /openapi.json, as long as one likes.

python -m tests.schemas --minutes 10
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.running import running

CONFIG = Path(__file__).with_name("schemathesis.toml")


def check(url: str, folder: Path, *options: str) -> tuple[int, str]:
    """(0 if nothing was found, what schemathesis says)"""
    tool = Path(sys.executable).with_name("schemathesis")
    command = [str(tool), "--config-file", str(CONFIG), "run", f"{url}/openapi.json", "--checks", "all"]
    options = ("--seed", "1", "--no-color", "--warnings", "off", "--continue-on-failure", *options)
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--url", help="of a server that runs; else one is started")
    arguments = parser.parse_args()
    options = "--max-time", str(int(arguments.minutes * 60)), "--max-examples", "1000000"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.url:
            status, said = check(arguments.url, folder, *options)
        else:
            with running(folder, "--backend", "echo") as server:
                status, said = check(server.url, folder, *options)
                said += "\n".join(server.complaints())
                status = status or len(server.complaints()) or not server.is_ready()
    print(said)
    sys.exit(bool(status))


if __name__ == "__main__":
    main()
