"""Check that a wheel holds all that an installation needs: `check_wheel.py FILE`."""

from __future__ import annotations

import sys
from zipfile import ZipFile

NEEDED = {
    "napari_emseg/napari.yaml": "the manifest for napari",
    "napari_emseg/icon.png": "the icon that the manifest names",
    "napari_emseg/py.typed": "the mark of a typed package",
    "napari_emseg/models/bundled/isbi2012-unet.safetensors": "the bundled weights",
    "napari_emseg/sample/vnc_raw.tif": "the bundled EM sample",
    "napari_emseg/sample/vnc_membranes.tif": "the sample's membranes",
    "napari_emseg/sample/LICENCE.md": "the sample's licence and citation",
    "licenses/LICENSE": "the licence of the code",
    "licenses/LICENSES/": "the licences of bundled data",
    "entry_points.txt": "entry points",
}

LARGEST_MIB = 100
"""PyPI's limit for a file; bundled weights are what grows."""


def problems(names: list[str], entry_points: str, size: int) -> list[str]:
    """Return what is wrong with a wheel."""
    found = [
        f"{words} ({needed}) is missing"
        for needed, words in NEEDED.items()
        if not any(needed in name for name in names)
    ]
    found += [
        f"{name} doesn't belong into a wheel"
        for name in names
        if name.startswith(("tests/", "benchmarks/")) or name.endswith(".part")
    ]
    for entry in ("emseg = napari_emseg.cli:main", "napari_emseg:napari.yaml"):
        if entry not in entry_points:
            found.append(f"entry point {entry} is missing")
    if size > LARGEST_MIB * 2**20:
        found.append(f"{size / 2**20:.0f} MiB are more than {LARGEST_MIB}")
    return found


def main(path: str) -> int:
    """Check one wheel; return 1 if something is wrong."""
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        points = next((n for n in names if n.endswith("entry_points.txt")), None)
        text = wheel.read(points).decode() if points else ""
        size = sum(info.compress_size for info in wheel.infolist())
    found = problems(names, text, size)
    for problem in found:
        sys.stderr.write(f"{path}: {problem}\n")
    if not found:
        sys.stdout.write(f"{path}: {len(names)} files, {size / 2**20:.1f} MiB\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
