"""`emseg doctor`: what this machine has, what works here and what doesn't."""

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_emseg.cli.options import Json
from napari_emseg.cli.printing import print_json, print_line, print_table
from napari_emseg.core.memory import cores
from napari_emseg.models.weights import bundled_folders, list_weights, missing_weights

PACKAGES = (
    "napari-emseg",
    "napari-emseg-data",
    "napari",
    "torch",
    "openvino",
    "nncf",
    "numpy",
    "scikit-image",
    "bioimage-cpp",
    "tifffile",
    "zarr",
    "dask",
    "pydantic",
)

QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that works here or not; `needed` for the main job."""

    what: str
    works: bool
    words: str
    needed: bool = False


def doctor(*, json: Json = False) -> int:
    """Say what works on this machine and what doesn't.

    Exit code 1 if the main job, membranes on the command line, can't be done here.
    """
    machine, findings = _machine(), _findings()
    versions = {name: _version(name) for name in PACKAGES}
    if json:
        print_json(
            {
                "machine": machine,
                "versions": versions,
                "works": {f.what: asdict(f) for f in findings},
            }
        )
    else:
        print_table(("machine", ""), [(k, str(v)) for k, v in machine.items()])
        print_line("")
        print_table(
            ("package", "version"), [(k, v or "missing") for k, v in versions.items()]
        )
        print_line("")
        print_table(
            ("works here", "", ""),
            [(f.what, "yes" if f.works else "no", f.words) for f in findings],
        )
    return int(any(f.needed and not f.works for f in findings))


def _machine() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    total, free = (n / 2**30 for n in (memory.total, memory.available))
    return {
        "system": platform.platform(),
        "python": f"{platform.python_version()} ({sys.executable})",
        "processor": _processor(),
        "cores": cores(),
        "memory": f"{total:.1f} GiB, {free:.1f} free",
        "disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _findings() -> list[Finding]:
    return [*_networks(), _openvino(), _weights(), _data(), panels()]


def _networks() -> list[Finding]:
    """Say which devices torch can use."""
    try:
        import torch
    except (ImportError, OSError) as e:
        return [Finding("networks", False, f"torch can't be loaded: {e}", needed=True)]
    cpu = Finding("CPU", True, f"torch, {torch.get_num_threads()} threads", needed=True)
    cuda = torch.cuda.is_available()
    words = "no CUDA device, or torch was built without CUDA"
    if cuda:
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        words = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    mps = torch.backends.mps.is_available()
    return [
        cpu,
        Finding("CUDA", cuda, words),
        *([Finding("MPS", mps, "Apple's GPU")] if sys.platform == "darwin" else []),
    ]


def _openvino() -> Finding:
    there = find_spec("openvino") is not None
    words = "faster than torch on a CPU"
    if not there:
        words += ': pip install "napari-emseg[openvino]"'
    elif find_spec("nncf") is None:
        words += '; for int8 pip install "napari-emseg[nncf]"'
    return Finding("OpenVINO", there, words)


def _weights() -> Finding:
    names = list(list_weights())
    words = ", ".join(names) or f"none that can be read in {bundled_folders()[0]}"
    return Finding("bundled weights", bool(names), words, needed=True)


def _data() -> Finding:
    missing = "; ".join(missing_weights().values())
    words = missing or "its weights and EM aren't for commercial use"
    return Finding("napari-emseg-data", not missing, words)


def panels() -> Finding:
    """Say whether napari's window can open; nothing of Qt is loaded for it."""
    found = [name for name in QT_BINDINGS if find_spec(name) is not None]
    if not found:
        words = 'no Qt binding: pip install "napari-emseg[all]"'
        return Finding("panels in napari", False, words)
    screen = sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    words = f"Qt by {found[0]}"
    if not screen:
        words += ", but there is no screen here (DISPLAY is not set)"
    return Finding("panels in napari", screen, words)
