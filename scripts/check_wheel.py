"""Check that wheels hold what an installation needs, each under its own licence only.

`check_wheel.py FILE...` knows the wheels of napari-emseg and of napari-emseg-data.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile


@dataclass(frozen=True)
class Contents:
    """What belongs into the wheel of a distribution.

    Parameters
    ----------
    needed
        Parts of names, with words for them.
    points
        Lines of `entry_points.txt`.
    licence
        Its SPDX expression.
    """

    needed: dict[str, str]
    points: tuple[str, ...]
    licence: str


WHEELS = {
    "napari_emseg": Contents(
        {
            "napari_emseg/napari.yaml": "the manifest for napari",
            "napari_emseg/icon.png": "the icon that the manifest names",
            "napari_emseg/py.typed": "the mark of a typed package",
            "napari_emseg/models/bundled/isbi2012-unet.safetensors": "bundled weights",
            "napari_emseg/sample/fib25_raw.tif": "the bundled EM sample",
            "napari_emseg/sample/fib25_cells.tif": "the sample's cells",
            "napari_emseg/sample/LICENCE-fib25.md": "the sample's licence and citation",
            "licenses/LICENSE": "the licence of the code",
            "licenses/LICENSES/LicenseRef-FIB25.txt": "the licence of the sample",
        },
        ("emseg = napari_emseg.cli:main", "napari-emseg = napari_emseg:napari.yaml"),
        "BSD-3-Clause AND LicenseRef-FIB25",
    ),
    "napari_emseg_data": Contents(
        {
            "napari_emseg_data/__init__.py": "the package by which the files are found",
            "napari_emseg_data/weights/em-membranes.safetensors": "weights",
            "napari_emseg_data/weights/edges.json": "the classifier of edges",
            "napari_emseg_data/sample/vnc_raw.tif": "the EM sample",
            "napari_emseg_data/sample/vnc_membranes.tif": "the sample's membranes",
            "napari_emseg_data/sample/LICENCE.md": "the sample's licence and citation",
            "licenses/LICENSES/CC-BY-NC-SA-3.0.txt": "the licence of all of it",
        },
        (),
        "CC-BY-NC-SA-3.0",
    ),
}

LARGEST_MIB = 100
"""PyPI's limit for a file; bundled weights are what grows."""


def problems(name: str, names: list[str], texts: dict[str, str]) -> list[str]:
    """Return what is wrong with a wheel; `texts` are those of its metadata."""
    wanted, others = WHEELS[name], WHEELS.keys() - {name}
    found = [
        f"{words} ({needed}) is missing"
        for needed, words in wanted.needed.items()
        if not any(needed in each for each in names)
    ]
    files_of_others = {
        needed.rpartition("/")[2]: other
        for other in others
        for needed in WHEELS[other].needed
    }
    own = {needed.rpartition("/")[2] for needed in wanted.needed}
    for each in names:
        file = each.rpartition("/")[2]
        if file in files_of_others.keys() - own - {"__init__.py"}:
            found.append(f"{each} belongs into {files_of_others[file]}")
        elif not each.startswith((f"{name}/", f"{name}-")) or each.endswith(".part"):
            found.append(f"{each} doesn't belong into a wheel")
    points = texts.get("entry_points.txt", "").splitlines()
    found += [
        f"entry point {point} is missing"
        for point in wanted.points
        if point not in points
    ]
    licence = message_from_string(texts["METADATA"])["License-Expression"]
    if licence != wanted.licence:
        found.append(f"its licence is {licence}, and should be {wanted.licence}")
    return found


def main(path: Path) -> int:
    """Check one wheel; return 1 if something is wrong."""
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        texts = {
            each.rpartition("/")[2]: wheel.read(each).decode()
            for each in names
            if each.endswith((".dist-info/METADATA", ".dist-info/entry_points.txt"))
        }
    size = path.stat().st_size / 2**20
    found = problems(path.name.partition("-")[0], names, texts)
    if size > LARGEST_MIB:
        found.append(f"{size:.0f} MiB are more than {LARGEST_MIB}")
    for problem in found:
        sys.stderr.write(f"{path}: {problem}\n")
    if not found:
        sys.stdout.write(f"{path.name}: {len(names)} files, {size:.1f} MiB\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(max(main(Path(path)) for path in sys.argv[1:]))
