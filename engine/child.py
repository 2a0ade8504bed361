"""Another Python process of ours, which finds our packages wherever we were started. Knows nothing of what it runs."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.errors import StartupError

ROOT = Path(__file__).parents[1]


def start(
    module: str,
    *arguments: str,
    incoming: int = subprocess.PIPE,
    outgoing: int = subprocess.PIPE,
    unless_set: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """`python -m module`. `incoming` and `outgoing`: its standard input and output, as `Popen` has them. `unless_set`:
    of its environment, where the user has set nothing. Raises `StartupError`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=incoming,
            stdout=outgoing,
            env={**(unless_set or {}), **os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        raise StartupError(
            f"No process can be started ({error.strerror}); stop others, or allow more of them."
        ) from error
