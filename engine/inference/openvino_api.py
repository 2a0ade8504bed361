"""The parts of OpenVINO that we use, imported so that nothing is sent over the network.

`import openvino` also imports its model converter, and that reports the import to its maker unless the user has said
no. We need no converter, and where it cannot be imported OpenVINO goes on without it.
"""

import sys
from threading import Thread

sys.modules.update({"openvino.tools.ovc": None, "openvino_telemetry": None})  # type: ignore[dict-item]

import openvino as ov  # noqa: E402
import openvino.opset16 as op  # noqa: E402
from openvino.op import Constant  # noqa: E402
from openvino.op import _PagedAttentionExtension as PagedAttention  # noqa: E402

__all__ = ["Constant", "PagedAttention", "core_for_cpu", "op", "ov"]


def core_for_cpu() -> ov.Core:
    """With its plugin loaded, in a thread that ends: the plugin gives that thread a stack for signals, and frees it
    wherever it is let go itself. Were it the main thread's, its next signal would end the process."""
    core = ov.Core()
    loading = Thread(target=core.get_versions, args=("CPU",))
    loading.start()
    loading.join()
    return core
