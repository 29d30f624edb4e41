"""A stack in, out what is wrong with its sections: blank, blurred, shifted, damaged."""

import sys
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import normalise, padding, section_range
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import CheckSettings, Normalisation
from napari_emseg.core.stack import Stack

Kind = Literal["unreadable", "no values", "blank", "blurred", "contrast", "jump"]

SIDE = 1024
"""Larger sections are measured on every n-th row and column, after a blur."""

STRUCTURE = 4.0
"""Standard deviation in px of what is registered: cells, and not their texture."""


@dataclass(frozen=True, slots=True)
class SectionCheck:
    """Something worth a look.

    Parameters
    ----------
    z
        Section.
    kind
        What is the matter.
    value
        How much: sharpness or contrast as a share of the stack's median, a jump in px;
        0 for sections in which there is nothing to see.
    words
        The finding as a sentence.
    """

    z: int
    kind: Kind
    value: float
    words: str


@dataclass(frozen=True, slots=True)
class _Measured:
    """One section: what it is worth, and how far it lies from the one before."""

    z: int
    contrast: float = 0.0
    sharpness: float = 0.0
    jump: float | None = None
    before: int | None = None
    trouble: str = ""
    finite: bool = True


def check_stack(
    stack: Stack, *, settings: CheckSettings | None = None
) -> Generator[Record, None, list[SectionCheck]]:
    """Look at every section; returns findings by section, and yields Progress.

    Sections are read one by one; two are held at a time. A jump is the shift, by
    cross-correlation, against the last section before that shows something. Sections of
    unlike tissue can jump too: a finding is a reason to look, not a verdict.
    """
    settings = settings or CheckSettings()
    measured: list[_Measured] = []
    previous: tuple[int, NDArray[np.float32]] | None = None
    n = stack.shape[0]
    for z in range(n):
        section, one = _measure(stack, z)
        if section is not None:
            structure, step = _structure(section)
            # not the section before, but the last one that shows something
            if previous is not None:
                shift = _shift(previous[1], structure) * step
                one = _Measured(z, one.contrast, one.sharpness, shift, previous[0])
            previous = z, structure
        measured.append(one)
        yield Progress("checking", z + 1, n)
    return _findings(measured, settings)


def _measure(stack: Stack, z: int) -> tuple[NDArray[Any] | None, _Measured]:
    """Return a section that shows something, and its contrast and sharpness."""
    try:
        section = stack.section(z)
    except (OSError, ValueError) as e:
        return None, _Measured(z, trouble=str(e) or type(e).__name__)
    mask = padding(section)
    grey = section_range(section, Normalisation(), mask)
    if grey.blank:
        return None, _Measured(z, finite=bool(np.isfinite(section).any()))
    contrast = min(grey.high - grey.low, sys.float_info.max)
    # in units of the range: squares of extreme values would be infinite
    filled = normalise(section, grey)
    if mask is not None:
        filled[mask] = filled[~mask].mean()
    return filled, _Measured(z, contrast, _sharpness(filled, mask))


def _sharpness(values: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> float:
    """Return the strength of details of 1–2 px beside those of 2–8 px."""
    fine, middle, coarse = (_middle(values, sigma) for sigma in (1, 2, 8))
    keep = slice(None) if mask is None else ~_crop(mask)
    # differences of Gaussians: two bands of scales. Their ratio doesn't change with
    # contrast, nor much with how many membranes a section has.
    detail, body = (fine - middle)[keep], (middle - coarse)[keep]
    return float(detail.var() / max(float(body.var()), 1e-9))


def _middle(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred: NDArray[np.float32] = ndi.gaussian_filter(_crop(values), sigma)
    return blurred


def _crop(values: NDArray[Any]) -> NDArray[Any]:
    """Return the middle of a section, at most `SIDE` px squared."""
    return values[
        tuple(slice(max(0, (n - SIDE) // 2), (n + SIDE) // 2) for n in values.shape)
    ]


def _structure(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Return what can be registered, tapered to 0 at the border, and px per pixel."""
    step = max(1, min(values.shape) // SIDE)
    if step > 1:
        values = ndi.uniform_filter(values, step)[::step, ::step]
    band = ndi.gaussian_filter(values, STRUCTURE)
    # without slow changes of brightness, and 0 at the border: the transform is
    # periodic, and an edge there would be registered instead of the tissue
    band -= ndi.gaussian_filter(values, 4 * STRUCTURE)
    taper = np.outer(*(np.hanning(n) for n in values.shape))
    return (band * taper).astype(np.float32), step


def _shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the length of the shift between two sections in px."""
    from skimage.registration import phase_cross_correlation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a section without structure: no shift then
        # not normalised: EM has too little in common from section to section for the
        # phase of its fine texture to count as much as that of its cells
        shift, _, _ = phase_cross_correlation(before, after, normalization=None)
    length = float(np.hypot(*shift))
    return length if np.isfinite(length) else 0.0


def _findings(
    measured: Sequence[_Measured], settings: CheckSettings
) -> list[SectionCheck]:
    seen = [m for m in measured if m.contrast > 0]
    contrast = float(np.median([m.contrast for m in seen])) if seen else 1.0
    sharpness = float(np.median([m.sharpness for m in seen])) if seen else 0.0
    found = []
    for m in measured:
        if m.contrast == 0:
            found.append(_nothing(m))
            continue
        # 0 where no section has details that can be told from none
        sharper = m.sharpness / sharpness if sharpness else 1.0
        # beside the stack's median, which a few odd sections don't move
        found += _outliers(m, m.contrast / contrast, sharper, settings)
    return found


def _nothing(m: _Measured) -> SectionCheck:
    if m.trouble:
        return SectionCheck(m.z, "unreadable", 0.0, f"can't be read: {m.trouble}")
    if not m.finite:
        return SectionCheck(m.z, "no values", 0.0, "has no finite values")
    return SectionCheck(m.z, "blank", 0.0, "is blank")


def _outliers(
    m: _Measured, contrast: float, sharpness: float, settings: CheckSettings
) -> list[SectionCheck]:
    found = []
    if sharpness < settings.blur:
        words = f"is blurred: {sharpness:.0%} of the usual sharpness"
        found.append(SectionCheck(m.z, "blurred", sharpness, words))
    if not 1 / settings.contrast <= contrast <= settings.contrast:
        words = f"has {contrast:.1f}× the usual contrast"
        found.append(SectionCheck(m.z, "contrast", contrast, words))
    if m.jump is not None and m.jump >= settings.jump:
        words = f"lies {m.jump:.0f} px beside section {m.before}"
        found.append(SectionCheck(m.z, "jump", m.jump, words))
    return found
