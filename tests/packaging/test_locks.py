"""What an image installs: the locks agree with requirements.txt, nothing comes unchecked, and under which licences."""

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.dockerfile import ROOT

LOCKS = ("requirements.lock", "requirements-cpu.lock")
ALLOWED = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "LLVM-exception",
    ),
    *("MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # asks for its own files' sources only
    # as packages write them that name no identifier
    *("Apache", "Apache 2.0", "Apache 2.0 License", "Apache Software License", "BSD", "BSD License", "MIT License"),
    *("3-Clause BSD License", "ISC License", "OSI Approved :: Apache Software License", "Public-Domain"),
}
READ = {"pyromark": "MIT"}  # in its own files, since it does not say
# What a CUDA image holds besides: torch asks for it on Linux, pip brings it from NVIDIA. Proprietary, and NVIDIA lets
# one pass on its runtime libraries with a program that uses them (the CUDA Toolkit's licence, attachment A).
NVIDIA = re.compile("cuda-toolkit|nvidia-(?!ml-py).*")
ELSEWHERE = {  # in the locks, for machines that the tests do not run on; read on the index
    "audioop-lts": "PSF-2.0",
    "colorama": "BSD-3-Clause",
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "triton": "MIT",
}


def requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each with its hashes."""
    lines = re.sub(r" *\\\n +", " ", (ROOT / lock).read_text())
    found = re.findall(r"^([a-z].*?)((?: --hash=\S+)*)$", lines, re.MULTILINE)
    return [(Requirement(pin), re.findall(r"--hash=(\S+)", hashes)) for pin, hashes in found]


def installed() -> Iterator[Distribution]:
    """All that requirements.txt brings to this machine."""
    waiting = [(one.name, "") for one in requirements() if one.marker is None or one.marker.evaluate()]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        found = distribution(name)
        if not extra:
            yield found
        for one in map(Requirement, found.requires or ()):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, inner) for inner in ("", *one.extras)]


def licences(package: Distribution) -> list[str]:
    """Each that it stands under, as it says."""
    said = package.metadata
    classified = [line.split(" :: ")[-1] for line in said.get_all("Classifier", []) if line.startswith("License")]
    text = said.get("License-Expression") or said.get("License") or " AND ".join(classified) or "unknown"
    return [part.strip(" ()") for part in re.split(r"\b(?:AND|and|OR|WITH)\b", text)]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_the_versions_of_the_requirements_each_with_its_hashes(lock: str) -> None:
    pins = locked(lock)
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin, _ in pins}
    for wanted in requirements():
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), wanted.name
    assert [
        str(pin) for pin, hashes in pins if not all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes)
    ] == []
    assert [str(pin) for pin, hashes in pins if not hashes] == []


def test_the_slim_image_gets_a_torch_without_cuda_and_the_other_all_that_torch_asks_for() -> None:
    names = {lock: {canonicalize_name(pin.name) for pin, _ in locked(lock)} for lock in LOCKS}
    here = {canonicalize_name(package.name) for package in installed()}
    assert [name for name in names["requirements-cpu.lock"] if NVIDIA.fullmatch(name)] == []
    assert here <= names["requirements.lock"]
    torch = next(str(pin) for pin, _ in locked("requirements-cpu.lock") if pin.name == "torch")
    assert torch.endswith("+cpu")


def test_all_that_is_installed_is_free_to_use_and_to_pass_on() -> None:
    doubtful = {
        package.name: found
        for package in installed()
        if package.name not in READ and not NVIDIA.fullmatch(canonicalize_name(package.name))
        if (found := [one for one in licences(package) if one not in ALLOWED])
    }
    assert doubtful == {}


def test_each_licence_in_a_lock_was_looked_at() -> None:
    looked_at = {canonicalize_name(package.name) for package in installed()} | set(ELSEWHERE)
    pinned = {canonicalize_name(pin.name) for lock in LOCKS for pin, _ in locked(lock)}
    assert [name for name in pinned - looked_at if not NVIDIA.fullmatch(name)] == []
