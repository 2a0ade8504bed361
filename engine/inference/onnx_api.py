"""ONNX Runtime, imported so that nothing is sent over the network.

Its wheels report processes, sessions and models to their maker, and keep an identifier of the machine, unless this
variable is there when they are imported.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
