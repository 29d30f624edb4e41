"""A training set as files for other programs: pictures, labels and masks."""

import json
from collections.abc import Generator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.atomic import atomic_folder
from napari_emseg.core.lock import Claim
from napari_emseg.core.records import Record, SectionDone
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack
from napari_emseg.training.corrections import TrainingSet
from napari_emseg.training.sparse_labels import INSIDE, MEMBRANE, NO_OPINION

KNOWN = 255
"""In masks, of pixels that somebody has an opinion of; others are 0."""

FOLDERS = ("images", "labels", "masks")

_README = """What a person corrected and reviewed, for training elsewhere.

images/   sections as they are stored: grey values, not normalised
labels/   8 bit: {codes}
masks/    8 bit: 255 where a label counts, 0 where nobody has looked

A section has the same name and the same size in all three folders: z00012.tif is
section 12 of {source}, counted from 0. Pixels without a label are unknown, not
background: leave them out of the loss, as the masks say. {size}
training-set.json says the same for programs.

Written by napari-emseg {version}.
"""


def exporting_pairs(
    known: TrainingSet,
    folder: str | PathLike[str],
    *,
    classes: Sequence[str] = ("membrane", "inside"),
) -> Generator[Record, None, Path]:
    """Write every section of which something is known; yields SectionDone.

    The folder gets its name when it is whole. Sections without any opinion, and
    excluded ones, are left out.

    Parameters
    ----------
    classes
        Names of codes 1, 2 and on.

    Raises
    ------
    ValueError
        If nothing is known.
    FileExistsError
        If there is such a folder already.
    OSError
        If a section can't be read, or the folder not be written.
    """
    place = Path(folder).expanduser()
    usable = known.usable
    sections = sorted({block.z for block in usable.blocks})
    if not sections:
        msg = f"nothing is corrected or reviewed in {known.stack.name} yet"
        raise ValueError(msg)
    if place.exists():
        msg = f"{place} exists already; remove it, or choose another name"
        raise FileExistsError(msg)
    with Claim(place), atomic_folder(place) as part:
        for name in FOLDERS:
            (part / name).mkdir()
        shape = known.stack.shape[1:]
        for done, z in enumerate(sections, start=1):
            codes = usable.window(Region.whole(z, shape))
            _write_section(part, known.stack, z, codes)
            yield SectionDone(z, done, len(sections))
        _describe(part, known, sections, usable.largest, classes)
    return place


def _write_section(part: Path, stack: Stack, z: int, codes: NDArray[np.uint8]) -> None:
    mask = np.where(codes == NO_OPINION, 0, KNOWN).astype(np.uint8)
    for folder, values in zip(FOLDERS, (stack.section(z), codes, mask), strict=True):
        picture = Stack(_plain(values)[None], voxel_size_nm=stack.voxel_size_nm)
        save_stack(part / folder / f"z{z:05d}.tif", picture)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a type that TIFF takes."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype == np.int64:
        whole = np.iinfo(np.int32)
        fits = values.min() >= whole.min and values.max() <= whole.max
        return values.astype(np.int32 if fits else np.float32)
    return values


def _describe(
    part: Path,
    known: TrainingSet,
    sections: Sequence[int],
    largest: int,
    classes: Sequence[str],
) -> None:
    named = dict(enumerate(classes, start=1))
    unnamed = {code: f"class {code - 1}" for code in range(1, largest + 1)}
    codes = {NO_OPINION: "unknown", MEMBRANE: "membrane", INSIDE: "inside"}
    codes |= unnamed | named
    stack = known.stack
    facts = {
        "source": stack.source or stack.name,
        "voxel_size_nm": stack.voxel_size_nm,
        "axes": "yx",
        "codes": {str(code): codes[code] for code in sorted(codes)},
        "mask": {"0": "unknown", str(KNOWN): "known"},
        "membranes_are_bright": known.invert,
        "sections": {f"z{z:05d}.tif": z for z in sections},
        "reviewed": [r.as_tuple() for r in known.reviewed if r.z in set(sections)],
        "reviewed_is": "z, top, left, bottom, right",
        "written_by": f"napari-emseg {__version__}",
    }
    text = json.dumps(facts, indent=2) + "\n"
    (part / "training-set.json").write_text(text, encoding="utf-8")
    words = ", ".join(f"{code} {codes[code]}" for code in sorted(codes))
    readme = _README.format(
        codes=words,
        source=stack.name,
        size=_format_size(stack),
        version=__version__,
    )
    (part / "README.txt").write_text(readme, encoding="utf-8")


def _format_size(stack: Stack) -> str:
    if stack.voxel_size_nm is None:
        return "The size of a pixel is unknown."
    z, y, x = stack.voxel_size_nm
    distance = "unknown" if z is None else f"{z:g} nm"
    return (
        f"A pixel is {y:g} x {x:g} nm (y, x); the distance of sections is {distance}."
    )
