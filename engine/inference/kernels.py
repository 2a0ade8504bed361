"""Our CUDA sources → kernels on a card: compiled by NVRTC and launched through the driver, both of which torch brings.

No compiler is needed on the machine. Launches go to torch's current stream and may be captured in a graph. Knows
nothing of what the kernels compute.
"""

import ctypes
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import BackendError

SOURCES = Path(__file__).parent / "cuda"
NO_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
PROGRAMMATIC = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: our kernels begin before the last has ended
MAX_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
PLAIN_SHARED_BYTES = 48 * 1024  # more must be asked for

log = logging.getLogger(__name__)


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


Argument = Tensor | int | float | None


class Kernel:
    """One function on one card. A tensor goes in as its address, None as a null pointer, int and float in 32 bits."""

    def __init__(self, module: ctypes.c_void_p, name: str, programmatic: bool) -> None:
        self.name = name
        self._function = ctypes.c_void_p()
        _check(_driver().cuModuleGetFunction(ctypes.byref(self._function), module, name.encode()), name)
        self._attribute = _Attribute(PROGRAMMATIC, b"", 1, b"") if programmatic else None
        self._shared_bytes = PLAIN_SHARED_BYTES

    def __call__(
        self, grid: Sequence[int], threads: int, *arguments: Argument, shared_bytes: int = 0, early: bool = True
    ) -> None:
        """`early`: may begin while the kernel before it ends, for kernels that call `wait_for_last`."""
        if shared_bytes > self._shared_bytes:
            _check(_driver().cuFuncSetAttribute(self._function, MAX_SHARED, shared_bytes), self.name)
            self._shared_bytes = shared_bytes
        values = [_c_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        launch = _Launch(shared=shared_bytes, stream=torch.cuda.current_stream().cuda_stream)
        launch.grid[:] = (*grid, 1, 1)[:3]
        launch.block[:] = (threads, 1, 1)
        if early and self._attribute is not None:
            launch.attributes, launch.count = ctypes.pointer(self._attribute), 1
        _check(_driver().cuLaunchKernelEx(ctypes.byref(launch), self._function, pointers, None), self.name)


def load(sources: Sequence[tuple[str, Sequence[str]]], defines: Sequence[str], device: str) -> dict[str, Kernel]:
    """Kernels on a card, by name. A source is a file and lines that follow it, such as
    `ATTENTION_KERNEL(attend, 128, 4, false)`; several are compiled side by side. Raises `BackendError`."""
    index = torch.device(device).index or 0
    major, minor = torch.cuda.get_device_capability(index)
    own = "a" if major == 9 else ""  # Hopper's own instructions
    options = (f"--gpu-architecture=sm_{major}{minor}{own}", "--std=c++17", *defines)
    texts = [(file, "\n".join([(SOURCES / file).read_text(encoding="utf-8"), *lines])) for file, lines in sources]
    with ThreadPoolExecutor() as pool:  # the compiler runs outside Python's lock
        binaries = list(pool.map(lambda source: _cached(source[0], source[1], options), texts))
    loaded: dict[str, Kernel] = {}
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # so that this thread has torch's context
        for (file, text), binary in zip(texts, binaries, strict=True):
            module = ctypes.c_void_p()
            _check(_driver().cuModuleLoadData(ctypes.byref(module), binary), file)
            loaded |= {name: Kernel(module, name, major >= 9) for name in _entries(text)}
    return loaded


def compile_source(name: str, text: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Source → the card's machine code, and what the compiler said. Needs no card. Raises `BackendError`."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    headers = sorted(SOURCES.glob("*.cuh"))
    contents, names = [header.read_bytes() for header in headers], [header.name.encode() for header in headers]
    _check_nvrtc(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program),
            text.encode(),
            name.encode(),
            len(headers),
            (ctypes.c_char_p * len(headers))(*contents),
            (ctypes.c_char_p * len(headers))(*names),
        )
    )
    try:
        failed = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        )
        said = _bytes_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if failed:
            raise BackendError(f"The kernels in {name} cannot be compiled for this card: {said.decode()[:2000]}")
        return _bytes_of(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), said.rstrip(b"\0").decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _cached(name: str, text: str, options: tuple[str, ...]) -> bytes:
    """Compiled once and kept in the user's cache: the same source, options and compiler give the same code."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check_nvrtc(_nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    headers = [header.read_text(encoding="utf-8") for header in sorted(SOURCES.glob("*.cuh"))]
    key = hashlib.sha256(repr((text, headers, options, major.value, minor.value)).encode()).hexdigest()[:32]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yiwen" / "kernels"
    path = folder / f"{name}.{key}.cubin"
    try:
        binary = path.read_bytes()
    except OSError:
        log.info("compiling %s (once for this card)", name)
        binary, _ = compile_source(name, text, options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(binary)
            Path(file.name).replace(path)
        except OSError as error:
            log.info("the compiled kernels could not be kept in %s: %s", folder, error)
    return binary


def _entries(text: str) -> list[str]:
    """Names of the kernels that a source with its instances defines."""
    names = []
    for line in text.splitlines():
        if line.startswith('extern "C" __global__ void '):
            names.append(line.removeprefix('extern "C" __global__ void ').partition("(")[0])
        elif "_KERNEL(" in line and line[0] != "#":
            names.append(line.partition("(")[2].partition(",")[0])
    return names


def _c_value(argument: Argument) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_float(argument)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1" if os.name != "nt" else "nvcuda.dll")


@cache
def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "13").split(".")[0]
    name = f"libnvrtc.so.{major}" if os.name != "nt" else f"nvrtc64_{major}0_0.dll"
    try:
        return ctypes.CDLL(name)  # torch has loaded it already, or it is where the system looks
    except OSError:
        folders = Path(torch.__file__).parents[1].glob(f"nvidia/*/lib*/{name}")
        found = next(folders, None)
        if found is None:
            raise BackendError(f"{name}, which comes with CUDA builds of torch, is not to be found.") from None
        return ctypes.CDLL(str(found))


def _check(result: int, what: str) -> None:
    if result == NO_MEMORY:
        raise torch.OutOfMemoryError(f"The card has no memory left for {what}.")
    if result:
        said = ctypes.c_char_p()
        _driver().cuGetErrorString(result, ctypes.byref(said))
        raise BackendError(f"The card refused {what}: {(said.value or b'?').decode()} ({result}).")


def _check_nvrtc(result: int) -> None:
    if result:
        raise BackendError(f"The card's compiler (NVRTC) failed with code {result}.")


def _bytes_of(size_of: "ctypes._NamedFuncPointer", read: "ctypes._NamedFuncPointer", program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check_nvrtc(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check_nvrtc(read(program, buffer))
    return buffer.raw
