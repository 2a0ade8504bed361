"""What this machine is, beside figures that were measured on it."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = (line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name"))
    return {
        "cpu": next(models, platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
